"""Requests and answers of an emulated metadata service."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

USERDATA = "#cloud-config\nparbake:\n  environment: prod\n  role: web\n"


@dataclass(frozen=True)
class Request:
    """A request. `received_at` is a moment of `time.monotonic()`."""

    method: str
    path: str
    query: dict[str, str]
    headers: dict[str, str]
    body: str = ""
    port: int = 0
    received_at: float = field(default_factory=time.monotonic)


@dataclass
class Answer:
    """An answer. `violation`: the reason why a real service would refuse the request, or not understand it."""

    status: int
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    violation: str = ""
    delay_seconds: float = 0.0


class State(Protocol):
    def answer(self, request: Request) -> Answer: ...


def text(value: object, **headers: str) -> Answer:
    return Answer(200, str(value).encode(), {"Content-Type": "text/plain", **headers})


def document(value: object, **headers: str) -> Answer:
    return Answer(200, json.dumps(value).encode(), {"Content-Type": "application/json", **headers})


def refuse(status: int, reason: str) -> Answer:
    return Answer(status, b"refused", {}, reason)


def walk(tree: Mapping[str, Any], path: str) -> Answer:
    """Answer for a path in a tree of EC2's kind: the text of a leaf, or the listing of a directory."""
    node: Any = tree
    for part in [p for p in path.split("/") if p]:
        if not isinstance(node, Mapping) or part not in node:
            return MISSING
        node = node[part]
    if isinstance(node, Mapping):
        return text("\n".join(name + ("/" if isinstance(item, Mapping) else "") for name, item in node.items()))
    return text(node)


class Base:
    """A service that accepts only GET. `options`: userdata, and the options of the platform."""

    def __init__(self, options: dict[str, Any]) -> None:
        self.options = options
        self.userdata: str = options.get("userdata", USERDATA)

    def answer(self, request: Request) -> Answer:
        if request.method != "GET":
            return refuse(405, f"method {request.method}")
        return self.get(request)

    def get(self, request: Request) -> Answer:
        raise NotImplementedError

    def userdata_answer(self) -> Answer:
        return text(self.userdata) if self.userdata else MISSING


MISSING = Answer(404, b"not found")
