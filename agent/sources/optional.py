"""Libraries that not every image needs, and calls into them that know no deadline of their own."""

from __future__ import annotations

import importlib.util
import threading
from collections.abc import Callable
from typing import TypeVar

from agent.errors import SettingsError, SourceUnreachable

T = TypeVar("T")


def require(module: str, backend: str, extra: str, package: str) -> None:
    """Raises SettingsError, naming what to install, where a library is not there. Does not import it."""
    if importlib.util.find_spec(module) is None:
        raise SettingsError(
            f'the backend "{backend}" needs the Python library {module}, which is not installed',
            hint=f"apt install {package}, or pip install 'parbake[{extra}]'",
        )


def call_with_timeout(seconds: float, call: Callable[[], T], what: str, cut: Callable[[], None] | None = None) -> T:
    """What `call` returns or raises, or SourceUnreachable after `seconds`, when `cut` is called to end it.

    For libraries whose time-outs begin anew with every byte. The call runs in a thread that may outlive the time-out.
    """
    outcome: list[tuple[T | None, BaseException | None]] = []

    def run() -> None:
        try:
            outcome.append((call(), None))
        except BaseException as error:  # noqa: BLE001 - raised again below, in the thread that waits
            outcome.append((None, error))

    thread = threading.Thread(target=run, name=what, daemon=True)
    thread.start()
    thread.join(max(0.0, seconds))
    if not outcome:
        if cut is not None:
            cut()
        raise SourceUnreachable(f"{what}: no whole answer in time")
    value, error = outcome[0]
    if error is not None:
        raise error
    return value  # type: ignore[return-value]
