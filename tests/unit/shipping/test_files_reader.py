"""The file reader: no line is lost or read twice through rotation, restarts and odd bytes."""

from __future__ import annotations

import gzip
import itertools
import os
import random
import shutil
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest

from agent.paths import Paths
from agent.settings.models import LogFile
from agent.shipping.readers import files
from agent.shipping.readers.files import FilesReader
from agent.shipping.shutdown import Stop

WAIT_SECONDS = 60.0
"""Longer than any wait that a change ends."""


class SleepingStop(Stop):
    """`asleep` is set once a wait sleeps, with its watch at work."""

    def __init__(self) -> None:
        super().__init__()
        self.asleep = threading.Event()

    def poll(self, descriptor: int, timeout_seconds: float) -> None:
        self.asleep.set()
        super().poll(descriptor, timeout_seconds)


class Shipped:
    """A reader, restarted from its position at will, and all that it gave."""

    def __init__(self, root: Path, *files: str | LogFile, **more: Any) -> None:
        self._root, self._files, self._more = root, files, more
        self.position: Mapping[str, Any] | None = None
        self.lines: list[str] = []
        self.lost = 0
        self.final = False
        self._reader = self._open()

    def _open(self) -> FilesReader:
        return FilesReader(self._files, Paths(self._root), position=self.position, ending=lambda: self.final, **self._more)

    def restart(self) -> None:
        self._reader.close()
        self._reader = self._open()

    def look(self, entries: int = 100, batches: int = 1_000_000) -> list[str]:
        """All that can be read now, or so many batches of it."""
        found: list[str] = []
        self._reader._scanned = float("-inf")
        for number in itertools.count(1):
            batch = self._reader.read(entries, 1 << 20)
            found += [(value or b"").decode("utf-8", "replace") for value in batch.columns.get("MESSAGE", ())]
            self.lost += batch.lost
            self.position = batch.position
            if not batch.full or number == batches:
                break
        self.lines += found
        return found

    def sleeps(self) -> bool:
        """Wait for a change. Return whether the reader slept."""
        stop = SleepingStop()
        self._reader.wait(WAIT_SECONDS, stop)
        stop.close()
        return stop.asleep.is_set()

    def woken_by(self, change: Callable[[], None]) -> bool:
        """Make a change while the reader sleeps. Return whether the reader woke long before the end of its wait."""
        stop, began = SleepingStop(), time.monotonic()
        waiting = threading.Thread(target=self._reader.wait, args=(WAIT_SECONDS, stop))
        waiting.start()
        assert stop.asleep.wait(WAIT_SECONDS)
        change()
        waiting.join()
        stop.close()
        return time.monotonic() - began < WAIT_SECONDS / 2

    def pass_seconds(self, seconds: float) -> None:
        """Let every file look as if it had not grown for `seconds` more."""
        for tail in self._reader._files.tails:
            tail._grew -= seconds


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "var/log/app/app.log"
    path.parent.mkdir(parents=True)
    path.touch()
    return path


def write(path: Path, *lines: str) -> None:
    with path.open("a") as file:
        file.writelines(f"{line}\n" for line in lines)


def tick(log: Path) -> None:
    """Wait until the file system's clock has moved: what is written from now on has a later time than what was written."""
    probe = log.parent.parent / "probe"
    probe.write_text("")
    before = probe.stat().st_mtime_ns
    while probe.stat().st_mtime_ns == before:
        time.sleep(0.001)
        probe.write_text("")


@pytest.fixture
def shipped(tmp_path: Path, log: Path) -> Shipped:
    return Shipped(tmp_path, "/var/log/app/*.log")


def test_lines_are_read_once_and_partial_ones_are_held(shipped: Shipped, log: Path) -> None:
    """A line is read once its end is written; half a line is held, and not cut in two."""
    write(log, "a", "b")
    with log.open("a") as file:
        file.write("half")
    assert shipped.look() == ["a", "b"]
    assert shipped.look() == []
    write(log, " and half")
    assert shipped.look() == ["half and half"]


def test_the_last_line_of_all_is_shipped_at_the_end_even_without_a_line_end(shipped: Shipped, log: Path) -> None:
    """When the shipper ends, a last line without its end is shipped too: the instance may not come back."""
    log.write_text("a\nlast")
    shipped.final = True
    assert shipped.look() == ["a", "last"]


