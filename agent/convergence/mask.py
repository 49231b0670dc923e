"""The mask file: written before any target, so that the shipper masks a secret before a service can log it."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from contextlib import suppress

from agent.convergence.context import Memory, Runtime
from agent.errors import ContractError, StateError
from agent.masking.mask_file import read_mask_file, write_mask_file
from agent.model import RunConfig
from agent.runconfig import contract, merge
from agent.state.generations import Generation
from agent.status import shipper

log = logging.getLogger("parbake.converge")


def write_mask(runtime: Runtime, memory: Memory, config: RunConfig) -> None:
    """Write every text to mask: the secrets of the run config, and those that were rotated out lately.

    Raises StateError if the mask file cannot be written.
    """
    if not runtime.settings.sinks:
        return
    path = runtime.paths.mask
    published: tuple[str, ...] = ()
    with suppress(OSError, ValueError):  # a damaged file is replaced
        published = read_mask_file(path) or ()
    kept = runtime.state.generations.all()
    now = _now(kept)
    expired = _expiry(runtime, memory, kept, now)
    texts, problem = runtime.state.mask_history.update(config.secret_texts(), published, now, expired)
    if problem and problem != memory.last_logged_mask_problem:
        log.warning("secrets that are rotated out are masked until the next reboot only: %s", problem)
    memory.last_logged_mask_problem = problem or ""
    try:
        write_mask_file(path, texts)
    except OSError as error:
        raise StateError(
            f"{path} cannot be written: {error.strerror}",
            hint="nothing was replaced: without the file the shipper would not know what to mask",
        ) from None


def update_mask_from_valid_keys(runtime: Runtime, memory: Memory) -> None:
    """Write the mask from the keys that keep a broken contract: the services that run on the earlier generation log too."""
    if memory.pulled is None:
        return
    try:
        write_mask(runtime, memory, contract.valid_subset(merge.merge(memory.pulled.snapshots), runtime.settings.keys))
    except (StateError, ContractError) as error:
        log.error("%s", error)


def _expiry(runtime: Runtime, memory: Memory, kept: Sequence[Generation], now: float) -> Callable[[float], bool]:
    """Return whether a text that was retired at a time (seconds since 1970) may appear in shipped lines unmasked.

    It may once `[ship] mask_for` has passed, every sink has shipped what was logged until then, and no target of a kept
    generation is older: a group that waits or was rolled back still has it, and `parbake rollback` could apply it again.
    """
    keep_seconds = runtime.settings.ship.mask_for
    shipped_until = _shipped_until(runtime)
    targets = (target for generation in kept for target in generation.targets.values())
    oldest_target = min((_seconds_of(str(target.get("since", ""))) for target in targets if target["secret"]), default=now)
    held = memory.report.hold is not None

    def expired(retired_at: float) -> bool:
        return not held and retired_at + keep_seconds < now and retired_at < min(shipped_until, oldest_target)

    return expired


def _now(kept: Sequence[Generation]) -> float:
    """Return the time, in seconds since 1970. A clock that is not set yet at boot is at least at the newest generation."""
    newest = max((_seconds_of(generation.time) for generation in kept), default=0.0)
    return max(time.time(), newest)


def _shipped_until(runtime: Runtime) -> float:
    """Return the time, in seconds since 1970, up to which every configured sink has acknowledged all entries."""
    try:
        status = shipper.read(runtime.paths.ship / "status.json")
    except (OSError, ValueError):
        return 0.0
    if status is None:
        return 0.0
    rows = [status.sinks.get(sink.name) for sink in runtime.settings.sinks]
    if not all(row and (row["state"] == shipper.SinkState.OK or row["lag_seconds"] > 0) for row in rows):
        return 0.0
    return status.time - max((row["lag_seconds"] for row in rows if row), default=0.0)


def _seconds_of(text: str) -> float:
    """Return a generation's time in seconds since 1970. Returns 0 for a text that is not a time."""
    from datetime import datetime

    try:
        return datetime.fromisoformat(text).timestamp()
    except ValueError:
        return 0.0
