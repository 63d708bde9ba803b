"""A small decoder-only judge in plain PyTorch; what it says is read and scored by rrm_core."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

Past = tuple[Tensor, Tensor]  # keys and values of what came before
AT_ONCE = 2048  # sequences generated side by side


class Block(nn.Module):
    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.before_attention, self.before_mlp = nn.LayerNorm(width), nn.LayerNorm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Tensor, past: Past | None = None) -> tuple[Tensor, Past]:
        """x [N, T, H]. With a past T is 1, which needs no causal mask."""
        n, t, h = x.shape
        q, k, v = self.qkv(self.before_attention(x)).view(n, t, 3, self.heads, h // self.heads).permute(2, 0, 3, 1, 4)
        if past is not None:
            k, v = torch.cat((past[0], k), 2), torch.cat((past[1], v), 2)
        scores = q @ k.mT * (h // self.heads) ** -0.5
        if t > 1:
            scores = scores + torch.full((t, t), -torch.inf).triu(1)
        x = x + self.out((scores.softmax(-1) @ v).transpose(1, 2).reshape(n, t, h))
        return x + self.down(functional.relu(self.up(self.before_mlp(x)))), (k, v)


class Judge(nn.Module):
    """Hidden states, not logits: the products with the head are rrm_core's."""

    def __init__(self, width: int, heads: int, layers: int, context: int, vocabulary: int, seed: int) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.tokens, self.places = nn.Embedding(vocabulary, width), nn.Parameter(0.02 * torch.randn(context, width))
            self.blocks = nn.ModuleList(Block(width, heads) for _ in range(layers))
            self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, vocabulary, bias=False)
            nn.init.normal_(self.tokens.weight, std=0.02)

    def forward(self, tokens: Tensor, past: list[Past] | None = None) -> tuple[Tensor, list[Past]]:
        """tokens int64 [N, T] -> the states after each of them [N, T, H], and the past of what follows."""
        begin = past[0][0].shape[2] if past else 0
        x, kept = self.tokens(tokens) + self.places[begin : begin + tokens.shape[1]], []
        for i, block in enumerate(self.blocks):
            x, state = block(x, past[i] if past else None)
            kept.append(state)
        return self.norm(x), kept

    def before(self, prompt: Tensor, target: Tensor) -> Tensor:
        """The states [N, S, H] before each token of a target [N, S]."""
        hidden, _ = self.forward(torch.cat((prompt, target[:, :-1]), 1))
        return hidden[:, prompt.shape[1] - 1 :]


class Samples(NamedTuple):
    tokens: Tensor  # int64 [N, k, S]
    hidden: Tensor  # [N, k, S, H], the state before each of them


@torch.no_grad()
def generate(judge: Judge, prompt: Tensor, steps: int, seed: torch.Generator, samples: int = 1, greedy: bool = False) -> Samples:
    """``samples`` continuations of each prompt [N, P]; a prompt is read once for all of them."""
    tokens = torch.empty(len(prompt), samples, steps, dtype=torch.int64)
    hidden = torch.empty(*tokens.shape, judge.head.in_features)
    for rows in torch.arange(len(prompt)).split(max(1, AT_ONCE // samples)):
        x, past = judge(prompt[rows])
        past, x = [(k.repeat_interleave(samples, 0), v.repeat_interleave(samples, 0)) for k, v in past], x.repeat_interleave(samples, 0)
        for step in range(steps):
            if step:
                x, past = judge(tokens[rows, :, step - 1].view(-1, 1), past)
            logits = judge.head(x[:, -1])
            below = logits.softmax(1).cumsum(1)
            drawn = torch.searchsorted(below, below[:, -1:] * torch.rand(len(below), 1, generator=seed), right=True).clamp(max=below.shape[1] - 1)
            tokens[rows, :, step] = (logits.argmax(1) if greedy else drawn).view(-1, samples)
            hidden[rows, :, step] = x[:, -1].unflatten(0, (-1, samples))
    return Samples(tokens, hidden)
