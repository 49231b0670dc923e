"""The ids of file lines: the same at every repeat, never given to another line, and telling nothing of the text."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from agent.paths import Paths
from agent.settings.models import Sink as SinkSettings
from agent.shipping import Batch
from agent.shipping.checkpoint import Checkpoint
from agent.shipping.delivery import DeliveryAborted
from agent.shipping.pipeline import Pipeline
from agent.shipping.readers.files import FilesReader
from agent.shipping.shutdown import Stop
from agent.shipping.status_file import PipelineStatus


class Named:
    """A reader whose batches all carry ids. Lines that `acknowledge` has not saved are read again after `kill`."""

    def __init__(self, root: Path, position: Mapping[str, Any] | None = None) -> None:
        self._root, self.saved = root, position
        self._reader = self._open()

    def _open(self) -> FilesReader:
        # as a checkpoint is: through JSON
        saved = json.loads(json.dumps(self.saved)) if self.saved is not None else None
        return FilesReader(["/var/log/app/*.log"], Paths(self._root), position=saved, wants_ids=True)

    def look(self, *, acknowledge: bool = True, entries: int = 1000) -> list[tuple[str, str]]:
        """One read that has lines or is the last, and its ids. The positions of reads without lines are saved as the pipeline
        does, before it reads on."""
        while True:
            self._reader._scanned = float("-inf")
            batch = self._reader.read(entries, 1 << 20)
            assert len(batch.ids) == len(batch)
            if acknowledge or not len(batch):
                self.saved = batch.position
            if len(batch) or not batch.full:
                texts = [(text or b"").decode() for text in batch.columns.get("MESSAGE", ())]
                return list(zip(texts, batch.ids, strict=True))

    def kill(self) -> None:
        self._reader.close()
        self._reader = self._open()


@pytest.fixture
def log(tmp_path: Path) -> Path:
    path = tmp_path / "var/log/app/app.log"
    path.parent.mkdir(parents=True)
    return path


def test_a_repeat_after_a_kill_has_the_same_ids_from_the_first_line_on(tmp_path: Path, log: Path) -> None:
    """Killed between the sink's answer and the checkpoint, at the very first batch and later: nothing is a duplicate."""
    log.write_text("a\nb\n")
    named = Named(tmp_path)
    first = named.look(acknowledge=False)
    named.kill()
    assert named.look() == first
    with log.open("a") as file:
        file.write("c\n")
    second = named.look(acknowledge=False)
    named.kill()
    assert named.look() == second
    assert [text for text, _ in first + second] == ["a", "b", "c"]


@pytest.mark.parametrize("killed", [False, True])
@pytest.mark.parametrize("how", ["truncated", "copied", "replaced"])
def test_equal_text_at_an_equal_offset_of_another_generation_has_another_id(
    tmp_path: Path, log: Path, how: str, killed: bool
) -> None:
    """The inode stays or is reused, and the text is the same: Elasticsearch must not mistake the line for the earlier one."""
    log.write_text("start\nstop\n")
    named = Named(tmp_path)
    before = named.look()
    if how == "copied":
        shutil.copy2(log, log.with_name("app.log.1"))
    if how == "replaced":
        named.kill()  # or the open descriptor would keep the inode from coming again
        named._reader.close()
        inode = log.stat().st_ino
        log.unlink()
        log.write_text("start\n")
        for number in range(1000):
            if log.stat().st_ino == inode:
                break
            log.rename(log.with_name(f"spare{number}"))
            log.write_text("start\n")
        named._reader = named._open()
    else:
        os.truncate(log, 0)
        log.write_text("start\n")
    after = named.look(acknowledge=not killed)
    if killed:
        named.kill()
        assert named.look() == after
    assert [text for text, _ in after] == ["start"]
    assert not {id for _, id in before} & {id for _, id in after}


