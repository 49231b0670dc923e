"""`s3`: an object a layer, asked for again only where its ETag changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, ClassVar

from agent.errors import SourceInvalid, SourceUnreachable
from agent.model import Layer, Snapshot
from agent.settings.schema import setting
from agent.sources import SourceContext, decoding, key_tree
from agent.sources.backends.aws import Aws, AwsOptions, missing

_MOST_BYTES = 32 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Options(AwsOptions):
    bucket: str = setting("the bucket")
    prefix: str = setting("what the keys of the objects begin with; a layer follows after a slash", "")
    suffix: str = setting("what follows the layer: .json, .yaml, .yml or .toml", ".json")

    def __post_init__(self) -> None:
        AwsOptions.__post_init__(self)
        if self.suffix not in decoding.FORMS:
            raise ValueError(f'suffix "{self.suffix}" is none of {", ".join(decoding.FORMS)}')


class S3Source:
    """Amazon S3, and what speaks its protocol."""

    options_class: ClassVar[type[Any]] = S3Options

    def __init__(self, options: S3Options, context: SourceContext) -> None:
        self._options = options
        self._aws = Aws("s3", "s3", options, context)
        self._known: dict[str, Layer] = {}

    def fetch(self, layers: Sequence[str]) -> Snapshot:
        read = self._aws.call(lambda client: [self._layer(client, layer) for layer in layers])
        self._known = {layer.name: layer for layer in read if layer.tree is not None}
        return Snapshot(tuple(read), key_tree.combined(read))

    def _layer(self, client: Any, layer: str) -> Layer:
        from botocore.exceptions import ClientError

        key = key_tree.joined(self._options.prefix, layer) + self._options.suffix
        where = f"s3://{self._options.bucket}/{key}"
        known = self._known.get(layer)
        condition = {"IfNoneMatch": known.revision} if known else {}
        try:
            answer = client.get_object(Bucket=self._options.bucket, Key=key, **condition)
        except ClientError as error:
            if known is not None and missing(error, "304", "NotModified"):
                return known
            # Without s3:ListBucket a key that is not there answers 403, and is denied: it could be either.
            if missing(error, "NoSuchKey"):
                return Layer(layer, None)
            raise
        content = answer["Body"].read(_MOST_BYTES + 1)
        if len(content) > _MOST_BYTES:
            raise SourceInvalid(f"{where} is larger than {_MOST_BYTES} bytes")
        if len(content) != answer["ContentLength"]:
            raise SourceUnreachable(f"{where}: the answer broke off")
        form = decoding.FORMS[PurePosixPath(key).suffix]
        return Layer(layer, decoding.parse(content, form, where), answer["ETag"])

    def close(self) -> None:
        self._aws.close()
