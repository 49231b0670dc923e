"""What parbake remembers in /var/lib/parbake: the last good run config, generations, a commit under way, the identity.

Every file is written whole and durably. A damaged one is set aside with a warning and counts as absent: bad state may cost
the memory of the past, never the ability to converge.
"""

from __future__ import annotations

import base64
import fcntl
import hashlib
import hmac
import json
import logging
import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from agent.disk import sync_directory, write_atomic
from agent.errors import BusyError, StateError
from agent.model import Layer, RunConfig, Secret, Snapshot
from agent.places import Places
from agent.sealing import Sealer

log = logging.getLogger("parbake.state")
LOCK_WARN_SECONDS = 2.0


@dataclass(frozen=True, slots=True)
class LastGood:
    """The snapshots of the last convergence whose run config was whole, by source name."""

    snapshots: Mapping[str, Snapshot] = field(default_factory=dict)
    fetched: Mapping[str, str] = field(default_factory=dict)


class State:
    """The state directory. Nothing is created before the first write."""

    def __init__(self, places: Places, cache: str = "encrypted") -> None:
        self._places = places
        self._cache = cache
        self._sealer = Sealer(places)

    def prepare(self) -> None:
        """Make the directories. Raises StateError where that is not possible."""
        try:
            for path in (self._places.state, self._places.state / "generations"):
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.chmod(self._places.state, 0o700)
            if not self._places.run.is_dir():
                self._places.run.mkdir(parents=True)
                os.chmod(self._places.run, 0o755)  # noqa: S103 - status and metrics are for everybody
        except OSError as error:
            raise StateError(
                f"the state directory {self._places.state} cannot be used: {error.strerror}",
                hint="parbake needs to write there; as no root user, give --root DIR",
            ) from None

    @contextmanager
    def lock(self, *, wait: bool = True) -> Iterator[None]:
        """Only one convergence at a time on an instance. Raises BusyError where `wait` is false and another runs."""
        path = self._places.run / "lock"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise StateError(f"{path} cannot be opened: {error.strerror}", hint="parbake needs to write there") from None
        try:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if not wait:
                    raise BusyError(
                        "another parbake is converging on this instance", hint="try again later, or leave out --no-wait"
                    ) from None
                log.warning("waiting for another parbake that is converging on this instance")
                fcntl.flock(descriptor, fcntl.LOCK_EX)
            yield
        finally:
            os.close(descriptor)

    # -- the last good run config

    def save_last_good(self, good: LastGood, *, secret: bool) -> str | None:
        """Remember the snapshots. Returns why not, where they hold secrets and cannot be kept as the settings ask."""
        plain = self._places.state / "last-good.json"
        sealed = self._places.state / "last-good.sealed"
        if self._cache == "none":
            self._remove(plain, sealed)
            return None
        content = _encode(good)
        if not secret or self._cache == "plain":
            self._write(plain, content)
            self._remove(sealed)
            return None
        closed = self._sealer.seal(content)
        if closed is None:
            self._remove(plain, sealed)
            return 'systemd-creds cannot seal it here, and cache = "plain" is not set'
        self._write(sealed, closed)
        self._remove(plain)
        return None

    def load_last_good(self) -> LastGood:
        """The last good snapshots; empty where there are none."""
        if self._cache == "none":
            return LastGood()
        for name in ("last-good.sealed", "last-good.json"):
            path = self._places.state / name
            content = self._read(path)
            if content is None:
                continue
            try:
                return _decode(self._sealer.open(content) if name.endswith(".sealed") else content)
            except (StateError, ValueError, KeyError, TypeError, AttributeError) as error:
                self._set_aside(path, error)
        return LastGood()

    # -- plain records

    def load(self, name: str) -> dict[str, Any]:
        """A JSON record by file name; {} where there is none."""
        path = self._places.state / name
        content = self._read(path)
        if content is None:
            return {}
        try:
            record = json.loads(content)
            if isinstance(record, dict):
                return record
            raise ValueError("not an object")
        except ValueError as error:
            self._set_aside(path, error)
            return {}

    def save(self, name: str, record: Mapping[str, Any]) -> None:
        """Write a JSON record. It must hold no secret. Raises StateError."""
        self._write(self._places.state / name, json.dumps(record, sort_keys=True).encode())

    def remove(self, name: str) -> None:
        """Forget a record, durably. Raises StateError."""
        self._remove(self._places.state / name)

    def rename(self, name: str, new: str) -> None:
        """Give a record another name, durably; that needs no space on the disk. Raises StateError."""
        path = self._places.state / name
        try:
            os.rename(path, path.with_name(new))
            sync_directory(path.parent)
        except OSError as error:
            raise StateError(f"{path} cannot be renamed: {error.strerror}") from None

    # -- identity

    def set_aside(self) -> Path:
        """Move everything that an earlier instance left (generations, last good run config, checkpoints) out of the way.

        Its run config is removed: it is of no use here and may hold that instance's secrets.
        """
        aside = self._places.state / f"earlier-{int(time.time())}"
        (aside / "ship").mkdir(mode=0o700, parents=True, exist_ok=True)
        for path in self._places.state.iterdir():
            if path.name != "ship" and not path.name.startswith("earlier-"):
                os.rename(path, aside / path.name)
        # the directory itself belongs to the shipper and may be mounted into its sandbox
        for path in self._places.ship.iterdir() if self._places.ship.is_dir() else ():
            os.rename(path, aside / "ship" / path.name)
        for secret in (*aside.glob("last-good.*"), *(aside / "generations").glob("*.content")):
            secret.unlink()
        self.prepare()
        return aside

    # -- digests

    def digest(self, config: RunConfig, facts: Mapping[str, Any], component: Mapping[str, str]) -> str:
        """The digest of everything a render may depend on. Secrets enter it keyed, so that no guess can be tried against it."""
        key = self._digest_key()

        def keyed(value: Any) -> Any:
            if isinstance(value, Secret):
                return hmac.new(key, repr(value.reveal()).encode("utf-8", "surrogatepass"), hashlib.sha256).hexdigest()
            if isinstance(value, Mapping):
                return {name: keyed(item) for name, item in value.items()}
            if isinstance(value, bytes):
                return base64.b64encode(value).decode("ascii")
            return value

        plain = json.dumps([keyed(config.tree), keyed(dict(facts)), dict(component)], sort_keys=True, default=str)
        return "sha256:" + hashlib.sha256(plain.encode("utf-8", "surrogatepass")).hexdigest()

    def _digest_key(self) -> bytes:
        path = self._places.state / "digest.key"
        key = self._read(path)
        if key is None or len(key) != 32:
            key = os.urandom(32)
            if self._places.state.is_dir():
                self._write(path, key)
        return key

    # -- files

    def _read(self, path: Path) -> bytes | None:
        try:
            return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            log.warning("%s cannot be read: %s", path, error.strerror)
            return None

    def _write(self, path: Path, content: bytes) -> None:
        try:
            write_atomic(path, content, 0o600)
        except OSError as error:
            raise StateError(
                f"{path} cannot be written: {error.strerror}", hint="free space there, or let parbake write there"
            ) from None

    def _remove(self, *paths: Path) -> None:
        for path in paths:
            try:
                path.unlink()
                sync_directory(path.parent)
            except FileNotFoundError:
                continue
            except OSError as error:
                raise StateError(f"{path} cannot be removed: {error.strerror}") from None

    def _set_aside(self, path: Path, error: Exception) -> None:
        log.warning("%s is damaged (%s) and is set aside as %s.damaged", path, error, path.name)
        try:
            os.replace(path, path.with_name(f"{path.name}.damaged"))
        except OSError as failure:
            log.warning("%s cannot be set aside: %s", path, failure.strerror)


def _encode(good: LastGood) -> bytes:
    return json.dumps(
        {
            name: {
                "revision": snapshot.revision,
                "fetched": good.fetched.get(name, ""),
                "layers": [{"name": la.name, "revision": la.revision, "tree": la.tree} for la in snapshot.layers],
            }
            for name, snapshot in good.snapshots.items()
        },
        default=_plain,
    ).encode("utf-8", "surrogatepass")


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return dict(value)
    if isinstance(value, Secret):
        return value.reveal()
    raise TypeError(f"{type(value).__name__} in a snapshot")


def _decode(content: bytes) -> LastGood:
    record = json.loads(content)
    snapshots = {
        name: Snapshot(
            tuple(Layer(str(la["name"]), la["tree"], str(la["revision"])) for la in item["layers"]), str(item["revision"])
        )
        for name, item in record.items()
    }
    return LastGood(snapshots, {name: str(item["fetched"]) for name, item in record.items()})
