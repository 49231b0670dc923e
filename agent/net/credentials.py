"""Credentials by reference: a file below the root, or a systemd credential. Never from the settings, never kept."""

from __future__ import annotations

import os
from pathlib import Path

from agent.errors import ParbakeError, SourceDenied
from agent.paths import Paths
from agent.secret import Secret

MAX_BYTES = 1 << 20
_PREFIX = "credential:"


def resolve_path(reference: str, paths: Paths, denied: type[ParbakeError] = SourceDenied) -> Path:
    """The file behind a reference: a path of the settings, or `credential:NAME`, which is $CREDENTIALS_DIRECTORY/NAME.

    Raises `denied` for a credential where there is no $CREDENTIALS_DIRECTORY, or a name that is none.
    """
    if not reference.startswith(_PREFIX):
        return paths.host(reference)
    name = reference.removeprefix(_PREFIX)
    if not name or "/" in name or name in (".", ".."):
        raise denied(f'"{reference}" names no credential', hint='write it as "credential:NAME"')
    directory = os.environ.get("CREDENTIALS_DIRECTORY", "")
    if not directory:
        raise denied(
            f'"{reference}" cannot be read: there is no $CREDENTIALS_DIRECTORY',
            hint=f"give the unit LoadCredential={name}:FILE, or name the file itself",
        )
    return Path(directory) / name


def read_secret(reference: str, paths: Paths, denied: type[ParbakeError] = SourceDenied) -> Secret:
    """The text behind a reference, without the line end that editors add. Read it again at each use: it is rotated.

    Raises `denied` (a sink gives SinkDenied) where it cannot be read, is empty, is over 1 MiB, or is not UTF-8.
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
        raise denied(f"the credential {reference} is larger than 1 MiB; that is no password or token")
    try:
        text = content.decode("utf-8").rstrip("\r\n")
    except UnicodeDecodeError:
        raise denied(f"the credential {reference} is not UTF-8 text") from None
    if not text:
        raise denied(f"the credential {reference} is empty", hint=f"write the secret to {path}")
    return Secret(text)
