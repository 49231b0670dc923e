"""Sinks of third parties that raise exceptions outside their contract: the entry or the sink is to blame, and never others."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from agent.paths import Paths
from agent.settings.models import Component, Settings, Ship
from agent.settings.models import Sink as SinkSettings
from agent.settings.schema import Seconds
from agent.shipping import ACCEPTED, Batch, SendResult, Sink, SinkContext
from agent.shipping.dead_letter import DeadLetters
from agent.shipping.delivery import SUSPECTS_MAX, Delivery
from agent.shipping.shipper import ShipOptions, Shipper
from agent.shipping.shutdown import Stop
from agent.shipping.sinks import SINKS, load_sink
from agent.shipping.sinks.cloudwatch import CloudwatchOptions, CloudwatchSink
from agent.shipping.sinks.elasticsearch import ElasticsearchOptions, ElasticsearchSink
from agent.shipping.sinks.file import FileOptions, FileSink
from agent.shipping.sinks.gelf import GelfOptions, GelfSink
from agent.shipping.sinks.http import HttpOptions, HttpSink
from agent.shipping.sinks.journal_remote import JournalRemoteOptions, JournalRemoteSink
from agent.shipping.sinks.loki import LokiOptions, LokiSink
from agent.shipping.sinks.otlp import OtlpOptions, OtlpSink
from agent.shipping.sinks.s3 import S3Options, S3Sink
from agent.shipping.sinks.splunk import SplunkOptions, SplunkSink
from agent.shipping.sinks.stdout import StdoutOptions, StdoutSink
from agent.shipping.sinks.syslog import SyslogOptions, SyslogSink
from agent.shipping.status_file import PipelineStatus
from agent.status.shipper import SinkState

SECRET = "text-of-an-entry"


class Bug(Exception):
    """An exception that no contract names."""


class Scripted:
    """A sink that calls `answer` with the messages of each batch, and keeps the messages that it accepted."""

    def __init__(self, answer: Callable[[list[str]], Any]) -> None:
        self.asked: list[list[str]] = []
        self.accepted: list[str] = []
        self.answer = answer

    def send(self, batch: Batch) -> SendResult:
        messages = [row["MESSAGE"] for row in batch.rows()]
        self.asked.append(messages)
        result: SendResult = self.answer(messages)
        self.accepted += messages
        return result

    def close(self) -> None:
        """Nothing is held."""


def failing_on(*bad: str, error: Exception | None = None) -> Callable[[list[str]], SendResult]:
    """An answer that raises for batches with one of these messages."""

    def answer(messages: list[str]) -> SendResult:
        if set(bad) & set(messages):
            raise error or KeyError(SECRET)
        return ACCEPTED

    return answer


def batch(messages: Sequence[str]) -> Batch:
    return Batch(range(1, len(messages) + 1), {"MESSAGE": [message.encode() for message in messages]})


class Delivered:
    """A delivery to a scripted sink, with its status and its dead letters."""

    def __init__(self, root: Path, answer: Callable[[list[str]], Any]) -> None:
        self.sink = Scripted(answer)
        self.status = PipelineStatus("s", "third:Party", "journal")
        self._path = root / "dead/s.ndjson"
        self._delivery = Delivery(self.sink, DeadLetters(root / "dead", "s"), self.status, Stop())

    def deliver(self, *messages: str) -> None:
        self._delivery.deliver(batch(messages))

    @property
    def letters(self) -> list[str]:
        return [json.loads(line)["MESSAGE"] for line in self.raw_letters.splitlines()]

    @property
    def raw_letters(self) -> str:
        return self._path.read_text() if self._path.exists() else ""


@pytest.mark.parametrize(
    "error", [KeyError(SECRET), TypeError(SECRET), AttributeError(SECRET), RecursionError(SECRET), Bug(SECRET), OSError(SECRET)]
)
@pytest.mark.parametrize("bad_index", [0, 5, 19])
def test_any_exception_sets_aside_the_entry_that_causes_it(error: Exception, bad_index: int, tmp_path: Path) -> None:
    """First, in the middle or last in a batch: the others arrive in order, and the entry is in the dead letters."""
    messages = [f"m{number}" for number in range(20)]
    messages[bad_index] = "bad"
    delivered = Delivered(tmp_path, failing_on("bad", error=error))
    delivered.deliver(*messages)
    assert list(dict.fromkeys(delivered.sink.accepted)) == [message for message in messages if message != "bad"]
    assert delivered.letters == ["bad"]
    assert (delivered.status.counts["sent"], delivered.status.counts["set_aside"]) == (19, 1)
    assert delivered.status.state == SinkState.OK


def test_an_entry_alone_in_its_batch_is_set_aside_after_a_batch_that_was_accepted(tmp_path: Path) -> None:
    """A quiet log has no other entry to compare with: the entry that was accepted last is sent once more."""
    delivered = Delivered(tmp_path, failing_on("bad"))
    delivered.deliver("good", "better")
    delivered.deliver("bad")
    assert delivered.letters == ["bad"]
    assert delivered.sink.accepted == ["good", "better", "better"]
    assert delivered.status.counts["sent"] == 2


def test_many_bad_entries_in_a_row_are_set_aside(tmp_path: Path) -> None:
    """More than there are suspects at once, at the beginning of the first batch of all."""
    bad = [f"bad{number}" for number in range(3 * SUSPECTS_MAX)]
    delivered = Delivered(tmp_path, failing_on(*bad))
    delivered.deliver(*bad, "good")
    assert delivered.letters == bad
    assert set(delivered.sink.accepted) == {"good"}
    assert delivered.status.counts["sent"] == 1


def test_a_sink_that_fails_on_every_entry_sets_nothing_aside(tmp_path: Path) -> None:
    """The error does not depend on the entry: its exception comes out after a bounded number of tries."""

    def answer(messages: list[str]) -> SendResult:
        raise KeyError(SECRET)

    delivered = Delivered(tmp_path, answer)
    with pytest.raises(KeyError):
        delivered.deliver(*(f"m{number}" for number in range(2000)))
    assert delivered.letters == []
    assert delivered.status.counts["set_aside"] == 0
    assert len(delivered.sink.asked) < 40


def test_a_sink_that_breaks_in_the_middle_sets_nothing_aside(tmp_path: Path) -> None:
    """Entries that were accepted before do not show that the sink still works: the accepted one is asked for again."""
    left = [3]

    def answer(messages: list[str]) -> SendResult:
        left[0] -= 1
        if left[0] < 0:
            raise KeyError(SECRET)
        return ACCEPTED

    delivered = Delivered(tmp_path, answer)
    for number in range(3):
        delivered.deliver(f"a{number}", f"b{number}")
    with pytest.raises(KeyError):
        delivered.deliver(*(f"m{number}" for number in range(100)))
    assert delivered.letters == []
    left[0] = 1 << 30
    delivered.deliver(*(f"m{number}" for number in range(100)))
    assert delivered.status.counts["sent"] == 106


def test_an_exception_that_passes_costs_no_entry(tmp_path: Path) -> None:
    """A sink that fails once accepts the halves."""
    left = [1]

    def answer(messages: list[str]) -> SendResult:
        left[0] -= 1
        if left[0] == 0:
            raise KeyError(SECRET)
        return ACCEPTED

    delivered = Delivered(tmp_path, answer)
    delivered.deliver("a", "b", "c")
    assert delivered.sink.accepted == ["a", "b", "c"]
    assert delivered.letters == []


@pytest.mark.parametrize("result", [None, "ok", SendResult(retry=[7]), SendResult([(0, "no")], retry=[0])])
def test_an_answer_that_breaks_the_contract_is_a_bug_of_the_sink(result: Any, tmp_path: Path) -> None:
    """Something else than a SendResult, or one with entries that the batch does not have, acknowledges nothing."""
    delivered = Delivered(tmp_path, lambda messages: result)
    with pytest.raises((TypeError, ValueError)):
        delivered.deliver("a", "b")
    assert delivered.status.counts["sent"] == 0
    assert delivered.letters == []


def test_the_text_of_an_exception_is_never_shown(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """It may quote an entry. The log has the type, and at debug level the traceback, once for each entry."""
    caplog.set_level(logging.DEBUG, "parbake")
    delivered = Delivered(tmp_path, failing_on("bad"))
    delivered.deliver("a", "bad", "b")
    traces = [record for record in caplog.records if record.levelno == logging.DEBUG and "KeyError" in record.getMessage()]
    assert len(traces) == 1
    assert "test_sink_bugs.py" in traces[0].getMessage()
    assert any("KeyError" in record.getMessage() for record in caplog.records if record.levelno == logging.WARNING)
    assert SECRET not in caplog.text + delivered.raw_letters + delivered.status.error
    assert "KeyError in test_sink_bugs.py" in delivered.raw_letters


class Broken:
    """A third party's sink whose first instance fails on every entry. The second one works, and ends the shipper."""

    options_class = FileOptions
    wants_ids = False
    instances = 0
    accepted: ClassVar[list[str]] = []
    state = ""
    """The state in ship/status.json when the second instance gets its entries."""

    def __init__(self, options: FileOptions, context: SinkContext) -> None:
        Broken.instances += 1
        self._works = Broken.instances == 2
        self._context = context

    def send(self, batch: Batch) -> SendResult:
        if not self._works:
            raise AttributeError(SECRET)
        Broken.accepted.extend(row["MESSAGE"] for row in batch.rows())
        status = json.loads((self._context.paths.ship / "status.json").read_text())
        Broken.state = status["sinks"][self._context.name]["state"]
        self._context.stop.set(5.0)
        return ACCEPTED

    def close(self) -> None:
        """Nothing is held."""


