"""A strict NDJSON receiver in a separate process, so that it can run in a network namespace and be stopped."""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.servers import ndjson_server
from tests.servers.processes import Child, free_port, wait_until


class Receiver:
    """`with Receiver(directory) as receiver:` accepts batches at `receiver.url` and keeps every line.

    Anything but a POST of `content_type` to `path` with whole JSON objects, one a line, gzip or plain, is refused with
    a 4xx and listed in `refusals()`. `prefix` starts it elsewhere (`Network.prefix`). Raises ServerError when it does
    not start.
    """

    def __init__(
        self,
        directory: Path,
        *,
        address: str = "127.0.0.1",
        port: int = 0,
        path: str = "/logs",
        content_type: str = "application/x-ndjson",
        encodings: Sequence[str] = ("gzip", "identity"),
        prefix: Sequence[str] = (),
    ) -> None:
        self.address = address
        self.port = port or free_port()
        self.path = path
        self._directory = directory
        self._options = (f"--path={path}", f"--content-type={content_type}", f"--encodings={','.join(encodings)}")
        self._prefix = tuple(prefix)
        self._child: Child | None = None

    @property
    def url(self) -> str:
        return f"http://{self.address}:{self.port}{self.path}"

    def __enter__(self) -> Receiver:
        self._directory.mkdir(parents=True, exist_ok=True)
        self.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None) -> None:
        self.stop()

    def start(self) -> None:
        """Listen, after a `stop` on the same port and with the lines it had."""
        ready = self._directory / "port"
        ready.unlink(missing_ok=True)
        argv = [sys.executable, "-I", ndjson_server.__file__, f"--directory={self._directory}"]
        argv += [f"--address={self.address}", f"--port={self.port}", *self._options]
        self._child = Child(argv, self._directory / "receiver.log", prefix=self._prefix)
        try:
            self._child.wait_ready(ready.exists, 30.0, f"a receiver on port {self.port}")
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End the process at once: connections are refused until `start`, and an answer under way is lost."""
        if self._child is not None:
            self._child.kill()
            self._child = None

    def answer(self, status: int = 200, *, keep: bool | None = None, retry_after_seconds: int | None = None) -> None:
        """Answer good batches with `status` from now on.

        `keep` is whether their lines are stored: None stores them with a 2xx, True with any status (an acknowledgement
        that got lost), False never.
        """
        self._steer(mode="answer", status=status, keep=keep, retry_after_seconds=retry_after_seconds)

    def hang(self, *, keep: bool = False) -> None:
        """Read batches and never answer; the next mode closes the connections that wait."""
        self._steer(mode="hang", keep=keep)

    def disconnect(self, *, keep: bool = False) -> None:
        """Read batches and close the connection instead of an answer."""
        self._steer(mode="disconnect", keep=keep)

    def lines(self) -> list[dict[str, Any]]:
        """Every stored line so far, decoded, in the order of arrival."""
        return _decoded(self._directory / "lines.ndjson")

    def raw(self) -> bytes:
        """The stored lines as they were sent, for a search that must not depend on decoding."""
        file = self._directory / "lines.ndjson"
        return file.read_bytes() if file.exists() else b""

    def requests(self) -> list[dict[str, Any]]:
        """One object a request: at, method, path, headers, bytes, lines (stored), status, and reason if refused."""
        return _decoded(self._directory / "requests.ndjson")

    def refusals(self) -> list[dict[str, Any]]:
        """The requests that broke the protocol: a sink that works makes none."""
        return [request for request in self.requests() if "reason" in request]

    def wait_for(self, count: int, timeout_seconds: float = 30.0, **fields: str) -> list[dict[str, Any]]:
        """Wait until `count` stored lines carry all of `fields`; returns them, raises ServerError in vain."""

        def matching() -> list[dict[str, Any]]:
            return [line for line in self.lines() if fields.items() <= line.items()]

        wait_until(lambda: len(matching()) >= count, timeout_seconds, f"{count} lines with {fields} at the receiver")
        return matching()

    def _steer(self, **control: Any) -> None:
        new = self._directory / "control.new"
        new.write_text(json.dumps(control))
        new.replace(self._directory / "control.json")


def _decoded(file: Path) -> list[dict[str, Any]]:
    if not file.exists():
        return []
    whole, _, _ = file.read_bytes().rpartition(b"\n")
    return [json.loads(line) for line in whole.split(b"\n") if line]