@pytest.mark.parametrize("restarted", [False, True])
def test_rename_rotation_loses_and_doubles_nothing(shipped: Shipped, log: Path, restarted: bool) -> None:
    """Lines that the rotated file received before and after the rename are read before the new file."""
    write(log, "a")
    shipped.look()
    write(log, "b")
    log.rename(log.with_name("app.log.1"))
    write(log.with_name("app.log.1"), "c")
    write(log, "d")
    if restarted:
        shipped.restart()
    shipped.look()
    write(log, "e")
    shipped.look()
    assert shipped.lines == ["a", "b", "c", "d", "e"]


@pytest.mark.parametrize("restarted", [False, True])
def test_several_rotations_between_two_looks(shipped: Shipped, log: Path, restarted: bool) -> None:
    """Generations that came and went while the sink was down are found and read in order."""
    write(log, "a")
    shipped.look()
    old = log.with_name("app.log.1")
    for line in ("b", "c", "d"):
        if old.exists():
            if log.with_name("app.log.2").exists():
                log.with_name("app.log.2").rename(log.with_name("app.log.3"))
            old.rename(log.with_name("app.log.2"))
        tick(log)
        log.rename(old)
        write(log, line)
    if restarted:
        shipped.restart()
    shipped.look()
    assert shipped.lines == ["a", "b", "c", "d"]


@pytest.mark.parametrize("restarted", [False, True])
def test_copytruncate_loses_nothing_that_was_copied(shipped: Shipped, log: Path, restarted: bool) -> None:
    """Lines written before a copytruncate and not read yet are read from the copy."""
    write(log, "a", "b")
    shipped.look()
    write(log, "c")
    shutil.copy2(log, log.with_name("app.log.1"))
    os.truncate(log, 0)
    write(log, "d", "e", "a longer line than all of those before")
    if restarted:
        shipped.restart()
    shipped.look()
    assert shipped.lines == ["a", "b", "c", "d", "e", "a longer line than all of those before"]


def test_a_new_file_with_the_inode_of_the_old_is_read_from_its_beginning(shipped: Shipped, log: Path) -> None:
    """A reused inode does not make the first lines of a new file look read."""
    write(log, "first", "second")
    shipped.look()
    shipped.restart()
    inode = log.stat().st_ino
    content = "other text of the same length as before and more\n" * 3
    with log.open("r+") as file:
        file.write(content)
    assert log.stat().st_ino == inode
    assert shipped.look() == content.splitlines()


def test_compressed_predecessors_are_left_alone(tmp_path: Path, log: Path) -> None:
    """A glob that matches app.log.1.gz does not ship its bytes."""
    (log.with_name("app.log.2.gz")).write_bytes(gzip.compress(b"old\n"))
    write(log.with_name("app.log.1"), "older")
    write(log, "new")
    assert Shipped(tmp_path, "/var/log/app/app.log*").look() == ["older", "new"]


def test_an_unread_file_that_is_gone_counts_as_a_loss(shipped: Shipped, log: Path) -> None:
    """A file with unread lines that was removed while the shipper was down is counted, not forgotten."""
    write(log, *(f"m{i}" for i in range(100)))
    shipped._reader.read(10, 1 << 20)
    batch = shipped._reader.read(10, 1 << 20)
    shipped.position = batch.position
    log.unlink()
    shipped.restart()
    shipped.look()
    assert shipped.lost == 1


def test_entries_of_several_lines_are_joined_and_not_lost_on_a_pause(tmp_path: Path, log: Path) -> None:
    """A stack trace is one entry. When its writer pauses, it is shipped, and later lines are another entry."""
    shipped = Shipped(tmp_path, LogFile(path="/var/log/app/*.log", start=r"^\d", pause=600.0))  # type: ignore[arg-type]
    write(log, "1 error", "  at a", "  at b", "2 next")
    assert shipped.look() == ["1 error\n  at a\n  at b"]
    shipped.pass_seconds(600.0)
    assert shipped.look() == ["2 next"]
    write(log, "  at late", "3 more", "4 last")
    assert shipped.look() == ["  at late", "3 more"]
    shipped.final = True
    assert shipped.look() == ["4 last"]


def test_a_line_without_an_end_costs_bounded_memory(tmp_path: Path, log: Path) -> None:
    """Of a line of many megabytes the beginning is shipped, the rest passed over, and the next line arrives whole."""
    shipped = Shipped(tmp_path, "/var/log/app/*.log", line_max=1000)
    with log.open("w") as file:
        file.write("x" * 3_000_000 + "\nafter\n")
    lines = shipped.look()
    assert lines[-1] == "after"
    assert len(lines) == 2
    assert 1000 < len(lines[0]) < 600_000
    shipped.restart()
    assert shipped.look() == []


