"""Stopped at an inconvenient moment, and met by an inconvenient world at the next start: still all of a group or nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from agent.convergence import executor, journal, recovery, staging
from agent.convergence.phases import Phase
from agent.errors import RolledBack, StateError
from agent.state.records import Records
from agent.system.process import ProcessResult
from tests.conftest import Image
from tests.unit.convergence.test_converge import code_of, roll_back
from tests.unit.convergence.worlds import DOWN, STOPPED, UP, ScriptedPrograms, ScriptedUnits, World, world_of

PAIR = """
[units]
retries = 0
[[template]]
source = "a.j2"
target = "/etc/app/a"
check = ["check", "{candidate}"]
units = [{ name = "app.service", action = "restart" }]
verify = ["verify"]
verify_timeout = "100ms"
[[template]]
source = "b.j2"
target = "/srv/b"
"""


class Killed(BaseException):
    pass


def confirm_started(world: World) -> bool:
    return recovery.confirm_started(world.runtime, world.memory)


@pytest.fixture
def pair(image: Image) -> Image:
    """Two targets of one group, converged on "one"."""
    image.settings(PAIR)
    image.template("a.j2", "{{ config.v }} {{ config.x }}\n")
    image.template("b.j2", "{{ config.v }}\n")
    image.site("common", 'v = "one"\nx = 1\n')
    assert code_of(world_of(image)) == 0
    image.site("common", 'v = "two"\nx = 1\n')
    return image


def targets(image: Image) -> tuple[str, str]:
    return image.read("/etc/app/a").strip(), image.read("/srv/b").strip()


def refusing(program: str) -> ScriptedPrograms:
    return ScriptedPrograms(lambda argv: ProcessResult(1, "no") if argv[0] == program else ProcessResult(0, ""))


def stopped_in(
    monkeypatch: pytest.MonkeyPatch, where: object, name: str, at: Callable[..., bool], run: Callable[[], object]
) -> None:
    """Run until `at` holds for a call of `where.name`, and die there."""
    real = getattr(where, name)

    def dies(*args: object, **more: object) -> object:
        if at(*args):
            raise Killed
        return real(*args, **more)

    monkeypatch.setattr(where, name, dies)
    try:
        with pytest.raises(Killed):
            run()
    finally:
        monkeypatch.setattr(where, name, real)


def test_old_files_go_only_once_none_is_needed(pair: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed while the kept old files are removed, and `verify` fails at the next start: nothing goes back by half."""
    confirming = []

    def second(place: object, name: str) -> bool:
        record = pair.path("/var/lib/parbake/transaction")
        if name.endswith("parbake-old") and record.exists() and '"confirmed' in record.read_text():
            confirming.append(name)
        return len(confirming) == 2

    stopped_in(monkeypatch, staging, "_unlink", second, lambda: code_of(world_of(pair)))
    assert targets(pair) == ("two 1", "two")
    assert code_of(world_of(pair, run=refusing("verify"))) == 0
    assert targets(pair) == ("two 1", "two")
    assert pair.leftovers() == []


@pytest.mark.parametrize("refused", [True, False])
def test_what_waits_for_ready_is_not_forgotten_for_the_next_change(pair: Image, refused: bool) -> None:
    """A generation that waits for READY to be verified, then another one before READY: where the unit does not start, both
    go back, to what was there before the first."""
    units = ScriptedUnits(lambda step: UP if targets(pair)[0].startswith("one") else DOWN)
    units.states["app.service"] = STOPPED
    assert code_of(world_of(pair, units), before_ready=True) == 0
    assert targets(pair) == ("two 1", "two")
    pair.site("common", 'v = "two"\nx = 2\n')
    world = world_of(pair, units, refusing("check") if refused else None)
    assert code_of(world, before_ready=True) == (65 if refused else 0)
    assert targets(pair) == ("two 1" if refused else "two 2", "two")
    units.states["app.service"] = DOWN
    with pytest.raises(RolledBack):
        confirm_started(world_of(pair, units))
    assert targets(pair) == ("one 1", "one")
    assert units.states["app.service"] == UP
    assert [g.state for g in world.generations.all()] == ["applied", *["rejected"] * (1 if refused else 2)]
    assert pair.leftovers() == []


