"""Generations on disk: for each, what changed and how the units took it, and the targets' content to go back to.

The record (NUMBER.json) holds names and digests only. The content (NUMBER.content) holds whatever the targets hold, so it
is kept under the same rule as the last good run config: sealed where a secret is in it, or not at all.
"""

from __future__ import annotations

import base64
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from agent.errors import StateError, UsageError
from agent.model import Change, ChangeKind, UnitAction, UnitOutcome, UnitResult
from agent.paths import Paths
from agent.state.sealing import Sealer
from agent.system.safe_files import read_target, write_atomic

_OF_A_TARGET = {"target", "mode", "uid", "gid", "sha256", "secret", "generation"}
PENDING, APPLIED, REJECTED, FAILED = "pending", "applied", "rejected", "failed"


@dataclass(frozen=True, slots=True)
class Generation:
    """One recorded state. `keys` are the run-config keys that changed since the one before, by name.

    `state`: pending while it is being committed, applied, rejected where it was taken back, failed where it did not come
    up and there was nothing to go back to.
    """

    number: int
    time: str
    cause: str
    digest: str
    state: str
    keys: tuple[str, ...] = ()
    targets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    units: tuple[Mapping[str, str], ...] = ()
    error: str | None = None


class Generations:
    """The last `keep` generations in the state directory."""

    def __init__(self, paths: Paths, keep: int, cache: str) -> None:
        self._directory = paths.state / "generations"
        self._keep = keep
        self._cache = cache
        self._sealer = Sealer(paths)

    def all(self) -> list[Generation]:
        """Oldest first. A damaged record is left out."""
        found = []
        for number in self._numbers():
            generation = _read(self._directory / f"{number:06}.json")
            if generation is not None:
                found.append(generation)
        return sorted(found, key=lambda generation: generation.number)

    def last(self) -> Generation | None:
        """The newest that is in effect: neither under way, nor taken back, nor one that never came up."""
        good = [generation for generation in self.all() if generation.state == APPLIED]
        return good[-1] if good else None

    def judge(self, number: int, state: str, units: Iterable[UnitResult] = (), error: str | None = None) -> None:
        """Say what became of a generation. Raises StateError."""
        for generation in self.all():
            if generation.number == number:
                results = units_of(units) or generation.units
                self.record(replace(generation, state=state, units=results, error=error))

    def forget(self, number: int | None = None) -> None:
        """Drop a generation that was recorded and never committed; with no number, every such one. Raises StateError."""
        for generation in self.all():
            if generation.state == PENDING and number in (None, generation.number):
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
        """Write a generation, with the content of all its targets where it may be kept. Raises StateError."""
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
        """The targets' content of a generation, by template. Raises UsageError where it was not kept, StateError where
        it cannot be opened."""
        path = self._directory / f"{number:06}.content"
        try:
            content = path.read_bytes()
        except OSError as error:
            if not isinstance(error, FileNotFoundError):
                raise StateError(f"generation {number} cannot be read: {error.strerror}") from None
            known = ", ".join(str(g.number) for g in self.all() if (self._directory / f"{g.number:06}.content").exists())
            raise UsageError(
                f"generation {number} has no kept content", hint=f"generations that can be gone back to: {known or 'none'}"
            ) from None
        if content.startswith(b'{"sealed"'):
            content = self._sealer.open(content)
        try:
            return {name: base64.b64decode(text) for name, text in json.loads(content).items()}
        except (ValueError, AttributeError) as error:
            raise StateError(f"generation {number} is damaged: {error}") from None

    def prune(self) -> None:
        """Drop what is more than is kept, and never the one to go back to. Call it once a generation's fate is known.

        Raises StateError.
        """
        last = self.last()
        for generation in self.all()[: -self._keep]:
            if last is None or generation.number != last.number:
                self.drop(generation.number)

    def drop(self, number: int) -> None:
        """Remove a generation's record, which needs no space on the disk. Raises StateError."""
        try:
            for suffix in ("content", "json"):
                (self._directory / f"{number:06}.{suffix}").unlink(missing_ok=True)
        except OSError as error:
            raise StateError(f"generation {number} cannot be removed: {error.strerror}") from None


def standing(paths: Paths, template: str, known: Mapping[str, Any]) -> Change | None:
    """A target of a record as it is on the disk, None where it was edited since. Raises ApplyError where it cannot be read."""
    now = read_target(paths, str(known["target"]))
    if now is None or now.content is None or hashlib.sha256(now.content).hexdigest() != known["sha256"]:
        return None
    mode, uid, gid = int(known["mode"], 8), int(known["uid"]), int(known["gid"])
    secret = bool(known["secret"])
    return Change(template, str(known["target"]), ChangeKind.UNCHANGED, "", mode, uid, gid, secret, now.content, now)


def targets_of(changes: Iterable[Change], number: int, earlier: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """What a generation's record says of its targets; `generation` is the one that last changed each."""
    return {
        change.template: {
            "target": change.target,
            "mode": f"{change.mode:04o}",
            "uid": change.uid,
            "gid": change.gid,
            "sha256": hashlib.sha256(change.content).hexdigest(),
            "secret": change.secret,
            "generation": number if change.pending else earlier.get(change.template, {}).get("generation", number),
        }
        for change in changes
    }


def units_of(results: Iterable[UnitResult]) -> tuple[dict[str, str], ...]:
    return tuple({"name": r.unit, "action": r.action, "result": r.result} for r in results)


def results_of(generation: Generation) -> tuple[UnitResult, ...]:
    """Return the results of the units in a record. Raises KeyError and ValueError if the record is damaged."""
    return tuple(UnitResult(u["name"], UnitAction(u["action"]), UnitOutcome(u["result"])) for u in generation.units)


def _read(path: Path) -> Generation | None:
    try:
        record = json.loads(path.read_bytes())
        known = {name: record[name] for name in Generation.__dataclass_fields__ if name in record}
        known["keys"], known["units"] = tuple(known.get("keys", ())), tuple(known.get("units", ()))
        if not all(target.keys() >= _OF_A_TARGET for target in known.get("targets", {}).values()):
            return None
        generation = Generation(**known)
        results_of(generation)
        return generation
    except (OSError, ValueError, TypeError, KeyError, AttributeError):
        return None
