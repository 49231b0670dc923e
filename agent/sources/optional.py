"""Libraries that not every image has, and calls into libraries that keep no deadline."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable
from typing import TypeVar

from agent.errors import SettingsError, SourceUnreachable
from agent.sources.waiting import wait_for_any

T = TypeVar("T")


def require(module: str, backend: str, extra: str, package: str) -> None:
    """Check that a library is installed, without importing it.

    `extra` is the extra of parbake's own package that brings the library, `package` the name of Debian's package. Raises
    SettingsError with both.
    """
    if importlib.util.find_spec(module) is None:
        raise SettingsError(
            f'the backend "{backend}" needs the Python library {module}, which is not installed',
            hint=f"apt install {package}, or pip install 'parbake[{extra}]'",
        )


def call_with_timeout(
    seconds: float,
    call: Callable[[], T],
    peer: str,
    abort: Callable[[], None] | None = None,
    stopping: threading.Event | None = None,
) -> T:
    """Return what `call` returns, and wait for it no longer than `seconds` nor beyond `stopping`.

    For libraries that restart their time-out with every byte, or whose calls cannot be interrupted. The call runs in a
    thread that may outlive the wait; `abort` then ends it from outside. `peer` names the store in messages.

    Raises SourceUnreachable if the wait ends first, and what `call` raises.
    """
    outcome: list[tuple[T | None, BaseException | None]] = []
    ended = threading.Event()

    def run() -> None:
        try:
            outcome.append((call(), None))
        except BaseException as error:  # noqa: BLE001 - raised again below, in the thread that waits
            outcome.append((None, error))
        ended.set()

    threading.Thread(target=run, name=peer, daemon=True).start()
    wait_for_any(max(0.0, seconds), ended, *([stopping] if stopping is not None else ()))
    if not ended.is_set():
        if abort is not None:
            abort()
        stopped = stopping is not None and stopping.is_set()
        raise SourceUnreachable(f"{peer}: {'stopped' if stopped else 'no whole answer in time'}")
    value, error = outcome[0]
    if error is not None:
        raise error
    return value  # type: ignore[return-value]
