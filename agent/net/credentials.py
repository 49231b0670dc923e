"""Credentials by reference: a file below the root, or a systemd credential. They are never in the settings or cached."""

from __future__ import annotations

import os
from pathlib import Path

from agent.errors import ParbakeError, SourceDenied
from agent.paths import Paths
from agent.secret import Secret

MAX_BYTES = 1 << 20
_PREFIX = "credential:"


def resolve_path(reference: str, paths: Paths, denied: type[ParbakeError] = SourceDenied) -> Path:
    """Return the file of a reference: a path of the settings, or `credential:NAME` for $CREDENTIALS_DIRECTORY/NAME.

    Raises `denied` if NAME is not a file name, or $CREDENTIALS_DIRECTORY is not set. See systemd.exec(5).
    """
    if not reference.startswith(_PREFIX):
        return paths.host(reference)
    name = reference.removeprefix(_PREFIX)
    if not name or "/" in name or name in (".", ".."):
        raise denied(f'"{reference}" is not a valid credential reference', hint='write it as "credential:NAME"')
    directory = os.environ.get("CREDENTIALS_DIRECTORY", "")
    if not directory:
        raise denied(
            f'"{reference}" cannot be read: $CREDENTIALS_DIRECTORY is not set',
            hint=f"add LoadCredential={name}:FILE to the unit, or set the option to the path of the file",
        )
    return Path(directory) / name


def read_secret(reference: str, paths: Paths, denied: type[ParbakeError] = SourceDenied) -> Secret:
    """Return the text of a reference, without the line end that editors add. Read it at each use: credentials are rotated.

    Raises `denied` (for a sink SinkDenied) if the file cannot be read, is empty, is over 1 MiB, or is not UTF-8.
    """
    path = resolve_path(reference, paths, denied)
    try:
        with path.open("rb") as file:
            content = file.read(MAX_BYTES + 1)
    except OSError as error:
        raise denied(
            f"the credential {reference} cannot be read: {error.strerror or type(error).__name__}",
            hint=f"put it at {path} and let only root read it",
        ) from None
    if len(content) > MAX_BYTES:
        raise denied(f"the credential {reference} is larger than 1 MiB: it is not a password or token")
    try:
        text = content.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        raise denied(f"the credential {reference} is not UTF-8 text") from None
    if not text:
        raise denied(f"the credential {reference} is empty", hint=f"write the secret to {path}")
    return Secret(text)
