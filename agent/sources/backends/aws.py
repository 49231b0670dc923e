"""boto3 for the AWS backends: credentials, time-outs, and its exceptions as errors of a source."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from agent.errors import SourceDenied, SourceInvalid, SourceUnreachable
from agent.net.aws_session import ClientOptions, is_denied, new_session
from agent.net.http_client import TlsFiles, check_url
from agent.net.sockets import describe_network_error
from agent.settings.schema import setting
from agent.settings.urls import check_metadata_url
from agent.sources import SourceContext, optional
from agent.sources.backends.metadata import Metadata

T = TypeVar("T")
_RETRYABLE = (
    "Throttling", "ThrottlingException", "TooManyRequestsException", "ProvisionedThroughputExceededException",
    "RequestLimitExceeded", "SlowDown", "RequestTimeout", "InternalServerError", "InternalServiceError",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsOptions(TlsFiles):
    region: str = setting("the region, such as eu-central-1")
    endpoint_url: str = setting("another address of the service, such as a VPC endpoint", "")
    imds_url: str = setting("another address of the metadata service that gives the instance's role", "")

    def __post_init__(self) -> None:
        check_metadata_url(self.imds_url)
        if self.endpoint_url:
            check_url(self.endpoint_url, "endpoint_url")
        if not self.region:
            raise ValueError("region is empty")


class Aws:
    """The client of one service, made at the first call and again after a failure.

    It uses the credentials that boto3 finds in the environment, in its files, or through a web identity. Without any it
    uses the instance's role, which it requests from the metadata service through parbake's own client.
    """

    def __init__(self, service: str, backend: str, options: AwsOptions, context: SourceContext) -> None:
        """Keep the arguments. `service` is botocore's name of it. Raises SettingsError if boto3 is not installed."""
        optional.require("boto3", backend, "aws", "python3-boto3")
        self._service = service
        self._options = options
        self._context = context
        self._metadata = Metadata(options.imds_url, context)
        self._client: Any = None
        self._closed = False
        options.warn()

    def call(self, read: Callable[[Any], T]) -> T:
        """Return `read(client)`, ended at the source's time-out. Raises SourceUnreachable, SourceDenied or SourceInvalid."""
        context = self._context
        return optional.call_with_timeout(
            context.timeout_seconds, lambda: self._read(read), f"{self._service} of AWS", self._drop, context.stopping
        )

    def _read(self, read: Callable[[Any], T]) -> T:
        with self._translated():
            if self._closed:
                raise SourceUnreachable(f"{self._service} of AWS: closed")
            if self._client is None:
                self._client = self._connect()
            return read(self._client)

    def _connect(self) -> Any:
        import botocore.credentials
        import botocore.exceptions

        session = new_session()
        # botocore's own provider of the instance's role would use a proxy.
        resolver = session.get_component("credential_provider")
        with contextlib.suppress(botocore.exceptions.UnknownCredentialError):
            resolver.remove("iam-role")
        if session.get_credentials() is None:
            session._credentials = botocore.credentials.RefreshableCredentials.create_from_metadata(
                metadata=self._metadata.aws_credentials(),
                refresh_using=self._metadata.aws_credentials,
                method="parbake-instance-role",
            )
        seconds = self._context.timeout_seconds
        options = ClientOptions(
            region=self._options.region,
            endpoint_url=self._options.endpoint_url,
            tls=self._options,
            paths=self._context.paths,
            denied=SourceDenied,
            connect_timeout_seconds=min(5.0, seconds),
            read_timeout_seconds=seconds,
            retries={"total_max_attempts": 3, "mode": "standard"},
            user_agent_extra="parbake",
        )
        return options.new_client(session, self._service)

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        """Turn botocore's exceptions into errors of the source, without their text, which may hold a value."""
        import botocore.exceptions as boto

        peer = f"{self._service} of AWS in {self._options.region}"
        try:
            yield
        except boto.ClientError as error:
            raise self._error_of(error, peer) from None
        except (boto.NoCredentialsError, boto.PartialCredentialsError, boto.CredentialRetrievalError):
            self._drop()
            raise SourceDenied(f"{peer}: there are no credentials", hint="give the instance a role") from None
        except (boto.HTTPClientError, boto.ConnectionError, boto.IncompleteReadError, OSError) as error:
            self._drop()
            reason, hint = describe_network_error(error) or (type(error).__name__, None)
            raise SourceUnreachable(f"{peer}: {reason}", hint=hint) from None
        except KeyError as error:
            # An answer that broke off in its headers has no body; botocore takes it for an empty result.
            raise SourceUnreachable(f"{peer}: the answer broke off, or has no {error.args[0]}") from None
        except (boto.BotoCoreError, ValueError) as error:
            raise SourceInvalid(f"{peer}: {type(error).__name__}") from None

    def _error_of(self, error: Any, peer: str) -> SourceDenied | SourceUnreachable | SourceInvalid:
        """Return the source's error for a ClientError, by its code and the status of the answer."""
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        if is_denied(code) or status in (401, 403):
            self._drop()
            return SourceDenied(f"{peer}: {code}", hint=f"allow {error.operation_name} to the instance's role")
        if code.isdigit():
            return SourceUnreachable(f"{peer}: it answers {code} with no body, or the answer broke off")
        if code in _RETRYABLE or status == 429 or status >= 500:
            return SourceUnreachable(f"{peer}: {code}")
        return SourceInvalid(f"{peer}: {code} from {error.operation_name}")

    def _drop(self) -> None:
        """Close the client. The next call makes another, with the credentials read again."""
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def close(self) -> None:
        """Close the client for good."""
        self._closed = True
        self._metadata.close()
        self._drop()


def is_missing(error: Any, *codes: str) -> bool:
    """Return whether a ClientError has one of the codes for a thing that does not exist."""
    return str(error.response.get("Error", {}).get("Code", "")) in codes
