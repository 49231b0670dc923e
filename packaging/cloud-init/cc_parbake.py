"""The cloud-init module `parbake`: its key in cloud-config becomes run-time settings of parbake.

    parbake:
      facts: {environment: prod}
      source: [{backend: consul, address: "http://10.0.0.9:8500", layers: [common]}]

The tables facts, source, sink and log may be set at run time, so these are written. All other keys below `parbake` are for
`[facts_from]` ("userdata:NAME"). The file is written at each boot, because /run does not survive one.

The module is at the top level of sys.path, where cloud-init 22.4 and 25.1 both find it. The first calls `handle` by
position with five arguments, the second by keyword with four.
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
    """Handle a call of cloud-init. Raises ValueError, which cloud-init reports, for a key that is not valid as settings."""
    named = {**dict(zip(("name", "cfg", "cloud", "log", "args"), args, strict=False)), **kwargs}
    key = named.get("cfg", {}).get("parbake")
    if key is None:
        LOG.debug("no key parbake, nothing to do")
        return
    if apply(key, Path(TARGET)):
        restart()


def apply(key: object, target: Path) -> bool:
    """Write the settings in the key, and return whether the file changed. A key without settings removes the file."""
    text = render(key)
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
        # The shipper reads its sinks from here, and is not root.
        os.chmod(name, 0o644)
        os.replace(name, target)
    except BaseException:
        os.unlink(name)
        raise
    return True


def restart() -> None:
    """Let running services of parbake read the settings. A service that starts later reads them anyway.

    The call does not wait: a unit may be ordered after cloud-init, which would then wait for itself.
    """
    if not Path("/run/systemd/system").is_dir():
        return
    command = ["systemctl", "--no-block", "try-reload-or-restart", "parbake.service", "parbake-ship.service"]
    subprocess.run(command, check=False, stdin=subprocess.DEVNULL, timeout=30)


def render(key: object) -> str:
    """Return the settings in the key as TOML, "" if it has no settings. Raises ValueError."""
    if not isinstance(key, Mapping):
        raise ValueError("parbake: expected a mapping")
    parts = [_table(f"[{name}]", key[name], f"parbake.{name}") for name in TABLES if name in key]
    for name in LISTS:
        items = key.get(name, [])
        if not isinstance(items, list):
            raise ValueError(f"parbake.{name}: expected a list of mappings")
        parts += [_table(f"[[{name}]]", item, f"parbake.{name}[{index}]") for index, item in enumerate(items)]
    return "\n".join(["# From cloud-init's key `parbake`. Written at each boot.", *parts]) if parts else ""


def _table(heading: str, table: object, key_path: str) -> str:
    if not isinstance(table, Mapping):
        raise ValueError(f"{key_path}: expected a mapping")
    lines = [
        f"{_text(str(name))} = {_value(value, f'{key_path}.{name}')}" for name, value in table.items() if value is not None
    ]
    return "\n".join([heading, *lines]) + "\n"


def _value(value: object, key_path: str) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (int, float)):
        return repr(value)
    if isinstance(value, str):
        return _text(value)
    if isinstance(value, list):
        return "[" + ", ".join(_value(item, key_path) for item in value) + "]"
    if isinstance(value, Mapping):
        inner = (f"{_text(str(key))} = {_value(item, f'{key_path}.{key}')}" for key, item in value.items() if item is not None)
        return "{" + ", ".join(inner) + "}"
    raise ValueError(f"{key_path}: found a {type(value).__name__}, which settings cannot contain")


def _text(text: str) -> str:
    # A JSON string is a TOML string, except for DEL and for a lone surrogate, which is not valid text.
    return json.dumps(text.encode("utf-8", "replace").decode(), ensure_ascii=False).replace("\x7f", "\\u007f")
