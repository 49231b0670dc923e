"""A part handler of cloud-init: a part of the MIME type text/x-parbake is a file of run-time settings, in TOML.

It works where it is put: /var/lib/cloud/handlers/parbake_part.py of an image, or, with the line "#part-handler" in
front, as a part of the user-data itself before the parts that it is for. It is called at each boot, since /run does
not outlive one. parbake reads the file when it starts, and says there what is wrong with it.
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
    """cloud-init's question which parts are ours."""
    return [MIME_TYPE]


def handle_part(data: Any, ctype: str, filename: str, payload: str | bytes, frequency: str = "always", *_: Any) -> None:
    """cloud-init's call for each part, and for its beginning and end, which are no parts."""
    if ctype == MIME_TYPE:
        write(Path(DIRECTORY), filename, payload)


def write(directory: Path, filename: str, payload: str | bytes) -> Path:
    """The part as 60-NAME.toml, whole or not at all. The name is cut to what cannot leave the directory."""
    name = re.sub(r"[^A-Za-z0-9_-]+", "-", filename.rsplit("/", 1)[-1].removesuffix(".toml")).strip("-")[:64]
    directory.mkdir(parents=True, exist_ok=True)
    target = directory / f"60-{name or 'part'}.toml"
    # Not *.toml, so that half of it is never read.
    new = directory / f".{target.name}.new"
    new.write_bytes(payload if isinstance(payload, bytes) else payload.encode())
    os.chmod(new, 0o644)
    os.replace(new, target)
    return target
