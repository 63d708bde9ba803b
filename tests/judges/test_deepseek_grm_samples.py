"""Samples of DeepSeekGRM: shuffled answers, scores put back in order and added up (Eq. 14), and votes that a meta reward model guides."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rrm_core.judges import DeepSeekGRM, labels_shown, shuffled, shuffles

NAN = float("nan")
TWO, THREE = DeepSeekGRM(2), DeepSeekGRM(3)


def labels(*values):
    return torch.tensor(values, dtype=torch.int64)


def test_shuffles_are_permutations_each_as_likely_and_the_seeds_own():
    order = shuffles(40, 150, 3, seed=7)
    assert order.shape == (40, 150, 3)
    assert order.dtype == torch.int64
    assert torch.equal(order.sort(-1).values, torch.arange(3).expand(40, 150, 3))
    assert torch.equal(order, shuffles(40, 150, 3, seed=7))
    assert not torch.equal(order, shuffles(40, 150, 3, seed=8))
    counts = torch.unique(order.view(-1, 3), dim=0, return_counts=True)[1]
    assert len(counts) == 6
    deviation = (6000 * 1 / 6 * 5 / 6) ** 0.5
    assert (counts - 1000).abs().max() < 5 * deviation
    assert len(torch.unique(order[:, 0], dim=0)) == 6  # problems differ, and so do one's samples
    assert len(torch.unique(order[0], dim=0)) == 6


def test_shuffles_leave_the_global_generator_alone():
    state = torch.get_rng_state()
    shuffles(2, 3, 4, seed=0)
    assert torch.equal(state, torch.get_rng_state())


def test_shuffled_answers_and_the_place_of_the_best():
    order = torch.tensor([[[2, 0, 1], [0, 1, 2]], [[1, 2, 0], [2, 1, 0]]])
    assert shuffled(["a", "b", "c"], order[0]) == [["c", "a", "b"], ["a", "b", "c"]]
    assert labels_shown(labels(0, 2), order).tolist() == [1, 0, 1, 0]
    assert labels_shown(labels(2, 1), order).tolist() == [0, 2, 0, 1]


@given(st.integers(1, 5), st.integers(1, 4), st.integers(1, 6), st.integers(0, 99))
def test_the_answer_at_the_labelled_place_is_the_best_one(problems, samples, n, seed):
    order, best = shuffles(problems, samples, n, seed), torch.arange(problems) % n
    places = labels_shown(best, order).view(problems, samples)
    for b, j in itertools.product(range(problems), range(samples)):
        assert shuffled([str(i) for i in range(n)], order[b])[j][places[b, j]] == str(int(best[b]))


def test_scores_are_added_up_where_their_answers_were_shown():
    """Answers 0, 1, 2 are worth 2, 9, 5 to one sample and 3, 4, 10 to another, whatever the order."""
    order = torch.tensor([[[1, 2, 0], [2, 0, 1]]])
    verdicts = THREE.parse(["\\boxed{9, 5, 2}", "\\boxed{10, 3, 4}"])
    votes = THREE.aggregate(verdicts, samples=2, permutation=order)
    assert votes.score.tolist() == [[2 + 3, 9 + 4, 5 + 10]]
    assert votes.winner.tolist() == [2]
    assert votes.used.tolist() == [2]
    as_shown = THREE.aggregate(verdicts, samples=2)
    assert as_shown.score.tolist() == [[19, 8, 6]]
    assert as_shown.winner.tolist() == [0]


def test_a_judge_who_always_knows_is_right_about_shuffled_answers():
    best = torch.arange(12) % 3
    order = shuffles(12, 4, 3, seed=1)
    worth = torch.full((12, 3), 4).scatter(1, best.unsqueeze(1), 9)
    shown = worth.unsqueeze(1).expand(12, 4, 3).gather(2, order).reshape(-1, 3).tolist()
    verdicts = THREE.parse([f"\\boxed{{{', '.join(map(str, row))}}}" for row in shown])
    assert THREE.reward(verdicts, labels_shown(best, order)).tolist() == [1] * 48
    assert torch.equal(THREE.aggregate(verdicts, samples=4, permutation=order).winner, best)
    assert THREE.reward(verdicts, best.repeat_interleave(4)).min() == -1  # who forgets the shuffle is wrong about some


def test_invalid_samples_are_dropped():
    verdicts = TWO.parse(["\\boxed{2, 1}", "\\boxed{1, 99}", "no", "\\boxed{3, 4}", "\\boxed{1, ", "\\boxed{5, 6, 7}"])
    votes = TWO.aggregate(verdicts, samples=3)
    assert votes.score.tolist() == [[2, 1], [3, 4]]
    assert votes.used.tolist() == [1, 1]
    assert votes.winner.tolist() == [0, 1]
    nobody = TWO.aggregate(TWO.parse(["", "\\boxed{1}"]), samples=2)
    assert nobody.winner.tolist() == [-1]
    assert nobody.used.tolist() == [0]


META_TEXTS = ["\\boxed{9, 1}", "\\boxed{1, 2}", "\\boxed{9, 1}", "\\boxed{3, 5}"]


@pytest.mark.parametrize(
    ("meta", "k_meta", "score"),
    [
        ([0.1, 0.9, 0.2, 0.8], None, [4, 7]),  # the better two of four
        ([0.1, 0.9, 0.2, 0.8], 1, [1, 2]),
        ([0.1, 0.9, 0.2, 0.8], 3, [13, 8]),
        ([0.1, 0.9, 0.2, 0.8], 9, [22, 9]),
        ([0.9, 0.1, 0.8, 0.1], None, [18, 2]),
        ([0.5, 0.5, 0.5, 0.5], None, [10, 3]),  # of equals the first
        ([NAN, 0.9, 0.2, NAN], None, [10, 3]),
        ([NAN, NAN, NAN, 0.1], None, [3, 5]),
    ],
)
def test_the_guided_vote_counts_the_samples_rated_highest(meta, k_meta, score):
    votes = TWO.aggregate(TWO.parse(META_TEXTS), samples=4, meta=torch.tensor([meta]), k_meta=k_meta)
    assert votes.score.tolist() == [score]


def test_the_guided_vote_chooses_among_valid_samples_only():
    """The invalid one is rated highest; the two best valid ones are counted. With one valid sample, that is all there is."""
    texts = ["\\boxed{9, 1}", "\\boxed{oops}", "\\boxed{1, 2}", "\\boxed{3, 5}", "", "", "\\boxed{6, 7}", ""]
    votes = TWO.aggregate(TWO.parse(texts), samples=4, meta=torch.tensor([[0.1, 9.0, 0.9, 0.8], [1.0, 2.0, 0.0, 3.0]]))
    assert votes.score.tolist() == [[4, 7], [6, 7]]
    assert votes.used.tolist() == [2, 1]


def test_one_sample_is_counted_by_the_guided_vote():
    votes = TWO.aggregate(TWO.parse(["\\boxed{3, 8}"]), samples=1, meta=torch.tensor([[-5.0]]))
    assert votes.used.tolist() == [1]
    assert votes.winner.tolist() == [1]


def test_the_guided_vote_puts_scores_back_in_order_too():
    order = torch.tensor([[[1, 0], [0, 1], [1, 0], [1, 0]]])
    votes = TWO.aggregate(TWO.parse(META_TEXTS), samples=4, permutation=order, meta=torch.tensor([[0.1, 0.9, 0.2, 0.8]]))
    assert votes.score.tolist() == [[1 + 5, 2 + 3]]
    assert votes.winner.tolist() == [0]


def test_a_tie_falls_to_one_of_those_who_share_it():
    texts = ["\\boxed{7, 7, 2}"] * 600
    votes = THREE.aggregate(THREE.parse(texts), samples=1, seed=3)
    assert votes.tied.tolist() == [2] * 600
    assert set(votes.winner.tolist()) == {0, 1}
    assert abs(votes.winner.float().mean() - 0.5) < 5 * 0.5 / 600**0.5
    again = THREE.aggregate(THREE.parse(texts), samples=1, seed=3)
    assert torch.equal(votes.winner, again.winner)


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (TypeError, "num_answers: expected an integer, got str", lambda: shuffles(1, 1, "2", 0)),
        (ValueError, "num_problems: expected an integer of at least 0, got -1", lambda: shuffles(-1, 1, 2, 0)),
        (ValueError, "samples: expected an integer of at least 1, got 0", lambda: shuffles(1, 0, 2, 0)),
        (ValueError, "num_answers: expected an integer of at least 1, got 0", lambda: shuffles(1, 1, 0, 0)),
        (TypeError, "seed: expected an integer, got NoneType", lambda: shuffles(1, 1, 1, None)),
        (ValueError, "seed: expected an integer of 64 bits", lambda: shuffles(1, 1, 1, 1 << 64)),
        (ValueError, r"permutation: expected shape \[k, 2\], got \[1, 3\]", lambda: shuffled(["a", "b"], torch.arange(3).view(1, 3))),
        (ValueError, "permutation: expected permutations", lambda: shuffled(["a", "b"], torch.tensor([[0, 0]]))),
        (ValueError, "permutation: expected permutations", lambda: labels_shown(labels(0), torch.tensor([[[1, 2]]]))),
        (TypeError, "permutation: expected int64, got torch.float32", lambda: labels_shown(labels(0), torch.zeros(1, 1, 1))),
        (ValueError, r"best: expected values in \[0, 2\), got 2", lambda: labels_shown(labels(2), torch.tensor([[[1, 0]]]))),
        (ValueError, r"best: expected shape \[1\], got \[2\]", lambda: labels_shown(labels(0, 1), torch.tensor([[[1, 0]]]))),
    ],
)
def test_bad_input_is_told(error, message, call):
    with pytest.raises(error, match=message):
        call()
