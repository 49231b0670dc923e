"""Discovery imports nothing for absent files and platforms. `bench/discovery.py` measures its time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = """
import json, sys
from pathlib import Path
from agent.paths import Paths
from agent.settings.models import Component, Settings
settings = Settings(component=Component(name="web"))
before = set(sys.modules)
from agent.discovery.engine import discover
facts = discover(settings, Paths(Path(sys.argv[1])))
print(json.dumps({"modules": sorted(set(sys.modules) - before), "facts": dict(facts.values)}))
"""
NOT_NEEDED = {"requests", "urllib3", "http.client", "ssl", "email.message", "yaml", "_yaml", "jinja2", "tenacity", "subprocess"}


def test_nothing_is_imported_for_what_is_not_there(tmp_path: Path) -> None:
    """No HTTP client, YAML parser or subprocess is loaded if no platform and no file needs it."""
    (tmp_path / "etc").mkdir()
    (tmp_path / "etc/hostname").write_text("web-1\n")
    repository = Path(__file__).resolve().parents[3]
    # Compiled modules, as the package ships them.
    environment = {**os.environ, "PYTHONPYCACHEPREFIX": str(tmp_path / "cache"), "PYTHONDONTWRITEBYTECODE": ""}
    command = [sys.executable, "-c", SCRIPT, str(tmp_path)]
    result = json.loads(subprocess.run(command, capture_output=True, cwd=repository, env=environment, check=True).stdout)
    assert result["facts"] == {"hostname": "web-1"}
    assert NOT_NEEDED & set(result["modules"]) == set()
    assert not any(name.startswith("agent.discovery.clouds.") for name in result["modules"])
