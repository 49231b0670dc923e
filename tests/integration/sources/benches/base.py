"""A bench is a store on loopback, with a source on it and the means to write to it."""

from __future__ import annotations

import importlib.util
import json
import sys
import threading
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, ClassVar

from agent.paths import Paths
from agent.settings import plugins
from agent.sources import BACKENDS, Source, SourceContext, new_source

Tree = dict[str, Any]


class Bench:
    """The operations that the suites need. `port` is None if the store is not a server that a proxy can cut off."""

    backend: ClassVar[str]
    watched = False
    precise = True
    keeps = True
    """whether the store's content outlives a restart"""
    tls = False
    http = False
    flat = True
    """whether keys are the store's own, so that a key can clash with a prefix"""
    udp = False
    port: int | None = None
    host = "127.0.0.1"
    """the host of the store, or of the proxy before it, in a source's options"""
    layers: tuple[str, ...] = ("common", "env/dev")
    shows = "{{ config.name }}"
    """a template that reads the key `name`"""
    odd_keys: tuple[str, ...] = ("with space", "ünïcode", "dots.and-dashes", "a=b", "100%", "q?x#y", "[x]*")

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        directory.mkdir(parents=True, exist_ok=True)
        self.held = ExitStack()
        self.context_seconds = 30.0
        self.stopping = threading.Event()
        """the stop event of the sources that `open` makes"""

    @classmethod
    def missing(cls) -> str:
        """Return why it cannot run here, or ""."""
        return ""

    def begin(self) -> None:
        pass

    def options(self, port: int, scheme: str) -> Mapping[str, Any]:
        raise NotImplementedError

    def put(self, layer: str, key: str, value: str) -> None:
        raise NotImplementedError

    def drop(self, layer: str, key: str) -> None:
        raise NotImplementedError

    def deny(self, denied: bool) -> None:
        """Make the credential wrong, and right again."""
        raise NotImplementedError

    def stop(self) -> None:
        raise NotImplementedError

    def start(self) -> None:
        raise NotImplementedError

    def open(self, port: int | None = None, scheme: str = "http", **more: Any) -> Source[object]:
        """Return a source on the store, or on a proxy's port before it."""
        options_class = plugins.load(BACKENDS, self.backend, "backend").options_class
        options = options_class(**{**self.options(port or self.port or 0, scheme), **more})
        context = SourceContext("bench", Paths(), self.context_seconds, poll_seconds=0.5, stopping=self.stopping)
        source: Source[object] = new_source(self.backend, options, context)
        self.held.callback(source.close)
        return source

    def secret(self, name: str, text: str) -> str:
        path = self.directory / name
        path.write_text(text + "\n")
        return str(path)


class Documents(Bench):
    """A store in which a layer is one document."""

    flat = False

    def __init__(self, directory: Path) -> None:
        super().__init__(directory)
        self.trees: dict[str, Tree] = {}

    def put(self, layer: str, key: str, value: str) -> None:
        table = self.trees.setdefault(layer, {})
        *path, last = key.split("/")
        for segment in path:
            table = table.setdefault(segment, {})
        table[last] = value
        self.write(layer, json.dumps(self.trees[layer]))

    def drop(self, layer: str, key: str) -> None:
        self.trees.pop(layer, None)
        self.write(layer, None)

    def write(self, layer: str, text: str | None) -> None:
        raise NotImplementedError


class OnDisk(Documents):
    """Documents that are files below `top`."""

    @property
    def top(self) -> Path:
        return self.directory / "site"

    def write(self, layer: str, text: str | None) -> None:
        path = self.top / f"{layer}.json"
        path.parent.mkdir(parents=True, exist_ok=True)
        if text is None:
            path.unlink()
        else:
            fresh = path.with_suffix(".new")
            fresh.write_text(text)
            fresh.replace(path)


class Served(Bench):
    """A bench with a server process that is stopped and started."""

    server: Any

    def stop(self) -> None:
        self.server.stop()

    def start(self) -> None:
        self.server.start()


def no_module(name: str) -> str:
    return "" if importlib.util.find_spec(name) else f"{name} is not installed for {sys.executable}"
