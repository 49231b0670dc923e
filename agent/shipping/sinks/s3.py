"""`s3`: an archive of compressed NDJSON objects, one a batch. Give it large and old batches: each is a request.

The object's name comes from its content's time and digest, so that a batch that is sent again replaces itself.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass
from typing import Any, ClassVar

from agent.settings.schema import setting
from agent.shipping import ACCEPTED, Batch, SendResult, SinkContext
from agent.shipping.json_lines import JsonFields
from agent.shipping.sinks.aws_base import Aws, AwsOptions
from agent.shipping.sinks.http_base import compress


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Options(AwsOptions):
    bucket: str = setting("the bucket")
    prefix: str = setting(
        "what the objects' names begin with; \"%Y/%m/%d\" and the like are filled from the first entry's time",
        "logs/%Y/%m/%d/%H/",
    )

    def __post_init__(self) -> None:
        AwsOptions.__post_init__(self)
        if "\0" in self.prefix:
            raise ValueError("prefix holds a NUL")


class S3Sink:
    options_class: ClassVar[type[Any]] = S3Options
    wants_ids: ClassVar[bool] = False

    def __init__(self, options: S3Options, context: SinkContext) -> None:
        self._options = options
        self._aws = Aws("s3", options, context)
        self._json = JsonFields()

    def send(self, batch: Batch) -> SendResult:
        body = self._json.ndjson(batch).encode()
        first = batch.times[0]
        prefix = time.strftime(self._options.prefix, time.gmtime(first // 1_000_000))
        key = f"{prefix}{first}-{hashlib.sha256(body).hexdigest()[:16]}.ndjson.gz"
        with self._aws.calls(f"S3, {self._options.bucket}") as client:
            client.put_object(Bucket=self._options.bucket, Key=key, Body=compress(body), ContentType="application/gzip")
        return ACCEPTED

    def close(self) -> None:
        self._aws.close()
