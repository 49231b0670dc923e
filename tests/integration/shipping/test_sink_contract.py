"""The contract of every sink: one suite over the whole table."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import pytest

from agent.errors import SinkDenied, SinkError, SinkRefused, SinkUnavailable
from agent.shipping import Batch, Column, SinkTooLarge
from agent.shipping.dead_letter import DeadLetters
from agent.shipping.delivery import Delivery, DeliveryAborted
from agent.shipping.shutdown import Stop
from agent.shipping.sinks import SINKS
from agent.shipping.status_file import PipelineStatus
from tests.integration.shipping.receivers import TARGETS, TOKEN, WEB, Target, arrived, kind_of, make
from tests.servers import journal_directory
from tests.servers.processes import free_port

NOW_US = time.time_ns() // 1000
LABELS = {"component": "web", "environment": 'prod "1" \\ ü'}
AWKWARD = ["plain", 'a "quote", a \\ and a ] bracket', "ünïcödé 漢字 \U0001f600", "tab\there", "two\nlines", "x" * 90_000]


@pytest.fixture(params=TARGETS)
def name(request: pytest.FixtureRequest) -> str:
    """Each sink that has a receiver, as TARGETS calls it."""
    found: str = request.param
    if kind_of(found) in ("cloudwatch", "s3") and not importlib.util.find_spec("moto"):
        pytest.skip("moto[server] is not installed")
    if found == "journal-remote" and not journal_directory.available:
        pytest.skip("systemd-journal-remote is not installed")
    return found


@pytest.fixture
def target(name: str, tmp_path: Path) -> Iterator[Target]:
    with TARGETS[name](tmp_path) as opened:
        yield opened


def batch(messages: Sequence[str | bytes], labels: Mapping[str, str] = LABELS) -> Batch:
    raw = [m.encode() if isinstance(m, str) else m for m in messages]
    size = len(raw)
    columns: dict[str, Column] = {
        "MESSAGE": raw,
        "PRIORITY": [b"3"] * size,
        "_HOSTNAME": [b"host1"] * size,
        "_SYSTEMD_UNIT": [b"app.service", *[None] * (size - 1)],
        "_PID": [b"42"] * size,
    }
    return Batch([NOW_US + i for i in range(size)], columns, {}, [f"id-{i}" for i in range(size)], labels)


def test_every_sink_of_the_table_is_held_to_the_contract() -> None:
    """A sink that is added to the table without a receiver here fails."""
    assert {kind_of(name) for name in TARGETS} | {"stdout"} == set(SINKS)


def test_entries_arrive_whole_and_in_order_with_their_labels(name: str, target: Target, tmp_path: Path) -> None:
    """Quotes, line ends, other alphabets and long lines arrive as they were written, each with every label."""
    sink = make(kind_of(name), target.options, tmp_path)
    outcome = sink.send(batch(AWKWARD))
    assert not outcome.refused
    assert not outcome.retry
    assert arrived(target, len(AWKWARD)) == AWKWARD
    for row in target.rows():
        for label, value in LABELS.items():
            mapped = {"component": "service.name", "environment": "deployment.environment.name"} if name == "otlp" else {}
            assert row[mapped.get(label, target.label(label))] == value
    sink.close()


def test_bytes_that_are_no_text_are_replaced_and_not_fatal(name: str, target: Target, tmp_path: Path) -> None:
    """A line in another encoding arrives with its wrong bytes replaced, and no other line is lost with it."""
    sink = make(kind_of(name), target.options, tmp_path)
    sink.send(batch([b"caf\xe9 \xff\xfe", b"after"]))
    assert arrived(target, 2) == ["caf� ��", "after"]
    sink.close()


def test_a_receiver_that_is_not_there_is_waited_for(name: str, target: Target, tmp_path: Path) -> None:
    """No connection is SinkUnavailable, which is tried again, and never SinkRefused, which would set the lines aside."""
    address = "endpoint_url" if "endpoint_url" in target.options else "url"
    if address not in target.options:
        options = {**target.options, "path": "/missing/\0"} if name == "none" else {**target.options, "path": "/proc/none/x"}
    else:
        scheme = str(target.options[address]).partition(":")[0]
        options = {**target.options, address: f"{scheme}://127.0.0.1:{free_port()}"}
    sink = make(kind_of(name), options, tmp_path if address in target.options else Path("/"))
    with pytest.raises(SinkUnavailable):
        sink.send(batch(["a"]))
    sink.close()


def test_a_batch_sent_twice_is_harmless(name: str, target: Target, tmp_path: Path) -> None:
    """After a lost acknowledgement the same batch comes again: it is accepted, as a repeat at worst."""
    sink = make(kind_of(name), target.options, tmp_path)
    for _ in range(2):
        assert not sink.send(batch(["one", "two"])).refused
    once = {"loki", "elasticsearch", "s3"}
    expected = ["one", "two"] if name in once else ["one", "two"] * 2
    assert sorted(arrived(target, len(expected))) == sorted(expected)
    sink.close()


@pytest.mark.parametrize("web", WEB)
@pytest.mark.parametrize(
    ("status", "error"),
    [
        ("500", SinkUnavailable),
        ("502", SinkUnavailable),
        ("503;Retry-After=7", SinkUnavailable),
        ("507", SinkUnavailable),
        ("429;Retry-After=7", SinkUnavailable),
        ("408", SinkUnavailable),
        ("reset", SinkUnavailable),
        ("401", SinkDenied),
        ("403", SinkDenied),
        ("404", SinkDenied),
        ("405", SinkDenied),
        ("406", SinkDenied),
        ("411", SinkDenied),
        ("415", SinkDenied),
        ("302", SinkDenied),
        ("307;Location=/elsewhere", SinkDenied),
        ("413", SinkTooLarge),
        ("400", SinkRefused),
        ("422", SinkRefused),
    ],
)
def test_each_class_of_reply_is_decided(web: str, status: str, error: type[SinkError], tmp_path: Path) -> None:
    """Every status has one meaning: try later, correct the settings, halve, or refused. No status is mistaken for a success."""
    with TARGETS[web](tmp_path) as target:
        target.web.next(status, status, status, status)
        sink = make(web, target.options, tmp_path)
        with pytest.raises(error) as found:
            sink.send(batch(["one"]))
        assert TOKEN not in str(found.value) + repr(found.value) + str(found.value.hint)
        if "Retry-After" in status:
            assert found.value.retry_after_seconds == 7  # type: ignore[attr-defined]
        assert not target.messages()
        sink.close()


@pytest.mark.parametrize("web", WEB)
def test_bodies_are_compressed_and_carry_the_credentials(web: str, tmp_path: Path) -> None:
    """With gzip the receiver gets gzip; the token comes from its file, which is read again after a rotation."""
    with TARGETS[web](tmp_path) as target:
        sink = make(web, {**target.options, "gzip": True}, tmp_path)
        sink.send(batch(["one"]))
        headers = target.web.headers[-1]
        assert headers["content-encoding"] == "gzip"
        assert headers["authorization"].endswith(TOKEN)
        assert target.messages() == ["one"]
        (tmp_path / "token").write_text("rotated")
        with contextlib.suppress(SinkDenied):
            sink.send(batch(["two"]))
        assert target.web.headers[-1]["authorization"].endswith(" rotated")
        sink.close()


@pytest.mark.parametrize("web", ["http", "loki", "elasticsearch", "splunk-hec", "gelf"])
def test_one_bad_entry_is_set_aside_and_takes_no_other_with_it(web: str, tmp_path: Path) -> None:
    """An entry that the receiver will never accept ends in the dead-letter file, once, with the reason; the rest arrives."""
    with TARGETS[web](tmp_path) as target:
        stop, progress = Stop(), PipelineStatus("s", web, "journal")
        sink = make(web, target.options, tmp_path, stop)
        messages = [f"m{i}" for i in range(40)]
        mixed = batch([*messages[:23], "BAD", *messages[23:]])
        Delivery(sink, DeadLetters(tmp_path / "dead", "s"), progress, stop).deliver(mixed)
        assert list(dict.fromkeys(target.messages())) == messages
        letters = [json.loads(line) for line in (tmp_path / "dead/s.ndjson").read_text().splitlines()]
        assert [letter["MESSAGE"] for letter in letters] == ["BAD"]
        assert letters[0]["refused"]
        assert progress.counts["set_aside"] == 1
        assert progress.counts["sent"] == 40
        sink.close()


def test_items_that_were_busy_are_sent_again_alone(tmp_path: Path) -> None:
    """Elasticsearch answers for each item: those that were throttled are repeated, those that were stored are not."""
    with TARGETS["elasticsearch"](tmp_path) as target:
        stop, progress = Stop(), PipelineStatus("s", "elasticsearch", "journal")
        sink = make("elasticsearch", target.options, tmp_path, stop)
        Delivery(sink, DeadLetters(tmp_path / "dead", "s"), progress, stop).deliver(batch(["a", "BUSY", "b", "BAD"]))
        assert sorted(target.messages()) == ["BUSY", "a", "b"]
        assert (progress.counts["sent"], progress.counts["set_aside"]) == (3, 1)
        sink.close()


def test_otlp_partial_success_is_counted(tmp_path: Path) -> None:
    """Entries that an OTLP receiver rejects are counted as lost: it does not name them, and forbids to send all again."""
    with TARGETS["otlp"](tmp_path) as target:
        sink = make("otlp", target.options, tmp_path)
        assert sink.send(batch(["a", "BAD", "b"])).dropped == 1
        assert target.messages() == ["a", "b"]
        sink.close()


def test_splunk_acknowledgement_is_waited_for(tmp_path: Path) -> None:
    """With ack a batch counts as accepted only once the indexer has acknowledged it."""
    with TARGETS["splunk-hec"](tmp_path) as target:
        sink = make("splunk-hec", {**target.options, "ack": True}, tmp_path)
        sink.send(batch(["a"]))
        assert target.web.requests == 3
        assert "x-splunk-request-channel" in target.web.headers[0]
        sink.close()


def test_stdout_prints_lines_of_json(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    """The stdout sink prints one JSON object an entry."""
    make("stdout", {}, tmp_path).send(batch(["a", "b\nc"]))
    assert [json.loads(line)["MESSAGE"] for line in io.StringIO(capsys.readouterr().out)] == ["a", "b\nc"]


def test_everything_refused_ends_without_asking_for_each_entry(tmp_path: Path) -> None:
    """A receiver that refuses all of a large batch costs a bounded number of requests, and the batch is set aside whole."""
    with TARGETS["http"](tmp_path) as target:
        stop, progress = Stop(), PipelineStatus("s", "http", "journal")
        sink = make("http", target.options, tmp_path, stop)
        Delivery(sink, DeadLetters(tmp_path / "dead", "s"), progress, stop).deliver(batch(["BAD"] * 1000))
        assert progress.counts["set_aside"] == 1000
        assert target.web.requests < 100
        sink.close()


def test_a_stop_ends_the_waiting_for_a_dead_sink(tmp_path: Path) -> None:
    """Draining to a sink that is down ends at the deadline, and nothing is set aside or counted as sent."""
    stop, progress = Stop(), PipelineStatus("s", "http", "journal")
    sink = make("http", {"url": f"http://127.0.0.1:{free_port()}/"}, tmp_path, stop)
    stop.set(0.7)
    began = time.monotonic()
    with pytest.raises(DeliveryAborted):
        Delivery(sink, DeadLetters(tmp_path / "dead", "s"), progress, stop).deliver(batch(["a"]))
    assert time.monotonic() - began < 15
    assert progress.counts["sent"] == progress.counts["set_aside"] == 0
    sink.close()
