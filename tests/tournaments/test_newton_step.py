"""The step rule of bradley_terry alone: from wherever it starts, the loss falls."""

from __future__ import annotations

import pytest
import torch

from rrm_core.tournaments import reference_bradley_terry as reference


@pytest.mark.parametrize("prior", [1e-3, 0.1])
def test_every_step_descends_from_anywhere(prior):
    """Even where Newton's own step would climb."""
    generator = torch.Generator().manual_seed(0)
    games = 10 ** (torch.rand(512, 7, 7, dtype=torch.float64, generator=generator) * 4 - 2)
    games = games.masked_fill(torch.rand(games.shape, generator=generator) > 0.4, 0.0)
    games[:, -1, :], games[:, :, -1] = prior / 2, prior / 2
    games.diagonal(dim1=1, dim2=2).zero_()
    theta = torch.randn(512, 6, dtype=torch.float64, generator=generator) * torch.linspace(0.1, 8, 512, dtype=torch.float64).unsqueeze(-1)
    theta.requires_grad_()

    def loss(theta):
        strength = torch.nn.functional.pad(theta, (0, 1))
        return -(games * torch.nn.functional.logsigmoid(strength.unsqueeze(-1) - strength.unsqueeze(-2))).sum((1, 2))

    (gradient,) = torch.autograd.grad(loss(theta).sum(), theta, create_graph=True)
    rows = [torch.autograd.grad(gradient[:, i].sum(), theta, retain_graph=True)[0] for i in range(6)]
    direction = -torch.linalg.solve(torch.stack(rows, -1), gradient.detach())
    theta, promised = theta.detach(), -(gradient.detach() * direction).sum(-1)
    x, dx = reference.differences(theta), reference.differences(direction)
    part = reference._step(x, dx, promised, games, games + games.mT)
    fall = loss(theta) - loss(theta + part.unsqueeze(-1) * direction)
    assert bool((part > 0).all())
    assert bool((fall >= 1e-4 * part * promised).all())
    freely = reference._damping(x, dx, games + games.mT, reference._LONG_MOVE)
    assert bool((part < freely).any()), "the test must reach the second, safe choice"


def test_a_step_across_the_optimum_must_gain():
    """Two equals, x apart: Newton's step is sinh(x) long, and at sinh(x) = 2 x as far from the optimum as before."""
    x = 2.1773189849653067 + torch.linspace(-1e-4, 1e-4, 4001, dtype=torch.float64)
    theta = torch.stack((x, -x), -1) / 2
    direction = -torch.stack((x.sinh(), -x.sinh()), -1) / 2
    games = torch.tensor([[0.0, 1, 0], [1, 0, 0], [0, 0, 0]], dtype=torch.float64).expand(4001, -1, -1)
    promised = (x / 2).tanh() * x.sinh()
    part = reference._step(reference.differences(theta), reference.differences(direction), promised, games, 2 * games)

    def loss(difference):
        return 2 * (2 * (difference / 2).cosh()).log()

    assert bool((loss(x) - loss(x - part * x.sinh()) >= 0.9e-4 * part * promised).all())
    assert len(part.unique()) > 1
