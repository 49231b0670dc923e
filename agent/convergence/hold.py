"""The hold of `parbake rollback`: while there is one, no other generation is applied."""

from __future__ import annotations

from agent.state.records import Records

RECORD = "hold"


def held_generation(records: Records) -> int | None:
    """Return the number of the held generation, or None. Raises StateError."""
    number = records.load(RECORD).get("generation")
    return number if isinstance(number, int) else None


def hold_generation(records: Records, number: int) -> None:
    """Hold a generation until `parbake resume`. Raises StateError."""
    records.save(RECORD, {"generation": number})


def hold_text(number: int) -> str:
    """Return how status.json reports the hold."""
    return f"held at generation {number} by `parbake rollback`; `parbake resume` ends it"


def release_hold(records: Records) -> None:
    """Raises StateError."""
    records.remove(RECORD)
