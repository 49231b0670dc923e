"""The journal reader, on real journal files written by systemd-journal-remote."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from agent.paths import Paths
from agent.settings.models import Journal
from agent.shipping import Batch
from agent.shipping.pipeline import with_loss
from agent.shipping.readers.journal import JournalReader
from agent.shipping.readers.journal_cursor import Cursor
from tests.servers import journal_directory
from tests.servers.journal_directory import FIRST_US, JournalWriter, entry, rotate_journal, write_journal

pytestmark = pytest.mark.skipif(not journal_directory.available, reason="systemd-journal-remote is not installed")
FIELDS = ("MESSAGE", "PRIORITY", "_SYSTEMD_UNIT", "_PID")


def journal_of(root: Path) -> Path:
    return root / "var/log/journal/0123456789abcdef0123456789abcdef"


def reader(root: Path, options: Journal | None = None, **more: Any) -> JournalReader:
    return JournalReader(options or Journal(), Paths(root), fields=more.pop("fields", FIELDS), **more)


def this_boot() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", "")


def drain(found: JournalReader, entries: int = 100) -> list[Batch]:
    batches = []
    while True:
        batch = found.read(entries, 1 << 20)
        batches.append(batch)
        if not len(batch) and not batch.full:
            return batches


def messages(batches: Sequence[Batch]) -> list[str]:
    return [value.decode() for batch in batches for value in batch.columns.get("MESSAGE", ()) if value is not None]


def test_all_entries_are_read_in_order_from_the_oldest(tmp_path: Path) -> None:
    """Without a checkpoint reading begins at the oldest entry, and misses none however small the batches are."""
    expected = [f"m{i}" for i in range(250)]
    write_journal(journal_of(tmp_path), expected)
    assert messages(drain(reader(tmp_path), 7)) == expected
    assert messages(drain(reader(tmp_path), 50)) == expected


def test_reading_goes_on_after_the_checkpoint(tmp_path: Path) -> None:
    """The entry at the checkpoint is not read again, the one after it is not missed, however often it starts."""
    write_journal(journal_of(tmp_path), [f"m{i}" for i in range(30)])
    seen, position = [], None
    for _ in range(11):
        found = reader(tmp_path, position=position)
        batch = found.read(3, 1 << 20)
        seen += messages([batch])
        position = batch.position or position
        found.close()
    assert seen == [f"m{i}" for i in range(30)]


@pytest.mark.parametrize("cursor", ["", "s=;i=", "\0\0\0\0", "s=zz;i=1;b=1;m=1;t=1;x=1"])
def test_a_damaged_cursor_starts_from_the_oldest(tmp_path: Path, cursor: str) -> None:
    """A checkpoint that a full disk has damaged does not stop the reader."""
    write_journal(journal_of(tmp_path), ["a", "b"])
    assert messages(drain(reader(tmp_path, position={"cursor": cursor}))) == ["a", "b"]


def test_entries_that_are_added_later_are_seen(tmp_path: Path) -> None:
    """A reader at the end reads new entries."""
    write_journal(journal_of(tmp_path), ["a"])
    found = reader(tmp_path)
    assert messages(drain(found)) == ["a"]
    write_journal(journal_of(tmp_path), ["b"], first=1)
    assert messages(drain(found)) == ["b"]
    found.close()


def test_filters_by_unit_priority_and_field(tmp_path: Path) -> None:
    """Entries of any named unit, and of pid 1 about it; a priority includes all more urgent ones."""
    with JournalWriter(journal_of(tmp_path)) as journal:
        journal.add(
            entry(0, "a", _SYSTEMD_UNIT="a.service", PRIORITY="3"),
            entry(1, "b", _SYSTEMD_UNIT="b.service", PRIORITY="6"),
            entry(2, "about a", _SYSTEMD_UNIT="init.scope", UNIT="a.service", _PID="1", PRIORITY="6"),
            entry(3, "c", _SYSTEMD_UNIT="c.service", PRIORITY="2", COLOUR="red"),
        )
    assert messages(drain(reader(tmp_path, Journal(units=("a.service",))))) == ["a", "about a"]
    assert messages(drain(reader(tmp_path, Journal(units=("a.service", "b.service"), priority="err")))) == ["a"]
    assert messages(drain(reader(tmp_path, Journal(match=("COLOUR=red",))))) == ["c"]


def test_a_sparse_filter_does_not_read_the_journal_again_and_again(tmp_path: Path) -> None:
    """If nothing matches, the position follows the journal's end, so that the next start begins there."""
    write_journal(journal_of(tmp_path), ["a", "b"])
    found = reader(tmp_path, Journal(units=("none.service",)))
    batch = found.read(10, 1 << 20)
    assert len(batch) == 0
    known = Cursor.parse(batch.position["cursor"])
    assert known is not None
    assert known.number == 2
    with JournalWriter(journal_of(tmp_path)) as journal:
        journal.add(entry(5, "match", _SYSTEMD_UNIT="none.service"))
    assert messages(drain(reader(tmp_path, Journal(units=("none.service",)), position=batch.position))) == ["match"]


