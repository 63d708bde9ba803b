"""What must hold of every rating, whatever it is: of matches drawn by hypothesis."""

from __future__ import annotations

import functools
from collections.abc import Callable

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from rrm_core.tournaments import (
    PairCounts,
    borda,
    bradley_terry,
    copeland,
    davidson,
    eigenvector,
    elo,
    pagerank,
    pairwise_counts,
    pairwise_wins,
    win_rate,
)

N = 5
RATINGS: dict[str, Callable[..., Tensor]] = {  # PairCounts -> [B, n]
    "bradley_terry": lambda counts, impl: bradley_terry(counts, tol=1e-10, impl=impl).rating,
    "sandwich": lambda counts, impl: bradley_terry(counts, tol=1e-10, stderr="sandwich", impl=impl).stderr,
    "davidson": lambda counts, impl: davidson(counts, tol=1e-10, impl=impl).rating,
    "shared davidson": lambda counts, impl: davidson(counts, shared=True, tol=1e-10, impl=impl).rating,
    "borda": lambda counts, impl: borda(counts, impl=impl),
    "copeland": lambda counts, impl: copeland(counts, impl=impl),
    "win_rate": lambda counts, impl: win_rate(counts, impl=impl),
    "pagerank": lambda counts, impl: pagerank(counts, impl=impl).rating,
    "eigenvector": lambda counts, impl: eigenvector(counts, impl=impl).rating,
}
_MATCH = st.tuples(st.integers(0, N - 1), st.integers(1, N - 1), st.sampled_from([0.0, 0.5, 1.0]), st.integers(1, 3))
MATCHES = st.lists(_MATCH, min_size=1, max_size=25)
any_rating = pytest.mark.parametrize("name", RATINGS)
drawn = functools.partial(settings, max_examples=6, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(autouse=True)
def in_time(request, impl):
    if impl == "reference" and request.node.callspec.params.get("name") == "shared davidson":
        pytest.skip("a fit a step, in plain PyTorch: minutes")


def columns(matches: list[tuple[int, int, float, int]]) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    first, step, outcome, times = (torch.tensor(column) for column in zip(*matches, strict=True))
    return first, (first + step) % N, outcome.double(), times


def counted(first: Tensor, second: Tensor, outcome: Tensor, weight: Tensor | None = None) -> PairCounts:
    return pairwise_counts(first, second, outcome, num_candidates=N, weight=weight)


def assert_same(a: Tensor, b: Tensor) -> None:
    torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-6, equal_nan=True)  # fits stop 1e-10 of a candidate's games short of one optimum


@any_rating
@drawn()
@given(MATCHES, st.permutations(range(N)))
def test_names_do_not_matter(impl, name, matches, order):
    first, second, outcome, _ = columns(matches)
    order = torch.tensor(order)
    renamed = RATINGS[name](counted(order[first], order[second], outcome), impl)
    assert_same(renamed[:, order], RATINGS[name](counted(first, second, outcome), impl))


@any_rating
@drawn()
@given(MATCHES)
def test_who_was_first_does_not_matter(impl, name, matches):
    first, second, outcome, _ = columns(matches)
    assert_same(RATINGS[name](counted(second, first, 1 - outcome), impl), RATINGS[name](counted(first, second, outcome), impl))


@any_rating
@drawn()
@given(MATCHES)
def test_a_match_twice_is_a_weight_of_two_and_nothing_weighs_nothing(impl, name, matches):
    first, second, outcome, times = columns(matches)
    repeated = counted(*(x.repeat_interleave(times) for x in (first, second, outcome)))
    assert_same(RATINGS[name](counted(first, second, outcome, times), impl), RATINGS[name](repeated, impl))
    more = [torch.cat((x, torch.tensor([extra], dtype=x.dtype))) for x, extra in ((first, 0), (second, 1), (outcome, 1.0), (times, 0))]
    assert_same(RATINGS[name](counted(*more), impl), RATINGS[name](repeated, impl))


@pytest.mark.parametrize("name", [name for name in RATINGS if "davidson" not in name and name != "sandwich"])
@drawn()
@given(MATCHES)
def test_a_tie_is_two_half_wins(impl, name, matches):
    first, second, outcome, _ = columns(matches)
    wins = pairwise_wins(first, second, outcome, num_candidates=N)
    assert_same(RATINGS[name](PairCounts(wins, torch.zeros_like(wins)), impl), RATINGS[name](counted(first, second, outcome), impl))


@pytest.mark.parametrize("name", [name for name in RATINGS if name != "shared davidson"])
@drawn()
@given(st.lists(MATCHES, min_size=1, max_size=4))
def test_a_batch_is_a_loop(impl, name, problems):
    each = [counted(*columns(matches)[:3]) for matches in problems]
    batch = PairCounts(torch.cat([c.wins for c in each]), torch.cat([c.ties for c in each]))
    assert_same(RATINGS[name](batch, impl), torch.cat([RATINGS[name](c, impl) for c in each]))


# 14 matches, and their ratings by mpmath's root finder with 50 digits: nothing of ours took part.
TABLE = [
    *((0, 1, 1.0), (0, 2, 1.0), (1, 2, 0.5), (2, 0, 1.0), (1, 0, 0.5), (2, 1, 1.0), (3, 0, 0.0)),
    *((3, 1, 1.0), (2, 3, 1.0), (0, 3, 0.5), (1, 3, 1.0), (0, 1, 1.0), (1, 2, 1.0), (0, 2, 0.5)),
]
GOLDEN = {
    "bradley_terry": [0.6592405250092, -0.3275349594166, 0.35183758984598, -0.68354315543859],
    "davidson": [0.9819446562734, -0.48655638365044, 0.52384340195616, -1.0192316745791],
    "borda": [5.5, 3.0, 4.0, 1.5],
    "copeland": [2.5, 1.0, 2.0, 0.5],
    "win_rate": [0.69444444444444, 0.38888888888889, 0.66666666666667, 0.25],
    "pagerank": [0.31884098803197, 0.25034440132529, 0.296553094452, 0.13426151619073],
    "eigenvector": [0.35694552131539, 0.22413139305308, 0.29802953428552, 0.12089355134602],
    "elo": [1005.818893948327, 996.1708884552186, 1001.987779628518, 996.0224379679363],
}


@pytest.mark.parametrize("name", GOLDEN)
def test_golden_table(impl, name):
    matches = [torch.tensor(column) for column in zip(*TABLE, strict=True)]
    counts = pairwise_counts(*matches, num_candidates=4)
    found = {
        "bradley_terry": lambda: bradley_terry(counts, prior=0.0, tol=1e-13, impl=impl).rating,
        "davidson": lambda: davidson(counts, prior=0.0, tol=1e-13, impl=impl).rating,
        "eigenvector": lambda: eigenvector(counts, prior=0.0, impl=impl).rating,
        "elo": lambda: elo(*matches, num_candidates=4, impl=impl).rating,
    }.get(name, lambda: RATINGS[name](counts, impl))()
    assert found[0].tolist() == pytest.approx(GOLDEN[name], rel=1e-10, abs=1e-10)


def test_golden_tie_strength(impl):
    counts = pairwise_counts(*(torch.tensor(column) for column in zip(*TABLE, strict=True)), num_candidates=4)
    assert davidson(counts, prior=0.0, tol=1e-13, impl=impl).tie_strength.item() == pytest.approx(0.94566161797571, rel=1e-10)
