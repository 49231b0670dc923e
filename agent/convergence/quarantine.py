"""Groups whose new targets did not hold. Each is remembered by what it was to hold, so that it is not tried again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from agent.errors import RolledBack, UnhealthyAfterApply
from agent.model import Change
from agent.settings.models import Template
from agent.state.records import Records

log = logging.getLogger("parbake.state")
RECORD = "rejected"
HINT = "change the keys, and it converges by itself; `parbake resume` tries the same once more"
_RETRY = ""


@dataclass(frozen=True, slots=True)
class Rejection:
    """Why a group is left as it is.

    `digest` identifies what is not tried again; it is empty after `parbake resume` asked for another try. `first`: there was
    nothing to roll back to, so the targets are in place. `stopped` are the units that were stopped for it.
    """

    digest: str
    generation: int
    error: str
    first: bool = False
    stopped: tuple[str, ...] = ()

    @property
    def retry(self) -> bool:
        """Whether `parbake resume` asked for another try."""
        return self.digest == _RETRY


def load(records: Records) -> dict[str, Rejection]:
    """Return the rejections by group. A damaged record costs a second try of what it named."""
    record = records.load(RECORD)
    try:
        return {group: _parse(item) for group, item in record.get("groups", {}).items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        log.warning("the record of rejected groups is damaged (%s); a group in it may be tried again", error)
        return {}


def _parse(item: Mapping[str, Any]) -> Rejection:
    stopped = tuple(str(unit) for unit in item["stopped"])
    return Rejection(str(item["digest"]), int(item["generation"]), str(item["error"]), bool(item["first"]), stopped)


def save(records: Records, rejections: Mapping[str, Rejection]) -> None:
    """Raises StateError."""
    if rejections:
        records.save(RECORD, {"groups": {group: asdict(rejection) for group, rejection in rejections.items()}})
    else:
        records.remove(RECORD)


def remove(records: Records, groups: Collection[str]) -> None:
    """Remove the rejections of groups that hold something else now. Raises StateError."""
    rejections = load(records)
    remaining = {group: rejection for group, rejection in rejections.items() if group not in groups}
    if remaining != rejections:
        save(records, remaining)


def allow_retry(records: Records) -> bool:
    """Let every rejected group be tried once more. Returns whether there was one. Raises StateError."""
    rejections = load(records)
    if rejections:
        save(records, {group: replace(rejection, digest=_RETRY) for group, rejection in rejections.items()})
    return bool(rejections)


def digest_of(templates: Iterable[Template], changes: Iterable[Change]) -> str:
    """Return a digest of what a group is to hold and how it is judged: another content, check, unit or verify is another.

    It is made of what the user wrote: a setting at its default does not enter it. So an upgrade of parbake that adds a
    setting, or changes a default, lets no rejected group loose.
    """
    content = {change.template: hashlib.sha256(change.content).hexdigest() for change in changes}
    entries = [
        [template.name, _written(template), content[template.name]] for template in templates if template.name in content
    ]
    canonical = json.dumps(sorted(entries, key=lambda entry: entry[0]), sort_keys=True, default=str)
    return hashlib.sha256(canonical.encode("utf-8", "surrogatepass")).hexdigest()


def _written(value: Any) -> Any:
    """Return the settings that are not at their default, as plain values."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {
            field.name: _written(getattr(value, field.name))
            for field in dataclasses.fields(value)
            if getattr(value, field.name) != _default(field)
        }
    if isinstance(value, Mapping):
        return {str(key): _written(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_written(item) for item in value]
    return value


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def as_error(rejection: Rejection) -> UnhealthyAfterApply:
    """Return the error of a group that is left as it is."""
    kind = UnhealthyAfterApply if rejection.first else RolledBack
    return kind(rejection.error, hint=HINT)
