"""Root directories that look like instances, with firmware strings and files, and discovery in them."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from agent.discovery.engine import discover
from agent.model import Facts
from agent.paths import Paths
from agent.settings.models import Component, Discovery, Settings
from agent.settings.schema import Seconds

FIRMWARE: dict[str, dict[str, str]] = {
    "akamai": {"sys_vendor": "Akamai", "product_serial": "12345"},
    "alibaba": {"product_name": "Alibaba Cloud ECS"},
    "azure": {"sys_vendor": "Microsoft Corporation", "chassis_asset_tag": "7783-7084-3265-9085-8269-3286-77"},
    "digitalocean": {"sys_vendor": "DigitalOcean", "product_serial": "2756294"},
    "ec2": {"sys_vendor": "Amazon EC2", "product_uuid": "ec2e1916-9099-7caf-fd21-012345abcdef"},
    "exoscale": {"product_name": "Exoscale Compute Platform"},
    "gce": {"product_name": "Google Compute Engine"},
    "hetzner": {"sys_vendor": "Hetzner", "product_serial": "42"},
    "openstack": {"product_name": "OpenStack Nova"},
    "oracle": {"chassis_asset_tag": "OracleCloud.com"},
    "scaleway": {"sys_vendor": "Scaleway"},
    "upcloud": {"sys_vendor": "UpCloud", "product_uuid": "00322B68-0096-4042-9406-FAAD61922128"},
    "vultr": {"sys_vendor": "Vultr"},
}


def write(root: Path, path: str, content: str | bytes) -> Path:
    """Write a file below a root."""
    file = root / path.lstrip("/")
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return file


def machine(root: Path, platform: str = "", **strings: str) -> Paths:
    """Create a root with the firmware of a platform. `strings` adds to its strings or replaces them."""
    for name, text in {**FIRMWARE.get(platform, {}), **strings}.items():
        write(root, f"/sys/class/dmi/id/{name}", text + "\n")
    return Paths(root)


def settings(**discovery: Any) -> Settings:
    """Return settings with these options of [discovery]. `facts` and `facts_from` are the tables of those names."""
    tables = {name: discovery.pop(name) for name in ("facts", "facts_from") if name in discovery}
    discovery["timeout"] = Seconds(discovery.get("timeout", 5.0))
    return Settings(component=Component(name="web"), discovery=Discovery(**discovery), **tables)


def ask(paths: Paths, *providers: str, **discovery: Any) -> Facts:
    """Discover with these providers only."""
    return discover(settings(providers=providers, **discovery), paths)


def timed(paths: Paths, *providers: str, **discovery: Any) -> tuple[Facts, float]:
    """Discover, and measure the seconds."""
    start = time.monotonic()
    facts = ask(paths, *providers, **discovery)
    return facts, time.monotonic() - start


def attempts_text(facts: Facts) -> str:
    """Return one line for each attempt of discovery."""
    return "\n".join(f"{attempt.provider}: {attempt.outcome}" for attempt in facts.attempts)
