"""The judges that are compared: how each is trained, and one test for all of them."""

from __future__ import annotations

import zlib
from typing import Any, NamedTuple

import torch
from torch import Tensor

from examples.evidence import task
from examples.evidence.model import Judge, generate
from examples.evidence.settings import Settings
from examples.evidence.training import grpo, sft
from rrm_core import score_token_logprobs

Found = dict[str, Any]  # "model", and tensors [items]: what a test item gave


class Study(NamedTuple):
    """One seed; what a phase needs of its data is drawn from the seed again."""

    settings: Settings
    seed: int
    length: int

    def draws(self, purpose: str) -> torch.Generator:
        """Random numbers of their own for everything that draws, so that no phase moves another."""
        return torch.Generator().manual_seed(zlib.crc32(f"{self.seed}, {purpose}, {self.length} operations".encode()))

    def judge(self, found: Found | None = None) -> Judge:
        """As it was left, or a new one."""
        made = Judge(*self.settings.shape, 2 * self.length + 10, task.VOCABULARY, self.seed)
        if found is not None:
            made.load_state_dict(found["model"])
        return made

    def problems(self, what: str) -> task.Problems:
        """Those "tested" are in neither of those "taught" and "labelled", which matters where there are few."""
        tested = task.draw_pairs(self.settings.pairs, self.length, self.draws("tested"))
        if what == "tested":
            return tested
        drawn = task.draw_pairs({"taught": self.settings.traces, "labelled": self.settings.labels}[what], self.length, self.draws(what))
        return drawn.take((~torch.isin(drawn.number(), tested.number())).nonzero()[:, 0])

    def traces(self) -> tuple[task.Problems, Tensor]:
        """Problems, and the teacher's thoughts about them, without those that end in the wrong verdict."""
        problems = self.problems("taught")
        traces = task.pair_trace(problems, problems.states(self.settings.slips, self.draws("slips")))
        kept = (task.votes(traces) == problems.better()).nonzero()[:, 0]
        return problems.take(kept), traces[kept]

    def distil(self, prompt: Tensor, target: Tensor, judge: Judge | None = None, steps: int | None = None, rate: float | None = None) -> Judge:
        steps, rate = steps or self.settings.sft_steps, rate or self.settings.sft_rate
        return sft(judge or self.judge(), prompt, target, steps, rate, self.settings.batch, self.draws("batches"))

    def test(self, judge: Judge, samples: int = 4) -> Found:
        """Of every test pair: the share of sampled verdicts that are right, and whether the likeliest one is; the share of right chains."""
        problems = self.problems("tested")
        prompt, better, draws = task.pair_prompt(problems), problems.better().unsqueeze(1), self.draws("test samples")
        sampled = generate(judge, prompt, problems.thought, draws, samples).tokens
        greedy = generate(judge, prompt, problems.thought, draws, greedy=True).tokens
        chain = (sampled[..., : self.length] == problems.states().unsqueeze(1)).all(-1)
        found = {"sampled": task.votes(sampled) == better, "greedy": task.votes(greedy) == better, "chain": chain}
        return {"model": judge.state_dict()} | {name: x.double().mean(1) for name, x in found.items()}

    @torch.no_grad()
    def test_at_once(self, judge: Judge, trained: task.Problems, fillers: int = 0) -> Found:
        """The same of a judge whose first token is the verdict, by its probabilities; and its likeliest verdicts on pairs that it was trained on."""

        def right(problems: task.Problems) -> tuple[Tensor, Tensor]:
            said = score_token_logprobs(judge(task.pair_prompt(problems, fillers))[0][:, -1], judge.head.weight, task.VERDICT_TOKENS)
            assert said.logprob is not None
            return said.logprob.exp().gather(1, problems.better().unsqueeze(1))[:, 0].double(), said.conditional.argmax(1) == problems.better()

        sampled, greedy = right(self.problems("tested"))
        _, trained_on = right(trained.take(torch.arange(len(trained.start))[:1000]))
        return {"model": judge.state_dict(), "sampled": sampled, "greedy": greedy, "trained": trained_on}


def think(s: Study) -> Found:
    problems, traces = s.traces()
    right = (traces[:, : s.length] == problems.states()).all(1)
    return s.test(s.distil(task.pair_prompt(problems), traces)) | {"teacher": right}


def more_distillation(s: Study, start: Found) -> Found:
    problems, traces = s.traces()
    return s.test(s.distil(task.pair_prompt(problems), traces, s.judge(start), s.settings.extra_steps, s.settings.extra_rate))


def direct(s: Study, fillers: int = 0) -> Found:
    """More problems and more steps than ``think`` has, but nothing of the way to the answer."""
    problems = s.problems("labelled")
    judge = s.distil(task.pair_prompt(problems, fillers), task.verdict(problems), steps=s.settings.direct_steps, rate=s.settings.direct_rate)
    return s.test_at_once(judge, problems, fillers)


def verdict_first(s: Study) -> Found:
    """Taught by the same traces, turned round: the verdict before the thoughts."""
    problems, traces = s.traces()
    return s.test_at_once(s.distil(task.pair_prompt(problems), traces.roll(1, 1)), problems)


def format_only(s: Study) -> Found:
    problems = s.problems("taught")
    return s.test(s.distil(task.pair_prompt(problems), task.random_trace(problems, s.draws("random traces"))))


def reinforce(s: Study, start: Found | None, what: str = "labelled") -> Found:
    return s.test(grpo(s.judge(start), s.problems(what), s.settings, s.settings.extra_steps, s.draws("roll-outs")))


def rejection(s: Study, start: Found) -> Found:
    """The judge's own samples that end in the right verdict, as traces."""
    judge, problems = s.judge(start), s.problems("labelled")
    prompt = task.pair_prompt(problems)
    tokens = generate(judge, prompt, problems.thought, s.draws("own traces")).tokens[:, 0]
    right = task.votes(tokens) == problems.better()
    return s.test(s.distil(prompt[right], tokens[right], judge, s.settings.extra_steps, s.settings.extra_rate))
