"""Real answers of receivers over HTTP for which the obvious interpretation loses lines or never ends."""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from agent.errors import SinkDenied, SinkUnavailable
from agent.shipping import Batch, Column
from tests.integration.shipping.receivers import TARGETS, arrived, deliver, kind_of, letters, make, row
from tests.integration.shipping.test_sink_contract import NOW_US, batch
from tests.servers.log_receivers import HttpReceiver, Refused


@pytest.fixture
def captured() -> Iterator[tuple[HttpReceiver, list[Any], list[tuple[int, bytes]]]]:
    """A receiver, the JSON values it was sent, and the answers it gives first."""
    bodies: list[Any] = []
    answers: list[tuple[int, bytes]] = []

    def take(path: str, headers: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
        bodies.append([json.loads(line) for line in body.splitlines()])
        return answers.pop(0) if answers else (200, b"{}")

    server = HttpReceiver(take)
    yield server, bodies, answers
    server.close()


def test_gelf_repeats_no_entry_for_the_sake_of_another(tmp_path: Path) -> None:
    """One request an entry: after a 503 in the middle, and with a bad entry, each of the others has arrived once, in order."""
    with TARGETS["gelf"](tmp_path) as target:
        messages = [f"m{number}" for number in range(30)]
        sink = make("gelf", target.options, tmp_path)
        progress = deliver(sink, tmp_path, batch([*messages[:10], "BAD", *messages[10:]]))
        assert target.messages() == messages
        assert [letter["MESSAGE"] for letter in letters(tmp_path)] == ["BAD"]
        assert (progress.counts["sent"], progress.counts["retries"]) == (30, 0)
        sink.close()


def test_gelf_goes_on_where_the_receiver_became_busy(tmp_path: Path) -> None:
    """Entries that were accepted before a 503 are not sent again."""
    with TARGETS["gelf"](tmp_path) as target:
        sink = make("gelf", target.options, tmp_path)
        seen = target.messages
        stop_at = 7

        def take(path: str, headers: Mapping[str, str], body: bytes, inner: Any = target.web._take) -> tuple[int, bytes]:
            nonlocal stop_at
            if len(seen()) == stop_at:
                stop_at = -1
                raise Refused(503, "busy")
            answer: tuple[int, bytes] = inner(path, headers, body)
            return answer

        target.web._take = take
        messages = [f"m{number}" for number in range(20)]
        deliver(sink, tmp_path, batch(messages))
        assert target.messages() == messages
        sink.close()


@pytest.mark.parametrize("text", ["", " ", "\n\t "])
def test_gelf_has_a_host_and_a_message_always(text: str, tmp_path: Path) -> None:
    """Graylog refuses a message whose host or text is blank: an empty line arrives as a dash."""
    with TARGETS["gelf"](tmp_path) as target:
        sink = make("gelf", target.options, tmp_path)
        sink.send(row(text, _HOSTNAME=text))
        assert target.messages() == ["-"]
        assert not target.complaints
        sink.close()


def test_loki_keeps_every_label_whatever_their_number(tmp_path: Path) -> None:
    """Loki accepts 15 stream labels: further ones become structured metadata, and the unit stays a stream label."""
    with TARGETS["loki"](tmp_path) as target:
        labels = {f"label{number:02d}": f"v{number}" for number in range(20)}
        sink = make("loki", target.options, tmp_path)
        sink.send(batch(["one"], labels))
        assert not target.complaints
        (found,) = target.rows()
        assert {name: found[name] for name in labels} == labels
        assert found["unit"] == "app.service"
        sink.close()


def test_loki_lines_beyond_its_limit_are_set_aside_alone(tmp_path: Path) -> None:
    """A line over 262,144 bytes is 400 with the others of the batch stored: it alone is set aside, and none is there twice."""
    with TARGETS["loki"](tmp_path) as target:
        sink = make("loki", target.options, tmp_path)
        large = "L" * 262_145
        deliver(sink, tmp_path, batch([*(f"m{number}" for number in range(20)), large]))
        assert sorted(target.messages()) == sorted(f"m{number}" for number in range(20))
        assert [letter["MESSAGE"] for letter in letters(tmp_path)] == [large]
        sink.close()


def test_loki_lines_of_a_wrong_time_are_set_aside_alone(tmp_path: Path) -> None:
    """Over an hour behind the stream, or ahead of the clock, after a clock that stepped: those alone, once each."""
    with TARGETS["loki"](tmp_path) as target:
        sink = make("loki", target.options, tmp_path)
        good = [f"m{number}" for number in range(60)]
        made = batch([*good[:30], "old 1", "ahead", *good[30:], "old 2"], {})
        moved = {30: -2 * 3_600_000_000, 31: 2 * 3_600_000_000, 62: -5 * 3_600_000_000}
        times = [moment + moved.get(number, 0) for number, moment in enumerate(made.times)]
        deliver(sink, tmp_path, dataclasses.replace(made, times=times))
        assert sorted(target.messages()) == sorted(good)
        assert sorted(letter["MESSAGE"] for letter in letters(tmp_path)) == ["ahead", "old 1", "old 2"]
        sink.close()


def items(*statuses: int) -> bytes:
    """A bulk reply."""
    found = [{"create": {"status": status, "error": {"type": "t", "reason": "r"}}} for status in statuses]
    return json.dumps({"errors": any(status > 201 for status in statuses), "items": found}).encode()


def test_elasticsearch_waits_for_an_index_and_not_for_an_entry(captured: Any, tmp_path: Path) -> None:
    """404 and 403 for all: the index is missing or read-only, and all wait. For one of several: that one is set aside."""
    server, _, answers = captured
    sink = make("elasticsearch", {"url": server.url}, tmp_path)
    answers.append((200, items(404, 403, 429)))
    assert list(sink.send(batch(["a", "b", "c"])).retry) == [0, 1, 2]
    answers.append((200, items(201, 403, 429)))
    outcome = sink.send(batch(["a", "b", "c"]))
    assert [number for number, _ in outcome.refused] == [1]
    assert list(outcome.retry) == [2]
    answers.append((200, items(201, 500)))
    with pytest.raises(SinkUnavailable):
        sink.send(batch(["a", "b", "c"]))
    sink.close()


def test_elasticsearch_is_sent_no_field_twice_and_no_name_that_it_refuses(captured: Any, tmp_path: Path) -> None:
    """A label with the name of a field replaces it, and an index with a time is in small letters for any fact."""
    server, bodies, answers = captured
    answers.append((200, items(201)))
    sink = make("elasticsearch", {"url": server.url, "index": "Logs/Prod-%Y.%m"}, tmp_path)
    sink.send(dataclasses.replace(row("a", FILE="field"), labels={"FILE": "label"}))
    action, document = bodies[0]
    assert action["create"]["_index"] == time.strftime("logs_prod-%Y.%m", time.gmtime(NOW_US // 1_000_000))
    assert document["FILE"] == "label"
    sink.close()


def test_otlp_keys_are_unique_and_numbers_are_numbers(captured: Any, tmp_path: Path) -> None:
    """The trusted field replaces an application's field of that name; an invalid line number stays text."""
    server, bodies, _ = captured
    sink = make("otlp", {"url": server.url, "service_name": "web"}, tmp_path)
    sink.send(row("a", TRANSPORT="forged", _TRANSPORT="journal", CODE_LINE="²", _PID="42", _UID="9" * 30))
    record = bodies[0][0]["resourceLogs"][0]["scopeLogs"][0]["logRecords"][0]
    found = [(attribute["key"], attribute["value"]) for attribute in record["attributes"]]
    assert len({key for key, _ in found}) == len(found) == 4
    assert dict(found)["journald.transport"] == {"stringValue": "journal"}
    assert dict(found)["code.line.number"] == {"stringValue": "²"}
    assert dict(found)["process.pid"] == {"intValue": "42"}
    assert dict(found)["process.user.id"] == {"stringValue": "9" * 30}
    sink.close()


@pytest.mark.parametrize("answer", [(201, b""), (200, b"\x0a\x00"), (202, b'{"partialSuccess":{}}'), (200, b"null")])
def test_otlp_takes_any_success(answer: tuple[int, bytes], captured: Any, tmp_path: Path) -> None:
    """201 and 202, an empty body and one in protobuf are success; partialSuccess without a number is no loss."""
    server, _, answers = captured
    answers.append(answer)
    sink = make("otlp", {"url": server.url, "service_name": "web"}, tmp_path)
    outcome = sink.send(row("a"))
    assert (outcome.dropped, list(outcome.retry), list(outcome.refused)) == (0, [], [])
    sink.close()


@pytest.mark.parametrize(("code", "kind"), [(5, "refused"), (6, "refused"), (12, "refused"), (15, "refused")])
def test_splunk_codes_of_an_event_are_of_the_event(code: int, kind: str, captured: Any, tmp_path: Path) -> None:
    """400 with a code of the event sets it aside."""
    server, _, answers = captured
    (tmp_path / "token").write_text("t")
    answers.append((400, json.dumps({"text": "x", "code": code}).encode()))
    progress = deliver(make("splunk-hec", {"url": server.url, "token_file": "/token"}, tmp_path), tmp_path, row("a"))
    assert progress.counts["set_aside"] == 1


@pytest.mark.parametrize("code", [1, 2, 3, 4, 7, 10, 11, 14])
def test_splunk_codes_of_token_index_and_channel_are_not(code: int, captured: Any, tmp_path: Path) -> None:
    """400 with a code of the token, the index or the channel is a wrong setting: the entries wait."""
    server, _, answers = captured
    (tmp_path / "token").write_text("t")
    answers.append((400, json.dumps({"text": "x", "code": code}).encode()))
    sink = make("splunk-hec", {"url": server.url, "token_file": "/token"}, tmp_path)
    with pytest.raises(SinkDenied):
        sink.send(row("a"))
    sink.close()


ODD = ["", " ", "\0", "\uffff", "a\uffffb", "\\", '"', "]", '\\"]', "\r\n", "\x1b[31m", "²", "\u2028", "9" * 40]
ODD += ["<&>", "{}", "null", "😀"]


@pytest.mark.parametrize("name", ["http", "loki", "elasticsearch", "otlp", "splunk-hec", "gelf", "gelf-tcp", "syslog"])
def test_no_field_and_no_label_makes_a_message_that_its_receiver_refuses(name: str, tmp_path: Path) -> None:
    """Applications choose fields and people choose labels: strict receivers accept each odd value in each place."""
    fields = ("PRIORITY", "SYSLOG_FACILITY", "_PID", "PID", "_HOSTNAME", "SYSLOG_IDENTIFIER", "MESSAGE_ID", "CODE_LINE", "ID")
    labels = dict.fromkeys(("component", "a b", "1x", "ü", "MESSAGE_ID", "file", "_PID"), 'v"\\]ü\n')
    with TARGETS[name](tmp_path) as target:
        sink = make(kind_of(name), target.options, tmp_path)
        sizes = range(len(ODD))
        for shift, field in enumerate(("MESSAGE", *fields)):
            columns: dict[str, Column] = {"MESSAGE": [f"text {number}".encode() for number in sizes]}
            columns[field] = [ODD[(number + shift) % len(ODD)].encode() for number in sizes]
            ids = [f"{field} {number}" for number in sizes]
            outcome = sink.send(Batch([NOW_US + shift * 100 + number for number in sizes], columns, {}, ids, labels))
            assert not outcome.refused
        sink.send(Batch([NOW_US + 5000], {"MESSAGE": [None]}, {}, ["nothing"], {}))
        assert len(arrived(target, (len(fields) + 1) * len(ODD) + 1)) == (len(fields) + 1) * len(ODD) + 1
        sink.close()
