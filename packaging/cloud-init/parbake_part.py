"""A part handler of cloud-init: a part of the MIME type text/x-parbake is a file of run-time settings, in TOML.

Install it as /var/lib/cloud/handlers/parbake_part.py of an image. Or put it into the user-data itself, with the line
"#part-handler" in front, before the parts that it handles. It is called at each boot, because /run does not survive one.
parbake reads the file when it starts, and reports errors in it then.
"""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any

MIME_TYPE = "text/x-parbake"
DIRECTORY = "/run/parbake/conf.d"

handler_version = 2
frequency = "always"


def list_types() -> list[str]:
    """Return the MIME types that this handler handles."""
    return [MIME_TYPE]


def handle_part(data: Any, ctype: str, filename: str, payload: str | bytes, frequency: str = "always", *_: Any) -> None:
    """Handle a part. cloud-init also calls this at the beginning and the end, with another type."""
    if ctype == MIME_TYPE:
        write(Path(DIRECTORY), filename, payload)


def write(directory: Path, filename: str, payload: str | bytes) -> Path:
    """Write a part as 60-NAME.toml, whole or not at all, and return the path. The name cannot lead out of the directory."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", filename.rsplit("/", 1)[-1].removesuffix(".toml")).strip("-")[:64]
    directory.mkdir(parents=True, exist_ok=True)
    target = directory / f"60-{name or 'part'}.toml"
    # Not *.toml, so that an incomplete file is never read.
    temporary = directory / f".{target.name}.new"
    temporary.write_bytes(payload if isinstance(payload, bytes) else payload.encode())
    os.chmod(temporary, 0o644)
    os.replace(temporary, target)
    return target
