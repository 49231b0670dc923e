"""What parbake remembers in /var/lib/parbake besides generations: a commit under way, the identity, the last good.

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
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path
from typing import Any

from agent.errors import BusyError, StateError
from agent.model import RunConfig
from agent.paths import Paths
from agent.secret import Secret
from agent.state.last_good import LastGoodStore
from agent.system.safe_files import sync_directory, write_atomic

log = logging.getLogger("parbake.state")
_LOCK_POLL_SECONDS = 0.1


class State:
    """The state directory. Nothing is created before the first write."""

    def __init__(self, paths: Paths, cache: str = "encrypted") -> None:
        self._paths = paths
        self.last_good = LastGoodStore(self, paths, cache)
        self._prepared = False

    def prepare(self) -> None:
        """Make the directories. Raises StateError where that is not possible."""
        try:
            for path in (self._paths.state, self._paths.state / "generations"):
                path.mkdir(mode=0o700, parents=True, exist_ok=True)
            os.chmod(self._paths.state, 0o700)
            if not self._paths.run.is_dir():
                self._paths.run.mkdir(parents=True)
                os.chmod(self._paths.run, 0o755)  # noqa: S103 - status and metrics are for everybody
        except OSError as error:
            raise StateError(
                f"the state directory {self._paths.state} cannot be used: {error.strerror}",
                hint="parbake needs to write there; as no root user, give --root DIR",
            ) from None
        self._prepared = True

    def sweep(self) -> None:
        """Remove what a run that was killed had half written: it may hold secrets. Call it with the lock held.

        Raises StateError.
        """
        try:
            for directory in (self._paths.state, self._paths.state / "generations"):
                for path in directory.glob(".*.new"):
                    path.unlink()
        except OSError as error:
            raise StateError(f"the state directory {self._paths.state} cannot be used: {error.strerror}") from None

    @contextmanager
    def lock(
        self, *, wait: bool = True, pause: Callable[[float], None] = time.sleep, stopping: Callable[[], bool] = lambda: False
    ) -> Iterator[None]:
        """Only one convergence at a time on an instance. Waits by `pause`, so that whoever waits is seen to be alive.

        Raises BusyError where another runs and `wait` is false, or `stopping` says so.
        """
        path = self._paths.run / "lock"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise StateError(f"{path} cannot be opened: {error.strerror}", hint="parbake needs to write there") from None
        try:
            told = False
            while not _locked(descriptor):
                if not wait or stopping():
                    raise BusyError(
                        "another parbake is converging on this instance", hint="try again later, or leave out --no-wait"
                    )
                if not told:
                    log.warning("waiting for another parbake that is converging on this instance")
                    told = True
                pause(_LOCK_POLL_SECONDS)
            yield
        finally:
            os.close(descriptor)

    # -- plain records

    def load(self, name: str) -> dict[str, Any]:
        """A JSON record by file name; {} where there is none, and for who may not look. Raises StateError where there may be
        one that cannot be read: a commit under way, or a hold, is not to be passed over."""
        path = self._paths.state / name
        try:
            content = path.read_bytes()
        except (FileNotFoundError, NotADirectoryError, PermissionError):
            return {}
        except OSError as error:
            raise StateError(
                f"{path} cannot be read: {error.strerror}", hint="nothing was changed; see whether the disk is well"
            ) from None
        try:
            record = json.loads(content)
            if isinstance(record, dict):
                return record
            raise ValueError("not an object")
        except ValueError as error:
            self.quarantine_file(path, error)
            return {}

    def save(self, name: str, record: Mapping[str, Any]) -> None:
        """Write a JSON record. It must hold no secret. Raises StateError."""
        self.write(self._paths.state / name, json.dumps(record, sort_keys=True).encode())

    def remove(self, name: str) -> None:
        """Forget a record, durably. Raises StateError."""
        path = self._paths.state / name
        try:
            path.unlink()
            sync_directory(path.parent)
        except FileNotFoundError:
            return
        except OSError as error:
            raise StateError(f"{path} cannot be removed: {error.strerror}") from None

    def rename(self, name: str, new: str) -> None:
        """Give a record another name, durably; that needs no space on the disk. Raises StateError."""
        path = self._paths.state / name
        try:
            os.rename(path, path.with_name(new))
            sync_directory(path.parent)
        except OSError as error:
            raise StateError(f"{path} cannot be renamed: {error.strerror}") from None

    # -- identity

    def archive_previous_instance(self) -> Path:
        """Move everything that an earlier instance left (generations, last good run config, checkpoints) out of the way.

        Its run config is removed: it is of no use here and may hold that instance's secrets. Raises StateError.
        """
        state, now = self._paths.state, int(time.time())
        aside = next(path for n in count(now) if not (path := state / f"earlier-{n}").exists())
        try:
            for secret in (*state.glob("last-good.*"), *(state / "generations").glob("*.content")):
                secret.unlink()
            (aside / "ship").mkdir(mode=0o700, parents=True, exist_ok=True)
            # the directory itself belongs to the shipper and may be mounted into its sandbox
            for path in self._paths.ship.iterdir() if self._paths.ship.is_dir() else ():
                with suppress(FileNotFoundError):  # the shipper replaces its files
                    os.rename(path, aside / "ship" / path.name)
            names = {path.name for path in state.iterdir() if not path.name.startswith("earlier-")} - {"ship"}
            # the identity last: until it is gone, whoever is stopped in here begins again
            for name in sorted(names, key=lambda name: name == "instance"):
                os.rename(state / name, aside / name)
        except OSError as error:
            raise StateError(f"what another instance left in {state} cannot be set aside: {error.strerror}") from None
        self.prepare()
        return aside

    # -- digests

    def digest(self, config: RunConfig, facts: Mapping[str, Any], component: Mapping[str, str]) -> str:
        """The digest of everything a render may depend on. Secrets enter it keyed, so that no guess can be tried against it."""
        key = self.digest_key()

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

    def digest_key(self) -> bytes:
        """This instance's own key, so that a digest of a secret helps nobody to guess it. A command that changes nothing, or
        may not read it, makes one of its own."""
        path = self._paths.state / "digest.key"
        key = self.read(path) if os.access(self._paths.state, os.R_OK | os.X_OK) else None
        if key is None or len(key) != 32:
            key = os.urandom(32)
            if self._prepared:
                self.write(path, key)
        return key

    # -- files

    def read(self, path: Path) -> bytes | None:
        """The content; None where it is not there or cannot be read."""
        try:
            return path.read_bytes()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            log.warning("%s cannot be read: %s", path, error.strerror)
            return None

    def write(self, path: Path, content: bytes) -> None:
        """Whole, durable, for root alone. Raises StateError."""
        try:
            write_atomic(path, content, 0o600)
        except OSError as error:
            raise StateError(
                f"{path} cannot be written: {error.strerror}", hint="free space there, or let parbake write there"
            ) from None

    def quarantine_file(self, path: Path, error: Exception) -> None:
        """Rename a damaged file, with a warning: it may interest somebody, and must not be met again."""
        log.warning("%s is damaged (%s) and is set aside as %s.damaged", path, error, path.name)
        try:
            os.replace(path, path.with_name(f"{path.name}.damaged"))
        except OSError as failure:
            log.warning("%s cannot be set aside: %s", path, failure.strerror)


def _locked(descriptor: int) -> bool:
    """Take the lock, if nobody has it."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
