"""The last good run config: what every source gave when the run config was last whole, for the day a source is away.

With secrets in it, it is sealed, and opening it costs a program's run. So an index without values lies beside it: which
layers had keys, and a keyed digest of the whole. Only a source that fails makes it be opened.
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
from typing import Any, Protocol

from agent.errors import StateError
from agent.keypath import leaves
from agent.model import Layer, Snapshot
from agent.paths import Paths
from agent.secret import Secret
from agent.state.sealing import Sealer

log = logging.getLogger("parbake.state")
_INDEX = "last-good.index"
_KEPT = ("last-good.sealed", "last-good.json")
_BYTES = "\0base64"
"""The key of a table that stands for bytes: no layer has such a key, and JSON has no bytes."""


class _Files(Protocol):
    def read(self, path: Path) -> bytes | None: ...
    def write(self, path: Path, content: bytes) -> None: ...
    def quarantine_file(self, path: Path, error: Exception) -> None: ...
    def load(self, name: str) -> dict[str, Any]: ...
    def digest_key(self) -> bytes: ...
    def remove(self, name: str) -> None: ...


class LastGood:
    """`had` names the layers that had keys, by source; `fetched` the time of each source's pull; both without opening
    anything. `snapshots` opens what is sealed, once."""

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
    """Keeps it as `cache` says: "encrypted" (sealed where it holds secrets), "plain" or "none"."""

    def __init__(self, files: _Files, paths: Paths, cache: str) -> None:
        self._files = files
        self._directory = paths.state
        self._cache = cache
        self._sealer = Sealer(paths)
        self._held = LastGood()
        """What this run of the daemon has pulled and may not keep, so that it at least is not emptied."""
        self._unkept: dict[str, Any] | None = None
        """The index that was written beside a copy that could not be; while it is there, nobody has saved anything newer."""

    def load(self) -> LastGood:
        """What is kept; empty where there is nothing, or it is damaged. Where nothing may or could be kept, what this process
        saved."""
        if self._cache == "none":
            return self._held
        index = self._files.load(_INDEX)
        if self._unkept is not None and index == self._unkept:
            return self._held
        try:
            sources = index["sources"] if index else {}
            had = {name: frozenset(item["had"]) for name, item in sources.items()}
            fetched = {name: str(item["fetched"]) for name, item in sources.items()}
        except (KeyError, TypeError, AttributeError) as error:
            self._files.quarantine_file(self._directory / _INDEX, error)
            had, fetched = {}, {}
        return LastGood(had, fetched, self._read_snapshots)

    def save(self, snapshots: Mapping[str, Snapshot], fetched: Mapping[str, str], *, secret: bool) -> str | None:
        """Keep the snapshots, unless the very same are kept already. Returns why not, where they hold secrets and cannot
        be kept as the settings ask. Raises StateError."""
        plain, sealed = self._directory / "last-good.json", self._directory / "last-good.sealed"
        if self._cache == "none":
            self._forget(*_KEPT, _INDEX)
            self._hold(snapshots, fetched)
            return None
        secret = secret or any(snapshot.secret for snapshot in snapshots.values())
        content = _encode(snapshots)
        kept, other = (sealed, plain) if secret and self._cache == "encrypted" else (plain, sealed)
        digest = hmac.new(self._files.digest_key(), content, hashlib.sha256).hexdigest()
        if self._files.load(_INDEX).get("digest") == digest and os.path.exists(kept):
            return None
        if kept is sealed:
            closed = self._sealer.seal(content)
            if closed is None:
                return self._keep_unsealed(snapshots, fetched, sealed, plain)
            content = closed
        self._files.write(kept, content)
        self._forget(other.name)
        self._files.write(self._directory / _INDEX, json.dumps(_index(snapshots, fetched, digest)).encode())
        self._unkept, self._held = None, LastGood()
        return None

    def _keep_unsealed(self, snapshots: Mapping[str, Snapshot], fetched: Mapping[str, str], sealed: Path, plain: Path) -> str:
        """What may be kept of secrets that cannot be sealed now: who had keys, and the copy that was sealed earlier, which is
        better than none. Returns why it is no more."""
        self._forget(plain.name)  # what it holds may be a secret by now
        earlier = self._files.load(_INDEX).get("sources") if os.path.exists(sealed) else None
        times = {
            name: str(item.get("fetched", ""))
            for name, item in (earlier.items() if isinstance(earlier, dict) else ())
            if isinstance(item, dict)
        }
        index = _index(snapshots, times, "")  # the digest of nothing, so that the next save tries to seal again
        self._files.write(self._directory / _INDEX, json.dumps(index).encode())
        self._hold(snapshots, fetched)
        self._unkept = index
        why = 'systemd-creds cannot seal it here, and cache = "plain" is not set'
        return f"{why}; an earlier copy stays" if os.path.exists(sealed) else why

    def _hold(self, snapshots: Mapping[str, Snapshot], fetched: Mapping[str, str]) -> None:
        had = {name: layers_with_keys(snapshot) for name, snapshot in snapshots.items()}
        self._held = LastGood(had, dict(fetched), lambda: snapshots)

    def _forget(self, *names: str) -> None:
        for name in names:
            self._files.remove(name)

    def _read_snapshots(self) -> Mapping[str, Snapshot]:
        for name in _KEPT:
            path = self._directory / name
            content = self._files.read(path)
            if content is None:
                continue
            try:
                return _decode(self._sealer.open(content) if name.endswith(".sealed") else content)
            except (StateError, ValueError, KeyError, TypeError, AttributeError) as error:
                if self._sealer.away:  # it may be as good as ever
                    log.warning("%s cannot be opened: %s; it is left as it is", path, error)
                else:
                    self._files.quarantine_file(path, error)
        return {}


def layers_with_keys(snapshot: Snapshot) -> frozenset[str]:
    """The names of the layers that hold at least one value."""
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


def _whole(table: dict[str, Any]) -> Any:
    return base64.b64decode(table[_BYTES]) if table.keys() == {_BYTES} else table


def _decode(content: bytes) -> dict[str, Snapshot]:
    return {
        name: Snapshot(
            tuple(Layer(str(la["name"]), la["tree"], str(la["revision"])) for la in item["layers"]),
            str(item["revision"]),
            item.get("secret") is True,
        )
        for name, item in json.loads(content, object_hook=_whole).items()
    }
