"""What the sinks on AWS share: a boto3 client, and its errors as ours. boto3 is the extra `aws`."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from agent.errors import SinkDenied, SinkRefused, SinkUnavailable
from agent.schema import Seconds, setting
from agent.shipping import SinkTooLarge

_DENIED = (
    "AccessDenied",
    "UnrecognizedClient",
    "InvalidClientTokenId",
    "ExpiredToken",
    "SignatureDoesNotMatch",
    "InvalidAccessKey",
)
_REFUSED = ("InvalidParameter", "ValidationException", "InvalidRequest", "MalformedXML")


@dataclass(frozen=True, slots=True, kw_only=True)
class AwsOptions:
    region: str = setting("the region", "{{ facts.region }}")
    endpoint_url: str = setting("another address of the API", "")
    timeout: Seconds = setting("how long one request may take", Seconds(30.0))


def client(service: str, options: AwsOptions) -> Any:
    """Credentials are boto3's: the instance's role first of all. Raises SinkDenied where boto3 is not installed."""
    try:
        import boto3
        from botocore.config import Config
    except ImportError:
        raise SinkDenied("boto3 is not installed", hint="apt install python3-boto3, or pip install 'parbake[aws]'") from None
    config = Config(connect_timeout=min(10.0, options.timeout), read_timeout=options.timeout, retries={"max_attempts": 0})
    return boto3.client(service, region_name=options.region, endpoint_url=options.endpoint_url or None, config=config)


@contextmanager
def translated(what: str) -> Iterator[None]:
    """botocore's errors as SinkUnavailable, SinkDenied or SinkRefused."""
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

    try:
        yield
    except NoCredentialsError:
        raise SinkDenied(f"{what}: no AWS credentials", hint="give the instance a role") from None
    except ClientError as error:
        code = str(error.response.get("Error", {}).get("Code", ""))
        if code.startswith(_DENIED):
            raise SinkDenied(f"{what}: {code}", hint="see the policy of the instance's role") from None
        if code in ("EntityTooLarge", "RequestEntityTooLarge"):
            raise SinkTooLarge(f"{what}: {code}") from None
        if code.startswith(_REFUSED):
            raise SinkRefused(f"{what}: {code}") from None
        raise SinkUnavailable(f"{what}: {code}") from None
    except BotoCoreError as error:
        raise SinkUnavailable(f"{what}: {type(error).__name__}") from None
