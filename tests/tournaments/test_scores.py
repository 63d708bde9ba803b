"""borda and win_rate against loops."""

from __future__ import annotations

import math

import pytest
import torch

from rrm_core.tournaments import borda, pairwise_wins, win_rate


def some_wins(batch=3, n=6):
    generator = torch.Generator().manual_seed(1)
    wins = torch.randint(0, 4, (batch, n, n), generator=generator).double() / 2
    wins[0, 2, :], wins[0, :, 2] = 0.0, 0.0  # met nobody
    return wins  # with a diagonal that must not count


def test_borda_is_games_won():
    wins = some_wins()
    expected = [[sum(float(w[i, j]) for j in range(6) if j != i) for i in range(6)] for w in wins]
    assert borda(wins).tolist() == expected
    assert borda(wins.float()).dtype == torch.float64
    matches = pairwise_wins([0, 0, 1], [1, 2, 2], [1.0, 0.5, 0.0], num_candidates=3)
    assert borda(matches).tolist() == [[1.5, 0.0, 1.5]]


def test_win_rate_is_the_mean_over_opponents_met():
    wins = some_wins()
    rates = win_rate(wins)
    for b in range(3):
        for i in range(6):
            shares = [float(wins[b, i, j] / (wins[b, i, j] + wins[b, j, i])) for j in range(6) if j != i and wins[b, i, j] + wins[b, j, i] > 0]
            if shares:
                assert float(rates[b, i]) == pytest.approx(sum(shares) / len(shares), rel=1e-14)
            else:
                assert math.isnan(rates[b, i])
    assert math.isnan(rates[0, 2])
    assert rates.isnan().sum() == 1


def test_win_rate_matches_evalica():
    evalica = pytest.importorskip("evalica")
    first, second, winner = [0, 0, 1, 2, 3, 3, 1], [1, 2, 2, 3, 0, 0, 3], [1, 0, 0.5, 1, 1, 0.5, 0]
    kinds = {1: evalica.Winner.X, 0: evalica.Winner.Y, 0.5: evalica.Winner.Draw}
    expected = evalica.average_win_rate(first, second, [kinds[w] for w in winner]).scores
    got = win_rate(pairwise_wins(first, second, winner, num_candidates=4))[0]
    assert got.tolist() == pytest.approx([expected[i] for i in range(4)], rel=1e-6)


@pytest.mark.parametrize("score", [borda, win_rate])
def test_bad_wins(score):
    with pytest.raises(ValueError, match=r"^wins: expected shape \[B, n, n\], got \[3, 3\]"):
        score(torch.zeros(3, 3))
    with pytest.raises(ValueError, match=r"^wins: expected shape \[B, n, n\] with n > 0, got \[1, 3, 2\]"):
        score(torch.zeros(1, 3, 2))
    with pytest.raises(ValueError, match=r"^wins: expected finite values of at least 0, got -1.0"):
        score([[[0, -1], [1, 0]]])
    assert score([[[-5, 1], [1, 0]]]).shape == (1, 2)  # the diagonal is not read
    assert score(torch.zeros(0, 3, 3)).shape == (0, 3)


def test_compiles():
    torch._dynamo.reset()
    compiled = torch.compile(lambda wins: borda(wins) + win_rate(wins), fullgraph=True, backend="aot_eager", dynamic=True)
    for n in (4, 6):
        wins = some_wins(n=n) + 1
        assert torch.allclose(compiled(wins), borda(wins) + win_rate(wins), rtol=1e-15)
