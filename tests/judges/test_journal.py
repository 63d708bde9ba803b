"""What is kept of a run on disk: whole lines, one run a file, one process at a time."""

import json

import pytest

from rrm_core.judges.journal import Entry, Journal

ENTRY = Entry("a\nbox \\boxed{1}  \ud800", True, 0.5)


def write(path, run="run", entries=()):
    with Journal(path, run) as journal:
        journal.add([(0, i) for i in range(len(entries))], entries)


def test_entries_come_back_as_they_were(tmp_path):
    path = tmp_path / "folder" / "journal"
    write(path, entries=[ENTRY, Entry("", False, None), Entry("c", True, float("-inf"))])
    with Journal(path, "run") as journal:
        assert journal.entries == {(0, 0): ENTRY, (0, 1): Entry("", False, None), (0, 2): Entry("c", True, float("-inf"))}
        journal.add([(1, 2, 3)], [ENTRY])
    with Journal(path, "run") as journal:
        assert journal.entries[1, 2, 3] == ENTRY
        assert len(journal.entries) == 4


@pytest.mark.parametrize("cut", range(1, 12))
def test_a_line_cut_short_is_dropped_and_written_anew(tmp_path, cut):
    path = tmp_path / "journal"
    write(path, entries=[ENTRY, ENTRY])
    whole = path.read_bytes()
    path.write_bytes(whole[:-cut])
    with Journal(path, "run") as journal:
        assert list(journal.entries) == [(0, 0)]
        journal.add([(0, 1)], [ENTRY])
    assert path.read_bytes() == whole


def test_a_first_line_cut_short_is_no_journal_yet(tmp_path):
    path = tmp_path / "journal"
    path.write_text('{"version"')
    write(path, entries=[ENTRY])
    assert len(path.read_text().splitlines()) == 2


def test_another_run_is_refused_and_left_alone(tmp_path):
    path = tmp_path / "journal"
    write(path, entries=[ENTRY])
    before = path.read_bytes()
    with pytest.raises(ValueError, match=r"journal: expected this run's in .*, got that of other questions"):
        Journal(path, "another")
    assert path.read_bytes() == before
    write(path)  # and is not locked


@pytest.mark.parametrize(
    "text", ["hello", "hello\n", "[1]\n", '{"a": 1}\n', '{"version": 2, "run": "run"}\n', '{"version": 1, "run": "run"}\n{"key": [1]}\n']
)
def test_another_file_is_refused_and_left_alone(tmp_path, text):
    path = tmp_path / "journal"
    path.write_text(text)
    with pytest.raises(ValueError, match="journal: expected"):
        Journal(path, "run")
    assert path.read_text() == text


def test_one_process_at_a_time(tmp_path):
    pytest.importorskip("fcntl")
    path = tmp_path / "journal"
    with Journal(path, "run"), pytest.raises(BlockingIOError):
        Journal(path, "run")
    Journal(path, "run").close()


def test_what_is_added_is_on_disk_at_once(tmp_path):
    path = tmp_path / "journal"
    with Journal(path, "run") as journal:
        journal.add([(0,)], [ENTRY])
        assert json.loads(path.read_text().splitlines()[1]) == {"key": [0], "text": ENTRY.text, "finished": True, "meta": 0.5}


def test_in_memory_nothing_is_written():
    with Journal(None, "run") as journal:
        journal.add([(0,)], [ENTRY])
        assert journal.entries == {(0,): ENTRY}
