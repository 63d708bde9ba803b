"""PandaLM's test set: 999 comparisons of five models' answers by three people, by GPT-3.5 (25 invalid verdicts) and by PandaLM-7B."""

import functools
import json
import math
from pathlib import Path

import pytest
import torch

from rrm_core.tournaments import RatingStatus, borda, bradley_terry, pairwise_wins

DATA = Path(__file__).parents[3] / "shared/data/pandalm"
JUDGES = ["annotator1", "annotator2", "annotator3", "gpt_result", "pandalm_result"]
OUTCOME = {"0": 0.5, "Tie": 0.5, "1": 1.0, "2": 0.0}  # anything else is an invalid verdict

pytestmark = pytest.mark.skipif(not DATA.exists(), reason="the PandaLM judgements are not in ../shared/data")


@pytest.fixture(autouse=True)
def every_body(impl, monkeypatch):
    """Each test runs once per body."""
    for function in (bradley_terry, pairwise_wins):
        monkeypatch.setitem(globals(), function.__name__, functools.partial(function, impl=impl))


@pytest.fixture(scope="module")
def matches():
    """(models, first, second, outcome [judge][match])."""
    records = json.loads((DATA / "testset-v1.json").read_text())
    for name in ("gpt-3.5-turbo-testset-v1.json", "pandalm-7b-testset-v1.json"):
        for record, verdict in zip(records, json.loads((DATA / name).read_text()), strict=True):
            assert record["idx"] == verdict["idx"]
            record.update(verdict)
    names = [r["cmp_key"].split("_") for r in records]
    models = sorted({m for pair in names for m in pair})
    first, second = ([models.index(pair[side]) for pair in names] for side in (0, 1))
    return models, first, second, [[OUTCOME.get(str(r[j]), float("nan")) for r in records] for j in JUDGES]


def wins_of(matches):
    models, first, second, outcomes = matches
    judges = len(outcomes)
    return pairwise_wins(
        first * judges,
        second * judges,
        [o for judge in outcomes for o in judge],
        problem=[j for j in range(judges) for _ in first],
        num_problems=judges,
        num_candidates=len(models),
    )


def test_wins_are_the_counts_of_a_plain_loop(matches):
    models, first, second, outcomes = matches
    wins = wins_of(matches)
    for judge, outcome in enumerate(outcomes):
        expected = torch.zeros(len(models), len(models), dtype=torch.float64)
        for i, j, share in zip(first, second, outcome, strict=True):
            if not math.isnan(share):
                expected[i, j] += share
                expected[j, i] += 1 - share
        assert torch.equal(wins[judge], expected)
    assert wins.sum((1, 2)).tolist() == [999, 999, 999, 974, 999]


def test_ratings_agree_with_evalica(matches):
    evalica = pytest.importorskip("evalica")
    models, first, second, outcomes = matches
    ours = bradley_terry(wins_of(matches), prior=0.0, stderr=True)
    assert ours.status.tolist() == [RatingStatus.CONVERGED] * len(JUDGES)
    winner = {1.0: evalica.Winner.X, 0.0: evalica.Winner.Y, 0.5: evalica.Winner.Draw}
    for judge, outcome in enumerate(outcomes):
        valid = [(i, j, winner[s]) for i, j, s in zip(first, second, outcome, strict=True) if not math.isnan(s)]
        xs, ys, results = ([models[m[0]] for m in valid], [models[m[1]] for m in valid], [m[2] for m in valid])
        scores = evalica.bradley_terry(xs, ys, results, tolerance=1e-12, limit=10_000).scores
        theirs = torch.tensor([scores[m] for m in models], dtype=torch.float64).log()
        torch.testing.assert_close(ours.rating[judge], theirs - theirs.mean(), rtol=0, atol=1e-8)


def test_people_agree_on_the_best_and_the_worst_model(matches):
    rating = bradley_terry(wins_of(matches)).rating[:3]
    assert len(set(rating.argmax(1).tolist())) == 1
    assert len(set(rating.argmin(1).tolist())) == 1
    assert torch.equal(borda(wins_of(matches))[:3].argmax(1), rating.argmax(1))
