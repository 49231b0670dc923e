"""`env`: the environment that parbake was started with. It never changes, so there is nothing to watch."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from agent.errors import SourceInvalid
from agent.model import Layer, Snapshot
from agent.settings.schema import setting
from agent.sources import SourceContext, key_tree


@dataclass(frozen=True, slots=True, kw_only=True)
class EnvOptions:
    prefix: str = setting("what the names of the variables begin with, such as SITE_")

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.prefix):
            raise ValueError(f'prefix "{self.prefix}" cannot begin the name of a variable')


class EnvSource:
    """PREFIX DB__PASSWORD is db.password of the layer ""; the layer env/dev is PREFIX ENV__DEV__ and then the key.

    Keys are lower case: a variable's case carries no meaning.
    """

    options_class: ClassVar[type[Any]] = EnvOptions

    def __init__(self, options: EnvOptions, context: SourceContext, environment: Mapping[bytes, bytes] | None = None) -> None:
        self._prefix = options.prefix
        self._environment = os.environb if environment is None else environment

    def fetch(self, layers: Sequence[str]) -> Snapshot:
        starts = {layer: _start(self._prefix, layer) for layer in layers}
        read = []
        for layer, start in starts.items():
            inside = [s.removeprefix(start) for other, s in starts.items() if other != layer and s.startswith(start)]
            pairs = []
            for raw, value in self._environment.items():
                name = raw.decode("ascii", "replace").upper()
                if name.startswith(start) and name != start:
                    pairs.append((name.removeprefix(start), self._value(name, value)))
            tree = key_tree.tree(((name, value) for name, value in pairs), "__", f'layer "{layer}"', exclude_prefixes=inside)
            read.append(Layer(layer, _lower(tree) if tree else None, key_tree.digest(repr(sorted(pairs)))))
        return Snapshot(tuple(read), key_tree.combined(read))

    def _value(self, name: str, value: bytes) -> str:
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            raise SourceInvalid(f"the variable {name} is not UTF-8 text") from None

    def close(self) -> None:
        """Nothing is held."""


def _start(prefix: str, layer: str) -> str:
    parts = [re.sub(r"[^A-Za-z0-9]", "_", part) for part in layer.split("/") if part]
    return (prefix + "".join(f"{part}__" for part in parts)).upper()


def _lower(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {key.lower(): _lower(value) if isinstance(value, dict) else value for key, value in tree.items()}
