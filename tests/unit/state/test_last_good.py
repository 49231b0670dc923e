"""The last good run config where it cannot be sealed, and what may be in it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest

from agent.model import Facts, Layer, Snapshot
from agent.paths import Paths
from agent.secret import Secret
from agent.settings.models import Source as SourceSettings
from agent.sources import pull
from agent.state.last_good import LastGood
from agent.state.store import StateStore

LAYERS = ("common", "env/prod")
SECRETS = {"db": {"password": "x"}}


class Sealer:
    """Seals as long as it can."""

    def __init__(self) -> None:
        self.can, self.unavailable = True, False

    def seal(self, content: bytes) -> bytes | None:
        return b"sealed:" + content[::-1] if self.can else None

    def open(self, sealed: bytes) -> bytes:
        return sealed.removeprefix(b"sealed:")[::-1]


class Answers:
    options_class: ClassVar[type[Any]] = dict

    def __init__(self, snapshot: Snapshot) -> None:
        self._snapshot = snapshot

    def fetch(self, layers: Sequence[str]) -> Snapshot:
        return self._snapshot

    def close(self) -> None:
        return None


def snapshot(revision: str, prod: dict[str, Any] | None = SECRETS) -> Snapshot:
    return Snapshot((Layer("common", {"a": revision}), Layer("env/prod", prod)), revision)


def state_of(tmp_path: Path, sealer: Sealer, cache: str = "encrypted") -> StateStore:
    state = StateStore(Paths(tmp_path), cache)
    state.last_good._sealer = sealer  # type: ignore[assignment]
    state.prepare()
    return state


def names(tmp_path: Path) -> set[str]:
    return {path.name for path in Paths(tmp_path).state.glob("last-good*")}


def save(state: StateStore, revision: str, **options: Any) -> str | None:
    options = {"secret": True, **options}
    return state.last_good.save({"site": snapshot(revision)}, {"site": f"then {revision}"}, **options)


def pulled(good: LastGood) -> pull.Pulled:
    settings = SourceSettings(backend="file", name="site", layers=LAYERS)
    return pull.pull([(settings, Answers(snapshot("3", None)))], Facts(), {}, good, lambda: "now")


def test_a_layer_that_vanishes_is_not_believed_after_sealing_failed(tmp_path: Path) -> None:
    """The daemon keeps what it pulled in memory, so one time-out of systemd-creds does not end in an emptied config."""
    sealer = Sealer()
    state = state_of(tmp_path, sealer)
    assert save(state, "1") is None
    sealer.can = False
    assert "the earlier copy is kept" in str(save(state, "2"))
    found = pulled(state.last_good.load())
    assert found.implausible == {"site"}
    assert not found.missing
    assert dict(found.snapshots) == {"site": snapshot("2")}


def test_the_next_process_has_the_copy_that_was_sealed_earlier(tmp_path: Path) -> None:
    """An earlier good copy is better than none, and is shown with its own time."""
    sealer = Sealer()
    state = state_of(tmp_path, sealer)
    save(state, "1")
    sealer.can = False
    save(state, "2")
    good = state_of(tmp_path, sealer).last_good.load()
    assert dict(good.snapshots) == {"site": snapshot("1")}
    assert good.fetched["site"] == "then 1"
    assert pulled(good).implausible == {"site"}


def test_who_had_keys_is_known_where_nothing_could_ever_be_sealed(tmp_path: Path) -> None:
    """Without root or systemd-creds the index alone is kept: it holds no value, and a lying store is told by it."""
    sealer = Sealer()
    sealer.can = False
    assert "stays" not in str(save(state_of(tmp_path, sealer), "1"))
    assert names(tmp_path) == {"last-good.index"}
    assert "password" not in (Paths(tmp_path).state / "last-good.index").read_text()
    assert pulled(state_of(tmp_path, sealer).last_good.load()).implausible == {"site"}


def test_sealing_is_tried_again(tmp_path: Path) -> None:
    """The same content is sealed at the next save, and from then on the copy counts and not the memory."""
    sealer = Sealer()
    state = state_of(tmp_path, sealer)
    save(state, "1")
    sealer.can = False
    save(state, "2")
    sealer.can = True
    assert save(state, "2") is None
    assert dict(state_of(tmp_path, sealer).last_good.load().snapshots) == {"site": snapshot("2")}


def test_what_another_process_saved_since_is_newer_than_the_memory(tmp_path: Path) -> None:
    """`parbake once`, say, run by hand while the daemon runs."""
    sealer = Sealer()
    state = state_of(tmp_path, sealer)
    sealer.can = False
    save(state, "1")
    sealer.can = True
    save(state_of(tmp_path, sealer), "2")
    assert dict(state.last_good.load().snapshots) == {"site": snapshot("2")}


def test_a_plain_copy_does_not_stay_once_secrets_are_in_it(tmp_path: Path) -> None:
    """What was written before a key was declared secret holds that secret."""
    sealer = Sealer()
    state = state_of(tmp_path, sealer)
    assert save(state, "1", secret=False) is None
    assert "last-good.json" in names(tmp_path)
    sealer.can = False
    save(state, "1")
    assert names(tmp_path) == {"last-good.index"}


@pytest.mark.parametrize("value", [b"\xff\x00", Secret(b"\xff"), {"deep": [b"x", {"a": b"y"}]}])
def test_bytes_survive(value: Any, tmp_path: Path) -> None:
    """A source of one's own may give bytes: they come back as they were."""
    state = state_of(tmp_path, Sealer())
    kept = {"site": Snapshot((Layer("common", {"a": value}),), "1")}
    assert state.last_good.save(kept, {}, secret=False) is None
    (layer,) = state_of(tmp_path, Sealer()).last_good.load().snapshots["site"].layers
    assert layer.tree == {"a": value.reveal() if isinstance(value, Secret) else value}
