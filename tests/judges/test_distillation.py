"""Distillation records: which traces become targets, files that grow and files that are broken."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from rrm_core.judges import distillation
from rrm_core.judges.distillation import DistillationRecord, Written, read_distillation, write_distillation
from rrm_core.judges.rm_r1 import RMR1

A, B = "<answer>[[A]]</answer>", "<answer>[[B]]</answer>"
ASKED = [{"role": "system", "content": "Judge."}, {"role": "user", "content": 'ü "q"\u2028\n\ud800'}]


def write(path, *examples):
    traces, labels = zip(*examples, strict=True)
    return write_distillation(path, [ASKED] * len(examples), traces, labels)


@pytest.mark.parametrize(
    ("trace", "label", "target"),
    [
        (f"good {A}", 0, f"good {A}"),
        (f"good {B} \n", 1, f"good {B} \n"),
        (f"<think>not {B}</think>{'.' * 80}{A}", 0, f"<think>not {B}</think>{'.' * 80}{A}"),
        ("both are good", 0, f"both are good\n\n{A}"),
        ("both are good\n\n\n", 1, f"both are good\n\n{B}"),
        ("<think>hm</think>", 1, f"<think>hm</think>\n\n{B}"),
        (f"<think>{A}</think>", 0, f"<think>{A}</think>\n\n{A}"),  # thoughts are no verdict
        (f"{A}{'.' * 80}", 0, f"{A}{'.' * 80}\n\n{A}"),  # too early for the reward
        ("[[A]]", 1, f"[[A]]\n\n{B}"),
    ],
)
def test_targets_end_in_the_right_verdict(tmp_path, trace, label, target):
    assert write(tmp_path / "d.jsonl", (trace, label)) == Written(1, {})
    assert read_distillation(tmp_path / "d.jsonl") == [DistillationRecord(ASKED, trace, label, target)]
    assert RMR1().reward(RMR1().parse([target]), torch.tensor([label])).tolist() == [1]


@pytest.mark.parametrize(
    ("trace", "label", "reason"),
    [
        (f"good {A}", 1, "wrong"),
        (f"good {B}", 0, "wrong"),
        (f"{A}{'.' * 80}", 1, "wrong"),
        (f"<think>hm {A}</think>{B}", 0, "wrong"),
        (f"{A} {B}", 0, "contradictory"),
        (f"{A} {B}", 1, "contradictory"),
        (f"<think>{B}</think>", 0, "contradictory"),  # the reward would see both
        (f"<think>{B}</think>{A}", 0, "contradictory"),
        (f"<think>{A}", 0, "cut_off"),
        ("<think>hm", 1, "cut_off"),
        ("good <answer>[[A]]", 0, "cut_off"),
        ("<answer>[[C]]</answer>", 0, "no_verdict"),
        ("<answer>[[C]]</answer>", 1, "no_verdict"),
        (f"{B}<answer>tie</answer>", 1, "no_verdict"),
        ("", 0, "empty"),
        (" \n", 1, "empty"),
    ],
)
def test_traces_that_cannot_be_trained_on(tmp_path, trace, label, reason):
    assert write(tmp_path / "d.jsonl", (trace, label)) == Written(0, {reason: 1})
    assert read_distillation(tmp_path / "d.jsonl") == []


def test_what_was_written_is_counted_and_appended(tmp_path):
    path = tmp_path / "d.jsonl"
    assert write(path, ("x", 0), (A, 1), ("y", 1), (B, 0), (A + B, 0), ("z" + A, 0)) == Written(3, {"wrong": 2, "contradictory": 1})
    assert write(path, ("more", 0)) == Written(1, {})
    assert [(r.trace, r.label) for r in read_distillation(path)] == [("x", 0), ("y", 1), ("z" + A, 0), ("more", 0)]
    assert path.read_bytes().endswith(b"}\n")
    assert write_distillation(str(path), [], [], torch.zeros(0, dtype=torch.int64)) == Written(0, {})
    assert write_distillation(path, [ASKED], ["tensors"], torch.tensor([1])) == Written(1, {})
    assert read_distillation(str(path))[-1].target == f"tensors\n\n{B}"


def test_after_a_kill_the_file_goes_on(tmp_path):
    path = tmp_path / "d.jsonl"
    write(path, ("x", 0), ("y", 1))
    whole = path.read_bytes()
    first = whole.index(b"\n") + 1
    for cut in (*range(first + 1, first + 40), len(whole) - 2):
        path.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match=r"d.jsonl, line 2: expected a JSON object"):
            read_distillation(path)
        assert write(path, ("z", 0)) == Written(1, {})
        assert [r.trace for r in read_distillation(path)] == ["x", "z"]
    for cut, kept in ((len(whole), ["x", "y", "z"]), (len(whole) - 1, ["x", "y", "z"]), (first, ["x", "z"]), (first - 1, ["x", "z"]), (5, ["z"])):
        path.write_bytes(whole[:cut])
        write(path, ("z", 0))
        assert [r.trace for r in read_distillation(path)] == kept


def test_a_writer_that_dies_leaves_whole_lines(tmp_path):
    path = tmp_path / "d.jsonl"
    code = f"""
