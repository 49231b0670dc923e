"""The one place where a bug in a backend becomes an error of its source.

A third party's backend, and parbake's, may raise anything and return anything. Neither ends a convergence, and the text of
an unexpected exception is never shown: it may hold a value.
"""

from __future__ import annotations

import logging
import traceback
from collections.abc import Mapping, Sequence
from typing import Any

from agent.errors import DiscoveryError, SourceError, SourceInvalid, SourceUnreachable
from agent.model import Layer, Snapshot
from agent.secret import Secret
from agent.sources import AddsLayers, Source

log = logging.getLogger("parbake.sources")
_ENDS = (str, int, float, bytes, Secret, type(None))
_logged: set[tuple[str, str]] = set()
"""The unexpected errors that the log has, as (source, type and code line)."""


def fetch(source: Source[object], name: str, layers: Sequence[str]) -> Snapshot:
    """Fetch the layers, and check that the result is a snapshot of them.

    `name` is the source's name, for the log. Raises SourceError, and DiscoveryError for a source that could not be opened.
    Any other exception becomes SourceUnreachable; its traceback is logged once, at debug level.
    """
    try:
        snapshot = source.fetch(layers)
        _check_snapshot(snapshot, layers, source.added_layers if isinstance(source, AddsLayers) else ())
    except (SourceError, DiscoveryError):
        raise
    except (Exception, SystemExit) as error:  # noqa: BLE001 - this is the place for it
        raise unexpected(name, error) from None
    return snapshot


def close(source: Source[object], name: str) -> None:
    """Close a source. A bug in its `close` is logged, and does not keep the others open."""
    try:
        source.close()
    except (Exception, SystemExit) as error:  # noqa: BLE001 - as above
        unexpected(name, error)


def unexpected(name: str, error: BaseException) -> SourceUnreachable:
    """Return the error of the source `name` for an unexpected exception, whose traceback is logged once."""
    where = type_and_line(error)
    if (name, where) not in _logged:
        _logged.add((name, where))
        log_traceback(name, error)
    return SourceUnreachable(f"a bug in the backend: {where}", hint="--log-level debug logs the traceback")


def type_and_line(error: BaseException) -> str:
    """Return "KeyError at FILE:LINE" for an exception, without its text."""
    frames = traceback.extract_tb(error.__traceback__)
    line = f"{frames[-1].filename}:{frames[-1].lineno}" if frames else "an unknown line"
    kind = type(error)
    return f"{kind.__module__}.{kind.__qualname__} at {line}".removeprefix("builtins.")


def log_traceback(source: str, error: BaseException) -> None:
    """Log where an exception comes from, frame by frame, without its text."""
    frames = "".join(traceback.format_tb(error.__traceback__))
    extra = {"PARBAKE_SOURCE": source} if source else {}
    log.debug("traceback of %s:\n%s", type_and_line(error), frames.rstrip("\n"), extra=extra)


def _check_snapshot(snapshot: object, layers: Sequence[str], added: Sequence[str]) -> None:
    """Raise SourceInvalid unless `snapshot` has the layers that were asked for, in order, and after them `added` ones."""
    if not isinstance(snapshot, Snapshot):
        raise SourceInvalid(f"the backend returned {type(snapshot).__name__}, which is not a Snapshot")
    if not all(isinstance(layer, Layer) for layer in snapshot.layers):
        raise SourceInvalid("the backend returned a Snapshot whose layers are not of type Layer")
    names = [layer.name for layer in snapshot.layers]
    more = names[len(layers) :]
    if names[: len(layers)] != list(layers) or len(set(more)) != len(more) or not set(more) <= set(added):
        raise SourceInvalid(f"the backend returned the layers {names}, and was asked for {list(layers)}")
    for layer in snapshot.layers:
        if layer.tree is not None:
            _check_tree(layer.tree, f'layer "{layer.name}"')


def _check_tree(tree: Any, path: str) -> None:
    if not isinstance(tree, Mapping):
        raise SourceInvalid(f"{path} is a {type(tree).__name__}, and must be a table or None")
    for key, value in tree.items():
        if not isinstance(key, str):
            raise SourceInvalid(f"{path}: a key is a {type(key).__name__}, and must be text")
        _check_value(value, f"{path}: {key}")


def _check_value(value: Any, path: str) -> None:
    if isinstance(value, Mapping):
        _check_tree(value, path)
    elif isinstance(value, list):
        for item in value:
            _check_value(item, path)
    elif not isinstance(value, _ENDS):
        raise SourceInvalid(f"{path} is a {type(value).__name__}, which run config cannot hold")


class UnexpectedErrorLog:
    """Logs each unexpected error of one watch once, by its type and code line. `subject` begins the message."""

    def __init__(self, subject: str, source: str = "") -> None:
        self._subject = subject
        self._source = source
        self._seen: set[str] = set()

    def report(self, error: BaseException) -> None:
        """Log the error unless it is in the log already; its traceback at debug level."""
        where = type_and_line(error)
        if where in self._seen:
            return
        self._seen.add(where)
        extra = {"PARBAKE_SOURCE": self._source} if self._source else {}
        log.error("%s: a bug: %s; the watch goes on, with delays", self._subject, where, extra=extra)
        log_traceback(self._source, error)