def test_a_journal_that_cannot_be_read_stops_everything(pair: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between two renames, and a disk that does not give the journal back once: it is not taken for none."""
    renamed = []

    def second(source: object, *_: object) -> bool:
        renamed.extend([source] if str(source).endswith("parbake-new") else [])
        return len(renamed) == 2

    stopped_in(monkeypatch, os, "rename", second, lambda: code_of(world_of(pair)))
    read = Path.read_bytes

    def broken(path: Path) -> bytes:
        if path.name == "transaction":
            raise OSError(5, "Input/output error")
        return read(path)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "read_bytes", broken)
        assert code_of(world_of(pair)) == StateError.exit_code
    pair.site("common", 'v = "two"\n')  # x is missing now: what comes next is no help
    assert code_of(world_of(pair)) == 65
    assert targets(pair) == ("two 1", "two")


def test_a_candidate_that_vanishes_takes_its_group_along(pair: Image) -> None:
    """A check that tidies up removes what it was given: nothing of the group is replaced, and it is said which file."""

    def tidies(argv: tuple[str, ...]) -> ProcessResult:
        if argv[0] == "check":
            Path(argv[1]).unlink()
        return ProcessResult(0, "")

    world = world_of(pair, run=ScriptedPrograms(tidies))  # type: ignore[arg-type]
    assert code_of(world) == 74
    assert targets(pair) == ("one 1", "one")
    assert code_of(world_of(pair)) == 0
    assert targets(pair) == ("two 1", "two")


def test_what_a_resumed_verify_prints_is_withheld_where_its_secrets_are_unknown(
    pair: Image, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Promise 5: a daemon that knows an earlier secret finishes what `parbake once` was killed in with a later one."""
    pair.write("/etc/parbake/conf.d/keys.toml", "[keys.v]\nsecret = true\n")
    programs = ScriptedPrograms()
    daemon = world_of(pair, run=programs)
    assert code_of(daemon) == 0
    pair.site("common", 'v = "a-later-secret"\nx = 1\n')
    stopped_in(monkeypatch, executor, "verify_and_confirm", lambda *_: True, lambda: code_of(world_of(pair)))
    programs.answer = lambda argv: ProcessResult(1, "denied: a-later-secret") if argv[0] == "verify" else ProcessResult(0, "")
    code_of(daemon)
    rejected = pair.read("/var/lib/parbake/rejected")
    assert "withheld" in rejected
    assert "a-later-secret" not in rejected + str(daemon.report)


@pytest.mark.parametrize("program", ["verify", "restart"])
def test_a_stop_is_no_judgement(pair: Image, program: str) -> None:
    """SIGTERM while a service warms up, or its job runs: what was cut short is neither confirmed nor taken back, and the
    next start goes on with it."""
    units = ScriptedUnits(lambda step: UP)
    programs = ScriptedPrograms()
    world = world_of(pair, units, programs)

    def stop() -> ProcessResult:
        world.runtime.stop.set()
        return ProcessResult(None, "killed")

    if program == "verify":
        programs.answer = lambda argv: stop() if argv[0] == "verify" else ProcessResult(0, "")
    else:
        units.outcome = lambda step: stop().output
    assert code_of(world) == 0
    assert targets(pair) == ("two 1", "two")
    assert pair.path("/var/lib/parbake/transaction").exists()
    again = ScriptedUnits()
    assert code_of(world_of(pair, again)) == 0
    assert again.acted == ([] if program == "verify" else [("app.service", "restart")])
    assert pair.leftovers() == []


def test_a_clone_that_is_stopped_while_it_forgets_forgets_all_the_same(image: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed anywhere in setting another instance's state aside: the next start still knows that it is another instance,
    and has nothing of the first to fall back to."""
    image.settings('[state]\ncache = "plain"\n[[template]]\nsource = "a.j2"\ntarget = "/etc/app/a"\n')
    image.template("a.j2", "{{ config.v }}\n")

    def begin(instance: str) -> World:
        image.write("/etc/machine-id", f"{instance}\n")
        return world_of(image)

    for count in range(20):
        image.site("common", 'v = "of-the-first"\n')
        assert code_of(begin("1" * 32)) == 0
        image.path("/site/common.toml").unlink()
        seen: list[object] = []

        def nth(source: object, *_: object, count: int = count, seen: list[object] = seen) -> bool:
            seen.append(source)
            return len(seen) == count + 1

        try:
            stopped_in(monkeypatch, os, "rename", nth, lambda count=count: code_of(begin(f"{count + 2:032x}")))  # type: ignore[misc]
        except pytest.fail.Exception:
            assert count >= 3, "nothing was set aside"
            return
        assert code_of(begin(f"{count + 2:032x}")) == 69
    pytest.fail("it never came to an end")


def test_a_check_of_the_group_runs_whichever_of_its_files_changed(image: Image) -> None:
    """Promise 2: every `check` passed: also that of a template that stays as it is and names the one that changes."""
    image.settings(
        '[[template]]\nsource = "cert.j2"\ntarget = "/etc/app/cert"\n'
        '[[template]]\nsource = "cfg.j2"\ntarget = "/etc/app/cfg"\ncheck = ["check", "{candidate}", "{candidate:cert}"]\n'
    )
    image.template("cert.j2", "{{ config.cert }}\n")
    image.template("cfg.j2", "{{ config.cfg }}\n")
    image.site("common", 'cert = "1"\ncfg = "1"\n')
    assert code_of(world_of(image)) == 0
    image.site("common", 'cert = "broken"\ncfg = "1"\n')
    programs = refusing("check")
    assert code_of(world_of(image, run=programs)) == 65
    cfg, cert = image.path("/etc/app/cfg"), image.path("/etc/app/.cert.parbake-new")
    assert programs.ran == [("check", str(cfg), str(cert))]
    assert image.read("/etc/app/cert") == "1\n"
    image.site("common", 'cert = "2"\ncfg = "2"\n')
    assert code_of(world_of(image)) == 0
    image.site("common", 'cert = "2"\ncfg = "3"\n')
    assert code_of(world_of(image)) == 0
    programs = ScriptedPrograms()
    roll_back(world_of(image, run=programs), None)
    assert programs.ran == [("check", str(image.path("/etc/app/.cfg.parbake-new")), str(image.path("/etc/app/cert")))]


def test_a_damaged_record_counts_as_none(pair: Image) -> None:
    """Bad state may cost the memory of the past, never the ability to converge."""
    record = pair.path("/var/lib/parbake/generations/000001.json")
    record.write_text(record.read_text().replace('"sha256"', '"sha255"'))
    world = world_of(pair)
    assert code_of(world) == 0
    assert targets(pair) == ("two 1", "two")


def test_the_journal_keeps_what_it_is_given(pair: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a start reads back is what was written, to the last field."""
    written = []
    save, enter = journal.save, journal.enter

    def keeps(records: Records, record: journal.Transaction) -> None:
        save(records, record)
        assert journal.load(records) == record
        written.append(record)

    def enters(records: Records, record: journal.Transaction, phase: Phase, **changes: Any) -> journal.Transaction:
        entered = enter(records, record, phase, **changes)
        assert journal.load(records) == entered
        written.append(entered)
        return entered

    monkeypatch.setattr(journal, "save", keeps)
    monkeypatch.setattr(journal, "enter", enters)
    assert code_of(world_of(pair)) == 0
    assert len(written) >= 3
