"""`exec`: a program that prints a layer as a JSON object, for stores without a backend."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

from agent.errors import SourceDenied, SourceInvalid, SourceUnreachable
from agent.model import Layer, Snapshot
from agent.settings.schema import setting
from agent.sources import SourceContext, decoding, key_tree
from agent.system import process

MAX_BYTES = 32 << 20
DENIED = 77  # EX_NOPERM of sysexits.h


@dataclass(frozen=True, slots=True, kw_only=True)
class ExecOptions:
    command: tuple[str, ...] = setting("the program and its arguments; the layer is appended as the last one")

    def __post_init__(self) -> None:
        if not self.command or not self.command[0].startswith("/"):
            raise ValueError("command must begin with the absolute path of a program")


class ExecSource:
    """Runs the program once a layer.

    Exit 0 with an object is the layer, exit 0 without output a layer that does not exist, 77 a denial, and any other code
    an unavailable store. Standard error is discarded, because it may hold a secret.
    """

    options_class: ClassVar[type[ExecOptions]] = ExecOptions

    def __init__(self, options: ExecOptions, context: SourceContext) -> None:
        self._command = options.command
        self._timeout_seconds = context.timeout_seconds
        self._stopping = context.stopping
        self._closed = threading.Event()

    def fetch(self, layers: Sequence[str]) -> Snapshot:
        deadline = time.monotonic() + self._timeout_seconds
        fetched = []
        for layer in layers:
            where = f'the output of {self._command[0]} for layer "{layer}"'
            output = self._run(layer, where, deadline)
            tree = decoding.parse(output, "JSON", where) if output.strip() not in (b"", b"null") else None
            fetched.append(Layer(layer, tree, key_tree.digest(output)))
        return Snapshot(tuple(fetched), key_tree.combined_revision(fetched))

    def _run(self, layer: str, where: str, deadline: float) -> bytes:
        argv = [*self._command, layer]
        seconds = max(0.0, deadline - time.monotonic())
        self._check_cancelled()
        result = process.run(argv, seconds, self._is_cancelled, stdout_max_bytes=MAX_BYTES)
        if not result.started:
            raise SourceUnreachable(f"{self._command[0]} cannot be run: {result.output.removeprefix(argv[0] + ': ')}")
        if result.too_large:
            raise SourceInvalid(f"{where} is larger than {MAX_BYTES} bytes")
        if result.code is None:
            self._check_cancelled()
            raise SourceUnreachable(f"{where} did not end in {self._timeout_seconds:g} s, and was killed")
        if result.code == DENIED:
            raise SourceDenied(f"{where}: the exit code is {DENIED}, which means permission denied")
        if result.code != 0:
            raise SourceUnreachable(f"{where}: the exit code is {result.code}", hint=f"run it by hand: {' '.join(argv)}")
        return result.stdout

    def _is_cancelled(self) -> bool:
        return self._closed.is_set() or self._stopping.is_set()

    def _check_cancelled(self) -> None:
        if self._is_cancelled():
            raise SourceUnreachable(f"{self._command[0]}: {'stopped' if self._stopping.is_set() else 'closed'}")

    def close(self) -> None:
        """End a program that runs in another thread, and run none from now on."""
        self._closed.set()
