"""The state directory /var/lib/parbake: its lock, its records, and the change of identity.

Bad state may cost the memory of the past, and never the ability to converge.
"""

from __future__ import annotations

import fcntl
import logging
import os
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import count
from pathlib import Path

from agent.errors import BusyError, StateError, StopRequested
from agent.paths import Paths
from agent.state.generations import Generations
from agent.state.last_good import LastGoodStore
from agent.state.mask_history import MaskHistory
from agent.state.records import Records
from agent.state.sealing import Sealer
from agent.system.stop_signals import StopDeadline

log = logging.getLogger("parbake.state")
_LOCK_POLL_SECONDS = 0.1
_SEAL_GRACE_SECONDS = 1.0
"""How long systemd-creds may go on after a stop was asked for. It takes less, unless it hangs."""


class StateStore:
    """Everything that parbake keeps on an instance.

    `cache` says how what holds secrets is kept ("encrypted", "plain", "none"), `keep_generations` how many generations are,
    and `stop` ends a wait for another program.
    """

    def __init__(
        self, paths: Paths, cache: str = "encrypted", keep_generations: int = 10, stop: threading.Event | None = None
    ) -> None:
        self._paths = paths
        sealer = Sealer(paths, StopDeadline(stop, _SEAL_GRACE_SECONDS).passed if stop else lambda: False)
        self.records = Records(paths.state)
        self.last_good = LastGoodStore(self.records, sealer, cache)
        self.generations = Generations(paths, keep_generations, cache, sealer)
        self.mask_history = MaskHistory(self.records, sealer, cache)

    def inherit(self, previous: StateStore) -> None:
        """Take over what another store of this process keeps in memory only."""
        self.last_good.inherit(previous.last_good)
        self.mask_history.inherit(previous.mask_history)

    def prepare(self) -> None:
        """Make the directories. Raises StateError if that is not possible."""
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
                hint="parbake needs to write there; without root, give --root DIR",
            ) from None
        self.records.writable = True

    def sweep(self) -> None:
        """Remove files that a killed run has half written: they may hold secrets. Call it with the lock held.

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
        self,
        *,
        wait: bool = True,
        sleep: Callable[[float], None] = time.sleep,
        stopping: Callable[[], bool] = lambda: False,
    ) -> Iterator[None]:
        """Hold the lock that allows one convergence at a time on an instance. Waits by `sleep`, which keeps a watchdog fed.

        Raises BusyError if another parbake has it and `wait` is false, StopRequested if `stopping` says so during the wait.
        """
        path = self._paths.run / "lock"
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise StateError(f"{path} cannot be opened: {error.strerror}", hint="parbake needs to write there") from None
        try:
            logged = False
            while not _locked(descriptor):
                if not wait:
                    raise BusyError(
                        "another parbake is converging on this instance", hint="try again later, or leave out --no-wait"
                    )
                if stopping():
                    raise StopRequested("stopped while another parbake was converging; nothing was changed")
                if not logged:
                    log.warning("waiting for another parbake that is converging on this instance")
                    logged = True
                sleep(_LOCK_POLL_SECONDS)
            yield
        finally:
            os.close(descriptor)

    def archive_previous_instance(self) -> Path:
        """Move what an earlier instance left (generations, checkpoints, records) to `earlier-TIME`, and return that directory.

        Its run config is removed: it is of no use here and may hold that instance's secrets. Raises StateError.
        """
        state, now = self._paths.state, int(time.time())
        archive = next(path for n in count(now) if not (path := state / f"earlier-{n}").exists())
        try:
            secrets = (*state.glob("last-good.*"), *state.glob("mask-history.*"), *(state / "generations").glob("*.content"))
            for path in secrets:
                path.unlink()
            (archive / "ship").mkdir(mode=0o700, parents=True, exist_ok=True)
            # the directory itself belongs to the shipper and may be mounted into its sandbox
            for path in self._paths.ship.iterdir() if self._paths.ship.is_dir() else ():
                with suppress(FileNotFoundError):  # the shipper replaces its files
                    os.rename(path, archive / "ship" / path.name)
            names = {path.name for path in state.iterdir() if not path.name.startswith("earlier-")} - {"ship"}
            # the identity last: until it is gone, a run that is stopped in here begins again at the next start
            for name in sorted(names, key=lambda name: name == "instance"):
                os.rename(state / name, archive / name)
        except OSError as error:
            raise StateError(f"the state of an earlier instance in {state} cannot be archived: {error.strerror}") from None
        self.prepare()
        return archive


def _locked(descriptor: int) -> bool:
    """Take the lock if it is free."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
