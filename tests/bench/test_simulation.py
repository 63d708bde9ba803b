"""Simulated judges are as accurate as they claim, tournaments cost what they say, and what must hold of any pick holds."""

import itertools
import json
import math

import pytest
import torch

from bench import simulation
from bench.simulation_judge import ACCURACIES, Judge, play, slope_of, stream, strengths, subseed
from bench.simulation_tournaments import OWN, compare, elo_orders, knockouts, leagues, quality
from bench.simulation_votes import CAP, adaptive_votes, coverage, sampled_scores, ties
from rrm_core.tournaments import Pairs, RoundRobin

SIGMAS = 4.5  # of a binomial share: one in 150,000


@pytest.fixture(autouse=True)
def one_thread(threads):
    """Small tensors: threads would wait for each other longer than they work."""
    threads(1)


def random_pairs(problems, n, seed):
    generator = torch.Generator().manual_seed(seed)
    first = torch.randint(n, (problems,), generator=generator)
    return Pairs(torch.arange(problems), first, (first + torch.randint(1, n, (problems,), generator=generator)) % n)


@pytest.mark.parametrize("accuracy", ACCURACIES)
@pytest.mark.parametrize("repeats", [0.0, 1.0])
def test_judges_are_right_about_a_random_pair_as_often_as_asked(accuracy, repeats):
    judge, pairs = Judge(strengths(40000, 4, 0), slope_of(accuracy), repeats=repeats), random_pairs(40000, 4, 1)
    verdict = judge.verdicts(pairs, torch.Generator().manual_seed(2))
    right = verdict.bool() == (judge.strength[pairs.problem, pairs.first] > judge.strength[pairs.problem, pairs.second])
    assert abs(right.double().mean() - accuracy) < SIGMAS * math.sqrt(accuracy * (1 - accuracy) / 40000)


def test_bias_goes_to_whoever_is_shown_first_and_invalid_verdicts_are_nan():
    judge, pairs = Judge(torch.zeros(20000, 4), 1.0, bias=1.0, invalid=0.05), random_pairs(20000, 4, 1)
    verdict = judge.verdicts(pairs, torch.Generator().manual_seed(2))
    first = 1 / (1 + math.exp(-1.0))
    assert abs(verdict.isnan().double().mean() - 0.05) < SIGMAS * math.sqrt(0.05 * 0.95 / 20000)
    assert abs(verdict.nanmean() - first) < SIGMAS * math.sqrt(first * (1 - first) / 18000)


def test_a_judge_that_repeats_itself_says_the_same_in_every_call_and_order():
    judge = Judge(strengths(500, 6, 0), slope_of(0.65), repeats=1.0)
    played = play(RoundRobin(500, 6, votes=2, both_orders=True), judge, stream(0, "test"))
    first, again, swapped, last = played.outcome.view(-1, 4).T
    torch.testing.assert_close(torch.stack((again, 1 - swapped, 1 - last)), first.expand(3, -1))
    fickle = play(RoundRobin(500, 6, votes=2), judge._replace(repeats=0.0), stream(0, "test")).outcome.view(-1, 2)
    assert 0.2 < (fickle[:, 0] != fickle[:, 1]).double().mean() < 0.5


@pytest.mark.parametrize("n", [4, 8, 16])
def test_a_perfect_judge_picks_the_best_wherever_a_tournament_tells(n):
    judge = Judge(strengths(100, n, 0), slope_of(1.0))
    for row in compare(iter([*knockouts(n), *leagues(n)]), judge, True, 0):
        # everyone must have met the best, or have lost to somebody who did; a few opponents leave several unbeaten
        tells = row["method"].startswith(("knockout", "swiss")) or row["method"] == "round robin, all"
        if tells and row["rating"] == OWN:
            assert (row["accuracy"], row["regret"]) == (1, 0), row
        if row["method"] == "round robin, all" and row["rating"] in (OWN, "borda", "bradley_terry", "win_rate", "copeland"):
            assert (row["kendall"], row["spearman"]) == pytest.approx((1, 1), abs=1e-12), row


def test_lots_know_nothing_of_the_strengths():
    judge = Judge(strengths(4000, 16, 0), slope_of(1.0))
    anchored = (method for method in leagues(16) if method[0] == "anchored, 2 anchors")
    borda = next(row for row in compare(anchored, judge, True, 0) if row["rating"] == "borda")
    # one of the two anchors has most points: right where it is the best of all, one time in eight
    assert abs(borda["accuracy"] - 2 / 16) < SIGMAS * math.sqrt(2 / 16 * 14 / 16 / 4000)


def test_seeds_are_the_same_in_every_process_and_of_each_thing_its_own():
    assert subseed(7, "lots", "swiss, 3 rounds", 8) == 7 + 1679773171
    assert len({subseed(0, "lots", method, n) for n in (4, 8, 16) for method, _ in (*knockouts(n), *leagues(n))}) == 35