def test_other_encodings_and_carriage_returns(shipped: Shipped, log: Path) -> None:
    """Bytes that are not UTF-8 are kept; a carriage return before the line end is removed."""
    log.write_bytes(b"caf\xe9\r\nb\n")
    assert shipped.look() == ["caf\ufffd", "b"]


@pytest.fixture
def rare_scans(monkeypatch: pytest.MonkeyPatch) -> None:
    """Scan for files rarely, so that only a change ends a wait."""
    monkeypatch.setattr(files, "_RESCAN_SECONDS", WAIT_SECONDS)


@pytest.mark.usefixtures("rare_scans")
def test_a_file_that_appears_is_noticed(shipped: Shipped, log: Path) -> None:
    """A new file below a glob wakes the reader; it is read from its first line."""
    shipped.look()
    assert shipped.woken_by(lambda: write(log.with_name("b.log"), "new"))
    assert shipped.look() == ["new"]


@pytest.mark.usefixtures("rare_scans")
def test_a_line_that_comes_wakes_the_reader(shipped: Shipped, log: Path) -> None:
    """A line in a known file wakes the reader too."""
    write(log, "a")
    shipped.look()
    assert shipped.woken_by(lambda: write(log, "b"))
    assert shipped.look() == ["b"]


@pytest.mark.parametrize("seed", range(8))
def test_every_line_once_through_random_rotations_and_restarts(tmp_path: Path, log: Path, seed: int) -> None:
    """In every order of writes, renames, removals of old files, looks and restarts, each line arrives once, in order."""
    chance = random.Random(seed)
    written: list[str] = []
    shipped, kept = Shipped(tmp_path, "/var/log/app/app.log"), 99
    shipped.look()
    for _ in range(120):
        what = chance.choice(["write", "write", "write", "look", "rotate", "restart"])
        if what == "write":
            lines = [f"{len(written) + i} {'x' * chance.randrange(60)}" for i in range(chance.randrange(1, 30))]
            written += lines
            write(log, *lines)
        elif what == "look":
            shipped.look(chance.choice([1, 7, 1000]))
        elif what == "restart":
            shipped.look(5)
            shipped.restart()
        elif log.stat().st_size:
            tick(log)
            for number in range(kept, 0, -1):
                newer = log if number == 1 else log.with_name(f"app.log.{number - 1}")
                if newer.exists():
                    newer.rename(log.with_name(f"app.log.{number}"))
            log.touch()
    shipped.look()
    assert shipped.lines == written


@pytest.mark.parametrize("seed", range(3))
def test_every_line_once_while_a_rotation_renames_its_whole_chain(tmp_path: Path, log: Path, seed: int) -> None:
    """Looks and restarts in the middle of rotations, when names change between any two calls and the log is
    missing for a moment, neither lose a line nor change the order of lines."""
    chance = random.Random(seed)
    written: list[str] = []
    shipped = Shipped(tmp_path, "/var/log/app/app.log")
    shipped.look()

    def rotate() -> None:
        for _ in range(80):
            lines = [f"{len(written) + number}" for number in range(5)]
            written.extend(lines)
            write(log, *lines)
            tick(log)
            for number in range(200, 0, -1):
                newer = log if number == 1 else log.with_name(f"app.log.{number - 1}")
                if newer.exists():
                    newer.rename(log.with_name(f"app.log.{number}"))

    writer = threading.Thread(target=rotate)
    writer.start()
    while writer.is_alive():
        shipped.look(chance.choice([3, 50]), chance.choice([1, 3, 1000]))
        if chance.random() < 0.5:
            shipped.restart()
    shipped.look()
    assert shipped.lost == 0
    assert shipped.lines == written


def test_an_entry_of_several_lines_is_not_cut_between_two_chunks(tmp_path: Path, log: Path) -> None:
    """For any length of the log, an entry whose lines are in two chunks stays one entry."""
    entries = [f"{number} error\n" + "\n".join(f"  at {'y' * 90} {line}" for line in range(25)) for number in range(800)]
    write(log, *entries)
    shipped = Shipped(tmp_path, LogFile(path="/var/log/app/*.log", start=r"^\d"))
    shipped.final = True
    assert shipped.look() == entries


def test_a_long_line_after_the_start_of_an_entry_does_not_stop_the_reader(tmp_path: Path, log: Path) -> None:
    """An entry that is larger than the limit is cut, and the next entry arrives."""
    shipped = Shipped(tmp_path, LogFile(path="/var/log/app/*.log", start=r"^\d"), line_max=1000)
    write(log, "1 begin", "x" * 900_000, "2 after", "3 last")
    shipped.final = True
    lines = shipped.look()
    assert lines[0] == "1 begin"
    assert lines[-2:] == ["2 after", "3 last"]


