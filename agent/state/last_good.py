"""The last good run config: the snapshots of all sources when the run config was last complete, for use when a source fails.

With secrets in it, it is sealed, and opening it costs a run of a program. So an index without values is kept with it: which
layers had keys, and a keyed digest of the whole. The sealed copy is opened only when a source fails.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import logging
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from agent.errors import StateError
from agent.keypath import leaves
from agent.model import Layer, Snapshot
from agent.secret import Secret
from agent.state.records import Records
from agent.state.sealing import Sealer

log = logging.getLogger("parbake.state")
_INDEX = "last-good.index"
_KEPT = ("last-good.sealed", "last-good.json")
_BYTES = "\0base64"
"""The key of a table that encodes bytes: no layer has such a key, and JSON has no bytes."""


class LastGood:
    """What is known of the last good run config.

    `had` maps a source to its layers that had keys, `fetched` maps a source to the time of its pull; both are known without
    opening the sealed copy. `snapshots` opens it, once.
    """

    def __init__(
        self,
        had: Mapping[str, frozenset[str]] | None = None,
        fetched: Mapping[str, str] | None = None,
        open_snapshots: Callable[[], Mapping[str, Snapshot]] = dict,
    ) -> None:
        self.had = had or {}
        self.fetched = fetched or {}
        self._open = open_snapshots
        self._snapshots: Mapping[str, Snapshot] | None = None

    @property
    def snapshots(self) -> Mapping[str, Snapshot]:
        if self._snapshots is None:
            self._snapshots = self._open()
        return self._snapshots


class LastGoodStore:
    """Keeps the last good run config as `cache` says: "encrypted" (sealed if it holds secrets), "plain" or "none"."""

    def __init__(self, records: Records, sealer: Sealer, cache: str) -> None:
        self._records = records
        self._directory = records.directory
        self._cache = cache
        self._sealer = sealer
        self._in_memory = LastGood()
        """What this process has pulled and may not write, so that a running daemon does not empty a config."""
        self._unsealed_index: dict[str, Any] | None = None
        """The index that was written without its copy. While it is on the disk, no other process has saved a newer one."""

    def inherit(self, previous: LastGoodStore) -> None:
        """Take over what another store of this process keeps in memory only."""
        self._in_memory, self._unsealed_index = previous._in_memory, previous._unsealed_index

    def load(self) -> LastGood:
        """Return what is kept; empty if there is nothing or it is damaged. If nothing may or could be written, return what
        this process saved."""
        if self._cache == "none":
            return self._in_memory
        index = self._records.load(_INDEX)
        if self._unsealed_index is not None and index == self._unsealed_index:
            return self._in_memory
        try:
            sources = index["sources"] if index else {}
            had = {name: frozenset(item["had"]) for name, item in sources.items()}
            fetched = {name: str(item["fetched"]) for name, item in sources.items()}
        except (KeyError, TypeError, AttributeError) as error:
            self._records.quarantine_file(self._directory / _INDEX, error)
            had, fetched = {}, {}
        return LastGood(had, fetched, self._read_snapshots)

    def save(self, snapshots: Mapping[str, Snapshot], fetched: Mapping[str, str], *, secret: bool) -> str | None:
        """Keep the snapshots, unless the same ones are kept already.

        `fetched` maps a source to the time of its pull, `secret` says that the run config has secret keys. Returns None, or
        the reason why secrets cannot be kept as the settings ask. Raises StateError.
        """
        plain, sealed = self._directory / "last-good.json", self._directory / "last-good.sealed"
        if self._cache == "none":
            self._remove(*_KEPT, _INDEX)
            self._keep_in_memory(snapshots, fetched)
            return None
        secret = secret or any(snapshot.secret for snapshot in snapshots.values())
        content = _encode(snapshots)
        kept, other = (sealed, plain) if secret and self._cache == "encrypted" else (plain, sealed)
        digest = hmac.new(self._records.digest_key(), content, hashlib.sha256).hexdigest()
        if self._records.load(_INDEX).get("digest") == digest and os.path.exists(kept):
            return None
        if kept is sealed:
            closed = self._sealer.seal(content)
            if closed is None:
                return self._keep_unsealed(snapshots, fetched, sealed, plain)
            content = closed
        self._records.write(kept, content)
        self._remove(other.name)
        self._records.write(self._directory / _INDEX, json.dumps(_index(snapshots, fetched, digest)).encode())
        self._unsealed_index, self._in_memory = None, LastGood()
        return None

    def _keep_unsealed(self, snapshots: Mapping[str, Snapshot], fetched: Mapping[str, str], sealed: Path, plain: Path) -> str:
        """Keep the index, and the copy that was sealed earlier, if secrets cannot be sealed now. Returns the reason."""
        self._remove(plain.name)  # a value in it may be declared secret by now
        previous = self._records.load(_INDEX).get("sources") if os.path.exists(sealed) else None
        times = {
            name: str(item.get("fetched", ""))
            for name, item in (previous.items() if isinstance(previous, dict) else ())
            if isinstance(item, dict)
        }
        index = _index(snapshots, times, "")  # no digest, so that the next save tries to seal again
        self._records.write(self._directory / _INDEX, json.dumps(index).encode())
        self._keep_in_memory(snapshots, fetched)
        self._unsealed_index = index
        reason = 'systemd-creds cannot seal it here, and [state] cache = "plain" is not set'
        return f"{reason}; the earlier copy is kept" if os.path.exists(sealed) else reason

    def _keep_in_memory(self, snapshots: Mapping[str, Snapshot], fetched: Mapping[str, str]) -> None:
        had = {name: layers_with_keys(snapshot) for name, snapshot in snapshots.items()}
        self._in_memory = LastGood(had, dict(fetched), lambda: snapshots)

    def _remove(self, *names: str) -> None:
        for name in names:
            self._records.remove(name)

    def _read_snapshots(self) -> Mapping[str, Snapshot]:
        for name in _KEPT:
            path = self._directory / name
            content = self._records.read(path)
            if content is None:
                continue
            try:
                return _decode(self._sealer.open(content) if name.endswith(".sealed") else content)
            except (StateError, ValueError, KeyError, TypeError, AttributeError) as error:
                if self._sealer.unavailable:  # the file itself may be sound
                    log.warning("%s cannot be opened: %s; the file is kept", path, error)
                else:
                    self._records.quarantine_file(path, error)
        return {}


def layers_with_keys(snapshot: Snapshot) -> frozenset[str]:
    """Return the names of the layers that hold at least one value."""
    return frozenset(layer.name for layer in snapshot.layers if layer.tree is not None and _holds_a_value(layer.tree))


def _holds_a_value(tree: Mapping[str, Any]) -> bool:
    return any(not isinstance(value, Mapping) for _, value in leaves(tree))


def _index(snapshots: Mapping[str, Snapshot], fetched: Mapping[str, str], digest: str) -> dict[str, Any]:
    sources = {
        name: {"had": sorted(layers_with_keys(snapshot)), "fetched": fetched.get(name, "")}
        for name, snapshot in snapshots.items()
    }
    return {"digest": digest, "sources": sources}


def _encode(snapshots: Mapping[str, Snapshot]) -> bytes:
    return json.dumps(
        {
            name: {
                "revision": snapshot.revision,
                "secret": snapshot.secret,
                "layers": [{"name": la.name, "revision": la.revision, "tree": la.tree} for la in snapshot.layers],
            }
            for name, snapshot in snapshots.items()
        },
        default=_plain,
        sort_keys=True,
    ).encode("utf-8", "surrogatepass")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Secret):
        return value.reveal()
    if isinstance(value, bytes):
        return {_BYTES: base64.b64encode(value).decode("ascii")}
    raise TypeError(f"{type(value).__name__} in a snapshot")


def _decode_bytes(table: dict[str, Any]) -> Any:
    return base64.b64decode(table[_BYTES]) if table.keys() == {_BYTES} else table


def _decode(content: bytes) -> dict[str, Snapshot]:
    return {
        name: Snapshot(
            tuple(Layer(str(la["name"]), la["tree"], str(la["revision"])) for la in item["layers"]),
            str(item["revision"]),
            item.get("secret") is True,
        )
        for name, item in json.loads(content, object_hook=_decode_bytes).items()
    }