def test_a_broken_sink_is_failing_and_a_new_instance_gets_its_entries(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """From the settings to the sink: state `failing`, no dead letter, and after the back-off the same entries again."""
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs/app.log").write_text("one\ntwo\n")
    sink = SinkSettings(type=f"{__name__}:Broken", name="broken", options=FileOptions(path="/x"), batch_age=Seconds(0.05))
    ship = Ship(journal=False, files=("/logs/*.log",), drain=Seconds(1.0))
    settings = Settings(component=Component(name="web"), ship=ship, sinks=(sink,))
    Broken.instances = 0
    Broken.accepted.clear()
    with pytest.raises(AttributeError):
        Shipper(settings, Paths(tmp_path), ShipOptions(), Stop()).run()
    assert Broken.accepted == ["one", "two"]
    assert (Broken.instances, Broken.state) == (2, SinkState.FAILING)
    assert not (tmp_path / "var/lib/parbake/ship/dead-letter").exists()
    assert any("sink broken: a bug" in message and "AttributeError" in message for message in caplog.messages)
    assert SECRET not in caplog.text


CLOUDWATCH: type[Sink[CloudwatchOptions]] = CloudwatchSink
ELASTICSEARCH: type[Sink[ElasticsearchOptions]] = ElasticsearchSink
FILE: type[Sink[FileOptions]] = FileSink
GELF: type[Sink[GelfOptions]] = GelfSink
HTTP: type[Sink[HttpOptions]] = HttpSink
JOURNAL_REMOTE: type[Sink[JournalRemoteOptions]] = JournalRemoteSink
LOKI: type[Sink[LokiOptions]] = LokiSink
OTLP: type[Sink[OtlpOptions]] = OtlpSink
S3: type[Sink[S3Options]] = S3Sink
SPLUNK: type[Sink[SplunkOptions]] = SplunkSink
STDOUT: type[Sink[StdoutOptions]] = StdoutSink
SYSLOG: type[Sink[SyslogOptions]] = SyslogSink


def test_every_sink_of_the_table_is_checked_against_the_contract() -> None:
    """mypy checks each class above against Sink[Options]; a sink that is added to the table is missing there."""
    checked = {CLOUDWATCH, ELASTICSEARCH, FILE, GELF, HTTP, JOURNAL_REMOTE, LOKI, OTLP, S3, SPLUNK, STDOUT, SYSLOG}
    assert {load_sink(name) for name in SINKS} == checked


@pytest.mark.parametrize(("entries", "failures"), [(1, 1), (8, 4), (8, 11), (1000, 15)])
def test_a_passing_failure_sets_nothing_aside(tmp_path: Path, entries: int, failures: int) -> None:
    """A thread that could not be started once is not the entry's fault: it is sent again after a pause, and accepted."""
    left = [failures]

    def answer(messages: list[str]) -> SendResult:
        if left[0]:
            left[0] -= 1
            raise RuntimeError("can't start new thread")
        return ACCEPTED

    delivered = Delivered(tmp_path, lambda messages: ACCEPTED)
    delivered.deliver("before")
    delivered.sink.answer = answer
    delivered.deliver(*(f"m{number}" for number in range(entries)))
    assert delivered.letters == []
    assert set(delivered.sink.accepted) == {"before", *(f"m{number}" for number in range(entries))}
    assert delivered.status.counts["set_aside"] == 0


def test_a_batch_that_begins_and_ends_with_bad_entries_gets_through(tmp_path: Path) -> None:
    """At the first batch of a process nothing was accepted yet: entries from several places show that the sink works."""
    bad = [f"bad{number}" for number in range(SUSPECTS_MAX)]
    good = [f"good{number}" for number in range(990)]
    delivered = Delivered(tmp_path, failing_on(*bad, "bad at the end"))
    delivered.deliver(*bad, *good, "bad at the end")
    assert delivered.letters == [*bad, "bad at the end"]
    assert set(delivered.sink.accepted) == set(good)


def test_a_machine_without_memory_blames_no_entry(tmp_path: Path) -> None:
    """MemoryError ends the pipeline, which restarts later; halving a batch frees nothing."""

    def answer(messages: list[str]) -> SendResult:
        raise MemoryError

    delivered = Delivered(tmp_path, answer)
    with pytest.raises(MemoryError):
        delivered.deliver("one", "two")
    assert delivered.letters == []
