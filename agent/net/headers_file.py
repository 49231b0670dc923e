"""Reads the file that `headers_file` of a source or sink names: HTTP headers, one `Name: value` per line."""

from __future__ import annotations

import re

from agent.errors import ParbakeError
from agent.net.credentials import read_secret
from agent.paths import Paths
from agent.secret import Secret

_NAME = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+")
_HINT = "write one header per line, as `Name: value`"


def read_headers(reference: str, paths: Paths, denied: type[ParbakeError]) -> dict[str, Secret]:
    """Read the headers from a file or `credential:NAME`. The values are secrets.

    Raises `denied` if the file cannot be read or a line is not a header. The message names the line and not its text.
    """
    headers: dict[str, Secret] = {}
    for number, line in enumerate(read_secret(reference, paths, denied).text().splitlines(), 1):
        if not line.strip():
            continue
        name, colon, value = line.partition(":")
        if not colon or not _NAME.fullmatch(name.strip()):
            raise denied(f"headers_file {reference}: line {number} is not `Name: value`", hint=_HINT)
        headers[name.strip()] = Secret(value.strip())
    return headers
