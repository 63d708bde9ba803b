"""A judge as TRL's reward function, and reward models of every kind behind one call."""

import pytest
import torch

from rrm_core.judges import RRM, DeepSeekGRM, GenerativeRM, Judge, JudgeReward, OutcomeRM
from tests.judges.simulated import Simulated


def longest(calls):
    """The longer answer is better; of equals, the first."""
    texts = []
    for call in calls:
        user = call.messages[-1]["content"]
        parts = user.split("### Assistant ")
        first, second = parts[1].split("\n\n")[1], parts[2].split("\n\n")[1]
        texts.append(f"\\boxed{{Assistant {1 if len(first) >= len(second) else 2}}}")
    return texts


def test_groups_compete_among_themselves():
    reward = JudgeReward(Judge(RRM(), longest, votes=2), 3)
    scores = reward(prompts=["p"] * 3 + ["q"] * 3, completions=["aaa", "a", "aaaaa", "bb", "bbb", "bb"], completion_ids=None, trainer_state=None)
    assert scores[2] > scores[0] > scores[1]
    assert scores[4] > scores[3] == pytest.approx(scores[5])
    assert reward.calls == 12
    assert reward.__name__ == "judge_RRM"


def test_completions_are_judged_by_their_own_prompt():
    asked = []

    def generate(calls):
        asked.extend(call.messages[-1]["content"] for call in calls)
        return longest(calls)

    JudgeReward(Judge(RRM(), generate), 2)(prompts=["the p"] * 2 + ["the q"] * 2, completions=["of p", "of p, too", "of q", "of q, too"])
    assert [("the p" in text, "of p" in text) for text in asked] == [(True, True), (False, False)]
    assert [("the q" in text, "of q" in text) for text in asked] == [(False, False), (True, True)]


def test_conversations_are_read_as_texts():
    reward = JudgeReward(Judge(RRM(), longest), 2)
    prompts = [[{"role": "user", "content": "p"}]] * 2
    scores = reward(prompts=prompts, completions=[[{"role": "assistant", "content": "aa"}], [{"role": "assistant", "content": "a"}]])
    assert scores[0] > scores[1]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompts": ["p"] * 3, "completions": ["a"] * 3}, "prompts: expected groups of 2, got 3 prompts"),
        ({"prompts": ["p", "q"], "completions": ["a"] * 2}, "prompts: expected one prompt in a group of 2, got several"),
        ({"prompts": ["p"] * 2, "completions": ["a"]}, "completions: expected 2 completions, got 1"),
    ],
)
def test_other_groups_are_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        JudgeReward(Judge(RRM(), longest), 2)(**arguments)


def test_bad_arguments(tmp_path):
    with pytest.raises(TypeError, match="judge: expected a Judge, got RRM"):
        JudgeReward(RRM(), 2)
    with pytest.raises(ValueError, match="judge: expected one without a journal, got one with"):
        JudgeReward(Judge(RRM(), longest, journal=tmp_path / "journal"), 2)
    with pytest.raises(ValueError, match="judge: expected one of 1 or 8 answers, got one of 4"):
        JudgeReward(Judge(DeepSeekGRM(4), longest), 8)
    with pytest.raises(ValueError, match="num_generations: expected an integer of at least 2, got 1"):
        JudgeReward(Judge(RRM(), longest), 1)


def test_a_grpo_run_learns_from_tournaments(threads, monkeypatch):
    pytest.importorskip("trl")
    from bench.toy_trainer import make_trainer

    threads(1)
    reward = JudgeReward(Judge(RRM(), longest), 4)
    given = []

    def kept(**arguments):
        scores = reward(**arguments)
        given.append((arguments["completions"], scores))
        return scores

    kept.__name__ = reward.__name__
    trainer = make_trainer("grpo", reward_funcs=kept, max_steps=3)
    trainer.train()
    steps = [entry for entry in trainer.state.log_history if "loss" in entry]
    assert len(steps) == 3
    assert all(abs(entry["rewards/judge_RRM/mean"]) < 1e-6 for entry in steps)  # ratings of a group have mean 0
    assert max(entry["grad_norm"] for entry in steps) > 0
    assert reward.calls == 3 * 2 * 6  # two groups of four a step
    for completions, scores in given:
        for start in range(0, len(scores), 4):
            lengths = torch.tensor([len(text) for text in completions[start : start + 4]])
            group = torch.tensor(scores[start : start + 4])
            assert group[lengths.argmax()] == group.max()


def test_reward_models_of_every_kind_are_called_alike():
    questions, answers = ["p", "q"], [["a", "aaa"], ["b", "bb", "bbbb"]]
    generative = GenerativeRM(Judge(RRM(), longest))
    scalar = OutcomeRM(lambda asked, given: torch.tensor([[float(len(text)), 1.0] for text in given]), lambda states: states[:, 0])
    for model in (generative, scalar):
        score = model.score(questions, answers)
        assert score.dtype == torch.float64
        assert score.shape == (2, 3)
        assert score[0, 1] > score[0, 0]
        assert score[0, 2].isnan()
        assert score[1].argsort().tolist() == [0, 1, 2]
    assert scalar.score([], []).shape == (0, 0)
    with pytest.raises(TypeError, match="judge: expected a Judge, got Simulated"):
        GenerativeRM(Simulated())
    with pytest.raises(ValueError, match="head: expected 5 scores, got 1"):
        OutcomeRM(lambda asked, given: torch.zeros(1, 2), lambda states: states[:, 0]).score(questions, answers)
