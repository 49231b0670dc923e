"""Checks the URLs of the settings, and shows them in messages without credentials."""

from __future__ import annotations

from pathlib import Path
from urllib.parse import urlsplit

from agent.paths import Paths


def shown(url: str) -> str:
    """Return a URL for messages: without user, password, query and fragment, which may hold credentials."""
    parts = urlsplit(url)
    host = parts.netloc.rpartition("@")[2]
    return f"{parts.scheme}://{host}{parts.path}"


def split_address(address: str, paths: Paths) -> tuple[str, Path | None]:
    """Return the base URL and the Unix socket of an address: "https://consul:8501", or "unix:///run/consul.sock"."""
    if address.startswith("unix://"):
        return "http://localhost", paths.host(address.removeprefix("unix://"))
    return address.rstrip("/"), None


def check_url(url: str, option: str, *, schemes: tuple[str, ...] = ("http", "https")) -> None:
    """Raise ValueError if `url`, the value of `option`, is not valid or contains credentials. For an options class."""
    try:
        parts = urlsplit(url)
        host, _ = parts.hostname, parts.port
    except ValueError as error:
        raise ValueError(f"{option} is not a URL: {error}") from None
    if parts.scheme not in schemes:
        raise ValueError(f"{option} must begin with {' or '.join(f'{scheme}://' for scheme in schemes)}")
    if parts.scheme == "unix":
        if not parts.path.startswith("/") or parts.netloc:
            raise ValueError(f"{option} must name a socket, such as unix:///run/consul.sock")
    elif not host:
        raise ValueError(f"{option} has no host name")
    if "@" in parts.netloc:
        raise ValueError(f"{option} must not contain credentials; they come from a file or a systemd credential")


def check_metadata_url(url: str) -> None:
    """Raise ValueError if `url`, the value of `imds_url`, is neither empty nor the address of a metadata service."""
    if url:
        check_url(url, "imds_url", schemes=("http",))
        if set(url) & set("?#"):
            raise ValueError("imds_url must be http://ADDRESS[:PORT][/PATH]")
