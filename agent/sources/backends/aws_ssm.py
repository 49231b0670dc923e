"""`aws-ssm`: a layer is a parameter path. The service limits an answer to ten parameters."""

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
    """Systems Manager's Parameter Store. A StringList becomes a list; a SecureString arrives decrypted."""

    options_class: ClassVar[type[SsmOptions]] = SsmOptions

    def __init__(self, options: SsmOptions, context: SourceContext) -> None:
        self._prefix = options.prefix
        self._aws = Aws("ssm", "aws-ssm", options, context)

    def fetch(self, layers: Sequence[str]) -> Snapshot:
        fetched = self._aws.call(lambda client: [self._layer(client, layer, layers) for layer in layers])
        return Snapshot(tuple(fetched), key_tree.combined_revision(fetched), secret=True)

    def _layer(self, client: Any, layer: str, layers: Sequence[str]) -> Layer:
        path = "/" + key_tree.join_path(self._prefix, layer)
        pages = client.get_paginator("get_parameters_by_path").paginate(Path=path, Recursive=True, WithDecryption=True)
        parameters = [parameter for page in pages for parameter in page["Parameters"]]
        if not parameters:
            return Layer(layer, None)
        prefix = path.rstrip("/") + "/"
        pairs = [(parameter["Name"].removeprefix(prefix), _value(parameter)) for parameter in parameters]
        versions = sorted(f"{parameter['Name']}:{parameter['Version']}" for parameter in parameters)
        tree = key_tree.build_tree(pairs, "/", f'layer "{layer}"', exclude_prefixes=key_tree.nested_layers(layer, layers))
        return Layer(layer, tree, key_tree.digest(repr(versions)))

    def close(self) -> None:
        self._aws.close()


def _value(parameter: Any) -> str | list[str]:
    value: str = parameter["Value"]
    return value.split(",") if parameter["Type"] == "StringList" else value
