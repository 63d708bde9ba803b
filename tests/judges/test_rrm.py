"""RRM: its verdicts and every way to give none, its reward, and its Elo."""

from __future__ import annotations

import time

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rrm_core.judges import RRM, PairVerdicts, Reason
from rrm_core.tournaments import Pairs, RatingStatus, RoundRobin, elo

ONE, TWO = "\\boxed{Assistant 1}", "\\boxed{Assistant 2}"
NAN = float("nan")


@pytest.mark.parametrize(
    ("text", "winner", "reason"),
    [
        (ONE, 0, Reason.VALID),
        (f"<think>hm</think>So {TWO}.", 1, Reason.VALID),
        (f"<think>first {ONE}</think>{TWO}", 1, Reason.VALID),
        (f"{ONE} no, {TWO}", 1, Reason.VALID),  # the last counts
        ("\\boxed{ Assistant 1 }", 0, Reason.VALID),
        (f"hm {ONE}</think>{TWO}", 1, Reason.VALID),
        ("", -1, Reason.NO_VERDICT),
        ("Assistant 1", -1, Reason.NO_VERDICT),
        ("\\boxed{1}", -1, Reason.NO_VERDICT),
        ("\\boxed{Assistant 3}", -1, Reason.NO_VERDICT),
        ("\\boxed{assistant 1}", -1, Reason.NO_VERDICT),
        ("\\boxed{Assistant 1 and Assistant 2}", -1, Reason.NO_VERDICT),
        ("\\boxed{\\text{Assistant 1}}", -1, Reason.NO_VERDICT),
        (f"{ONE} \\boxed{{neither}}", -1, Reason.NO_VERDICT),
        (f"<think>{ONE}</think>", -1, Reason.NO_VERDICT),  # in thoughts alone
        (f"<think>{ONE}", -1, Reason.CUT_OFF),
        (f"{ONE} or \\boxed{{Assistant 2", -1, Reason.CUT_OFF),
        ("\\boxed{", -1, Reason.CUT_OFF),
    ],
)
def test_verdicts(text, winner, reason):
    got = RRM().parse([text])
    assert (got.winner.tolist(), got.reason.tolist()) == ([winner], [reason])
    assert got.outcome.isnan().tolist() == [winner < 0]


def test_a_verdict_that_is_missing_because_the_text_was_cut_off():
    assert RRM().parse(["hm", ONE, "hm", "\\boxed{3}"], [False, False, True, True]).reason.tolist() == [6, 0, 1, 1]


def test_reward():
    """+1 for the better answer; a wrong verdict and none are alike."""
    texts = [ONE, ONE, TWO, TWO, "", "", f"<think>{ONE}", f"<think>{TWO}"]
    got = RRM().reward(RRM().parse(texts), torch.tensor([0, 1] * 4))
    assert got.tolist() == [1, -1, -1, 1, -1, -1, -1, -1]
    assert got.dtype == torch.float32
    assert RRM().reward(RRM().parse([]), torch.zeros(0, dtype=torch.int64)).shape == (0,)


def judged(strength):
    """Verdicts on a round robin of candidates, problem by problem, the stronger always preferred; some calls have no verdict."""
    tournament = RoundRobin(*strength.shape, both_orders=True)
    pairs = tournament.pairs()
    better = strength[pairs.problem, pairs.first] > strength[pairs.problem, pairs.second]
    texts = [ONE if b else TWO for b in better.tolist()]
    texts[1] = texts[-1] = "I cannot say"
    return pairs, RRM().parse(texts)


