"""The values that were secret once: how long each stays masked in shipped lines after it was rotated out.

A sink that was down ships old lines later, and an old line may hold an old password. So each value is remembered together
with the time at which it left the run config, over restarts and reboots. The values are kept under the same rule as the last
good run config: sealed, plain or not at all. An index without values avoids opening them at a start at which nothing changed.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from agent.errors import StateError
from agent.state.records import Records
from agent.state.sealing import Sealer

log = logging.getLogger("parbake.state")
INDEX = "mask-history.index"
SEALED, PLAIN = "mask-history.sealed", "mask-history.json"
RETIRED_BYTES_MAX = 4 * 1024 * 1024
"""The most bytes of retired values that are kept, so that the shipper's memory stays bounded. The oldest go first."""

History = dict[str, float | None]
"""Text -> the time at which it was retired, in seconds since 1970; None while the run config has it."""


def next_history(
    history: Mapping[str, float | None],
    current: frozenset[str],
    published: frozenset[str],
    now: float,
    expired: Callable[[float], bool],
) -> History:
    """Return the history after an update. Pure.

    `current` are the secret texts of the run config, `published` those in the mask file of this boot. A text that is in
    neither the run config nor the history was secret in an earlier run, and is retired now. `expired` says whether a text
    that was retired at a time may be forgotten.
    """
    updated: History = dict.fromkeys(current)
    for text in (*history, *published):
        if text not in current and text not in updated:
            retired = history.get(text)
            updated[text] = now if retired is None else retired
    return _within_bounds({text: at for text, at in updated.items() if at is None or not expired(at)})


def _within_bounds(history: History) -> History:
    retired = sorted((at, text) for text, at in history.items() if at is not None)
    size = sum(map(_size, (text for _, text in retired)))
    for _, text in retired:
        if size <= RETIRED_BYTES_MAX:
            break
        size -= _size(text)
        del history[text]
    return history


def _size(text: str) -> int:
    return len(text.encode("utf-8", "surrogatepass"))


class MaskHistory:
    """Keeps the history as `cache` says: "encrypted", "plain" or "none" (in this process only)."""

    def __init__(self, records: Records, sealer: Sealer, cache: str) -> None:
        self._records = records
        self._sealer = sealer
        self._cache = cache
        self._history: History = {}
        self._index: dict[str, Any] | None = None

    def inherit(self, previous: MaskHistory) -> None:
        """Take over what another history of this process keeps in memory only."""
        self._history, self._index = previous._history, previous._index

    def update(
        self, current: Iterable[str], published: Iterable[str], now: float, expired: Callable[[float], bool]
    ) -> tuple[frozenset[str], str | None]:
        """Take in the secret texts of the run config, and return every text to mask.

        The arguments are those of `next_history`. The second value is the reason why the history is not kept on the disk,
        or None. A disk that refuses it is a reason too: the mask file of this boot has all texts all the same.
        """
        texts = frozenset(current)
        problem = ""
        try:
            previous = self._load(texts)
        except StateError as error:
            previous, problem = dict(self._history), str(error)
        history = next_history(previous, texts, frozenset(published), now, expired)
        if not problem and (history != previous or self._index is None):
            try:
                problem = self._save(history, texts)
            except StateError as error:
                problem = str(error)
        self._history = history
        return frozenset(history), problem or None

    def _load(self, current: frozenset[str]) -> History:
        """Return the history so far. Raises StateError if it cannot be opened now: it must not be overwritten then."""
        if self._cache == "none":
            return self._history
        index = self._records.load(INDEX)
        if self._index is not None and index == self._index:
            return self._history
        unchanged = index.get("digest") == self._digest(current) and index.get("retired") == 0
        history = dict.fromkeys(current) if unchanged else self._read() if index else {}
        self._index = index or None
        return {**history, **self._history}

    def _read(self) -> History:
        """Return the history on the disk. A damaged one is set aside. Raises StateError if it cannot be opened now."""
        for name in (SEALED, PLAIN):
            path = self._records.directory / name
            content = self._records.read(path)
            if content is None:
                continue
            try:
                texts = json.loads(self._sealer.open(content) if name == SEALED else content)["texts"]
                return {str(text): None if at is None else float(at) for text, at in texts.items()}
            except (StateError, ValueError, KeyError, TypeError, AttributeError) as error:
                if self._sealer.unavailable:
                    raise StateError(f"{path} cannot be opened: {error}; the file is kept") from None
                self._records.quarantine_file(path, error)
        return {}

    def _save(self, history: History, current: frozenset[str]) -> str:
        """Write the history. Returns the reason if it may not be written, or "". Raises StateError."""
        if self._cache == "none":
            for name in (SEALED, PLAIN, INDEX):
                self._records.remove(name)
            return ""
        if self._cache == "encrypted":
            self._records.remove(PLAIN)
        if not history:
            for name in (SEALED, PLAIN):
                self._records.remove(name)
        else:
            content = json.dumps({"texts": history}, sort_keys=True).encode("utf-8", "surrogatepass")
            name, other = (SEALED, PLAIN) if self._cache == "encrypted" else (PLAIN, SEALED)
            sealed = self._sealer.seal(content) if name == SEALED else content
            if sealed is None:
                return 'systemd-creds cannot seal it here, and [state] cache = "plain" is not set'
            self._records.write(self._records.directory / name, sealed)
            self._records.remove(other)
        retired = sum(at is not None for at in history.values())
        index = {"digest": self._digest(current), "retired": retired}
        self._records.save(INDEX, index)
        self._index = index
        return ""

    def _digest(self, texts: frozenset[str]) -> str:
        content = json.dumps(sorted(texts)).encode("utf-8", "surrogatepass")
        return hmac.new(self._records.digest_key(), content, hashlib.sha256).hexdigest()
