"""Groups whose new targets did not hold: remembered by what they were to hold, so that it is not tried again."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Collection, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

from agent.errors import RolledBack, UnhealthyAfterApply
from agent.model import Change
from agent.settings.models import Template
from agent.state.store import State

log = logging.getLogger("parbake.state")
RECORD = "rejected"
_AGAIN = ""


@dataclass(frozen=True, slots=True)
class Rejection:
    """`digest` is what is not tried again; empty where `parbake resume` asked for another try. `first`: there was nothing
    to go back to, so the targets are in place. `stopped` are the units that were stopped for it."""

    digest: str
    generation: int
    error: str
    first: bool = False
    stopped: tuple[str, ...] = ()

    @property
    def again(self) -> bool:
        return self.digest == _AGAIN


def load(state: State) -> dict[str, Rejection]:
    """By group. A damaged record counts as none, and costs a second try."""
    record = state.load(RECORD)
    try:
        return {name: _rejection(item) for name, item in record.get("groups", {}).items()}
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        log.warning("the record of what was rejected is damaged (%s); what it named may be tried again", error)
        return {}


def _rejection(item: Mapping[str, Any]) -> Rejection:
    stopped = tuple(str(unit) for unit in item["stopped"])
    return Rejection(str(item["digest"]), int(item["generation"]), str(item["error"]), bool(item["first"]), stopped)


def save(state: State, rejections: Mapping[str, Rejection]) -> None:
    """Raises StateError."""
    if rejections:
        state.save(RECORD, {"groups": {name: asdict(rejection) for name, rejection in rejections.items()}})
    else:
        state.remove(RECORD)


def forget(state: State, groups: Collection[str]) -> None:
    """Groups that hold something else now. Raises StateError."""
    known = load(state)
    left = {name: rejection for name, rejection in known.items() if name not in groups}
    if left != known:
        save(state, left)


def try_again(state: State) -> bool:
    """Let everything that was rejected be tried once more. Whether there was anything. Raises StateError."""
    known = load(state)
    if known:
        save(state, {name: replace(rejection, digest=_AGAIN) for name, rejection in known.items()})
    return bool(known)


def digest_of(templates: Iterable[Template], changes: Iterable[Change]) -> str:
    """What a group is to hold, and how it is judged: another content, check, unit or verify is another digest."""
    content = {change.template: hashlib.sha256(change.content).hexdigest() for change in changes}
    said = sorted(f"{template!r} {content[template.name]}" for template in templates if template.name in content)
    return hashlib.sha256("\n".join(said).encode("utf-8", "surrogatepass")).hexdigest()


def as_error(rejection: Rejection) -> UnhealthyAfterApply:
    """Why a group is left as it is."""
    kind = UnhealthyAfterApply if rejection.first else RolledBack
    return kind(rejection.error, hint=HINT)


HINT = "change the keys, and it converges by itself; `parbake resume` tries the same once more"
