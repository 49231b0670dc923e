"""What is pulled, believed and remembered: INTERFACE section 8, promise 4, and a state directory that was damaged."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import SourceDenied, SourceInvalid, SourceUnreachable, StateError
from agent.model import Facts, Layer, RunConfig, Snapshot
from agent.paths import Paths
from agent.runconfig.digest import digest
from agent.secret import Secret
from agent.settings.models import Source as SourceSettings
from agent.sources import pull
from agent.sources.pull import Pulled
from agent.state.last_good import LastGood
from agent.state.store import StateStore

FACTS = Facts({"environment": "dev"})
LAYERS = ("common", "env/{{ facts.environment }}")
FILLED = ("common", "env/dev")


class Scripted:
    """A source that answers, or fails, as it is told."""

    options_class: ClassVar[type[Any]] = dict

    def __init__(self, answer: Snapshot | Exception) -> None:
        self._answer = answer
        self.asked: list[tuple[str, ...]] = []

    def fetch(self, layers: Sequence[str]) -> Snapshot:
        self.asked.append(tuple(layers))
        if isinstance(self._answer, Exception):
            raise self._answer
        return self._answer

    def close(self) -> None:
        return None


def snapshot(*trees: dict[str, Any] | None) -> Snapshot:
    return Snapshot(tuple(Layer(name, tree) for name, tree in zip(FILLED, trees, strict=True)), "r1")


def remembered(*trees: dict[str, Any] | None) -> LastGood:
    kept = {"site": snapshot(*trees)}
    had = frozenset(name for name, tree in zip(FILLED, trees, strict=True) if tree)
    return LastGood({"site": had}, {"site": "2026-01-01T00:00:00Z"}, lambda: kept)


def pulled(answer: Snapshot | Exception, good: LastGood | None = None, facts: Facts = FACTS, **options: Any) -> Pulled:
    settings = SourceSettings(**{"backend": "file", "name": "site", "layers": LAYERS, **options})
    return pull.pull([(settings, Scripted(answer))], facts, {"component": "web"}, good or LastGood(), lambda: "now")


GOOD = snapshot({"a": 1}, {"b": 2})
LIES: dict[str, Snapshot | Exception] = {
    "unreachable": SourceUnreachable("no route"),
    "denied": SourceDenied("403"),
    "rubbish": SourceInvalid("<html>"),
    "nothing": snapshot(None, None),
    "empty": snapshot({}, {}),
    "empty tables": snapshot({"a": {}}, {"b": {"c": {}}}),
    "one layer lost": snapshot({"a": 1}, None),
    "one layer emptied": snapshot({"a": 1}, {}),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_lying_source_never_empties_a_config(lie: str) -> None:
    """Promise 4: what fails, answers with nothing where it had keys, or with rubbish, leaves the last good one in use."""
    found = pulled(LIES[lie], remembered({"a": 1}, {"b": 2}))
    assert dict(found.snapshots) == {"site": GOOD}
    assert (found.stale, found.missing, found.fresh) == (True, (), frozenset())
    (said,) = found.reports
    assert (said.state, said.fetched) == ("stale", "2026-01-01T00:00:00Z")
    assert said.error


@pytest.mark.parametrize("lie", ["unreachable", "denied", "rubbish", "nothing"])
@pytest.mark.parametrize("required", [True, False])
def test_with_nothing_to_fall_back_to(lie: str, required: bool) -> None:
    """INTERFACE 3: without a required source there is no run config; a boot goes on without one that is not."""
    found = pulled(LIES[lie], required=required)
    if required:
        assert "site (file)" in found.missing[0]
    elif lie == "nothing":
        assert found.fresh == {"site"}
    else:
        assert (found.missing, found.snapshots, found.reports[0].state) == ((), (), "absent")


def test_allow_empty_believes() -> None:
    """INTERFACE 3: allow_empty = true believes a layer that had keys and has none now."""
    assert pulled(snapshot({"a": 1}, {}), remembered({"a": 1}, {"b": 2}), allow_empty=True).fresh == {"site"}


def test_a_layer_that_never_had_keys_may_have_none() -> None:
    """INTERFACE 3: a layer that the store does not have is empty: an instance rarely has one of its own."""
    assert pulled(snapshot({"a": 1}, None), remembered({"a": 1}, None)).fresh == {"site"}
    assert pulled(snapshot({"a": 1}, None)).fresh == {"site"}


def test_another_environment_s_config_is_never_used() -> None:
    """The last good run config of other layers is not this instance's: an image moved to prod does not boot on dev's."""
    found = pulled(SourceUnreachable("down"), remembered({"a": 1}, {"b": 2}), Facts({"environment": "prod"}))
    assert found.missing
    assert found.snapshots == ()


def test_a_missing_fact_names_itself() -> None:
    """A layer whose fact is missing is not asked for with a hole in its path."""
    found = pulled(GOOD, facts=Facts({}))
    assert "facts.environment" in found.missing[0]


# -- the state directory


@pytest.fixture
def paths(tmp_path: Path) -> Paths:
    return Paths(tmp_path)


def state_of(paths: Paths, cache: str = "plain") -> StateStore:
    state = StateStore(paths, cache)
    state.prepare()
    return state


def test_the_last_good_run_config_survives(paths: Paths) -> None:
    """Rebooted with the store down it comes up on the last good run config."""
    trees = {"a": {"b": [1, "x", None, 1.5, True]}, "é": "ü"}
    kept = {"site": Snapshot((Layer("common", trees, "7"), Layer("other", None)), "r")}
    assert state_of(paths).last_good.save(kept, {"site": "then"}, secret=False) is None
    good = state_of(paths).last_good.load()
    assert dict(good.snapshots) == kept
    assert (good.had["site"], good.fetched["site"]) == (frozenset({"common"}), "then")


@pytest.mark.parametrize("cache", ["plain", "none"])
def test_how_it_is_kept(paths: Paths, cache: str) -> None:
    """Settings [state] cache: plain keeps it 0600, none keeps nothing at all."""
    state = state_of(paths, cache)
    state.last_good.save({"site": GOOD}, {}, secret=True)
    files = list(paths.state.glob("last-good*"))
    assert bool(files) is (cache == "plain")
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in files)
    assert bool(state_of(paths, cache).last_good.load().snapshots) is (cache == "plain")


RECORDS = [
    "last-good.json",
    "last-good.index",
    "transaction",
    "mask-history.index",
    "mask-history.json",
    "rejected",
    "hold",
    "instance",
    "digest.key",
]
DAMAGE = [b"", b"{", b"[]", b"null", b'{"sources": 5}', b'{"site": 5}', b"\xff\xfe", b'{"site": {"layers": [{}]}}', b"0" * 100]


@pytest.mark.parametrize("content", DAMAGE, ids=repr)
@pytest.mark.parametrize("name", RECORDS)
def test_damaged_state_is_set_aside(paths: Paths, name: str, content: bytes) -> None:
    """Damaged state may cost the memory of the past, never the ability to converge."""
    from agent.convergence import journal

    state = state_of(paths)
    state.last_good.save({"site": GOOD}, {"site": "then"}, secret=False)
    (paths.state / name).write_bytes(content)
    found = state_of(paths)
    good = found.last_good.load()
    assert dict(good.snapshots) in ({}, {"site": GOOD})
    assert journal.load(found.records) is None
    for record in ("rejected", "hold", "instance"):
        assert isinstance(found.records.load(record), dict)
    digest(RunConfig({}, {}), {}, {}, found.records.digest_key())
    found.last_good.save({"site": GOOD}, {"site": "then"}, secret=False)
    assert dict(state_of(paths).last_good.load().snapshots) == {"site": GOOD}


@given(st.text(min_size=1), st.text(min_size=1))
def test_digests_tell_secrets_apart_and_give_none_away(one: str, two: str) -> None:
    """A digest changes when a secret does, is the same otherwise, and is keyed: another instance's says nothing."""
    import tempfile

    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        here, there = state_of(Paths(Path(first))), state_of(Paths(Path(second)))

        def digest_of(state: StateStore, value: str) -> str:
            return digest(RunConfig({"pw": Secret(value)}, {}), {}, {}, state.records.digest_key())

        assert (digest_of(here, one) == digest_of(here, two)) is (one == two)
        assert digest_of(here, one) != digest_of(there, one)


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a link in place of the lock is root's to refuse")
def test_a_link_in_place_of_the_lock(paths: Paths) -> None:
    """The lock is not opened through a symlink that somebody put there."""
    state = state_of(paths)
    (paths.run / "lock").symlink_to(paths.root / "victim")
    with pytest.raises(StateError), state.lock():
        raise AssertionError
    assert not (paths.root / "victim").exists()


def test_another_instance_s_state_is_set_aside(paths: Paths) -> None:
    """An image captured from a running instance starts afresh: its secrets are removed, and its history is set aside."""
    state = state_of(paths)
    state.last_good.save({"site": GOOD}, {}, secret=False)
    (paths.state / "generations" / "000001.content").write_text("secret")
    (paths.state / "generations" / "000001.json").write_text("{}")
    aside = state.archive_previous_instance()
    assert state.last_good.load().snapshots == {}
    assert not list(paths.state.rglob("*.content"))
    assert not list(aside.rglob("last-good.json"))
    assert (aside / "generations" / "000001.json").exists()
