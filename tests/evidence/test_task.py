"""The study's task against plain loops."""

import torch
from hypothesis import given
from hypothesis import strategies as st

from examples.evidence import task

OPERATIONS = [lambda d, a=a: (d + a) % 10 for a in range(1, 10)] + [lambda d, m=m: (d * m) % 10 for m in (3, 7, 9)]


def seed(n=0):
    return torch.Generator().manual_seed(n)


def test_operations_are_bijections_that_do_not_commute():
    tables = [[operation(d) for d in range(10)] for operation in OPERATIONS]
    assert task._TABLE.tolist() == tables
    assert all(sorted(table) == list(range(10)) for table in tables)
    assert tables[0][tables[9][2]] != tables[9][tables[0][2]]


@given(st.integers(0, 9), st.lists(st.integers(0, 11), min_size=1, max_size=8), st.integers(0, 9))
def test_states_and_grades_are_those_of_a_loop(start, operations, candidate):
    problem = task.Problems(torch.tensor([start]), torch.tensor([operations]), torch.tensor([[candidate]]))
    states, digit = [], start
    for operation in operations:
        digit = OPERATIONS[operation](digit)
        states.append(digit)
    assert problem.states().tolist() == [states]
    assert problem.grades().tolist() == [[5 - min((candidate - digit) % 10, (digit - candidate) % 10)]]


def test_a_slip_is_carried_on():
    problems = task.draw(2000, 6, 1, seed())
    wrong, right = problems.states(0.15, seed(1)), problems.states()
    first = (wrong != right).int().argmax(1)
    slipped = (wrong != right).any(1)
    assert abs(slipped.double().mean() - (1 - 0.85**6)) < 0.04  # 4 standard errors
    previous = torch.where(first > 0, wrong.gather(1, (first - 1).clamp(min=0).unsqueeze(1))[:, 0], problems.start)
    honest = task._TABLE[problems.operations.gather(1, first.unsqueeze(1))[:, 0], previous]
    assert (honest != wrong.gather(1, first.unsqueeze(1))[:, 0])[slipped].all()
    step = task._TABLE[problems.operations[:, 1:], wrong[:, :-1]]
    assert abs((step != wrong[:, 1:]).double().mean() - 0.15) < 0.02  # of what was written before, not of the truth


def test_pairs_have_a_better_candidate_and_best_of_holds_the_truth():
    pairs = task.draw_pairs(500, 3, seed())
    grades = pairs.grades()
    assert len(grades) == 500
    assert (grades[:, 0] != grades[:, 1]).all()
    assert pairs.better().tolist() == [0 if a > b else 1 for a, b in grades.tolist()]
    assert 0.4 < pairs.better().double().mean() < 0.6
    best = task.draw_best_of(300, 3, 8, seed())
    assert all(len(set(row)) == 8 for row in best.candidates.tolist())
    assert ((best.grades() == 5).sum(1) == 1).all()
    assert best.grades().argmax(1).bincount(minlength=8).min() > 15  # at any place


def test_prompts_and_traces_are_read_back():
    problems = task.draw_pairs(200, 4, seed())
    states = problems.states()
    trace = task.pair_trace(problems, states)
    assert trace.shape == (200, problems.thought) == (200, 9)
    assert task.votes(trace).tolist() == problems.better().tolist()
    assert trace[:, :4].equal(states)
    assert trace[:, [4, 6]].equal(problems.candidates)
    assert task.written_grades(trace[:, :6]).tolist() == problems.grades()[:, 0].tolist()
    assert task.pair_prompt(problems).shape == task.point_prompt(problems._replace(candidates=problems.candidates[:, :1])).shape == (200, 9)
    assert task.pair_prompt(problems, fillers=3)[:, :9].equal(task.pair_prompt(problems))
    assert task.pair_prompt(problems).max() < task.VOCABULARY
    assert task.votes(task.verdict(problems)).tolist() == problems.better().tolist()
    assert task.votes(torch.tensor([[0], [27], [28], [29], [30]])).tolist() == [-1, -1, 0, 1, -1]
    assert task.written_grades(torch.tensor([[15], [16], [21], [22]])).isnan().tolist() == [False, True, True, True]
    best = task.draw_best_of(50, 4, 8, seed())
    alone = task.point_trace(best, best.states())
    assert task.written_grades(alone).view(50, 8).tolist() == best.grades().tolist()
    assert task.point_prompt(best).view(50, 8, 9)[:, :, -2].equal(best.candidates)  # beside what ends every prompt


def test_a_random_trace_has_the_format_and_no_content():
    problems = task.draw_pairs(4000, 6, seed())
    trace = task.random_trace(problems, seed(1))
    honest = task.pair_trace(problems, problems.states())
    assert trace.shape == honest.shape
    for place in range(11):
        assert set(trace[:, place].tolist()) <= set(honest[:, place].tolist())
    assert abs((task.votes(trace) == problems.better()).double().mean() - 0.5) < 0.04  # 5 standard errors
    graded_higher = (trace[:, -2] > trace[:, -4])[trace[:, -2] != trace[:, -4]]
    assert abs((task.votes(trace)[trace[:, -2] != trace[:, -4]] == graded_higher).double().mean() - 0.5) < 0.05
