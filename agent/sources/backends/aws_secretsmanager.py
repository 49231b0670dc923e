"""`aws-secretsmanager`: a layer is a secret whose value is a JSON object."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from agent.errors import SourceInvalid
from agent.model import Layer, Snapshot
from agent.settings.schema import setting
from agent.sources import SourceContext, decoding, key_tree
from agent.sources.backends.aws import Aws, AwsOptions, is_missing


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretsManagerOptions(AwsOptions):
    prefix: str = setting("the beginning of the secrets' names; a slash and the layer follow", "")
    stage: str = setting("the version stage to read", "AWSCURRENT")


class SecretsManagerSource:
    """AWS Secrets Manager."""

    options_class: ClassVar[type[SecretsManagerOptions]] = SecretsManagerOptions

    def __init__(self, options: SecretsManagerOptions, context: SourceContext) -> None:
        self._options = options
        self._aws = Aws("secretsmanager", "aws-secretsmanager", options, context)

    def fetch(self, layers: Sequence[str]) -> Snapshot:
        fetched = self._aws.call(lambda client: [self._layer(client, layer) for layer in layers])
        return Snapshot(tuple(fetched), key_tree.combined_revision(fetched), secret=True)

    def _layer(self, client: Any, layer: str) -> Layer:
        from botocore.exceptions import ClientError

        name = key_tree.join_path(self._options.prefix, layer)
        if not name:
            raise SourceInvalid("a layer without a name is not a secret", hint="set prefix, or name the layer")
        try:
            answer = client.get_secret_value(SecretId=name, VersionStage=self._options.stage)
        except ClientError as error:
            # The answer for a secret that is scheduled for deletion is InvalidRequestException.
            deleted = is_missing(error, "InvalidRequestException") and "delet" in str(error).lower()
            if deleted or is_missing(error, "ResourceNotFoundException"):
                return Layer(layer, None)
            raise
        content = answer["SecretString"] if "SecretBinary" not in answer else answer["SecretBinary"]
        return Layer(layer, decoding.parse(content, "JSON", f"the secret {name}"), answer["VersionId"])

    def close(self) -> None:
        self._aws.close()