def test_two_copies_between_two_looks_lose_nothing(shipped: Shipped, log: Path) -> None:
    """copytruncate twice while the sink was down: the copy that was begun is read on, then the one that was never open."""
    write(log, "a", "b")
    shipped.look()
    copy = log.with_name("app.log.1")
    write(log, "c")
    shutil.copy(log, copy)
    os.truncate(log, 0)
    tick(log)
    write(log, "d", "e")
    copy.rename(log.with_name("app.log.2"))
    shutil.copy(log, copy)
    os.truncate(log, 0)
    tick(log)
    write(log, "f")
    shipped.restart()
    shipped.look()
    assert shipped.lines == ["a", "b", "c", "d", "e", "f"]


@pytest.mark.parametrize("begun", [False, True])
def test_lines_that_were_seen_and_truncated_away_count_as_a_loss(shipped: Shipped, log: Path, begun: bool) -> None:
    """Without a copy, lines that were not shipped are gone. That is counted, whether the file had been begun or not."""
    write(log, *(f"m{i}" for i in range(100)))
    shipped.look(10, batches=1 + begun)
    log.write_text("x" * 40 + "half")
    shipped.look()
    shipped._reader.close()
    os.truncate(log, 0)
    shipped._reader = shipped._open()
    write(log, "new")
    shipped.look()
    assert shipped.lost == 2
    assert shipped.lines[-1] == "new"


def test_a_writer_that_was_not_told_of_the_rotation_is_followed(shipped: Shipped, log: Path) -> None:
    """Lines that are written to the renamed file much later are shipped, until another rotation follows."""
    write(log, "a")
    shipped.look()
    with log.open("a") as stale:
        log.rename(log.with_name("app.log.1"))
        write(log, "b")
        shipped.look()
        shipped.pass_seconds(3600)
        shipped.look()
        stale.write("late\n")
    shipped.look()
    assert shipped.lines == ["a", "b", "late"]


def test_a_log_named_as_a_generation_of_another_is_a_log_of_its_own(tmp_path: Path, log: Path) -> None:
    """web-2.log beside web.log is not an older web.log, also if web.log has just been rotated."""
    shipped = Shipped(tmp_path, "/var/log/app/*.log")
    write(log, "a")
    shipped.look()
    log.rename(log.with_name("app.log.1"))
    write(log, "b")
    write(log.with_name("app-2.log"), "other")
    shipped._reader._scanned = float("-inf")
    batch = shipped._reader.read(100, 1 << 20)
    found = dict(zip(batch.columns["MESSAGE"], batch.columns["FILE"], strict=True))
    assert found == {b"b": b"/var/log/app/app.log", b"other": b"/var/log/app/app-2.log"}


@pytest.mark.parametrize("files", [5, "x", {}, [5], [{}], [{"path": "/var/log/app/app.log", "offset": "x"}]])
def test_a_position_that_is_damaged_inside_is_read_from_the_beginning(tmp_path: Path, log: Path, files: object) -> None:
    """A checkpoint that is JSON and makes no sense ends nothing: lines are repeated rather than lost."""
    write(log, "a", "b")
    shipped = Shipped(tmp_path, "/var/log/app/*.log")
    shipped.position = {"files": files}
    shipped.restart()
    assert shipped.look() == ["a", "b"]


def test_a_log_that_grows_without_end_does_not_hold_up_the_others(shipped: Shipped, log: Path) -> None:
    """A few lines of one log arrive although another log always has more than a batch."""
    write(log.with_name("z.log"), "audit")
    for _ in range(3):
        write(log, *("flood" for _ in range(50)))
        shipped.look(20, batches=1)
    assert "audit" in shipped.lines


def rotate(log: Path, keep: int, *, compress: bool = False) -> None:
    """Rotate as logrotate does: all generations are renamed, and those beyond `keep` are removed."""
    tick(log)
    ending = ".gz" if compress else ""
    for number in range(keep, 0, -1):
        older = log.with_name(f"{log.name}.{number}{ending}")
        if older.exists():
            older.rename(log.with_name(f"{log.name}.{number + 1}{ending}"))
    log.rename(rotated := log.with_name(f"{log.name}.1"))
    if compress:
        status = rotated.stat()
        packed = log.with_name(f"{log.name}.1.gz")
        packed.write_bytes(gzip.compress(rotated.read_bytes()))
        os.utime(packed, ns=(status.st_atime_ns, status.st_mtime_ns))
        rotated.unlink()
    log.with_name(f"{log.name}.{keep + 1}{ending}").unlink(missing_ok=True)