def test_the_shippers_own_entries_are_left_out(tmp_path: Path) -> None:
    """The shipper's log about a failing sink is never shipped, with any settings: it would cause further entries."""
    with JournalWriter(journal_of(tmp_path)) as journal:
        journal.add(
            entry(0, "ours", _SYSTEMD_UNIT="parbake-ship.service"),
            entry(1, "ours too", _PID=str(os.getpid()), _BOOT_ID=this_boot()),
            entry(2, "app"),
        )
    assert messages(drain(reader(tmp_path))) == ["app"]


def test_another_process_that_had_our_pid_in_another_boot_is_shipped(tmp_path: Path) -> None:
    """A captured image, or an earlier boot: the same PID there is a service's, and its last lines are the wanted ones."""
    with JournalWriter(journal_of(tmp_path)) as journal:
        journal.add(entry(0, "app with our pid", _PID=str(os.getpid())), entry(1, "app", _BOOT_ID=this_boot()))
    assert messages(drain(reader(tmp_path))) == ["app with our pid", "app"]


def test_a_field_that_is_too_long_is_not_read_whole(tmp_path: Path) -> None:
    """A field of megabytes costs no more memory than a line may be long."""
    write_journal(journal_of(tmp_path), [b"x" * 5_000_000, "after"])
    batch = reader(tmp_path, line_max=1000).read(10, 1 << 20)
    lengths = [len(value or b"") for value in batch.columns["MESSAGE"]]
    assert lengths[0] < 100_000
    assert lengths[1] == 5


def test_entries_vacuumed_before_they_were_read_are_counted(tmp_path: Path) -> None:
    """The journal was vacuumed while no shipper ran: the number of lost entries is exact, and shipped as an entry."""
    write_journal(journal_of(tmp_path), [f"m{i}" for i in range(100)])
    first = reader(tmp_path)
    position = first.read(10, 1 << 20).position
    first.close()
    _rotate_and_drop(journal_of(tmp_path), keep_from=100)
    batches = drain(reader(tmp_path, position=position))
    assert sum(batch.lost for batch in batches) == 90
    assert messages(batches) == ["m100", "m101", "m102", "m103", "m104"]
    told = with_loss(batches[0])
    assert told.columns["PARBAKE_LOST"][0] == b"90"
    assert len(told) == len(batches[0]) + 1


def test_rotation_alone_is_no_loss(tmp_path: Path) -> None:
    """Files that were rotated, and removed after all of them was read, count as nothing."""
    write_journal(journal_of(tmp_path), [f"m{i}" for i in range(100)])
    found = reader(tmp_path)
    position = drain(found)[0].position
    found.close()
    _rotate_and_drop(journal_of(tmp_path), keep_from=100)
    batches = drain(reader(tmp_path, position=position))
    assert sum(batch.lost for batch in batches) == 0
    assert len(messages(batches)) == 5


