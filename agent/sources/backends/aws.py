"""boto3 for the AWS backends: credentials, time-outs, and its exceptions as ours."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, TypeVar

from agent.errors import SourceDenied, SourceInvalid, SourceUnreachable
from agent.net.credentials import resolve_path
from agent.net.http_client import TlsFiles, check_url
from agent.net.sockets import describe_network_error
from agent.settings.schema import setting
from agent.settings.urls import check_metadata_url
from agent.sources import SourceContext, optional
from agent.sources.backends.metadata import Metadata

T = TypeVar("T")
_DENIED = (
    "AccessDenied", "AccessDeniedException", "UnrecognizedClientException", "InvalidClientTokenId", "ExpiredToken",
    "ExpiredTokenException", "SignatureDoesNotMatch", "InvalidSignatureException", "InvalidAccessKeyId", "Forbidden",
    "MissingAuthenticationToken", "MissingAuthenticationTokenException", "AuthFailure", "KMSAccessDeniedException",
    "OptInRequired", "RequestExpired", "403", "401",
)  # fmt: skip
_AGAIN = ("Throttling", "ThrottlingException", "TooManyRequestsException", "ProvisionedThroughputExceededException",
          "RequestLimitExceeded", "SlowDown", "RequestTimeout", "InternalServerError", "InternalServiceError")  # fmt: skip


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
    """One service's client, made at the first call and anew after a time-out.

    Credentials: what boto3 finds in its environment, its files or a web identity; else the instance's role, asked for
    through parbake's own guarded client.
    """

    def __init__(self, service: str, backend: str, options: AwsOptions, context: SourceContext) -> None:
        optional.require("boto3", backend, "aws", "python3-boto3")
        self._service = service
        self._options = options
        self._context = context
        self._metadata = Metadata(options.imds_url, context)
        self._client: Any = None
        self._closed = False
        options.warn()

    def call(self, read: Callable[[Any], T]) -> T:
        """`read(client)`, ended at the source's time-out. Raises SourceUnreachable, SourceDenied or SourceInvalid."""
        return optional.call_with_timeout(
            self._context.timeout_seconds, lambda: self._read(read), f"{self._service} of AWS", self._drop
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
        import botocore.session
        from botocore.config import Config

        session = botocore.session.Session()
        # The one provider that asks a metadata service is replaced: it would use a proxy.
        resolver = session.get_component("credential_provider")
        with contextlib.suppress(botocore.exceptions.UnknownCredentialError):
            resolver.remove("iam-role")
        if session.get_credentials() is None:
            session._credentials = botocore.credentials.RefreshableCredentials.create_from_metadata(
                metadata=self._metadata.aws_credentials(),
                refresh_using=self._metadata.aws_credentials,
                method="parbake-instance-role",
            )
        options, paths = self._options, self._context.paths
        seconds = self._context.timeout_seconds
        certificate: str | tuple[str, str] | None = None
        if options.cert_file:
            first = str(resolve_path(options.cert_file, paths))
            certificate = (first, str(resolve_path(options.key_file, paths))) if options.key_file else first
        verify = False if options.insecure else str(resolve_path(options.ca_file, paths)) if options.ca_file else None
        return session.create_client(
            self._service,
            region_name=options.region,
            endpoint_url=options.endpoint_url or None,
            verify=verify,
            config=Config(
                connect_timeout=min(5.0, seconds),
                read_timeout=seconds,
                retries={"total_max_attempts": 3, "mode": "standard"},
                client_cert=certificate,
                max_pool_connections=1,
                user_agent_extra="parbake",
            ),
        )

    @contextlib.contextmanager
    def _translated(self) -> Iterator[None]:
        import botocore.exceptions as boto

        place = f"{self._service} of AWS in {self._options.region}"
        try:
            yield
        except boto.ClientError as error:
            raise self._meaning(error, place) from None
        except (boto.NoCredentialsError, boto.PartialCredentialsError, boto.CredentialRetrievalError):
            self._drop()
            raise SourceDenied(f"{place}: there are no credentials", hint="give the instance a role") from None
        except (boto.HTTPClientError, boto.ConnectionError, boto.IncompleteReadError, OSError) as error:
            self._drop()
            text, hint = describe_network_error(error) or (type(error).__name__, None)
            raise SourceUnreachable(f"{place}: {text}", hint=hint) from None
        except KeyError as error:
            # An answer that broke off in its headers has no body; the library takes that for an empty result.
            raise SourceUnreachable(f"{place}: the answer broke off, or has no {error.args[0]}") from None
        except (boto.BotoCoreError, ValueError) as error:
            raise SourceInvalid(f"{place}: {type(error).__name__}") from None

    def _meaning(self, error: Any, place: str) -> SourceDenied | SourceUnreachable | SourceInvalid:
        code = str(error.response.get("Error", {}).get("Code", ""))
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        if code in _DENIED or status in (401, 403):
            self._drop()
            return SourceDenied(f"{place}: {code}", hint=f"allow {error.operation_name} to the instance's role")
        if code.isdigit():
            return SourceUnreachable(f"{place}: it answers {code} with no body, or the answer broke off")
        if code in _AGAIN or status == 429 or status >= 500:
            return SourceUnreachable(f"{place}: {code}")
        return SourceInvalid(f"{place}: {code} from {error.operation_name}")

    def _drop(self) -> None:
        client, self._client = self._client, None
        if client is not None:
            client.close()

    def close(self) -> None:
        self._closed = True
        self._metadata.close()
        self._drop()


def missing(error: Any, *codes: str) -> bool:
    """Whether a ClientError says that there is no such thing, by one of its codes."""
    return str(error.response.get("Error", {}).get("Code", "")) in codes