import json, os
from rrm_core.judges import distillation
count, dumps = [], json.dumps
def dying(record):
    count.append(1)
    if len(count) == 4:
        os._exit(9)
    return dumps(record)
distillation.json.dumps = dying
distillation.write_distillation({str(path)!r}, [{[{"role": "user", "content": "q"}]!r}] * 18, ["x", "y" * 9000] * 9, [0] * 18)
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 9
    assert [len(r.trace) for r in read_distillation(path)] == [1, 9000, 1]


def test_a_file_of_something_else_is_left_alone(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_bytes(b"milk\neggs")
    with pytest.raises(ValueError, match=r"^path: expected a file of distillation records, got one that ends in b'eggs'$"):
        write(path, ("x", 0))
    assert path.read_bytes() == b"milk\neggs"


GOOD = {"messages": ASKED, "trace": "t", "label": 0, "target": f"t\n\n{A}"}


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (b"", "line 2: expected a JSON object, got text that is none"),
        (b"{", "line 2: expected a JSON object, got text that is none"),
        (b"\xff", "line 2: expected a JSON object, got text that is none"),
        (b"[" * 100_000, "line 2: expected a JSON object, got text that is none"),
        (b"[]", r"line 2: expected an object with messages, trace, label, target, got \[\]"),
        (b"null", "line 2: expected an object with messages, trace, label, target, got None"),
        ({**GOOD, "more": 1}, "line 2: expected an object with messages, trace, label, target, got "),
        ({k: v for k, v in GOOD.items() if k != "label"}, "line 2: expected an object with "),
        ({**GOOD, "messages": []}, r"line 2, messages: expected messages with the texts role and content, got \[\]"),
        ({**GOOD, "messages": "q"}, "line 2, messages: expected .*, got 'q'"),
        ({**GOOD, "messages": ["q"]}, "line 2, messages: expected "),
        ({**GOOD, "messages": [{"role": "user"}]}, "line 2, messages: expected "),
        ({**GOOD, "messages": [{"role": "user", "content": 1}]}, "line 2, messages: expected "),
        ({**GOOD, "trace": 1}, "line 2, trace: expected a text, got 1"),
        ({**GOOD, "target": None}, "line 2, target: expected a text, got None"),
        ({**GOOD, "label": 2}, "line 2, label: expected 0 or 1, got 2"),
        ({**GOOD, "label": True}, "line 2, label: expected 0 or 1, got True"),
        ({**GOOD, "label": 0.0}, "line 2, label: expected 0 or 1, got 0.0"),
        ({**GOOD, "label": "0"}, "line 2, label: expected 0 or 1, got '0'"),
        ({**GOOD, "label": 1}, r"line 2, target: expected <answer>\[\[B\]\]</answer> at its end, got "),
        ({**GOOD, "target": "t"}, r"line 2, target: expected <answer>\[\[A\]\]</answer> at its end, got 't'"),
        ({**GOOD, "label": 1, "target": "t"}, r"line 2, target: expected <answer>\[\[B\]\]</answer> at its end, got 't'"),
        ({**GOOD, "target": "<think>t" + A}, "line 2, target: expected the trace and its verdict, got "),
        ({**GOOD, "trace": "<think>t", "target": "<think>t" + A}, r"line 2, target: expected <answer>\[\[A\]\]</answer> at its end"),
        ({**GOOD, "target": "t" + "x" * 500}, r"line 2, target: expected .*, got \.\.\.x{99}'$"),
    ],
)
def test_broken_lines_are_named(tmp_path, line, message):
    path = tmp_path / "d.jsonl"
    broken = line if isinstance(line, bytes) else json.dumps(line).encode()
    path.write_bytes(json.dumps(GOOD).encode() + b"\n" + broken + b"\n" + json.dumps(GOOD).encode() + b"\n")
    with pytest.raises(ValueError, match=f"^{re.escape(str(path))}, {message}"):
        read_distillation(path)


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        ({"labels": [2]}, ValueError, "labels: expected 0 or 1, got 2"),
        ({"labels": [True]}, ValueError, "labels: expected 0 or 1, got True"),
        ({"labels": torch.tensor([1.0])}, ValueError, "labels: expected 0 or 1, got 1.0"),
        ({"labels": torch.tensor(1)}, ValueError, "labels: expected 1 numbers, one a trace, got 1"),
        ({"labels": [0, 1]}, ValueError, r"labels: expected 1 numbers, one a trace, got \[0, 1\]"),
        ({"labels": 0}, TypeError, "labels: expected a tensor or a sequence, got int"),
        ({"traces": "t"}, TypeError, "traces: expected texts, got str"),
        ({"traces": [b"t"]}, TypeError, "traces: expected texts, got list"),
        ({"messages": []}, ValueError, "messages: expected 1 prompts, one a trace, got 0"),
        ({"messages": ["q"]}, ValueError, "messages: expected lists of messages with the texts role and content, got 'q'"),
    ],
)
def test_bad_arguments_write_nothing(tmp_path, change, error, message):
    path = tmp_path / "d.jsonl"
    with pytest.raises(error, match=f"^{message}$"):
        write_distillation(path, **{"messages": [ASKED], "traces": ["t"], "labels": [0], **change})
    assert not path.exists()


