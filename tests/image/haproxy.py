"""A machine whose haproxy serves a value from Consul, and a process that can take its port."""

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
#: Listens on the port ACCEPTED from the boot on. `haproxy -c` does not bind, so it accepts a config with that port.
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
    """Return the machine's build config by path. haproxy is acted on with `action`; `template` is added to its table."""
    return {
        "/etc/parbake/parbake.toml": SOURCE + TEMPLATE.replace("ACTION", action) + template + more,
        "/etc/parbake/templates/haproxy.cfg.j2": CONFIG,
        "/etc/systemd/system/squatter.service": SQUATTER,
    }


def fill(consul: Consul, **values: str | int) -> None:
    """Set the keys below web/ in one transaction: a config that works, with `values` over it."""
    pairs = {"greeting": "first", "port": 8088, "timeout": "30s", **values}
    operations = [
        {"KV": {"Verb": "set", "Key": f"site/common/web/{name}", "Value": b64encode(str(value).encode()).decode()}}
        for name, value in pairs.items()
    ]
    consul.request("PUT", "/v1/txn", json.dumps(operations).encode())


def served(machine: Machine, port: int = 8088) -> str:
    """Return haproxy's answer, or "" if there is none."""
    return machine.run(["curl", "-sS", "--max-time", "5", f"http://127.0.0.1:{port}/"], check=False).stdout


def serves(machine: Machine, greeting: str, *, port: int = 8088, seconds: float = 60.0) -> bool:
    return until(lambda: served(machine, port) == greeting, seconds)
