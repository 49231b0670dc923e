"""The cloud-init module `parbake`: its key in cloud-config becomes run-time settings of parbake.

    parbake:
      facts: {environment: prod}
      source: [{backend: consul, address: "http://10.0.0.9:8500", layers: [common]}]

Only what may be set at run time is taken: facts, source, sink and log. Whatever else is below the key is there for
`[facts_from]` ("userdata:NAME"). The file is written anew at each boot, since /run does not outlive one.

A module at the top level of sys.path, which cloud-init 22.4 and 25.1 both find; the first calls `handle` by position
with five arguments, the second by keyword with four.
"""

from __future__ import annotations

import json
import logging
import os
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

LOG = logging.getLogger(__name__)
TARGET = "/run/parbake/conf.d/50-cloud-init.toml"
TABLES = ("facts", "log")
LISTS = ("source", "sink")

meta = {
    "id": "cc_parbake",
    "name": "parbake",
    "title": "Give parbake its run-time settings",
    "description": "Writes facts, sources and sinks of the key `parbake` to " + TARGET,
    "distros": ["all"],
    "frequency": "always",
    "examples": ["parbake:\n  facts:\n    environment: prod\n"],
    "activate_by_schema_keys": ["parbake"],
}


def handle(*args: Any, **kwargs: Any) -> None:
    """cloud-init's entry. Raises ValueError, which cloud-init reports, for a key that is no settings."""
    named = {**dict(zip(("name", "cfg", "cloud", "log", "args"), args, strict=False)), **kwargs}
    given = named.get("cfg", {}).get("parbake")
    if given is None:
        LOG.debug("no key parbake, nothing to do")
        return
    if apply(given, Path(TARGET)):
        restart()


def apply(given: Any, target: Path) -> bool:
    """Write the settings; whether the file changed. A key without settings removes what an earlier one left."""
    text = render(given)
    before = target.read_text("utf-8") if target.is_file() else ""
    if text == before:
        return False
    if not text:
        target.unlink()
        return True
    target.parent.mkdir(parents=True, exist_ok=True)
    descriptor, name = tempfile.mkstemp(dir=target.parent, prefix=".parbake-")
    try:
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(text)
        # The shipper, which is not root, reads its sinks from here.
        os.chmod(name, 0o644)
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise
    return True


def restart() -> None:
    """Have a parbake that runs already take the settings up; one that is yet to start reads them anyway.

    Without waiting: the unit may be ordered after cloud-init, which would then wait for itself.
    """
    if not Path("/run/systemd/system").is_dir():
        return
    command = ["systemctl", "--no-block", "try-reload-or-restart", "parbake.service", "parbake-ship.service"]
    subprocess.run(command, check=False, stdin=subprocess.DEVNULL, timeout=30)


def render(given: Any) -> str:
    """The settings as TOML, "" where there are none. Raises ValueError."""
    if not isinstance(given, Mapping):
        raise ValueError("parbake: expected a mapping")
    parts = [_table(f"[{name}]", given[name], f"parbake.{name}") for name in TABLES if name in given]
    for name in LISTS:
        items = given.get(name, [])
        if not isinstance(items, list):
            raise ValueError(f"parbake.{name}: expected a list of mappings")
        parts += [_table(f"[[{name}]]", item, f"parbake.{name}[{index}]") for index, item in enumerate(items)]
    return "\n".join(["# From cloud-init's key `parbake`; written anew at each boot.", *parts]) if parts else ""


def _table(heading: str, table: Any, where: str) -> str:
    if not isinstance(table, Mapping):
        raise ValueError(f"{where}: expected a mapping")
    lines = [f"{_text(str(key))} = {_value(value, f'{where}.{key}')}" for key, value in table.items() if value is not None]
    return "\n".join([heading, *lines]) + "\n"


def _value(value: Any, where: str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, list):
        return "[" + ", ".join(_value(item, where) for item in value) + "]"
    if isinstance(value, Mapping):
        inner = (f"{_text(str(key))} = {_value(item, f'{where}.{key}')}" for key, item in value.items() if item is not None)
        return "{" + ", ".join(inner) + "}"
    raise ValueError(f"{where}: found a {type(value).__name__}, which settings cannot hold")


def _text(text: str) -> str:
    # JSON's string is a TOML string but for DEL, and for half a pair of surrogates, which is no text at all.
    return json.dumps(text.encode("utf-8", "replace").decode(), ensure_ascii=False).replace("\x7f", "\\u007f")
