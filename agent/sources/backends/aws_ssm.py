"""`aws-ssm`: a parameter path a layer. The service gives ten parameters an answer, which no client can change."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from agent.model import Layer, Snapshot
from agent.settings.schema import setting
from agent.sources import SourceContext, key_tree
from agent.sources.backends.aws import Aws, AwsOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class SsmOptions(AwsOptions):
    prefix: str = setting("the path that layers are below, such as /site", "")


class SsmSource:
    """Systems Manager's Parameter Store. A StringList is a list; a SecureString comes decrypted."""

    options_class: ClassVar[type[Any]] = SsmOptions

    def __init__(self, options: SsmOptions, context: SourceContext) -> None:
        self._prefix = options.prefix
        self._aws = Aws("ssm", "aws-ssm", options, context)

    def fetch(self, layers: Sequence[str]) -> Snapshot:
        read = self._aws.call(lambda client: [self._layer(client, layer, layers) for layer in layers])
        return Snapshot(tuple(read), key_tree.combined(read), secret=True)

    def _layer(self, client: Any, layer: str, layers: Sequence[str]) -> Layer:
        path = "/" + key_tree.joined(self._prefix, layer)
        pages = client.get_paginator("get_parameters_by_path").paginate(Path=path, Recursive=True, WithDecryption=True)
        found = [parameter for page in pages for parameter in page["Parameters"]]
        if not found:
            return Layer(layer, None)
        start = path.rstrip("/") + "/"
        pairs = [(one["Name"].removeprefix(start), _value(one)) for one in found]
        versions = sorted(f"{one['Name']}:{one['Version']}" for one in found)
        tree = key_tree.tree(pairs, "/", f'layer "{layer}"', exclude_prefixes=key_tree.nested_layers(layer, layers))
        return Layer(layer, tree, key_tree.digest(repr(versions)))

    def close(self) -> None:
        self._aws.close()


def _value(parameter: Any) -> str | list[str]:
    value: str = parameter["Value"]
    return value.split(",") if parameter["Type"] == "StringList" else value