@pytest.mark.parametrize("n", [4, 8, 16])
def test_calls_are_the_closed_forms(n):
    log = n.bit_length() - 1
    expected = {"round robin, all": n * (n - 1) / 2}
    expected |= {f"knockout, {v} vote{'s' * (v > 1)}": v * (n - 1) for v in {1, 3, n // 2}}
    expected |= {f"knockout, {v} vote{'s' * (v > 1)} each order": 2 * v * (n - 1) for v in (1, 3)}
    expected |= {f"round robin, {d} opponents": n * d / 2 for d in (2, 4, 8) if d < n - 1}
    expected |= {f"swiss, {r} rounds": r * n / 2 for r in (log, 2 * log)}
    expected |= {f"anchored, {a} anchors": a * (n - a) + a * (a - 1) / 2 for a in (2, 4) if a < n}
    found = compare(iter([*knockouts(n), *leagues(n)]), Judge(strengths(10, n, 0), 1.0), False, 0)
    assert {row["method"]: row["calls"] for row in found} == expected


def test_quality_of_known_scores():
    strength = torch.tensor([[3.0, 1.0, 2.0], [0.5, 1.5, 0.0], [3.0, 2.0, 1.0]])
    score = torch.tensor([[9.0, 7.0, 8.0], [1.0, 0.0, 2.0], [1.0, 1.0, 0.0]])
    found = quality(score, strength)
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["regret"] == pytest.approx(1.5 / 3)
    assert found["kendall"] == pytest.approx((1 - 1 + 2 / 3) / 3)
    assert found["spearman"] == pytest.approx((1 - 1 + math.sqrt(3) / 2) / 3)


def test_more_votes_are_better():
    judge = Judge(strengths(1500, 8, 0), slope_of(0.75))
    knockout = {row["method"]: row for row in compare(knockouts(8), judge, False, 0)}
    more = [knockout[f"knockout, {label}"] for label in ("1 vote", "3 votes", "3 votes each order")]
    summed = [row for row in sampled_scores(8, 1500, 0.75, 0) if row["rule"] == "sum_vote"][::2]
    for rows in (more, summed):
        for less, better in itertools.pairwise(rows):
            assert better["accuracy"] - less["accuracy"] > 2 * math.hypot(less["stderr"], better["stderr"])


def test_adaptive_votes_follow_the_binomial_and_majority_loses_nothing():
    rows = {(row["judge"], row["rule"]): row for row in adaptive_votes(20000, 0)}
    for accuracy in (0.6, 0.9):
        exact = sum(math.comb(CAP, i) * accuracy**i * (1 - accuracy) ** (CAP - i) for i in range(CAP // 2 + 1, CAP + 1))
        whole, majority = rows[accuracy, f"{CAP} votes"], rows[accuracy, "majority"]
        assert abs(whole["accuracy"] - exact) < SIGMAS * math.sqrt(exact * (1 - exact) / 20000)
        assert majority["accuracy"] == whole["accuracy"]
        assert CAP > majority["calls"] > rows[accuracy, "beta"]["calls"] > rows[accuracy, "sprt"]["calls"]


def test_orders_change_elo_and_never_bradley_terry():
    for row in elo_orders(8, 500, 0.75, 0):
        assert (row["changed"] == 0) == (row["rating"] == "bradley_terry")
        assert row["rating"] != "bradley_terry" or row["not a borda top"] == 0


def test_ties_leave_a_complete_round_robin_to_the_points():
    rows = [row for row in ties(8, 300, 0.75, 0) if row["opponents"] == 7]
    assert 0.2 < rows[0]["ties"] < 1 / 3
    picks = {row["rating"]: row["other pick"] for row in rows}
    assert picks["davidson"] == picks["davidson, one tie strength for all"] == 0 < picks["bradley_terry, ties dropped"]


def test_sandwich_intervals_hold_where_the_hessian_is_too_wide():
    rows = {(row["games"], row["interval"]): row for row in coverage(6, 300, 0.75, 20, 0)}
    assert abs(rows["single verdicts", "hessian"]["coverage"] - 0.95) < 0.03
    assert rows["means of two", "hessian"]["coverage"] > 0.98
    assert rows["means of two", "sandwich"]["width"] < 0.8 * rows["means of two", "hessian"]["width"]


def test_quick_run_end_to_end_and_again(tmp_path):
    for folder in ("one", "other"):
        simulation.main(["--quick", "--out", str(tmp_path / folder), "--threads", "1"])
    read = [json.loads(next((tmp_path / folder).glob("*-simulation-*.json")).read_text()) for folder in ("one", "other")]
    assert read[0]["simulation"] == read[1]["simulation"]
    assert all(read[0]["simulation"].values())
    assert {"date", "commit", "seed", "versions"} <= set(read[0])
    assert next((tmp_path / "one").glob("*.png")).read_bytes()[:4] == b"\x89PNG"
    text = next((tmp_path / "one").glob("*.md")).read_text()
    row = next(r for r in read[0]["simulation"]["tournaments"] if r["n"] == 8 and r["method"] == "round robin, all" and r["rating"] == OWN)
    assert f"| round robin, all | 28 | {100 * row['accuracy']:.1f} ± {100 * row['stderr']:.1f} |" in text
