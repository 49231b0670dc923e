"""Pulling all sources: what a plug-in raises or returns costs its own source, and neither the others nor the convergence."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, ClassVar

import pytest

from agent.errors import SourceInvalid, SourceUnreachable
from agent.model import Facts, Layer, Snapshot, SourceState
from agent.settings.models import Source as SourceSettings
from agent.sources import Source, containment
from agent.sources.pull import Pulled, pull
from agent.state.last_good import LastGood

SECRET = "s3cret-of-the-store"
GOOD = Snapshot((Layer("common", {"name": "x"}, "1"),), "1")


class PlugIn:
    """A source whose fetch calls a function with the layers."""

    options_class: ClassVar[type[object]] = object

    def __init__(self, fetch: Callable[[Sequence[str]], Any]) -> None:
        self._fetch = fetch
        self.fetches = 0

    def fetch(self, layers: Sequence[str]) -> Snapshot:
        self.fetches += 1
        result: Snapshot = self._fetch(layers)
        return result

    def close(self) -> None:
        return None


def raising(error: BaseException) -> PlugIn:
    def fetch(layers: Sequence[str]) -> Snapshot:
        raise error

    return PlugIn(fetch)


def returning(answer: Any) -> PlugIn:
    return PlugIn(lambda layers: answer)


def settings(name: str, *, required: bool = True) -> SourceSettings:
    return SourceSettings(name=name, backend="plugin:Source", layers=("common",), required=required)


def pulled(*sources: tuple[str, PlugIn], good: LastGood | None = None, stopping: threading.Event | None = None) -> Pulled:
    pairs: list[tuple[SourceSettings, Source[object]]] = [(settings(name), source) for name, source in sources]
    return pull(pairs, Facts(), {}, good or LastGood(), lambda: "now", stopping=stopping)


def states(result: Pulled) -> dict[str, str]:
    return {report.name: report.state for report in result.reports}


class FromLibrary(Exception):
    """An exception of a library that a plug-in uses."""


def deep(layers: Sequence[str]) -> Snapshot:
    return deep(layers)


@pytest.mark.parametrize(
    "error",
    [KeyError(SECRET), RuntimeError(SECRET), FromLibrary(SECRET), MemoryError(SECRET), SystemExit(SECRET), RecursionError()],
    ids=lambda error: type(error).__name__,
)
def test_an_unexpected_error_costs_its_own_source_only(error: BaseException, caplog: pytest.LogCaptureFixture) -> None:
    """The source counts as unreachable; the message has the error's type and code line, and never its text."""
    caplog.set_level(logging.DEBUG, logger="parbake.sources")
    broken = PlugIn(deep) if isinstance(error, RecursionError) else raising(error)
    name = f"broken-{type(error).__name__}"
    for _ in range(3):
        result = pulled(("before", returning(GOOD)), (name, broken), ("after", returning(GOOD)))
    assert states(result) == {"before": "ok", name: "failed", "after": "ok"}
    assert result.fresh == {"before", "after"}
    (line,) = result.missing
    assert f"{type(error).__name__} at " in line and "test_pull.py:" in line
    assert SECRET not in line
    tracebacks = [record for record in caplog.records if "traceback of" in record.getMessage()]
    assert [record.levelno for record in tracebacks] == [logging.DEBUG]
    assert 'test_pull.py", line ' in tracebacks[0].getMessage()
    assert SECRET not in caplog.text


def test_an_unexpected_error_with_a_last_good_snapshot_is_stale() -> None:
    """A config that worked once stays, as with any unavailable store."""
    good = LastGood({"site": frozenset({"common"})}, {"site": "then"}, lambda: {"site": GOOD})
    result = pulled(("site", raising(KeyError(SECRET))), good=good)
    assert result.snapshots == (("site", GOOD),)
    assert result.missing == ()
    (report,) = result.reports
    assert (report.state, report.fetched) == (SourceState.STALE, "then")


def test_a_keyboard_interrupt_is_no_error_of_a_source() -> None:
    """Whoever presses Ctrl-C means parbake."""
    with pytest.raises(KeyboardInterrupt):
        pulled(("site", raising(KeyboardInterrupt())))


class Unlike:
    """Something that looks like a snapshot and is not one."""

    layers = GOOD.layers
    revision = "1"


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (None, "returned NoneType, which is not a Snapshot"),
        ({"name": SECRET}, "returned dict, which is not a Snapshot"),
        (Unlike(), "returned Unlike, which is not a Snapshot"),
        (Snapshot(("common",)), "not of type Layer"),  # type: ignore[arg-type]
        (Snapshot(()), "the layers [], and was asked for ['common']"),
        (Snapshot((Layer("other", {"name": SECRET}),)), "the layers ['other'], and was asked for ['common']"),
        (Snapshot((*GOOD.layers, Layer("more", {}))), "the layers ['common', 'more'], and was asked for ['common']"),
        (Snapshot((*GOOD.layers, *GOOD.layers)), "the layers ['common', 'common'], and was asked for ['common']"),
        (Snapshot((Layer("common", [SECRET]),)), 'layer "common" is a list'),  # type: ignore[arg-type]
        (Snapshot((Layer("common", {1: SECRET}),)), 'layer "common": a key is a int'),  # type: ignore[dict-item]
        (Snapshot((Layer("common", {"a": {"b": {SECRET}}}),)), 'layer "common": a: b is a set'),
        (Snapshot((Layer("common", {"a": [object()]}),)), 'layer "common": a is a object'),
    ],
)
def test_an_answer_that_is_no_snapshot_of_the_layers_is_invalid(answer: Any, message: str) -> None:
    """It never reaches the merge, and the message has no value of it."""
    with pytest.raises(SourceInvalid) as caught:
        containment.fetch(returning(answer), "site", ["common"])
    assert message in str(caught.value)
    assert SECRET not in str(caught.value)
    assert states(pulled(("site", returning(answer)), ("other", returning(GOOD)))) == {"site": "failed", "other": "ok"}


class Adding(PlugIn):
    added_layers: ClassVar[tuple[str, ...]] = ("services",)


def test_layers_that_a_source_announces_may_follow_those_asked_for() -> None:
    """`added_layers` names them; they come last, and each at most once."""
    more = Layer("services", {"services": {}})
    snapshot = Snapshot((*GOOD.layers, more))
    assert containment.fetch(Adding(lambda layers: snapshot), "site", ["common"]) is snapshot
    for layers in ((more, *GOOD.layers), (*GOOD.layers, more, more)):
        wrong = Snapshot(layers)
        with pytest.raises(SourceInvalid):
            containment.fetch(Adding(partial(lambda answer, layers: answer, wrong)), "site", ["common"])


def test_once_stopped_no_further_source_is_asked() -> None:
    """The sources before the stop have their answers; the remaining ones are reported as unreachable."""
    stopping = threading.Event()

    def stop(layers: Sequence[str]) -> Snapshot:
        stopping.set()
        return GOOD

    never = returning(GOOD)
    result = pulled(("first", PlugIn(stop)), ("second", never), ("third", never), stopping=stopping)
    assert states(result) == {"first": "ok", "second": "failed", "third": "failed"}
    assert never.fetches == 0
    assert [line.partition(": ")[2] for line in result.missing] == ["stopped before it was asked"] * 2


def test_a_fetch_that_is_stopped_is_unreachable() -> None:
    """A source that is stopped in its fetch keeps its last good snapshot."""
    good = LastGood({}, {}, lambda: {"site": GOOD})
    result = pulled(("site", raising(SourceUnreachable("the store: stopped"))), good=good)
    assert states(result) == {"site": "stale"}
