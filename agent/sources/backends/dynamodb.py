"""`dynamodb`: a layer is the items of one partition key, read consistently."""

from __future__ import annotations

import base64
import decimal
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from agent.errors import SourceInvalid
from agent.model import Layer, Snapshot
from agent.settings.schema import setting
from agent.sources import SourceContext, decoding, key_tree
from agent.sources.backends.aws import Aws, AwsOptions


@dataclass(frozen=True, slots=True, kw_only=True)
class DynamodbOptions(AwsOptions):
    table: str = setting("the table; default: the source's name", "")
    prefix: str = setting("the beginning of the partition keys; a slash and the layer follow", "")
    partition: str = setting("the attribute with the partition key", "layer")
    sort: str = setting("the attribute with the sort key, which is the key with slashes", "key")
    value: str = setting("the attribute with the value", "value")


class DynamodbSource:
    """Amazon DynamoDB. Numbers, booleans, lists and maps keep their types; bytes become base64 text."""

    options_class: ClassVar[type[DynamodbOptions]] = DynamodbOptions

    def __init__(self, options: DynamodbOptions, context: SourceContext) -> None:
        self._options = options
        self._table = options.table or context.name
        self._aws = Aws("dynamodb", "dynamodb", options, context)

    def fetch(self, layers: Sequence[str]) -> Snapshot:
        fetched = self._aws.call(lambda client: [self._layer(client, layer) for layer in layers])
        return Snapshot(tuple(fetched), key_tree.combined_revision(fetched))

    def _layer(self, client: Any, layer: str) -> Layer:
        options = self._options
        pages = client.get_paginator("query").paginate(
            TableName=self._table,
            KeyConditionExpression="#layer = :layer",
            ExpressionAttributeNames={"#layer": options.partition},
            ExpressionAttributeValues={":layer": {"S": key_tree.join_path(options.prefix, layer) or "/"}},
            ConsistentRead=True,
        )
        items = [item for page in pages for item in page["Items"]]
        if not items:
            return Layer(layer, None)
        try:
            pairs = [(item[options.sort]["S"], _plain(item[options.value])) for item in items]
        except KeyError as error:
            problem = f"an item has no attribute {error}, or one of an unsupported type"
            raise SourceInvalid(f'table {self._table}, layer "{layer}": {problem}') from None
        tree = decoding.plain_table(key_tree.build_tree(pairs, "/", f'layer "{layer}"'), f'layer "{layer}"')
        return Layer(layer, tree, key_tree.digest(repr(sorted(pairs, key=lambda pair: pair[0]))))

    def close(self) -> None:
        self._aws.close()


def _plain(value: Mapping[str, Any]) -> Any:
    """Return the plain value of a DynamoDB attribute, such as {"S": "text"}. Raises KeyError for an unsupported type."""
    kind, content = next(iter(value.items()))
    if kind == "N":
        number = decimal.Decimal(content)
        return int(number) if number == number.to_integral_value() else float(number)
    if kind == "L":
        return [_plain(item) for item in content]
    if kind == "M":
        return {name: _plain(item) for name, item in content.items()}
    if kind == "B":
        return base64.b64encode(content).decode()
    if kind == "SS":
        return sorted(content)
    if kind == "NS":
        return [_plain({"N": item}) for item in sorted(content, key=decimal.Decimal)]
    return {"S": content, "BOOL": content, "NULL": None}[kind]
