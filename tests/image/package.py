"""Build the package from this tree, for the tests of the booted images."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from tests.image.lab.commands import call

TREE = Path(__file__).parents[2]


def built_package(directory: Path, tree: Path = TREE) -> Path:
    """Build the .deb of `tree` with packaging/build-deb.sh into `directory`. Raises LabError with its output."""
    printed = call([str(tree / "packaging/build-deb.sh"), str(directory)], timeout_seconds=120).stdout
    return Path(printed.strip())


def next_version(directory: Path, version: str) -> Path:
    """Copy the tree to `directory` as `version`, with one module more and one less."""
    for part in ("agent", "packaging", "systemd"):
        shutil.copytree(TREE / part, directory / part, ignore=shutil.ignore_patterns("__pycache__"))
    init = directory / "agent/__init__.py"
    init.write_text(re.sub(r'__version__ = ".*"', f'__version__ = "{version}"', init.read_text()))
    changelog = directory / "packaging/debian/changelog"
    entry = re.sub(r"\(.*?\)", f"({version})", changelog.read_text(), count=1)
    changelog.write_text(entry + "\n" + changelog.read_text())
    (directory / "agent/__main__.py").unlink()
    (directory / "agent/novelty.py").write_text('"""New in this version."""\n')
    return directory
