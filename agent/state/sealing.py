"""Values at rest: encrypted for this machine by systemd-creds(1), so that a copied disk or a backup reveals no secret.

systemd-creds takes 1 MiB at a time; longer content is compressed and sealed in pieces. The plain text passes through pipes
only, never through an argument or a file.
"""

from __future__ import annotations

import json
import os
import zlib
from collections.abc import Callable
from pathlib import Path

from agent.errors import StateError
from agent.paths import Paths
from agent.system import process

_PIECE_BYTES = 900_000
_OUTPUT_BYTES = 4 * 1024 * 1024
_TIMEOUT_SECONDS = 30.0
_NAME = "parbake"


class Sealer:
    """Seals and opens bytes. With --root the key is below the root too, so that the host's key is never made or used."""

    def __init__(self, paths: Paths, cancelled: Callable[[], bool] = lambda: False) -> None:
        self.unavailable = False
        """Whether systemd-creds could not be run to its end, so that its answer says nothing about the content."""
        self._cancelled = cancelled
        self._environment = {"PATH": process.PATH, "LANG": "C.UTF-8"}
        self._key_directory: Path | None = None
        if not paths.is_host:
            secret = paths.host("/var/lib/systemd/credential.secret")
            self._environment["SYSTEMD_CREDENTIAL_SECRET"] = str(secret)
            self._key_directory = secret.parent

    def seal(self, content: bytes) -> bytes | None:
        """Return the sealed text, or None if this machine cannot seal (no systemd-creds, not root)."""
        packed = zlib.compress(content, 6)
        if self._key_directory is not None and os.geteuid() == 0:
            self._key_directory.mkdir(parents=True, exist_ok=True)
        pieces = []
        for start in range(0, max(len(packed), 1), _PIECE_BYTES):
            sealed = self._run_creds("encrypt", packed[start : start + _PIECE_BYTES])
            if sealed is None:
                return None
            pieces.append("".join(sealed.decode("ascii").split()))
        return json.dumps({"sealed": pieces}).encode()

    def open(self, sealed: bytes) -> bytes:
        """Return the content again. Raises StateError if it was sealed elsewhere or is damaged."""
        try:
            pieces = json.loads(sealed)["sealed"]
            opened = [self._run_creds("decrypt", piece.encode()) for piece in pieces]
            if any(piece is None for piece in opened):
                raise ValueError("systemd-creds " + ("does not run" if self.unavailable else "refuses it"))
            return zlib.decompress(b"".join(piece for piece in opened if piece is not None))
        except (ValueError, KeyError, TypeError, AttributeError, zlib.error) as error:
            raise StateError(f"sealed state cannot be opened on this machine: {error}") from None

    def _run_creds(self, verb: str, content: bytes) -> bytes | None:
        argv = ["systemd-creds", verb, f"--name={_NAME}", *(["--with-key=auto"] if verb == "encrypt" else []), "-", "-"]
        result = process.run(
            argv,
            _TIMEOUT_SECONDS,
            self._cancelled,
            stdin=content,
            stdout_max_bytes=_OUTPUT_BYTES,
            environment=self._environment,
        )
        self.unavailable = result.code is None
        return result.stdout if result.ok else None
