"""`s3`: an archive of compressed NDJSON objects, one per batch. Large batches are better: each one is a request.

The name of an object has the time and the digest of its content, so that a repeated batch replaces itself.
"""

from __future__ import annotations

import hashlib
import time
from dataclasses import dataclass

from agent.settings.schema import setting
from agent.shipping import ACCEPTED, Batch, SendResult, SinkContext
from agent.shipping.json_lines import JsonFields
from agent.shipping.sinks.aws_base import Aws, AwsOptions
from agent.shipping.sinks.http_base import compress


@dataclass(frozen=True, slots=True, kw_only=True)
class S3Options(AwsOptions):
    bucket: str = setting("the bucket")
    prefix: str = setting(
        'the prefix of the names of objects; "%Y/%m/%d" and the like are filled from the first entry\'s time',
        "logs/%Y/%m/%d/%H/",
    )

    def __post_init__(self) -> None:
        AwsOptions.__post_init__(self)
        if "\0" in self.prefix:
            raise ValueError("prefix contains a NUL")


class S3Sink:
    """Puts each batch as one object."""

    options_class = S3Options
    wants_ids = False

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
