"""The base of the sinks on AWS: options, a client, and the translation of botocore's errors. boto3 is the extra `aws`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from agent.errors import SinkDenied, SinkRefused, SinkUnavailable
from agent.net import aws_session
from agent.net.credentials import resolve_path
from agent.net.tls import TlsFiles
from agent.settings.schema import Seconds, setting
from agent.settings.urls import check_url
from agent.shipping import SinkContext, SinkTooLarge

_REFUSED = ("InvalidParameter", "ValidationException")


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsOptions(TlsFiles):
    """Options of every sink on AWS."""

    region: str = setting("the region", "{{ facts.region }}")
    endpoint_url: str = setting("another address of the API", "")
    credentials_file: str = setting(
        "file, or credential:NAME, like ~/.aws/credentials; default: what boto3 finds, or the role of the instance",
        "",
    )
    timeout: Seconds = setting("how long one request may take", Seconds(30.0))

    def __post_init__(self) -> None:
        if self.endpoint_url:
            check_url(self.endpoint_url, "endpoint_url")
        if self.timeout <= 0:
            raise ValueError("timeout must be above zero")


class Aws:
    """The client of one service, created at the first use and again after a denial, because keys are rotated."""

    def __init__(self, service: str, options: AwsOptions, context: SinkContext) -> None:
        self._service, self._options, self._context = service, options, context
        self._client: Any = None
        options.warn()

    @contextmanager
    def calls(self, description: str) -> Iterator[Any]:
        """Yield the client. Its errors become SinkUnavailable, SinkDenied, SinkRefused or SinkTooLarge.

        `description` names the service and the resource in messages.
        """
        if self._client is None:
            self._client = self._connect()
        try:
            with translated(description):
                yield self._client
        except SinkDenied:
            self.close()
            raise

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def _connect(self) -> Any:
        options, paths = self._options, self._context.paths
        credentials_file = resolve_path(options.credentials_file, paths, SinkDenied) if options.credentials_file else None
        try:
            session = aws_session.new_session(credentials_file)
        except ImportError:
            hint = "apt install python3-boto3, or pip install 'parbake[aws]'"
            raise SinkDenied("boto3 is not installed", hint=hint) from None
        seconds = max(0.5, self._context.stop.clamp(options.timeout))
        client = aws_session.ClientOptions(
            region=options.region,
            endpoint_url=options.endpoint_url,
            tls=options,
            paths=paths,
            denied=SinkDenied,
            connect_timeout_seconds=min(10.0, seconds),
            read_timeout_seconds=seconds,
            retries={"max_attempts": 0},
            user_agent_extra="parbake-ship",
        )
        with translated(f"{self._service} of AWS"), _invalid_settings(self._service):
            return client.new_client(session, self._service)


@contextmanager
def _invalid_settings(service: str) -> Iterator[None]:
    """Raise SinkDenied for an endpoint_url or a region that botocore refuses with a plain ValueError."""
    try:
        yield
    except ValueError as error:
        import botocore.exceptions as boto

        if isinstance(error, boto.BotoCoreError) and not isinstance(error, boto.InvalidRegionError):
            raise
        hint = "a host name has letters, digits, hyphens and dots, and no underscore"
        raise SinkDenied(f"{service} of AWS: boto3 does not accept endpoint_url or region", hint=hint) from None


@contextmanager
def translated(description: str) -> Iterator[None]:
    """Translate the errors of botocore. Botocore itself does not retry, because delivery does."""
    import botocore.exceptions as boto

    try:
        yield
    except (boto.NoCredentialsError, boto.PartialCredentialsError, boto.CredentialRetrievalError):
        raise SinkDenied(
            f"{description}: no AWS credentials", hint="give the instance a role, or set credentials_file"
        ) from None
    except boto.ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        if aws_session.is_denied(code):
            raise SinkDenied(f"{description}: {code}", hint="allow it in the policy of the instance's role") from None
        if code == "NoSuchBucket":
            raise SinkDenied(f"{description}: the bucket does not exist", hint="create it, or set bucket and region") from None
        if code in ("EntityTooLarge", "RequestEntityTooLarge"):
            raise SinkTooLarge(f"{description}: {code}") from None
        if code.startswith(_REFUSED):
            raise SinkRefused(f"{description}: {code}") from None
        raise SinkUnavailable(f"{description}: {code}") from None
    except boto.ParamValidationError:
        raise SinkDenied(
            f"{description}: AWS does not allow a name in the settings", hint="correct the names in the sink's options"
        ) from None
    except boto.BotoCoreError as error:
        raise SinkUnavailable(f"{description}: {type(error).__name__}") from None
    except OSError as error:
        raise SinkUnavailable(
            f"{description}: {error.strerror or type(error).__name__}", hint="check ca_file, cert_file and key_file of the sink"
        ) from None
