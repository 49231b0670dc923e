"""`dynamodb`: the items under one partition key a layer, read consistently."""

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
    prefix: str = setting("what the partition keys begin with; a layer follows after a slash", "")
    partition: str = setting("the attribute that is the partition key", "layer")
    sort: str = setting("the attribute that is the sort key, and holds the key with slashes", "key")
    value: str = setting("the attribute that holds the value", "value")


class DynamodbSource:
    """Amazon DynamoDB. Numbers, booleans, lists and maps keep their types; bytes become base64 text."""

    options_class: ClassVar[type[Any]] = DynamodbOptions

    def __init__(self, options: DynamodbOptions, context: SourceContext) -> None:
        self._options = options
        self._table = options.table or context.name
        self._aws = Aws("dynamodb", "dynamodb", options, context)

    def fetch(self, layers: Sequence[str]) -> Snapshot:
        read = self._aws.call(lambda client: [self._layer(client, layer) for layer in layers])
        return Snapshot(tuple(read), key_tree.combined(read))

    def _layer(self, client: Any, layer: str) -> Layer:
        options = self._options
        pages = client.get_paginator("query").paginate(
            TableName=self._table,
            KeyConditionExpression="#layer = :layer",
            ExpressionAttributeNames={"#layer": options.partition},
            ExpressionAttributeValues={":layer": {"S": key_tree.joined(options.prefix, layer) or "/"}},
            ConsistentRead=True,
        )
        items = [item for page in pages for item in page["Items"]]
        if not items:
            return Layer(layer, None)
        try:
            pairs = [(item[options.sort]["S"], _plain(item[options.value])) for item in items]
        except KeyError as error:
            what = f"an item has no attribute {error}, or one of another type"
            raise SourceInvalid(f'table {self._table}, layer "{layer}": {what}') from None
        tree = decoding.table(key_tree.tree(pairs, "/", f'layer "{layer}"'), f'layer "{layer}"')
        return Layer(layer, tree, key_tree.digest(repr(sorted(pairs, key=lambda pair: pair[0]))))

    def close(self) -> None:
        self._aws.close()


def _plain(value: Mapping[str, Any]) -> Any:
    """A DynamoDB attribute value, {"S": "text"}, as a plain one. Raises KeyError for the type it does not know."""
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
