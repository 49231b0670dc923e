"""Benches without a server: files, the environment, a program."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from agent.paths import Paths
from agent.sources import Source, SourceContext
from tests.integration.sources.benches.base import Bench, OnDisk


class FileBench(OnDisk):
    backend = "file"
    watched = True

    def options(self, port: int, scheme: str) -> Mapping[str, Any]:
        return {"path": str(self.top)}


class FileKeysBench(Bench):
    """The other form of `file`: one file a key."""

    backend = "file"
    watched = True
    flat = False
    odd_keys = ("with space", "ünïcode", "dots.and-dashes", "a=b", "100%", "q?x#y", "[x]*")

    def options(self, port: int, scheme: str) -> Mapping[str, Any]:
        return {"path": str(self.directory / "site")}

    def put(self, layer: str, key: str, value: str) -> None:
        path = self.directory / "site" / layer / key
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")

    def drop(self, layer: str, key: str) -> None:
        (self.directory / "site" / layer / key).unlink()


class EnvBench(Bench):
    backend = "env"
    odd_keys = ()

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.variables: dict[bytes, bytes] = {b"SITE_OTHER": b"x", b"PATH": b"/bin"}

    def options(self, port: int, scheme: str) -> Mapping[str, Any]:
        return {"prefix": "CFG_"}

    def open(self, port: int | None = None, scheme: str = "http", **more: Any) -> Source[object]:
        from agent.sources.backends.env import EnvOptions, EnvSource

        return EnvSource(EnvOptions(prefix="CFG_"), SourceContext("bench", Paths(), 5.0), self.variables)

    @staticmethod
    def name(layer: str, key: str) -> bytes:
        return f"CFG_{layer}/{key}".replace("/", "__").upper().encode()

    def put(self, layer: str, key: str, value: str) -> None:
        self.variables[self.name(layer, key)] = value.encode()

    def drop(self, layer: str, key: str) -> None:
        del self.variables[self.name(layer, key)]


class ExecBench(OnDisk):
    backend = "exec"

    def options(self, port: int, scheme: str) -> Mapping[str, Any]:
        script = f'f={self.top}/"$1".json; if [ -e {self.directory}/denied ]; then exit 77; fi; [ ! -e "$f" ] || cat "$f"'
        return {"command": ("/bin/sh", "-c", script, "sh")}

    def deny(self, denied: bool) -> None:
        flag = self.directory / "denied"
        flag.touch() if denied else flag.unlink()