@pytest.mark.parametrize("restarted", [False, True])
def test_generations_that_are_gone_before_anybody_looked_count_as_a_loss(shipped: Shipped, log: Path, restarted: bool) -> None:
    """Of five generations the rotation keeps one and the log: both are read, and the gap before them is reported."""
    write(log, "a")
    shipped.look()
    for line in "bcde":
        rotate(log, keep=1)
        write(log, line)
    if restarted:
        shipped.restart()
    shipped.look()
    assert shipped.lines == ["a", "d", "e"]
    assert shipped.lost == 1
    write(log, "f")
    shipped.look()
    assert (shipped.lines[-1], shipped.lost) == ("f", 1)


@pytest.mark.parametrize("restarted", [False, True])
@pytest.mark.parametrize("kept", [3, 4, 9])
def test_generations_that_are_all_there_count_as_nothing(shipped: Shipped, log: Path, restarted: bool, kept: int) -> None:
    """Nothing is lost as long as the file that was read last exists, or its direct successor is known to exist."""
    write(log, "a")
    shipped.look()
    for line in "bcde":
        rotate(log, keep=kept)
        write(log, line)
    if restarted:
        shipped.restart()
    shipped.look()
    assert shipped.lines == ["a", "b", "c", "d", "e"]
    # after a restart the time of the first one's removal is unknown, so that a gap may be reported although there is no gap
    assert shipped.lost == (1 if restarted and kept == 3 else 0)


@pytest.mark.parametrize("restarted", [False, True])
def test_generations_that_were_compressed_unread_count_as_losses(shipped: Shipped, log: Path, restarted: bool) -> None:
    """A generation that was read and compressed is no loss; each later one that was compressed before it was read is a loss."""
    write(log, "a")
    shipped.look()
    for line in "bcd":
        rotate(log, keep=9, compress=True)
        write(log, line)
    if restarted:
        shipped.restart()
    shipped.look()
    assert shipped.lines == ["a", "d"]
    assert shipped.lost == 2
    rotate(log, keep=9, compress=True)
    write(log, "e")
    shipped.look()
    shipped.look()
    assert (shipped.lines[-1], shipped.lost) == ("e", 2)


@pytest.mark.parametrize("restarted", [False, True])
def test_a_log_removed_and_made_anew_after_it_was_read_is_no_loss(shipped: Shipped, log: Path, restarted: bool) -> None:
    """A service that deletes its log at each start loses nothing that was read."""
    write(log, "a")
    shipped.look()
    log.unlink()
    write(log, "b")
    if restarted:
        shipped.restart()
    shipped.look()
    assert (shipped.lines, shipped.lost) == (["a", "b"], 0)


@pytest.mark.parametrize("appended", [False, True])
def test_a_compressed_copy_tells_whether_lines_were_truncated_away(shipped: Shipped, log: Path, appended: bool) -> None:
    """copytruncate with compression at once: the copy's length says whether there was more in it than was read."""
    write(log, "a", "b")
    shipped.look()
    tick(log)
    if appended:
        write(log, *(f"m{number}" for number in range(1000)))
    log.with_name("app.log.1.gz").write_bytes(gzip.compress(log.read_bytes()))
    os.truncate(log, 0)
    write(log, "c")
    shipped.look()
    assert (shipped.lines, shipped.lost) == (["a", "b", "c"], int(appended))


def test_a_later_copy_is_read_although_that_of_what_was_read_is_compressed(shipped: Shipped, log: Path) -> None:
    """Two rounds of copytruncate with delayed compression while a sink was unavailable: only the compressed one is lost."""
    write(log, "a", "b")
    shipped.look()
    tick(log)
    write(log, "lost")
    log.with_name("app.log.2.gz").write_bytes(gzip.compress(log.read_bytes()))
    os.truncate(log, 0)
    tick(log)
    write(log, "c")
    shutil.copy(log, log.with_name("app.log.1"))
    os.truncate(log, 0)
    write(log, "d")
    shipped.look()
    assert (shipped.lines, shipped.lost) == (["a", "b", "c", "d"], 1)


def test_lines_that_came_while_a_sink_was_away_are_not_waited_for(shipped: Shipped, log: Path) -> None:
    """A line that was appended between the last read and the wait ends the wait at once: the reader does not sleep."""
    write(log, "a")
    shipped.look()
    write(log, "b")
    assert not shipped.sleeps()
    assert shipped.look() == ["b"]
