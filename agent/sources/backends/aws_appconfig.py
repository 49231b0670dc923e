"""`aws-appconfig`: a configuration profile a layer. An answer says only what changed since the one before."""

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
class AppConfigOptions(AwsOptions):
    application: str = setting("the application's name or id; default: the source's name", "")
    environment: str = setting("the environment's name or id")


class AppConfigSource:
    """AWS AppConfig, through its data API."""

    options_class: ClassVar[type[Any]] = AppConfigOptions

    def __init__(self, options: AppConfigOptions, context: SourceContext) -> None:
        self._options = options
        self._application = options.application or context.name
        self._aws = Aws("appconfigdata", "aws-appconfig", options, context)
        self._sessions: dict[str, tuple[str, Layer]] = {}

    def fetch(self, layers: Sequence[str]) -> Snapshot:
        read = self._aws.call(lambda client: [self._layer(client, layer) for layer in layers])
        return Snapshot(tuple(read), key_tree.combined(read))

    def _layer(self, client: Any, layer: str) -> Layer:
        from botocore.exceptions import ClientError

        # A token is used once, so one whose answer was lost is worth nothing: taken out before it is used.
        token, known = self._sessions.pop(layer, ("", None))
        try:
            if token:
                try:
                    answer = client.get_latest_configuration(ConfigurationToken=token)
                except ClientError as error:
                    if not missing(error, "BadRequestException"):
                        raise
                    token, known = "", None
            if not token:
                started = client.start_configuration_session(
                    ApplicationIdentifier=self._application,
                    EnvironmentIdentifier=self._options.environment,
                    ConfigurationProfileIdentifier=layer,
                )
                answer = client.get_latest_configuration(ConfigurationToken=started["InitialConfigurationToken"])
        except ClientError as error:
            if missing(error, "ResourceNotFoundException"):
                return Layer(layer, None)
            raise
        following = answer["NextPollConfigurationToken"]
        content = answer["Configuration"].read()
        read = known if not content and known is not None else self._parsed(layer, content, answer)
        self._sessions[layer] = (following, read)
        return read

    def _parsed(self, layer: str, content: bytes, answer: Any) -> Layer:
        kind = str(answer.get("ContentType", "application/json")).partition(";")[0]
        if not content:
            raise SourceInvalid(f'profile "{layer}" comes without content', hint="deploy a version of it")
        if kind not in decoding.TYPES:
            raise SourceInvalid(f'profile "{layer}" has the type "{kind}"', hint="make it JSON, YAML or TOML")
        tree = decoding.parse(content, decoding.TYPES[kind], f'profile "{layer}"')
        return Layer(layer, tree, str(answer.get("VersionLabel") or key_tree.digest(content)))

    def close(self) -> None:
        self._aws.close()
