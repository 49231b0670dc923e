"""A machine whose haproxy serves what Consul says, and what may stand in that haproxy's way."""

from __future__ import annotations

import json
from base64 import b64encode

from tests.image.lab import Machine
from tests.image.observing import until
from tests.servers.consul import Consul

UNIT = "haproxy.service"
TARGET = "/etc/haproxy/haproxy.cfg"
ACCEPTED = 9099
SOURCE = """\
[component]
name = "edge"

[discovery]
providers = []

[[source]]
name = "site"
backend = "consul"
address = "http://169.254.169.254:8500"
prefix = "site"
layers = ["common"]
timeout = "3s"
"""
TEMPLATE = """\
[[template]]
source = "haproxy.cfg.j2"
target = "/etc/haproxy/haproxy.cfg"
check = ["haproxy", "-c", "-f", "{candidate}"]
units = [{ name = "haproxy.service", action = "ACTION" }]
"""
CONFIG = """\
global
    user haproxy
    group haproxy

defaults
    mode http
    timeout connect 5s
    timeout client {{ config.web.timeout }}
    timeout server 30s

frontend web
    bind 127.0.0.1:{{ config.web.port }}
    http-request return status 200 content-type text/plain string {{ config.web.greeting | to_json }}
"""
#: A port that another process of the machine has from the boot on: `haproxy -c` does not try to bind, so it passes.
SQUATTER = f"""\
[Unit]
Before=haproxy.service parbake.service
[Service]
Type=notify
ExecStart=/usr/bin/python3 -c 'import socket, time; from systemd import daemon; taken = socket.create_server(("127.0.0.1", {ACCEPTED})); daemon.notify("READY=1"); time.sleep(86400)'
[Install]
WantedBy=multi-user.target
"""  # noqa: E501


def files(action: str, *, more: str = "", template: str = "") -> dict[str, str]:
    """Build config of the machine: haproxy acted on with `action`; `template` is added to its table, `more` follows."""
    return {
        "/etc/parbake/parbake.toml": SOURCE + TEMPLATE.replace("ACTION", action) + template + more,
        "/etc/parbake/templates/haproxy.cfg.j2": CONFIG,
        "/etc/systemd/system/squatter.service": SQUATTER,
    }


def fill(consul: Consul, **values: str | int) -> None:
    """Keys below web/, over a config that works, all at once."""
    wanted = {"greeting": "first", "port": 8088, "timeout": "30s", **values}
    operations = [
        {"KV": {"Verb": "set", "Key": f"site/common/web/{name}", "Value": b64encode(str(value).encode()).decode()}}
        for name, value in wanted.items()
    ]
    consul.request("PUT", "/v1/txn", json.dumps(operations).encode())


def served(machine: Machine, port: int = 8088) -> str:
    """What haproxy answers; "" where it does not."""
    return machine.run(["curl", "-sS", "--max-time", "5", f"http://127.0.0.1:{port}/"], check=False).stdout


def serves(machine: Machine, greeting: str, *, port: int = 8088, seconds: float = 30.0) -> bool:
    return until(lambda: served(machine, port) == greeting, seconds)
