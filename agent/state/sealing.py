"""Values at rest: encrypted for this machine by systemd-creds(1), so that a copied disk or a backup gives no secret away.

systemd-creds takes 1 MiB at a time; longer content is compressed and sealed in pieces. The plain text passes through pipes
only, never through an argument or a file.
"""

from __future__ import annotations

import json
import os
import subprocess
import zlib
from pathlib import Path

from agent.errors import StateError
from agent.paths import Paths
from agent.system.process import PATH

_PIECE_BYTES = 900_000
_TIMEOUT_SECONDS = 30.0
_NAME = "parbake"


class Sealer:
    """Seals and opens bytes. Below --root the key is below it too, so that the host's own is never made or used."""

    def __init__(self, paths: Paths) -> None:
        self.away = False
        """Whether systemd-creds could not be run, or not to its end, so that it said nothing about what it was given."""
        self._environment = {"PATH": PATH, "LANG": "C.UTF-8"}
        if not paths.is_host:
            secret = paths.host("/var/lib/systemd/credential.secret")
            self._environment["SYSTEMD_CREDENTIAL_SECRET"] = str(secret)
            self._key_directory: Path | None = secret.parent
        else:
            self._key_directory = None

    def seal(self, content: bytes) -> bytes | None:
        """The sealed text, or None where this machine cannot seal (no systemd-creds, not root)."""
        packed = zlib.compress(content, 6)
        if self._key_directory is not None and os.geteuid() == 0:
            self._key_directory.mkdir(parents=True, exist_ok=True)
        pieces = []
        for start in range(0, max(len(packed), 1), _PIECE_BYTES):
            sealed = self._creds("encrypt", packed[start : start + _PIECE_BYTES])
            if sealed is None:
                return None
            pieces.append("".join(sealed.decode("ascii").split()))
        return json.dumps({"sealed": pieces}).encode()

    def open(self, sealed: bytes) -> bytes:
        """The content again. Raises StateError where it was sealed elsewhere or is damaged."""
        try:
            pieces = json.loads(sealed)["sealed"]
            opened = [self._creds("decrypt", piece.encode()) for piece in pieces]
            if any(piece is None for piece in opened):
                raise ValueError("systemd-creds " + ("does not run" if self.away else "refuses it"))
            return zlib.decompress(b"".join(piece for piece in opened if piece is not None))
        except (ValueError, KeyError, TypeError, AttributeError, zlib.error) as error:
            raise StateError(f"sealed state cannot be opened on this machine: {error}") from None

    def _creds(self, verb: str, content: bytes) -> bytes | None:
        argv = ["systemd-creds", verb, f"--name={_NAME}", *(["--with-key=auto"] if verb == "encrypt" else []), "-", "-"]
        try:
            ran = subprocess.run(
                argv,
                input=content,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=self._environment,
                timeout=_TIMEOUT_SECONDS,
                check=False,
            )
        except (OSError, subprocess.TimeoutExpired):
            self.away = True
            return None
        self.away = False
        return ran.stdout if ran.returncode == 0 else None