def _rotate_and_drop(directory: Path, keep_from: int) -> None:
    """Do what journald does when it rotates and vacuums: a new file continues the numbers, the old file is removed."""
    write_journal(directory, [f"m{i}" for i in range(keep_from, keep_from + 5)], first=keep_from)
    whole = directory.parent / "export"
    export = subprocess.run(["journalctl", "-D", str(directory), "-o", "export"], capture_output=True, check=True).stdout
    whole.write_bytes(export)
    old = directory / "system.journal"
    header = old.read_bytes()
    family = header[72:88]
    shutil.rmtree(directory)
    kept = export.split(b"\n\n")[keep_from:]
    writer = JournalWriter(directory)
    writer.add(b"\n\n".join(kept))
    writer.close()
    whole.unlink()
    _renumber(old, family, keep_from)


def _renumber(path: Path, family: bytes, by: int) -> None:
    """Give the entries of a new journal file the numbers they had, as a rotated file's successor carries on (the journal
    file format: the header's seqnum_id, head and tail numbers; each entry object's number)."""
    raw = bytearray(path.read_bytes())

    def add(at: int) -> None:
        raw[at : at + 8] = (int.from_bytes(raw[at : at + 8], "little") + by).to_bytes(8, "little")

    raw[72:88] = family
    add(160)
    add(168)
    at = int.from_bytes(raw[88:96], "little")
    tail = int.from_bytes(raw[136:144], "little")
    while True:
        size = int.from_bytes(raw[at + 8 : at + 16], "little")
        if raw[at] == 3:
            add(at + 16)
        if at == tail:
            break
        at += (size + 7) // 8 * 8
    path.write_bytes(raw)


def test_a_corrupt_journal_file_is_skipped_and_counted(tmp_path: Path) -> None:
    """A damaged file among good ones costs its own entries and a count, and ends nothing."""
    write_journal(journal_of(tmp_path), ["a", "b"])
    (journal_of(tmp_path) / "system@bad.journal").write_bytes(b"\0" * 4096)
    shorter = (journal_of(tmp_path) / "system.journal").read_bytes()[:5000]
    (journal_of(tmp_path) / "system@cut.journal").write_bytes(shorter)
    batches = drain(reader(tmp_path))
    assert messages(batches) == ["a", "b"]
    assert sum(batch.skipped for batch in batches) == 2


@pytest.mark.parametrize("junk", [b"\0", b"\xa5"])
def test_entries_in_the_damaged_middle_of_a_journal_file_are_counted(tmp_path: Path, junk: bytes) -> None:
    """The numbers of the entries show those that libsystemd omits silently; the entries after them are shipped."""
    directory = journal_of(tmp_path)
    write_journal(directory, [f"m{i} {'x' * 50}" for i in range(3000)] + ["rotated"])
    shutil.copytree(directory, whole := tmp_path / "whole")
    rotate_journal(directory)
    _follow_on(directory, whole, 3001)
    damaged = next(directory.glob("system@*"))
    raw = bytearray(damaged.read_bytes())
    middle = int.from_bytes(raw[136:144], "little") - 300_000
    raw[middle : middle + 65536] = junk * 65536
    damaged.write_bytes(raw)
    batches = drain(reader(tmp_path))
    found = messages(batches)
    assert found[0].startswith("m0 ")
    assert found[-1] == "n4"
    assert 2000 < len(found) < 3000
    assert sum(batch.lost for batch in batches) + len(found) == 3006


def _follow_on(directory: Path, whole: Path, number: int) -> None:
    """The next journal file of the same family, as a rotation begins it."""
    write_journal(directory, [f"n{i}" for i in range(5)], first=number)
    family = (whole / "system.journal").read_bytes()[72:88]
    _renumber(directory / "system.journal", family, number)


class Failing:
    """The real reader, of which some calls of one name fail, counted in `calls` over all that are opened."""

    def __init__(self, directory: Path, name: str, calls: list[int], failing: range) -> None:
        from systemd._reader import _Reader

        self._real, self._name, self._calls, self._failing_calls = _Reader(0, path=str(directory)), name, calls, failing

    def __getattr__(self, name: str) -> Any:
        found = getattr(self._real, name)
        return self._failing(found) if name == self._name else found

    def _failing(self, call: Any) -> Any:
        def counted(*args: Any) -> Any:
            self._calls[0] += 1
            if self._calls[0] - 1 in self._failing_calls:
                raise OSError(5, "Input/output error")
            return call(*args)

        return counted