def test_no_file(tmp_path):
    with pytest.raises(OSError, match="missing"):
        read_distillation(tmp_path / "missing.jsonl")


PARTS = st.sampled_from([A, B, "<answer>", "</answer>", "[[C]]", "<think>", "</think>", "." * 40, " ", "\n", "\r", "\u2028", "\x00", "\ud800", "ü"])


@given(st.lists(st.tuples(st.lists(PARTS, max_size=6).map("".join), st.integers(0, 1)), min_size=1, max_size=6))
def test_any_traces_give_records_that_can_be_read_and_earn_the_reward(tmp_path_factory, examples):
    path = tmp_path_factory.mktemp("any") / "d.jsonl"
    got = write(path, *examples)
    records = read_distillation(path)
    assert got.written == len(records) == len(examples) - sum(got.rejected.values())
    assert {(r.trace, r.label) for r in records} <= set(examples)
    if records:
        labels = torch.tensor([r.label for r in records])
        for reading in ("published", "strict"):
            judge = RMR1(reading=reading)
            assert judge.reward(judge.parse([r.target for r in records]), labels).tolist() == [1.0] * len(records)


def test_lines_begin_as_the_mending_thinks(tmp_path):
    write(tmp_path / "d.jsonl", ("x", 0))
    assert (tmp_path / "d.jsonl").read_bytes().startswith(distillation._BEGIN)
