"""Real cloud-init, Debian 12's and 13's, loads and calls the files that the package has for it."""

from __future__ import annotations

import json
import os
import subprocess
import tomllib
from pathlib import Path

import pytest

from tests.image.lab.commands import LabError
from tests.integration.discovery.test_cloudinit_agrees import DEBIAN_PYTHON, cloud_init

FILES = Path(__file__).resolve().parents[3] / "packaging/cloud-init"
LOADING = Path(__file__).with_name("loading.py")


@pytest.mark.parametrize("suite", ["bookworm", "trixie"])
def test_the_module_and_the_part_handler_are_found_and_called(suite: str, tmp_path: Path) -> None:
    """cloud-init runs the module without a failure, and gives parbake's part to the handler at each boot."""
    try:
        modules = cloud_init(suite)
    except LabError as error:
        pytest.skip(f"{suite}'s cloud-init is unavailable: {error}")
    done = subprocess.run(
        [DEBIAN_PYTHON, str(LOADING), str(FILES), str(tmp_path)],
        env={"PYTHONPATH": str(modules), "PATH": os.environ["PATH"], "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["ran"], result["failures"]) == (["parbake"], [])
    assert {name: tomllib.loads(text) for name, text in result["written"].items()} == {
        "50-cloud-init.toml": {"facts": {"role": "web"}},
        "60-site.toml": {"facts": {"rack": "r1"}},
    }
