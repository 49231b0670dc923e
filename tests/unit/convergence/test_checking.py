"""Checks across groups: a check may name any candidate of the same convergence, and what is committed was checked."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from agent.system.process import ProcessResult
from tests.conftest import Image
from tests.unit.convergence.test_converge import code_of
from tests.unit.convergence.worlds import ScriptedPrograms, world_of

SETTINGS = """
[[template]]
source = "cfg.j2"
target = "/etc/app/cfg"
group_name = "edge"
check = ["pair", "{candidate}", "{candidate:cert}"]
[[template]]
source = "cert.j2"
target = "/etc/app/cert"
group_name = "tls"
check = ["alone", "{candidate}"]
[[template]]
source = "free.j2"
target = "/etc/app/free"
group_name = "free"
"""


class Checks:
    """A check of a pair that refuses files of different versions, and one of a file that refuses a "bad" one."""

    def __init__(self) -> None:
        self.pairs: list[tuple[str, str]] = []

    def __call__(self, argv: Sequence[str]) -> ProcessResult:
        texts = [Path(path).read_text().strip() if Path(path).exists() else "absent" for path in argv[1:]]
        if argv[0] == "alone":
            return ProcessResult(1 if "bad" in texts[0] else 0, "")
        self.pairs.append((texts[0], texts[1]))
        return ProcessResult(0 if texts[0].split()[0] == texts[1].split()[0] else 1, f"{texts[0]} and {texts[1]}")


@pytest.fixture
def pair(image: Image) -> Image:
    image.settings(SETTINGS)
    for name in ("cfg", "cert", "free"):
        image.template(f"{name}.j2", f"{{{{ config.{name} }}}}\n")
    return image


def write(image: Image, cfg: str, cert: str, free: str = "x") -> None:
    image.site("common", f'cfg = "{cfg}"\ncert = "{cert}"\nfree = "{free}"\n')


def targets(image: Image) -> tuple[str, str, str]:
    names = ("cfg", "cert", "free")
    paths = [image.path(f"/etc/app/{name}") for name in names]
    cfg, cert, free = (path.read_text().strip() if path.exists() else "" for path in paths)
    return cfg, cert, free


def test_a_fresh_root_converges_at_once(pair: Image) -> None:
    """A check that names a candidate of another group finds it, also before that group's first generation."""
    checks = Checks()
    write(pair, "1", "1")
    assert code_of(world_of(pair, run=ScriptedPrograms(checks))) == 0
    assert targets(pair) == ("1", "1", "x")
    assert checks.pairs == [("1", "1")]


def test_a_check_sees_the_pair_that_will_be_there(pair: Image) -> None:
    """Both groups change: the check never sees the new file of one with the old file of the other."""
    checks = Checks()
    write(pair, "1", "1")
    assert code_of(world_of(pair, run=ScriptedPrograms(checks))) == 0
    write(pair, "2", "2")
    assert code_of(world_of(pair, run=ScriptedPrograms(checks))) == 0
    assert checks.pairs == [("1", "1"), ("2", "2")]
    assert targets(pair) == ("2", "2", "x")


def test_a_refused_group_takes_its_candidate_out_of_the_others_checks(pair: Image) -> None:
    """The certificate is refused by its own check, so the config is checked with the certificate that stays in use."""
    checks = Checks()
    write(pair, "1", "1")
    assert code_of(world_of(pair, run=ScriptedPrograms(checks))) == 0
    write(pair, "2", "2 bad", "y")
    assert code_of(world_of(pair, run=ScriptedPrograms(checks))) == 65
    assert targets(pair) == ("1", "1", "y")
    assert ("2", "1") in checks.pairs
    write(pair, "1 more", "1 bad", "z")
    assert code_of(world_of(pair, run=ScriptedPrograms(checks))) == 65
    assert targets(pair) == ("1 more", "1", "z"), "the config fits the certificate that stays, and is replaced"
    assert pair.leftovers() == []


def test_a_file_that_breaks_an_unchanged_one_of_another_group_is_refused(pair: Image) -> None:
    """The certificate changes alone and does not fit the config in use: the config's check refuses it."""
    checks = Checks()
    write(pair, "1", "1")
    assert code_of(world_of(pair, run=ScriptedPrograms(checks))) == 0
    write(pair, "1", "2", "y")
    world = world_of(pair, run=ScriptedPrograms(checks))
    assert code_of(world) == 65
    assert targets(pair) == ("1", "1", "y")
    assert "template cfg" in str(world.report.error)
    states = {row["name"]: row["state"] for row in world.report.templates}
    assert states == {"cfg": "current", "cert": "waiting", "free": "current"}


def test_a_group_that_waits_for_its_keys_stops_no_other(pair: Image) -> None:
    """The config cannot be rendered yet and was never in place: there is no pair to check, and the certificate comes."""
    pair.template("cfg.j2", "{{ config.cfg }} {{ config.later }}\n")
    write(pair, "1", "1")
    checks = Checks()
    assert code_of(world_of(pair, run=ScriptedPrograms(checks))) == 65
    assert targets(pair) == ("", "1", "x")
    assert checks.pairs == []


def test_a_check_with_the_same_arguments_runs_once(pair: Image) -> None:
    """A convergence with a refused group does not run the other checks again for nothing."""
    programs = ScriptedPrograms(Checks())
    write(pair, "1", "1 bad", "x")
    assert code_of(world_of(pair, run=programs)) == 65
    assert len(programs.ran) == len(set(programs.ran))
