"""Fixtures for all layers of tests: an image below a temporary root, and `parbake` run on it as a user runs it."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

REPOSITORY = Path(__file__).parent.parent
COMPONENT = '[component]\nname = "web"\nversion = "1"\n[discovery]\nproviders = []\n[facts]\nenvironment = "dev"\n'
SITE = '[[source]]\nname = "site"\nbackend = "file"\npath = "/site"\nlayers = ["common", "env/{{ facts.environment }}"]\n'


@dataclass(frozen=True)
class Ended:
    """The exit code and the output of a command."""

    code: int
    out: str
    err: str

    def json(self) -> Any:
        return json.loads(self.out)


@dataclass(frozen=True)
class Image:
    """A par-baked image below `root`."""

    root: Path

    def path(self, path: str) -> Path:
        return self.root / path.lstrip("/")

    def write(self, path: str, text: str | bytes) -> Path:
        real = self.path(path)
        real.parent.mkdir(parents=True, exist_ok=True)
        real.write_bytes(text.encode() if isinstance(text, str) else text)
        return real

    def settings(self, text: str = "", *, site: bool = True) -> None:
        """Write /etc/parbake/parbake.toml: a component, no discovery, one file source unless `site` is False, and `text`."""
        self.write("/etc/parbake/parbake.toml", COMPONENT + (SITE if site else "") + text)

    def template(self, name: str, text: str) -> None:
        self.write(f"/etc/parbake/templates/{name}", text)

    def site(self, layer: str, text: str) -> None:
        """Replace a layer of the file source atomically, as a careful operator does."""
        real = self.path(f"/site/{layer}.toml")
        real.parent.mkdir(parents=True, exist_ok=True)
        new = real.with_name(f".{real.name}.new")
        new.write_text(text, "utf-8")
        new.rename(real)

    def read(self, path: str) -> str:
        return self.path(path).read_text("utf-8")

    def status(self) -> dict[str, Any]:
        report: dict[str, Any] = json.loads(self.read("/run/parbake/status.json"))
        return report

    def command(self, *words: str) -> list[str]:
        return [sys.executable, "-m", "agent", "--root", str(self.root), *words]

    def start(self, *words: str, environment: Mapping[str, str] | None = None) -> subprocess.Popen[str]:
        """Start `parbake` in the background; the caller ends it."""
        return subprocess.Popen(
            self.command(*words),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
            env={**_environment(), **(environment or {})},
        )

    def run(self, *words: str, timeout: float = 60) -> Ended:
        """Run `parbake` to its end, for at most `timeout` seconds."""
        return ended(self.command(*words), timeout)

    def leftovers(self) -> list[str]:
        """Return candidates, kept old files and half-written state, relative to the root. An idle instance has none."""
        state = self.path("/var/lib/parbake")
        paths = [*self.root.rglob(".*.parbake-*"), *state.rglob(".*.new"), *state.glob("transaction*")]
        return sorted(str(path.relative_to(self.root)) for path in paths)


def _environment() -> dict[str, str]:
    # PYTHONDONTWRITEBYTECODE is left out: without bytecode each `parbake` compiles itself, a third of its run time.
    return {"PATH": os.environ.get("PATH", ""), "LANG": "C.UTF-8"}


def ended(command: Sequence[str], timeout: float = 60) -> Ended:
    """Run `command` to its end in the repository, with a clean environment, for at most `timeout` seconds."""
    ran = subprocess.run(
        command, capture_output=True, text=True, timeout=timeout, cwd=REPOSITORY, env=_environment(), check=False
    )
    return Ended(ran.returncode, ran.stdout, ran.stderr)


@pytest.fixture
def image(tmp_path: Path) -> Image:
    """An empty image; `settings`, `template` and `site` fill it."""
    root = tmp_path / "root"
    root.mkdir()
    return Image(root)
