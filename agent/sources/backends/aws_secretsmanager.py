"""`aws-secretsmanager`: a JSON secret a layer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from agent.errors import SourceInvalid
from agent.model import Layer, Snapshot
from agent.settings.schema import setting
from agent.sources import SourceContext, decoding, key_tree
from agent.sources.backends.aws import Aws, AwsOptions, missing


@dataclass(frozen=True, slots=True, kw_only=True)
class SecretsManagerOptions(AwsOptions):
    prefix: str = setting("what the names of the secrets begin with; a layer follows after a slash", "")
    stage: str = setting("the version stage that is read", "AWSCURRENT")


class SecretsManagerSource:
    """AWS Secrets Manager."""

    options_class: ClassVar[type[Any]] = SecretsManagerOptions

    def __init__(self, options: SecretsManagerOptions, context: SourceContext) -> None:
        self._options = options
        self._aws = Aws("secretsmanager", "aws-secretsmanager", options, context)

    def fetch(self, layers: Sequence[str]) -> Snapshot:
        read = self._aws.call(lambda client: [self._layer(client, layer) for layer in layers])
        return Snapshot(tuple(read), key_tree.combined(read), secret=True)

    def _layer(self, client: Any, layer: str) -> Layer:
        from botocore.exceptions import ClientError

        name = key_tree.joined(self._options.prefix, layer)
        if not name:
            raise SourceInvalid("a layer without a name is no secret", hint="set prefix, or name the layer")
        try:
            answer = client.get_secret_value(SecretId=name, VersionStage=self._options.stage)
        except ClientError as error:
            # A secret that waits for its deletion is an invalid request.
            gone = missing(error, "InvalidRequestException") and "delet" in str(error).lower()
            if gone or missing(error, "ResourceNotFoundException"):
                return Layer(layer, None)
            raise
        content = answer["SecretString"] if "SecretBinary" not in answer else answer["SecretBinary"]
        return Layer(layer, decoding.parse(content, "JSON", f"the secret {name}"), answer["VersionId"])

    def close(self) -> None:
        self._aws.close()
