"""Strict fakes of log receivers that no registry has: each refuses requests that its protocol's documentation does not allow.

Behaviours are queued: `receiver.next("503", "reset", ...)` decides how the next requests are answered.
"""

from __future__ import annotations

import gzip
import json
import re
import socketserver
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Refused(Exception):
    """A request that the protocol does not allow. It is answered with `status` and `body`, and kept in `complaints`."""

    def __init__(self, status: int, body: str) -> None:
        super().__init__(body)
        self.status, self.body = status, body


Answer = tuple[int, bytes]


class HttpReceiver:
    """An HTTP server on loopback that gives each request to `take(path, headers, body)`."""

    def __init__(self, take: Callable[[str, Mapping[str, str], bytes], Answer], port: int = 0) -> None:
        self.complaints: list[str] = []
        self.requests = 0
        self.headers: list[dict[str, str]] = []
        self._take = take
        self._queue: deque[str] = deque()
        outer = self

        class Connection(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                outer._answer(self)

            def log_message(self, *_: object) -> None:
                return

        self._server = ThreadingHTTPServer(("127.0.0.1", port), Connection)
        self._server.daemon_threads = True
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def next(self, *behaviours: str) -> None:
        """ "reset", "429;Retry-After=2", "503" ...: one for each of the next requests."""
        self._queue.extend(behaviours)

    def forget(self) -> None:
        """Answer as usual again."""
        self._queue.clear()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def _answer(self, connection: BaseHTTPRequestHandler) -> None:
        raw = connection.rfile.read(int(connection.headers["Content-Length"]))
        self.requests += 1
        headers = {name.lower(): value for name, value in connection.headers.items()}
        self.headers.append(headers)
        if self._queue:
            status, _, header = self._queue.popleft().partition(";")
            if status == "reset":
                connection.connection.setsockopt(1, 13, struct.pack("ii", 1, 0))
                connection.connection.close()
                connection.close_connection = True
                return
            self._reply(connection, int(status), b"", dict([header.split("=", 1)]) if header else {})
            return
        try:
            body = gzip.decompress(raw) if headers.get("content-encoding") == "gzip" else raw
            status_code, content = self._take(connection.path, headers, body)
        except Refused as refused:
            self.complaints.append(refused.body)
            status_code, content = refused.status, refused.body.encode()
        self._reply(connection, status_code, content, {})

    def _reply(self, connection: BaseHTTPRequestHandler, status: int, body: bytes, headers: Mapping[str, str]) -> None:
        connection.send_response(status)
        for name, value in headers.items():
            connection.send_header(name, value)
        connection.send_header("Content-Length", str(len(body)))
        connection.end_headers()
        connection.wfile.write(body)


def _require(condition: object, status: int, text: str) -> None:
    if not condition:
        raise Refused(status, text)


def _parse(body: bytes) -> Any:
    try:
        return json.loads(body.decode("utf-8"))
    except ValueError as error:
        raise Refused(400, f"not JSON: {error}") from None


class Stored:
    """The entries that a receiver keeps: the message, and all other fields as strings."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, dict[str, str]]] = []
        self.lock = threading.Lock()

    def add(self, message: str, rest: Mapping[str, Any]) -> None:
        with self.lock:
            self.rows.append((message, {name: str(value) for name, value in rest.items()}))

    @property
    def messages(self) -> list[str]:
        with self.lock:
            return [message for message, _ in self.rows]


def loki(stored: Stored) -> Callable[[str, Mapping[str, str], bytes], Answer]:
    """Loki 3.6: 204; equal time and line once; one bad line answers 400 while the good ones are stored. Bad are lines over
    262,144 bytes, over an hour behind their stream's newest, and an hour ahead of the clock."""
    seen: set[tuple[str, str, str]] = set()
    newest: dict[str, int] = {}

    def take(path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        _require(path == "/loki/api/v1/push", 404, "no such path")
        _require(headers["content-type"] == "application/json", 400, "content type")
        bad = ""
        for stream in _parse(body)["streams"]:
            labels = stream["stream"]
            _require(1 <= len(labels) <= 15, 400, "label count")
            _require(all(re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", name) for name in labels), 400, "label name")
            for nanoseconds, line, *metadata in stream["values"]:
                _require(isinstance(nanoseconds, str) and nanoseconds.isdigit(), 400, "time")
                _require(all(isinstance(v, str) for m in metadata for v in m.values()), 400, "structured metadata")
                key, moment = json.dumps(labels), int(nanoseconds)
                old = moment < newest.get(key, 0) - 3_600_000_000_000
                if len(line.encode()) > 262_144 or "BAD" in line or old or moment > time.time_ns() + 3_600_000_000_000:
                    bad = "entry for stream is not acceptable"
                    continue
                newest[key] = max(newest.get(key, 0), moment)
                if (key, nanoseconds, line) not in seen:
                    seen.add((key, nanoseconds, line))
                    stored.add(line, labels | (metadata[0] if metadata else {}))
        _require(not bad, 400, bad)
        return 204, b""

    return take


def elasticsearch(stored: Stored) -> Callable[[str, Mapping[str, str], bytes], Answer]:
    """The bulk API: 200 with a status for each item; `create` of a known id is 409."""
    known: set[str] = set()

    def take(path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        _require(path == "/_bulk", 405, "no such path")
        _require(headers["content-type"] == "application/x-ndjson", 406, "content type")
        _require(body.endswith(b"\n"), 400, "The bulk request must be terminated by a newline")
        lines = body.split(b"\n")[:-1]
        items = []
        for action, document in zip(lines[::2], lines[1::2], strict=True):
            create = _parse(action)["create"]
            fields = _parse(document)
            _require(create["_index"] == create["_index"].lower() and len(create["_id"]) <= 512, 400, "index or id")
            _require("@timestamp" in fields, 400, "data streams want @timestamp")
            status = 201
            if "BAD" in fields.get("MESSAGE", ""):
                status = 400
            elif "BUSY" in fields.get("MESSAGE", "") and create["_id"] + "busy" not in known:
                known.add(create["_id"] + "busy")
                status = 429
            elif create["_id"] in known:
                status = 409
            else:
                known.add(create["_id"])
                stored.add(fields.pop("MESSAGE", ""), fields)
            error = {} if status == 201 else {"error": {"type": "some_exception", "reason": "a reason"}}
            items.append({"create": {"_index": create["_index"], "_id": create["_id"], "status": status, **error}})
        errors = any(item["create"]["status"] != 201 for item in items)
        return 200, json.dumps({"took": 1, "errors": errors, "items": items}).encode()

    return take


def otlp(stored: Stored) -> Callable[[str, Mapping[str, str], bytes], Answer]:
    """OTLP/HTTP JSON: camelCase keys, 64-bit integers as strings, severity 1 to 24, partialSuccess."""

    def value(found: Mapping[str, Any]) -> str:
        (kind, content), *more = found.items()
        _require(not more and kind in ("stringValue", "intValue") and isinstance(content, str), 400, f"value {kind}")
        _require(kind != "intValue" or content.lstrip("-").isdigit(), 400, "intValue")
        return str(content)

    def take(path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        _require(path == "/v1/logs", 404, "no such path")
        _require(headers["content-type"] == "application/json", 415, "content type")
        rejected = 0
        for resource in _parse(body)["resourceLogs"]:
            common = {a["key"]: value(a["value"]) for a in resource["resource"]["attributes"]}
            _require(common.get("service.name"), 400, "service.name")
            for scope in resource["scopeLogs"]:
                for record in scope["logRecords"]:
                    _require(set(record) <= _RECORD, 400, f"unknown keys {set(record) - _RECORD}")
                    _require(isinstance(record["timeUnixNano"], str) and record["timeUnixNano"].isdigit(), 400, "time")
                    _require(1 <= record.get("severityNumber", 9) <= 24, 400, "severity")
                    keys = [a["key"] for a in record["attributes"]]
                    _require(len(keys) == len(set(keys)), 400, "attribute keys must be unique")
                    text = value(record["body"])
                    if "BAD" in text:
                        rejected += 1
                        continue
                    stored.add(text, common | {a["key"]: value(a["value"]) for a in record["attributes"]})
        partial = {"partialSuccess": {"rejectedLogRecords": str(rejected), "errorMessage": "bad"}} if rejected else {}
        return 200, json.dumps(partial).encode()

    return take


_RECORD = {"timeUnixNano", "observedTimeUnixNano", "severityNumber", "severityText", "body", "attributes"}


def splunk(stored: Stored, token: str) -> Callable[[str, Mapping[str, str], bytes], Answer]:
    """The HTTP Event Collector: concatenated objects; 403 for a bad token, 400 with a code for a bad event."""
    acks: dict[str, bool] = {}

    def take(path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        _require(headers.get("authorization") == f"Splunk {token}", 403, '{"text":"Invalid token","code":4}')
        if path.startswith("/services/collector/ack?channel="):
            asked = _parse(body)["acks"]
            answer = {str(ack): acks.get(str(ack), False) for ack in asked}
            acks.update({str(ack): True for ack in asked})  # the second question is answered with yes
            return 200, json.dumps({"acks": answer}).encode()
        _require(path == "/services/collector/event", 404, "no such path")
        text, at, found = body.decode("utf-8"), 0, []
        while at < len(text):
            event, at = json.JSONDecoder().raw_decode(text, at)
            while at < len(text) and text[at] in "\r\n ":
                at += 1
            _require(set(event) <= _EVENT and event.get("event"), 400, '{"text":"Event field is required","code":12}')
            _require(isinstance(event["time"], float), 400, '{"text":"Invalid data format","code":6}')
            fine = "BAD" not in event["event"].get("MESSAGE", "")
            _require(fine, 400, '{"text":"Invalid data format","code":6,"invalid-event-number":0}')
            found.append(event)
        for event in found:
            stored.add(event["event"].pop("MESSAGE", ""), event["event"] | event.get("fields", {}))
        acks[str(len(acks))] = False
        return 200, json.dumps({"text": "Success", "code": 0, "ackId": len(acks) - 1}).encode()

    return take


_EVENT = {"time", "host", "source", "sourcetype", "index", "event", "fields"}


def gelf_message(text: bytes, stored: Stored) -> None:
    """GELF 1.1: version, host and short_message are required; further fields begin with "_"; `_id` is forbidden."""
    message = _parse(text)
    _require(message["version"] == "1.1" and message["host"] and message["short_message"], 400, "required fields")
    _require(isinstance(message["timestamp"], float) and 0 <= message["level"] <= 7, 400, "timestamp or level")
    extra = {name: value for name, value in message.items() if name not in _GELF}
    _require(all(re.fullmatch(r"_[\w.-]+", name) and name != "_id" for name in extra), 400, "field name")
    _require("BAD" not in message["short_message"], 400, "bad")
    stored.add(message["short_message"], {name[1:]: value for name, value in extra.items()})


_GELF = {"version", "host", "short_message", "timestamp", "level"}


def gelf_http(stored: Stored) -> Callable[[str, Mapping[str, str], bytes], Answer]:
    def take(path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        _require(path == "/gelf", 404, "no such path")
        gelf_message(body, stored)
        return 202, b""

    return take


def ndjson(stored: Stored) -> Callable[[str, Mapping[str, str], bytes], Answer]:
    def take(path: str, headers: Mapping[str, str], body: bytes) -> Answer:
        _require(headers["content-type"] == "application/x-ndjson", 415, "content type")
        rows = [_parse(line) for line in body.splitlines()]
        _require(not any("BAD" in row.get("MESSAGE", "") for row in rows), 422, "a bad entry")
        for row in rows:
            stored.add(row.pop("MESSAGE", ""), row)
        return 200, b""

    return take


class TcpReceiver:
    """A listener that cuts each connection's bytes into frames with `split`, and gives each frame to `take`."""

    def __init__(self, split: Callable[[bytes], tuple[list[bytes], bytes]], take: Callable[[bytes], None]) -> None:
        self.complaints: list[str] = []
        outer = self

        class Connection(socketserver.BaseRequestHandler):
            def handle(self) -> None:
                held = b""
                while chunk := self.request.recv(65536):
                    try:
                        frames, held = split(held + chunk)
                        for frame in frames:
                            take(frame)
                    except (Refused, ValueError, KeyError) as error:
                        outer.complaints.append(repr(error))
                        return

        class Server(socketserver.ThreadingTCPServer):
            daemon_threads = True
            allow_reuse_address = True

        self._server = Server(("127.0.0.1", 0), Connection)
        self.port: int = self._server.server_address[1]
        threading.Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


def octet_counted(text: bytes) -> tuple[list[bytes], bytes]:
    """RFC 6587 section 3.4.1: MSG-LEN SP SYSLOG-MSG."""
    frames = []
    while match := re.match(rb"([1-9][0-9]{0,8}) ", text):
        end = match.end() + int(match[1])
        if len(text) < end:
            break
        frames.append(text[match.end() : end])
        text = text[end:]
    _require(re.match(rb"([1-9][0-9]{0,8}( |$)|$)", text), 400, f"no frame: {text[:40]!r}")
    return frames, text


def null_delimited(text: bytes) -> tuple[list[bytes], bytes]:
    *frames, held = text.split(b"\0")
    return frames, held


_SYSLOG = re.compile(
    r"<(\d{1,3})>1 (\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d{1,6})?Z) ([\x21-\x7e]{1,255}) ([\x21-\x7e]{1,48})"
    r" ([\x21-\x7e]{1,128})"
    r' ([\x21-\x7e]{1,32}) (-|(?:\[[\x21-\x7e]+(?: [!-~]{1,32}="(?:[^"\\\]]|\\.)*")*\])+)(?: (.*))?',
    re.DOTALL,
)


def syslog_message(frame: bytes, stored: Stored) -> None:
    """RFC 5424 section 6, as a grammar."""
    match = _SYSLOG.fullmatch(frame.decode("utf-8"))
    _require(match and int(match[1]) <= 191, 400, f"not RFC 5424: {frame[:200]!r}")
    assert match is not None
    parameters = dict(re.findall(r' ([!-~]{1,32})="((?:[^"\\\]]|\\.)*)"', match[7], re.DOTALL))
    stored.add(match[8] or "", {name: re.sub(r"\\(.)", r"\1", value) for name, value in parameters.items()})
