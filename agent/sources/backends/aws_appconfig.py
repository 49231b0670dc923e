"""`aws-appconfig`: a layer is a configuration profile. An answer without content means no change since the one before."""

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
class AppConfigOptions(AwsOptions):
    application: str = setting("the application's name or id; default: the source's name", "")
    environment: str = setting("the environment's name or id")


class AppConfigSource:
    """AWS AppConfig, through its data API."""

    options_class: ClassVar[type[AppConfigOptions]] = AppConfigOptions

    def __init__(self, options: AppConfigOptions, context: SourceContext) -> None:
        self._options = options
        self._application = options.application or context.name
        self._aws = Aws("appconfigdata", "aws-appconfig", options, context)
        self._sessions: dict[str, tuple[str, Layer]] = {}

    def fetch(self, layers: Sequence[str]) -> Snapshot:
        fetched = self._aws.call(lambda client: [self._layer(client, layer) for layer in layers])
        return Snapshot(tuple(fetched), key_tree.combined_revision(fetched))

    def _layer(self, client: Any, layer: str) -> Layer:
        from botocore.exceptions import ClientError

        # A token is good for one request. It is removed before the request, because the answer may be lost.
        token, previous = self._sessions.pop(layer, ("", None))
        try:
            if token:
                try:
                    answer = client.get_latest_configuration(ConfigurationToken=token)
                except ClientError as error:
                    if not is_missing(error, "BadRequestException"):
                        raise
                    token, previous = "", None
            if not token:
                started = client.start_configuration_session(
                    ApplicationIdentifier=self._application,
                    EnvironmentIdentifier=self._options.environment,
                    ConfigurationProfileIdentifier=layer,
                )
                answer = client.get_latest_configuration(ConfigurationToken=started["InitialConfigurationToken"])
        except ClientError as error:
            if is_missing(error, "ResourceNotFoundException"):
                return Layer(layer, None)
            raise
        next_token = answer["NextPollConfigurationToken"]
        content = answer["Configuration"].read()
        current = previous if not content and previous is not None else self._parse(layer, content, answer)
        self._sessions[layer] = (next_token, current)
        return current

    def _parse(self, layer: str, content: bytes, answer: Any) -> Layer:
        content_type = str(answer.get("ContentType", "application/json")).partition(";")[0]
        if not content:
            raise SourceInvalid(f'profile "{layer}" has no content', hint="deploy a version of it")
        if content_type not in decoding.CONTENT_TYPES:
            raise SourceInvalid(f'profile "{layer}" has the type "{content_type}"', hint="make it JSON, YAML or TOML")
        tree = decoding.parse(content, decoding.CONTENT_TYPES[content_type], f'profile "{layer}"')
        return Layer(layer, tree, str(answer.get("VersionLabel") or key_tree.digest(content)))

    def close(self) -> None:
        self._aws.close()
