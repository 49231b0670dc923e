"""`env`: the environment that parbake was started with. It never changes, so the source cannot be watched."""

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
    prefix: str = setting("the beginning of the variables' names, such as SITE_")

    def __post_init__(self) -> None:
        if not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.prefix):
            raise ValueError(f'prefix "{self.prefix}" cannot begin the name of a variable')


class EnvSource:
    """Variables as keys: PREFIX DB__PASSWORD is db.password of the layer "".

    The variables of the layer env/dev begin with PREFIX ENV__DEV__. Keys are lower case.
    """

    options_class: ClassVar[type[EnvOptions]] = EnvOptions

    def __init__(self, options: EnvOptions, context: SourceContext, environment: Mapping[bytes, bytes] | None = None) -> None:
        """Keep the arguments. `environment` replaces the process's own."""
        self._prefix = options.prefix
        self._environment = os.environb if environment is None else environment

    def fetch(self, layers: Sequence[str]) -> Snapshot:
        prefixes = {layer: _prefix(self._prefix, layer) for layer in layers}
        fetched = []
        for layer, prefix in prefixes.items():
            nested = [p.removeprefix(prefix) for other, p in prefixes.items() if other != layer and p.startswith(prefix)]
            pairs = []
            for raw_name, value in self._environment.items():
                name = raw_name.decode("ascii", "replace").upper()
                if name.startswith(prefix) and name != prefix:
                    pairs.append((name.removeprefix(prefix), _decode(name, value)))
            tree = key_tree.build_tree(pairs, "__", f'layer "{layer}"', exclude_prefixes=nested)
            fetched.append(Layer(layer, _lower_keys(tree) if tree else None, key_tree.digest(repr(sorted(pairs)))))
        return Snapshot(tuple(fetched), key_tree.combined_revision(fetched))

    def close(self) -> None:
        """Do nothing: the source holds nothing open."""


def _prefix(prefix: str, layer: str) -> str:
    parts = [re.sub(r"[^A-Za-z0-9]", "_", part) for part in layer.split("/") if part]
    return (prefix + "".join(f"{part}__" for part in parts)).upper()


def _decode(name: str, value: bytes) -> str:
    try:
        return value.decode("utf-8")
    except UnicodeDecodeError:
        raise SourceInvalid(f"the variable {name} is not UTF-8 text") from None


def _lower_keys(tree: Mapping[str, Any]) -> dict[str, Any]:
    return {key.lower(): _lower_keys(value) if isinstance(value, dict) else value for key, value in tree.items()}
