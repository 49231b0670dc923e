"""What the sinks on AWS share: a client of boto3's, and its errors as ours. boto3 is the extra `aws`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.errors import SinkDenied, SinkRefused, SinkUnavailable
from agent.net.credentials import resolve_path
from agent.net.tls import TlsFiles
from agent.settings.schema import Seconds, setting
from agent.settings.urls import check_url
from agent.shipping import SinkContext, SinkTooLarge

_DENIED = (
    "AccessDenied", "UnrecognizedClient", "InvalidClientTokenId", "ExpiredToken", "SignatureDoesNotMatch", "InvalidAccessKey",
    "InvalidSignature", "MissingAuthenticationToken", "RequestExpired", "OptInRequired", "KMSAccessDenied", "Forbidden", "403",
)  # fmt: skip
_REFUSED = ("InvalidParameter", "ValidationException")


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsOptions(TlsFiles):
    region: str = setting("the region", "{{ facts.region }}")
    endpoint_url: str = setting("another address of the API", "")
    credentials_file: str = setting(
        "file, or credential:NAME, as ~/.aws/credentials is; default: what boto3 finds, or the role of the instance",
        "",
    )
    timeout: Seconds = setting("how long one request may take", Seconds(30.0))

    def __post_init__(self) -> None:
        if self.endpoint_url:
            check_url(self.endpoint_url, "endpoint_url")
        if self.timeout <= 0:
            raise ValueError("timeout must be above zero")


class Aws:
    """One service's client, made at the first use, and anew after a denial: keys are rotated."""

    def __init__(self, service: str, options: AwsOptions, context: SinkContext) -> None:
        self._service, self._options, self._context = service, options, context
        self._client: Any = None
        options.warn()

    @contextmanager
    def calls(self, what: str) -> Iterator[Any]:
        """The client; botocore's errors become SinkUnavailable, SinkDenied, SinkRefused or SinkTooLarge."""
        if self._client is None:
            self._client = self._connect()
        try:
            with translated(what):
                yield self._client
        except SinkDenied:
            self.close()
            raise

    def close(self) -> None:
        if self._client is not None:
            self._client.close()
            self._client = None

    def _connect(self) -> Any:
        try:
            import botocore.session
            from botocore.config import Config
        except ImportError:
            hint = "apt install python3-boto3, or pip install 'parbake[aws]'"
            raise SinkDenied("boto3 is not installed", hint=hint) from None
        options, seconds = self._options, max(0.5, self._context.stop.within(self._options.timeout))
        session = botocore.session.Session()
        if options.credentials_file:
            session.set_config_variable("credentials_file", str(self._file(options.credentials_file)))
            session.get_component("credential_provider").remove("env")
        certificate: str | tuple[str, str] | None = None
        if options.cert_file:
            first = str(self._file(options.cert_file))
            certificate = (first, str(self._file(options.key_file))) if options.key_file else first
        verify = False if options.insecure else str(self._file(options.ca_file)) if options.ca_file else None
        # Stores that speak S3 and are not Amazon's do not know the checksums that newer versions add unasked.
        checksums = "request_checksum_calculation"
        more = {checksums: "when_required"} if options.endpoint_url and checksums in Config.OPTION_DEFAULTS else {}
        with translated(f"{self._service} of AWS"), _settings_of(self._service):
            return session.create_client(
                self._service,
                region_name=options.region,
                endpoint_url=options.endpoint_url or None,
                verify=verify,
                config=Config(
                    connect_timeout=min(10.0, seconds),
                    read_timeout=seconds,
                    retries={"max_attempts": 0},
                    client_cert=certificate,
                    user_agent_extra="parbake-ship",
                    **more,
                ),
            )

    def _file(self, reference: str) -> Path:
        return resolve_path(reference, self._context.paths, SinkDenied)


@contextmanager
def _settings_of(service: str) -> Iterator[None]:
    """botocore refuses an address with a ValueError that is none of its own errors."""
    try:
        yield
    except ValueError as error:
        import botocore.exceptions as boto

        if isinstance(error, boto.BotoCoreError) and not isinstance(error, boto.InvalidRegionError):
            raise
        hint = "a host's name has letters, digits, hyphens and dots: no underscore"
        raise SinkDenied(f"{service} of AWS: endpoint_url or region is none that boto3 takes", hint=hint) from None


@contextmanager
def translated(what: str) -> Iterator[None]:
    """botocore's errors as ours. Delivery repeats and backs off, so that botocore does not."""
    import botocore.exceptions as boto

    try:
        yield
    except (boto.NoCredentialsError, boto.PartialCredentialsError, boto.CredentialRetrievalError):
        raise SinkDenied(f"{what}: no AWS credentials", hint="give the instance a role, or set credentials_file") from None
    except boto.ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        if code.startswith(_DENIED):
            raise SinkDenied(f"{what}: {code}", hint="see the policy of the instance's role") from None
        if code == "NoSuchBucket":
            raise SinkDenied(f"{what}: the bucket does not exist", hint="make it, or set bucket and region") from None
        if code in ("EntityTooLarge", "RequestEntityTooLarge"):
            raise SinkTooLarge(f"{what}: {code}") from None
        if code.startswith(_REFUSED):
            raise SinkRefused(f"{what}: {code}") from None
        raise SinkUnavailable(f"{what}: {code}") from None
    except boto.ParamValidationError:
        raise SinkDenied(f"{what}: a name in the settings is none that AWS allows", hint="see the sink's options") from None
    except boto.BotoCoreError as error:
        raise SinkUnavailable(f"{what}: {type(error).__name__}") from None
    except OSError as error:
        raise SinkUnavailable(f"{what}: {error.strerror or type(error).__name__}", hint="see the sink's files") from None