def test_a_second_file_found_meanwhile_changes_no_id_of_a_repeat(tmp_path: Path, log: Path) -> None:
    """Which new file is found first after a kill is chance; the ids do not hang on it."""
    log.write_text("a\n")
    named = Named(tmp_path)
    named.look()
    log.with_name("c.log").write_text("c\n")
    first = named.look(acknowledge=False)
    log.with_name("b.log").write_text("b\n")
    named.kill()
    again = named.look()
    assert first[0] in again
    assert len({id for _, id in again}) == 2


def test_lines_that_are_read_from_a_copy_keep_their_ids(tmp_path: Path, log: Path) -> None:
    """Sent from the log, not acknowledged, and sent again from the copy of copytruncate."""
    log.write_text("a\n")
    named = Named(tmp_path)
    named.look()
    with log.open("a") as file:
        file.write("b\n")
    first = named.look(acknowledge=False)
    shutil.copy(log, log.with_name("app.log.1"))
    os.truncate(log, 0)
    named.kill()
    assert named.look() == first


def test_an_id_cannot_be_computed_from_the_line(tmp_path: Path, log: Path) -> None:
    """Two installations give the same line different ids, so that a reader of the index cannot try texts against an id."""
    log.write_text("password=hunter2\n")
    named, other = Named(tmp_path), Named(tmp_path)
    assert named.look() != other.look()
    found = log.stat()
    plain = hashlib.sha256(b"%d:%d:0:password=hunter2" % (found.st_dev, found.st_ino)).hexdigest()[:32]
    named = Named(tmp_path)
    assert plain not in {id for _, id in named.look()}


def test_a_checkpoint_of_the_earlier_format_is_read_on(tmp_path: Path, log: Path) -> None:
    """No key, no names, no number: the place in each file is kept, and ids are stable from the first read on."""
    log.write_text("a\nb\n")
    named = Named(tmp_path)
    named.look(entries=1)
    assert named.saved is not None
    files = [{name: value for name, value in state.items() if name != "name"} for state in named.saved["files"]]
    named = Named(tmp_path, {"files": files})
    first = named.look(acknowledge=False)
    named.kill()
    assert named.look() == first
    assert [text for text, _ in first] == ["b"]


@pytest.mark.parametrize("damage", [{"key": 5}, {"key": "xyz"}, {"key": ""}, {"births": "x"}, {"births": None}])
def test_a_damaged_key_is_made_anew(tmp_path: Path, log: Path, damage: Mapping[str, Any]) -> None:
    """A position that a full disk has damaged ends nothing, and no earlier id is used again."""
    log.write_text("a\nb\n")
    named = Named(tmp_path)
    before = named.look(entries=1)
    assert named.saved is not None
    named = Named(tmp_path, {**named.saved, **damage})
    after = named.look()
    assert [text for text, _ in after] == ["b"]
    assert before[0][1] != after[0][1]


class Killed:
    """A delivery that is killed after the sink has accepted a batch and before the checkpoint is saved."""

    def __init__(self) -> None:
        self.ids: list[str] = []

    def deliver(self, batch: Batch) -> None:
        self.ids += batch.ids
        raise DeliveryAborted


def test_a_lane_saves_the_key_before_the_first_line_goes_out(tmp_path: Path, log: Path) -> None:
    """On a host that has never shipped, too, the first batch after a kill is the one before it."""
    log.write_text("a\nb\n")
    (tmp_path / "ship").mkdir()
    sent = []
    for _ in range(2):
        checkpoint, delivery, stop = Checkpoint(tmp_path / "ship", "es", "files"), Killed(), Stop()
        reader = FilesReader(["/var/log/app/*.log"], Paths(tmp_path), position=checkpoint.load(), wants_ids=True)
        progress, settings = PipelineStatus("es", "elasticsearch", "files", str), SinkSettings(type="elasticsearch")
        killed: Any = delivery
        turn = threading.Lock()
        assert not Pipeline(reader, killed, checkpoint, progress, settings, lambda batch: batch, dict, turn, stop).run()
        stop.close()
        sent.append(delivery.ids)
    assert len(sent[0]) == 2
    assert sent[0] == sent[1]
