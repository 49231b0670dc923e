"""Generations on disk: for each, what changed, the results of its units, and the content of its targets.

The record (NUMBER.json) holds names and digests only. The content (NUMBER.content) holds the bytes of the targets, so it is
kept under the same rule as the last good run config: sealed if a secret is in it, or not at all.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from enum import StrEnum
from pathlib import Path
from typing import Any

from agent.errors import StateError, UsageError
from agent.model import Change, ChangeKind, UnitAction, UnitOutcome, UnitResult
from agent.paths import Paths
from agent.state.sealing import Sealer
from agent.system.safe_files import read_target, write_atomic

_TARGET_FIELDS = {"target", "mode", "uid", "gid", "sha256", "secret", "generation"}


class GenerationState(StrEnum):
    """What became of a generation, as `parbake history` shows it."""

    PENDING = "pending"
    """It is being committed."""
    APPLIED = "applied"
    REJECTED = "rejected"
    """It was rolled back."""
    FAILED = "failed"
    """Its units did not come up, and there was nothing to roll back to."""


@dataclass(frozen=True, slots=True)
class Generation:
    """One recorded state of run config and targets.

    `keys` names the run-config keys that changed since the generation before. `targets` maps a template to the fields that
    `targets_of` makes; `units` are mappings with name, action and result.
    """

    number: int
    time: str
    cause: str
    digest: str
    state: GenerationState
    keys: tuple[str, ...] = ()
    targets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    units: tuple[Mapping[str, str], ...] = ()
    error: str | None = None


class Generations:
    """The last `keep` generations in the state directory."""

    def __init__(self, paths: Paths, keep: int, cache: str, sealer: Sealer | None = None) -> None:
        self._directory = paths.state / "generations"
        self._keep = keep
        self._cache = cache
        self._sealer = sealer or Sealer(paths)

    def all(self) -> list[Generation]:
        """Return the generations, oldest first. A damaged record is left out."""
        records = (_read(self._directory / f"{number:06}.json") for number in self._numbers())
        return sorted((record for record in records if record is not None), key=lambda generation: generation.number)

    def last(self) -> Generation | None:
        """Return the newest generation that is applied, or None."""
        applied = [generation for generation in self.all() if generation.state == GenerationState.APPLIED]
        return applied[-1] if applied else None

    def set_state(
        self, number: int, state: GenerationState, units: Iterable[UnitResult] = (), error: str | None = None
    ) -> None:
        """Record what became of a generation. Without `units` the recorded results are kept. Raises StateError."""
        for generation in self.all():
            if generation.number == number:
                results = units_of(units) or generation.units
                self.record(replace(generation, state=state, units=results, error=error))

    def drop_pending(self) -> None:
        """Remove the generations that were recorded and never committed. Raises StateError."""
        for generation in self.all():
            if generation.state == GenerationState.PENDING:
                self.drop(generation.number)

    def next_number(self) -> int:
        return max(self._numbers(), default=0) + 1

    def _numbers(self) -> list[int]:
        try:
            names = [name.removesuffix(".json") for name in os.listdir(self._directory) if name.endswith(".json")]
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StateError(f"{self._directory} cannot be read: {error.strerror}") from None
        return sorted(int(name) for name in names if name.isdigit())

    def record(self, generation: Generation, changes: Iterable[Change] = ()) -> None:
        """Write a generation, with the content of all its targets if that may be kept. Raises StateError."""
        changes = list(changes)
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            if changes:
                self._write_content(generation.number, changes)
            record = json.dumps(asdict(generation), sort_keys=True).encode()
            write_atomic(self._directory / f"{generation.number:06}.json", record, 0o600)
        except OSError as error:
            raise StateError(
                f"generation {generation.number} cannot be recorded: {error.strerror}",
                hint=f"free space for {self._directory}, or let parbake write there",
            ) from None

    def _write_content(self, number: int, changes: list[Change]) -> None:
        if self._cache == "none":
            return
        content = json.dumps({c.template: base64.b64encode(c.content).decode("ascii") for c in changes}).encode()
        if any(c.secret for c in changes) and self._cache == "encrypted":
            sealed = self._sealer.seal(content)
            if sealed is None:
                return
            content = sealed
        write_atomic(self._directory / f"{number:06}.content", content, 0o600)

    def content(self, number: int) -> dict[str, bytes]:
        """Return the content of a generation's targets, by template.

        Raises UsageError if it was not kept, StateError if it cannot be opened.
        """
        path = self._directory / f"{number:06}.content"
        try:
            content = path.read_bytes()
        except OSError as error:
            if not isinstance(error, FileNotFoundError):
                raise StateError(f"generation {number} cannot be read: {error.strerror}") from None
            kept = ", ".join(str(g.number) for g in self.all() if (self._directory / f"{g.number:06}.content").exists())
            raise UsageError(
                f"the content of generation {number} was not kept",
                hint=f"generations that `parbake rollback` can apply: {kept or 'none'}",
            ) from None
        if content.startswith(b'{"sealed"'):
            content = self._sealer.open(content)
        try:
            return {name: base64.b64decode(text) for name, text in json.loads(content).items()}
        except (ValueError, AttributeError) as error:
            raise StateError(f"generation {number} is damaged: {error}") from None

    def prune(self) -> None:
        """Remove the oldest generations beyond the number to keep, but never the applied one.

        Call it once the state of the newest generation is final. Raises StateError.
        """
        last = self.last()
        for generation in self.all()[: -self._keep]:
            if last is None or generation.number != last.number:
                self.drop(generation.number)

    def drop(self, number: int) -> None:
        """Remove a generation. This needs no space on the disk. Raises StateError."""
        try:
            for suffix in ("content", "json"):
                (self._directory / f"{number:06}.{suffix}").unlink(missing_ok=True)
        except OSError as error:
            raise StateError(f"generation {number} cannot be removed: {error.strerror}") from None


def read_current(paths: Paths, template: str, recorded: Mapping[str, Any]) -> Change | None:
    """Return a recorded target as it is on the disk, or None if it was edited since. Raises ApplyError if it cannot be read."""
    current = read_target(paths, str(recorded["target"]))
    if current is None or current.content is None or hashlib.sha256(current.content).hexdigest() != recorded["sha256"]:
        return None
    mode, uid, gid = int(recorded["mode"], 8), int(recorded["uid"]), int(recorded["gid"])
    secret = bool(recorded["secret"])
    return Change(template, str(recorded["target"]), ChangeKind.UNCHANGED, "", mode, uid, gid, secret, current.content, current)


def targets_of(
    changes: Iterable[Change], number: int, previous: Mapping[str, Mapping[str, Any]], now: str
) -> dict[str, dict[str, Any]]:
    """Return the targets of a generation's record, by template.

    `generation` in it is the one that last changed the target, and `since` the time of that: no value that was retired before
    can be in the target. `now` is a time as `report.now` makes it.
    """
    return {
        change.template: {
            "target": change.target,
            "mode": f"{change.mode:04o}",
            "uid": change.uid,
            "gid": change.gid,
            "sha256": hashlib.sha256(change.content).hexdigest(),
            "secret": change.secret,
            "generation": number if change.pending else previous.get(change.template, {}).get("generation", number),
            "since": now if change.pending else previous.get(change.template, {}).get("since", ""),
        }
        for change in changes
    }


def units_of(results: Iterable[UnitResult]) -> tuple[dict[str, str], ...]:
    return tuple({"name": r.unit, "action": r.action, "result": r.result} for r in results)


def _read(path: Path) -> Generation | None:
    try:
        record = json.loads(path.read_bytes())
        fields = {name: record[name] for name in Generation.__dataclass_fields__ if name in record}
        fields["keys"], fields["units"] = tuple(fields.get("keys", ())), tuple(fields.get("units", ()))
        fields["state"] = GenerationState(fields["state"])
        for unit in fields["units"]:
            UnitAction(unit["action"]), UnitOutcome(unit["result"]), str(unit["name"])
        if not all(target.keys() >= _TARGET_FIELDS for target in fields.get("targets", {}).values()):
            return None
        return Generation(**fields)
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
