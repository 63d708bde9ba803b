"""The study's judge and its training: cached generation against the whole forward, GRPO against plain PyTorch."""

import copy

import pytest
import torch

from bench.evidence.timing import LOOPS, PLAIN
from examples.evidence import task
from examples.evidence.model import Judge, Samples, generate
from examples.evidence.settings import Settings
from examples.evidence.training import grpo, sft

SETTINGS = Settings(length=2, prompts=16, group=4, rlvr_rate=2e-3)


def seed(n=0):
    return torch.Generator().manual_seed(n)


def taught(steps=100):
    problems = task.draw_pairs(400, 2, seed())
    judge = Judge(16, 2, 2, 14, task.VOCABULARY, 0)
    return sft(judge, task.pair_prompt(problems), task.pair_trace(problems, problems.states()), steps, 1e-2, 64, seed(1)), problems


@pytest.fixture(scope="module")
def judge_and_problems():
    return taught()


def test_states_of_generation_are_those_of_the_whole_sequence(judge_and_problems, monkeypatch):
    judge, problems = judge_and_problems
    prompt = task.pair_prompt(problems)[:50]
    monkeypatch.setattr("examples.evidence.model.AT_ONCE", 60)  # several batches, the last one ragged
    samples = generate(judge, prompt, 7, seed(), samples=3)
    assert samples.tokens.shape == (50, 3, 7)
    with torch.no_grad():
        whole = judge.before(prompt.repeat_interleave(3, 0), samples.tokens.flatten(0, 1))
    torch.testing.assert_close(samples.hidden.flatten(0, 1), whole, rtol=1e-4, atol=1e-4)  # products of other shapes
    greedy = generate(judge, prompt, 7, seed(), greedy=True)
    assert greedy.tokens.equal((greedy.hidden @ judge.head.weight.T).argmax(-1))


def test_tokens_are_drawn_from_the_softmax(judge_and_problems):
    judge, problems = judge_and_problems
    drawn = generate(judge, task.pair_prompt(problems)[:1], 1, seed(), samples=20000)
    share = drawn.tokens.flatten().bincount(minlength=task.VOCABULARY) / 20000
    with torch.no_grad():
        expected = (drawn.hidden[0, 0, 0] @ judge.head.weight.T).softmax(0)
    assert ((share - expected).abs() < 4.5 * (expected * (1 - expected) / 20000).sqrt() + 1e-4).all()


def test_the_same_seed_gives_the_same_judge_and_a_judge_of_its_own():
    one, other = (taught(5)[0] for _ in range(2))
    assert all(a.equal(b) for a, b in zip(one.parameters(), other.parameters(), strict=True))
    torch.manual_seed(5)
    before = torch.rand(3)
    torch.manual_seed(5)
    Judge(16, 2, 2, 14, task.VOCABULARY, 0)
    assert torch.rand(3).equal(before)  # the process's own random numbers are left alone


def test_sft_learns_the_format(judge_and_problems):
    judge, problems = judge_and_problems
    tokens = generate(judge, task.pair_prompt(problems), 7, seed(), greedy=True).tokens[:, 0]
    assert (task.votes(tokens) >= 0).all()
    assert (tokens[:, [2, 4]] == problems.candidates).double().mean() > 0.9
    assert task.written_grades(tokens[:, :4]).isfinite().all()


@pytest.mark.parametrize("name", [name for name in LOOPS if name != PLAIN])
def test_grpo_is_that_of_plain_pytorch(name, judge_and_problems):
    start, problems = judge_and_problems
    heads, parts = [], []
    for ops in (LOOPS[PLAIN], LOOPS[name]):
        judge = copy.deepcopy(start)
        grpo(judge, problems, SETTINGS, 4, seed(3), ops)
        heads.append(judge.head.weight.detach())
        parts.append(judge.tokens.weight.detach())
    assert (heads[0] - start.head.weight).abs().max() > 1e-4  # it was trained
    torch.testing.assert_close(heads[0], heads[1], rtol=1e-4, atol=1e-6)  # Adam's first steps are signs of gradients
    torch.testing.assert_close(parts[0], parts[1], rtol=1e-4, atol=1e-6)


def test_grpo_raises_the_reward_it_is_given(judge_and_problems, monkeypatch):
    start, problems = judge_and_problems
    monkeypatch.setattr(task, "votes", lambda tokens: torch.where(tokens[..., 0] == 3, 0, 1))
    always = problems._replace(candidates=torch.stack((problems.states()[:, -1], (problems.states()[:, -1] + 1) % 10), 1))  # the first is better
    judge = grpo(copy.deepcopy(start), always, SETTINGS, 60, seed(3))
    said = [(generate(j, task.pair_prompt(always), 7, seed(4)).tokens[:, 0, 0] == 3).double().mean() for j in (start, judge)]
    assert said[1] > said[0] + 0.2


def test_a_rollout_is_rewarded_by_its_own_problem(judge_and_problems, monkeypatch):
    start, problems = judge_and_problems
    rewards = []

    def generate(judge, prompt, steps, seed, samples):
        asked = task.Problems(prompt[:, 1], prompt[:, 2:4] - task._OPERATION, prompt[:, 4:6])
        return Samples(task.verdict(asked).view(-1, 1, 1).expand(-1, samples, steps), torch.zeros(0))

    def advantages(given, group):
        rewards.append(given)
        return given, torch.zeros(len(given) // group, dtype=torch.bool)

    monkeypatch.setattr("examples.evidence.training.generate", generate)
    grpo(copy.deepcopy(start), problems, SETTINGS, 3, seed(3), (advantages, None))
    assert [x.tolist() for x in rewards] == [[1.0] * 64] * 3


def test_without_a_signal_nothing_is_learned(judge_and_problems, monkeypatch):
    start, problems = judge_and_problems
    monkeypatch.setattr(task, "votes", lambda tokens: torch.full(tokens.shape[:-1], -1))
    judge = grpo(copy.deepcopy(start), problems, SETTINGS, 2, seed(3))
    assert all(a.equal(b) for a, b in zip(judge.parameters(), start.parameters(), strict=True))
