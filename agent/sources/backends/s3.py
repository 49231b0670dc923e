"""`s3`: a layer is an object. The body is sent again only after its ETag has changed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Any, ClassVar

from agent.errors import SourceInvalid, SourceUnreachable
from agent.model import Layer, Snapshot
from agent.settings.schema import setting
from agent.sources import SourceContext, decoding, key_tree
from agent.sources.backends.aws import Aws, AwsOptions, is_missing

_MAX_BYTES = 32 << 20


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Options(AwsOptions):
    bucket: str = setting("the bucket")
    prefix: str = setting("the beginning of the objects' keys; a slash and the layer follow", "")
    suffix: str = setting("the end of the objects' keys: .json, .yaml, .yml or .toml", ".json")

    def __post_init__(self) -> None:
        AwsOptions.__post_init__(self)
        if self.suffix not in decoding.FORMATS:
            raise ValueError(f'suffix "{self.suffix}" is not one of {", ".join(decoding.FORMATS)}')


class S3Source:
    """Amazon S3, and other stores with its protocol."""

    options_class: ClassVar[type[S3Options]] = S3Options

    def __init__(self, options: S3Options, context: SourceContext) -> None:
        self._options = options
        self._aws = Aws("s3", "s3", options, context)
        self._cached: dict[str, Layer] = {}

    def fetch(self, layers: Sequence[str]) -> Snapshot:
        fetched = self._aws.call(lambda client: [self._layer(client, layer) for layer in layers])
        self._cached = {layer.name: layer for layer in fetched if layer.tree is not None}
        return Snapshot(tuple(fetched), key_tree.combined_revision(fetched))

    def _layer(self, client: Any, layer: str) -> Layer:
        from botocore.exceptions import ClientError

        key = key_tree.join_path(self._options.prefix, layer) + self._options.suffix
        where = f"s3://{self._options.bucket}/{key}"
        cached = self._cached.get(layer)
        condition = {"IfNoneMatch": cached.revision} if cached else {}
        try:
            answer = client.get_object(Bucket=self._options.bucket, Key=key, **condition)
        except ClientError as error:
            if cached is not None and is_missing(error, "304", "NotModified"):
                return cached
            # Without s3:ListBucket the answer for a missing key is 403, as for a denied one.
            if is_missing(error, "NoSuchKey"):
                return Layer(layer, None)
            raise
        content = answer["Body"].read(_MAX_BYTES + 1)
        if len(content) > _MAX_BYTES:
            raise SourceInvalid(f"{where} is larger than {_MAX_BYTES} bytes")
        if len(content) != answer["ContentLength"]:
            raise SourceUnreachable(f"{where}: the answer broke off")
        document_format = decoding.FORMATS[PurePosixPath(key).suffix]
        return Layer(layer, decoding.parse(content, document_format, where), answer["ETag"])

    def close(self) -> None:
        self._aws.close()