def test_aggregate_is_the_published_elo():
    pairs, verdicts = judged(torch.tensor([[3.0, 1.0, 2.0, 0.0], [0.0, 1.0, 2.0, 3.0]]))
    got = RRM().aggregate(verdicts, pairs, num_problems=2, num_candidates=4)
    rating = [[1000.0] * 4 for _ in range(2)]
    for p, i, j, share in zip(*(c.tolist() for c in pairs), verdicts.outcome.tolist(), strict=True):
        if share == share:
            r = rating[p]
            gain = 4 * (share - 1 / (1 + 10 ** ((r[j] - r[i]) / 400)))
            r[i], r[j] = r[i] + gain, r[j] - gain
    torch.testing.assert_close(got.rating, torch.tensor(rating, dtype=torch.float64), rtol=1e-13, atol=0)  # 1e-16 of a rating a match
    assert got.rating.argsort(1, descending=True).tolist() == [[0, 2, 1, 3], [3, 2, 1, 0]]
    assert got.status.tolist() == [RatingStatus.CONVERGED] * 2
    assert got.iterations.sum() == verdicts.outcome.isfinite().sum() == len(verdicts.outcome) - 2
    assert RRM().aggregate(RRM().parse([ONE]), Pairs(*torch.tensor([[0], [0], [1]])), num_candidates=2).rating.tolist() == [[1002.0, 998.0]]


def test_aggregate_over_shuffled_orders():
    pairs, verdicts = judged(torch.tensor([[3.0, 1.0, 2.0, 0.0]]))
    got = RRM().aggregate(verdicts, pairs, num_candidates=4, orders=5, seed=3).rating
    generator = torch.Generator().manual_seed(3)
    shuffled = [torch.randperm(len(pairs.first), generator=generator) for _ in range(5)]
    alone = [elo(pairs.first[s], pairs.second[s], verdicts.outcome[s], num_candidates=4).rating for s in shuffled]
    torch.testing.assert_close(got, torch.stack(alone).mean(0), rtol=1e-13, atol=0)
    assert not torch.equal(got, RRM().aggregate(verdicts, pairs, num_candidates=4).rating)


def test_aggregate_matches_evalica():
    evalica = pytest.importorskip("evalica")
    pairs, verdicts = judged(torch.randn(1, 8))
    told = verdicts.outcome.isfinite()
    winners = [evalica.Winner.X if x == 1 else evalica.Winner.Y for x in verdicts.outcome[told].tolist()]
    scores = evalica.elo(pairs.first[told].tolist(), pairs.second[told].tolist(), winners).scores
    got = RRM().aggregate(verdicts, pairs, num_candidates=8).rating[0]
    assert got.tolist() == pytest.approx([scores[i] for i in range(8)], abs=1e-9)


def test_prompt():
    messages = RRM().prompt("What is {x}?", ["It is \\boxed{1}.", "It is 2."])
    assert [m["role"] for m in messages] == ["system", "user"]
    user = messages[1]["content"]
    assert user.startswith(
        "## Query\n\nWhat is {x}?\n\n## Assistant responses\n\n### Assistant 1\n\nIt is \\boxed{1}.\n\n### Assistant 2\n\nIt is 2.\n\n## Analysis\n\n"
    )
    assert all(verdict in message["content"] for verdict in (ONE, TWO) for message in messages)


PARTS = st.sampled_from(["\\boxed{", "Assistant 1", "Assistant 2", "}", ONE, TWO, "<think>", "</think>", " ", "x", "\ud800"])


@given(st.lists(PARTS, max_size=10).map("".join), st.booleans())
def test_any_text_has_a_verdict_or_a_reason(text, finished):
    got = RRM().parse([text], [finished])
    assert isinstance(got, PairVerdicts)
    answer = text.rpartition("</think>")[2]
    box = answer.rpartition("\\boxed{")[2].split("}")[0].strip() if "\\boxed{" in answer and "}" in answer.rpartition("\\boxed{")[2] else ""
    expected = -1 if "<think>" in text and "</think>" not in text else {"Assistant 1": 0, "Assistant 2": 1}.get(box, -1)
    assert got.winner.tolist() == [expected]
    assert (got.reason.item() == Reason.VALID) == (expected >= 0)


@pytest.mark.parametrize("part", ["\\boxed{", "\\boxed{}", ONE, "}", "{", "<think>", "</think>", "1", " "])
def test_a_megabyte_takes_no_time(part):
    text = part * (1_000_000 // len(part))
    times = []
    for _ in range(3):  # the machine may be busy with something else
        start = time.perf_counter()
        RRM().parse([text])
        times.append(time.perf_counter() - start)
    assert min(times) < 0.05
