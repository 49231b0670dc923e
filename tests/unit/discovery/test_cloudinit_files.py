"""The files that the package gives to cloud-init: the module cc_parbake, the part handler, and enable-module."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
import tomllib
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

FILES = Path(__file__).resolve().parents[3] / "packaging/cloud-init"
BOOKWORM = ["migrator", "seed_random", "bootcmd", "write-files", "growpart", "ssh"]


def load(name: str) -> ModuleType:
    loader = SourceFileLoader(name, str(FILES / f"{name}.py"))
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


module: Any = load("cc_parbake")
part: Any = load("parbake_part")

GIVEN: dict[str, Any] = {
    "environment": "prod",
    "facts": {"role": 'a "quoted" \\ name', "slot": 7},
    "source": [{"backend": "consul", "address": "http://10.0.0.9:8500", "layers": ["common", "x"], "required": False}],
    "sink": [{"type": "loki", "labels": {"a-b": "c"}, "nothing": None}],
    "log": {"level": "debug"},
}
SETTINGS = {
    "facts": {"role": 'a "quoted" \\ name', "slot": 7},
    "source": [{"backend": "consul", "address": "http://10.0.0.9:8500", "layers": ["common", "x"], "required": False}],
    "sink": [{"type": "loki", "labels": {"a-b": "c"}}],
    "log": {"level": "debug"},
}


def test_the_key_becomes_settings(tmp_path: Path) -> None:
    """Facts, sources, sinks and log of the key are the run-time settings; all other keys are left to [facts_from]."""
    target = tmp_path / "conf.d/50-cloud-init.toml"
    assert module.apply(GIVEN, target) is True
    assert tomllib.loads(target.read_text()) == SETTINGS
    assert target.stat().st_mode & 0o777 == 0o644
    assert [path.name for path in target.parent.iterdir()] == [target.name]


def test_nothing_new_is_not_written(tmp_path: Path) -> None:
    """An unchanged key changes nothing, and a key without settings removes the file of an earlier one."""
    target = tmp_path / "50-cloud-init.toml"
    assert module.apply(GIVEN, target) is True
    assert module.apply(GIVEN, target) is False
    assert module.apply({"environment": "prod"}, target) is True
    assert not target.exists()
    assert module.apply({}, target) is False


@pytest.mark.parametrize(
    "given_key", ["text", ["a"], {"facts": "x"}, {"source": {"backend": "x"}}, {"sink": ["x"]}, {"facts": {"a": b"x"}}]
)
def test_a_key_that_is_no_settings_is_reported(given_key: Any, tmp_path: Path) -> None:
    """The error names the key, cloud-init reports it, and nothing is written."""
    with pytest.raises(ValueError, match="parbake"):
        module.apply(given_key, tmp_path / "x.toml")
    assert list(tmp_path.iterdir()) == []


@given(
    table=st.dictionaries(
        st.text(max_size=8),
        st.recursive(
            st.booleans() | st.integers(-(2**62), 2**62) | st.text(st.characters(exclude_categories=["Cs"]), max_size=12),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=4), inner, max_size=3),
            max_leaves=6,
        ),
        max_size=4,
    )
)
def test_what_is_written_is_what_was_given(table: dict[str, Any]) -> None:
    """Any keys and values come back from the TOML as they were."""
    assert tomllib.loads(module.render({"facts": table}))["facts"] == table


def test_both_ways_of_calling() -> None:
    """22.4 calls by position with five arguments, 25.1 by keyword with four; without the key both do nothing."""
    module.handle("parbake", {}, object(), object(), [])
    module.handle(name="parbake", cfg={}, cloud=object(), args=[])
    with pytest.raises(ValueError, match="expected a mapping"):
        module.handle("parbake", {"parbake": "text"}, object(), object(), [])
    with pytest.raises(ValueError, match="expected a mapping"):
        module.handle(name="parbake", cfg={"parbake": "text"}, cloud=object(), args=[])


def test_what_cloud_init_asks_of_a_module() -> None:
    """The meta that 22.4 and 25.1 need, the key that activates it, and at each boot, since /run is new then."""
    assert {"id", "name", "title", "description", "distros", "frequency", "examples"} <= set(module.meta)
    assert module.meta["activate_by_schema_keys"] == ["parbake"]
    assert module.meta["frequency"] == "always"
    assert part.frequency == "always"


@pytest.mark.parametrize(
    ("filename", "name"),
    [
        ("site.toml", "60-site.toml"),
        ("../../etc/passwd", "60-passwd.toml"),
        ("/abs/x y.toml", "60-x-y.toml"),
        ("..", "60-part.toml"),
        ("", "60-part.toml"),
        ("a" * 300, f"60-{'a' * 64}.toml"),
        ("ü\n.toml", "60-part.toml"),
    ],
)
def test_a_part_becomes_a_file_in_its_directory(filename: str, name: str, tmp_path: Path) -> None:
    """Whatever a part is called, its file is in the directory that parbake reads, whole, and nothing else is."""
    directory = tmp_path / "conf.d"
    part.write(directory, filename, '[facts]\nrole = "web"\n')
    assert [path.name for path in directory.iterdir()] == [name]
    assert (directory / name).read_bytes() == b'[facts]\nrole = "web"\n'
    assert not (tmp_path / "etc").exists()


def test_other_parts_are_not_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only its own MIME type is written; the calls for the beginning and the end are no parts."""
    monkeypatch.setattr(part, "DIRECTORY", str(tmp_path / "conf.d"))
    assert part.list_types() == ["text/x-parbake"]
    for ctype in ("__begin__", "__end__", "text/cloud-config"):
        part.handle_part(None, ctype, "x", "y", "always")
    assert not (tmp_path / "conf.d").exists()
    part.handle_part(None, "text/x-parbake", "site.toml", b"[facts]\n", "always", {})
    assert (tmp_path / "conf.d/60-site.toml").read_bytes() == b"[facts]\n"


def enable(root: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(FILES / "enable-module"), "--root", str(root)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)


def test_the_module_is_enabled_after_write_files(tmp_path: Path) -> None:
    """The list of the release is repeated with the module in it, and a second run changes nothing."""
    (tmp_path / "etc/cloud/cloud.cfg.d").mkdir(parents=True)
    (tmp_path / "etc/cloud/cloud.cfg").write_text(yaml.safe_dump({"cloud_init_modules": [*BOOKWORM, "parbake"]}))
    for _ in range(2):
        done = enable(tmp_path)
        assert done.returncode == 0, done.stderr
        written = yaml.safe_load((tmp_path / "etc/cloud/cloud.cfg.d/95_parbake.cfg").read_text())
        assert written == {"cloud_init_modules": [*BOOKWORM[:4], ["parbake", "always"], *BOOKWORM[4:]]}


def test_enabling_fails_without_cloud_init(tmp_path: Path) -> None:
    """An image without cloud-init is named, and nothing is written."""
    done = enable(tmp_path)
    assert done.returncode != 0
    assert "install cloud-init there first" in done.stderr
    assert list(tmp_path.iterdir()) == []