@pytest.mark.parametrize("at", [4, 59, 129])
@pytest.mark.parametrize("name", ["_next", "_get_cursor"])
def test_a_journal_that_fails_is_read_again_from_the_position(tmp_path: Path, name: str, at: int) -> None:
    """Each entry comes once, with the id that is its own, wherever in a batch it was that the journal failed."""
    expected = [f"m{i}" for i in range(300)]
    write_journal(journal_of(tmp_path), expected)
    calls = [0]
    failing = range(at, at + 1)
    found = reader(tmp_path, wants_ids=True, open_journal=lambda: Failing(journal_of(tmp_path), name, calls, failing))
    batches = drain(found, 250)
    assert calls[0] > at
    assert messages(batches) == expected
    plain = drain(reader(tmp_path, wants_ids=True), 250)
    assert [i for batch in batches for i in batch.ids] == [i for batch in plain for i in batch.ids]


@pytest.mark.parametrize("unreadable", [range(119, 120), range(20, 250)])
@pytest.mark.parametrize("size", [50, 250])
@pytest.mark.parametrize("name", ["_get_all", "_get_realtime"])
def test_entries_that_cannot_be_read_are_skipped_and_counted(tmp_path: Path, name: str, size: int, unreadable: range) -> None:
    """For any number of them in a row, the entries before and after them arrive, and no read takes longer."""
    write_journal(journal_of(tmp_path), [f"m{i}" for i in range(300)])
    calls = [0]
    found = reader(tmp_path, open_journal=lambda: Failing(journal_of(tmp_path), name, calls, unreadable))
    batches: list[Batch] = []
    while not batches or batches[-1].full:
        before = calls[0]
        batches.append(found.read(size, 1 << 20))
        assert calls[0] - before <= size
    assert messages(batches) == [f"m{i}" for i in range(300) if i not in unreadable]
    assert (sum(batch.skipped for batch in batches), sum(batch.lost for batch in batches)) == (len(unreadable), 0)


def test_no_journal_yet_is_an_empty_stream(tmp_path: Path) -> None:
    """A host whose journal does not exist yet has nothing to ship, and is looked at again."""
    found = reader(tmp_path)
    assert len(found.read(10, 1 << 20)) == 0
    write_journal(journal_of(tmp_path), ["a"])
    assert messages(drain(found)) == ["a"]


def test_since_begins_at_a_time(tmp_path: Path) -> None:
    """--since reads from that moment, with any checkpoint."""
    write_journal(journal_of(tmp_path), [f"m{i}" for i in range(10)])
    assert messages(drain(reader(tmp_path, since_us=FIRST_US + 6500))) == ["m7", "m8", "m9"]


def test_all_fields_and_ids_where_they_are_wanted(tmp_path: Path) -> None:
    """["*"] ships the application's own fields too; ids are the entries' cursors, the same at every reading."""
    with JournalWriter(journal_of(tmp_path)) as journal:
        journal.add(entry(0, "a", COLOUR="red"), entry(1, "b"))
    one, two = (reader(tmp_path, fields=("*",), wants_ids=True).read(10, 1 << 20) for _ in "12")
    assert list(one.columns["COLOUR"]) == [b"red", None]
    assert one.ids == two.ids
    assert len(set(one.ids)) == 2


def test_an_entry_copied_from_run_to_var_is_the_same_entry() -> None:
    """journald gives an entry another number when it moves the volatile journal to the disk: it is no loss."""
    run = Cursor.parse(f"s={'a' * 32};i=5;b={'b' * 32};m=1;t=2;x=cc")
    var = Cursor.parse(f"s={'d' * 32};i=9;b={'b' * 32};m=1;t=2;x=cc")
    assert run is not None
    assert var is not None
    assert run.same_entry(var)
    assert run.missing_before(var) == 0
