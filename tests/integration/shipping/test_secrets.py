"""No secret leaves: rendered by `parbake once`, logged by any program, shipped by `parbake ship`."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from pathlib import Path

import pytest

from tests.conftest import Image
from tests.servers import journal_directory
from tests.servers.journal_directory import JournalWriter, entry
from tests.servers.log_receivers import HttpReceiver
from tests.servers.processes import wait_until

PASSWORD = "hunter2-very-secret"
PEM = "-----BEGIN KEY-----\n" + "\n".join(f"{'MIIEvQ' * 10}{n:04}" for n in range(30)) + "\n-----END KEY-----\n"
BLOB = bytes(range(200, 256)) + b"\0binary"
KEYS = """
[keys."db.password"]
secret = true
[keys.tokens]
type = "list"
secret = true
[keys.accounts]
type = "list"
secret = true
[keys.blob]
type = "bytes"
secret = true
[keys.pem]
secret = true
[[template]]
source = "all.j2"
target = "/etc/all.conf"
"""
SHIP = """
[ship]
files = ["/var/log/app/*.log", {{ path = "/var/log/joined/*.log", start = "^start" }}]
line_max = "1000"
[[sink]]
type = "{type}"
{options}
fields = ["*"]
labels = {{ note = "env {{{{ facts.environment }}}}", leak = "{password}" }}
"""
TEMPLATE = """\
{{ config.tokens | to_json }}
{{ config.tokens | to_nice_json }}
{{ config.accounts | to_json }}
{{ config.accounts | to_yaml }}
{{ config.accounts[0] | to_toml }}
{{ config.accounts | to_json | b64encode }}
{{ config.accounts }}
{{ config.blob }}
{{ config.blob | b64encode }}
{{ config.pem }}
{{ config.pem | to_json }}
{{ config.db.password }}
"""
GIVES_AWAY = (PASSWORD, "token-one-1", "token-two-2", "account-pass-9", "it's quoted", "8421", "MIIEvQMIIEvQ")
CARRIERS = (b"hunter2", b"-secret", base64.b64encode(BLOB)[:20], BLOB[:8], BLOB[10:20], b"token-", b"account-pass")


@pytest.fixture
def baked(image: Image) -> Image:
    """An image that has converged: its target holds every secret in every notation."""
    _settings(image, "file", 'path = "/out.ndjson"')
    image.template("all.j2", TEMPLATE)
    site = {
        "db": {"password": PASSWORD},
        "tokens": ["token-one-1", "token-two-2"],
        "accounts": [{"name": "it's quoted", "pass": "account-pass-9", "pin": 8421}],
        "blob": base64.b64encode(BLOB).decode(),
        "pem": PEM,
    }
    image.write("/site/common.json", json.dumps(site))
    ended = image.run("once")
    assert ended.code == 0, ended.err
    for place in ("/var/log/app", "/var/log/joined"):
        image.path(place).mkdir(parents=True)
    return image


def _settings(image: Image, kind: str, options: str) -> None:
    image.settings(KEYS + SHIP.format(type=kind, options=options, password=PASSWORD))


def _clean(*texts: str | bytes) -> None:
    """Fails if one of the texts holds any of the secrets, or the beginning of one."""
    for text in texts:
        raw = text if isinstance(text, bytes) else text.encode("utf-8", "surrogateescape")
        assert [given for given in GIVES_AWAY if given.encode() in raw] == []
        assert [carrier for carrier in CARRIERS if carrier in raw] == []


def _shipped(image: Image) -> list[dict[str, str]]:
    ended = image.run("ship", "--once")
    assert ended.code == 0, ended.err
    _clean(ended.err, ended.out, image.path("/out.ndjson").read_bytes())
    return [json.loads(line) for line in image.read("/out.ndjson").splitlines()]


def test_a_target_with_every_secret_is_logged(baked: Image) -> None:
    """An application that logs its whole config reveals no secret: strings, lists, tables, bytes, keys of many lines; as
    JSON, YAML, TOML, base64; line by line and as one entry."""
    config = baked.path("/etc/all.conf").read_bytes()
    assert all(given.encode() in config for given in GIVES_AWAY if "'" not in given)
    assert BLOB in config
    baked.write("/var/log/app/app.log", config + b"done\n")
    baked.write("/var/log/joined/app.log", b"start " + config.replace(b"\n", b"\n  ") + b"\nstart again\n")
    rows = _shipped(baked)
    assert [row["MESSAGE"] for row in rows if row["MESSAGE"] in ("done", "start again")] == ["done", "start again"]
    dry = baked.run("ship", "--dry-run", "--since", "1h ago")
    assert dry.code == 0
    assert "********" in dry.out
    _clean(dry.out, dry.err)


@pytest.mark.parametrize("at", [970, 985, 995, 1000, 1010])
def test_a_secret_across_the_cut_of_a_long_line(baked: Image, at: int) -> None:
    """If a line is cut at line_max, no beginning of a secret across the cut is left at its end."""
    baked.write("/var/log/app/app.log", "x" * at + PASSWORD + "y" * 200_000 + "\n")
    row = _shipped(baked)[0]
    assert row["MESSAGE"].endswith(" ...[cut]")


def test_a_secret_at_the_end_of_what_is_read_of_a_line(baked: Image) -> None:
    """Masking makes a line shorter, so that text beyond the cut moves before it: no half secret is left there."""
    line = PEM.splitlines()[1] + " "
    read = 1000 + 64 * 1024
    text = (line * (read // len(line) + 1))[: read - 7] + PASSWORD
    baked.write("/var/log/app/app.log", text + "z" * 400_000 + "\n")
    _shipped(baked)


def test_a_secret_across_two_chunks_of_a_file(baked: Image) -> None:
    """Lines are read in chunks, and masked as lines."""
    chunk = 256 * 1024
    filler = "a line of the log\n"
    text = filler * ((chunk - 10) // len(filler))
    text += "x" * (chunk - 10 - len(text)) + PASSWORD + "\nafter\n"
    baked.write("/var/log/app/app.log", text)
    assert _shipped(baked)[-1]["MESSAGE"] == "after"


def test_a_secret_in_the_path_of_a_file_and_in_a_label(baked: Image) -> None:
    """Neither the path of a file nor a label reveals a secret."""
    baked.write(f"/var/log/app/{PASSWORD}.log", "a line\n")
    row = _shipped(baked)[0]
    assert row["FILE"] == "/var/log/app/********.log"
    assert row["leak"] == "********"
    assert row["note"] == "env dev"


@pytest.mark.skipif(not journal_directory.available, reason="systemd-journal-remote is not installed")
def test_a_secret_in_any_field_of_the_journal(baked: Image) -> None:
    """A command line, a field of an application's own, a binary message: each is masked like the message."""
    directory = baked.path("/var/log/journal/0123456789abcdef0123456789abcdef")
    with JournalWriter(directory) as journal:
        journal.add(
            entry(0, "one", _CMDLINE=f"app --password={PASSWORD}", APP_TOKEN="token-one-1", PRIORITY="3"),
            entry(1, b"raw " + BLOB + b" " + base64.b64encode(BLOB)),
            entry(2, "z" * 990 + PASSWORD + "z" * 200_000),
        )
    rows = _shipped(baked)
    assert [row["MESSAGE"][:3] for row in rows] == ["one", "raw", "zzz"]
    assert rows[0]["_CMDLINE"] == "app --password=********"


def test_a_secret_in_what_is_set_aside_and_in_what_the_sink_answers(baked: Image) -> None:
    """Dead letters hold masked entries; a sink that quotes a secret in its refusal gets it into no log and no status."""

    def refuse(path: str, headers: Mapping[str, str], body: bytes) -> tuple[int, bytes]:
        _clean(body)
        return 400, f"bad credentials {PASSWORD}".encode()

    receiver = HttpReceiver(refuse)
    _settings(baked, "http", f'url = "{receiver.url}"')
    baked.write("/var/log/app/app.log", f"login with {PASSWORD}\n")
    try:
        ended = baked.run("ship", "--once")
    finally:
        receiver.close()
    letters = baked.path("/var/lib/parbake/ship/dead-letter/http.ndjson")
    assert json.loads(letters.read_text().splitlines()[0])["MESSAGE"] == "login with ********"
    _clean(ended.err, letters.read_bytes(), baked.read("/var/lib/parbake/ship/status.json"))


def test_a_rotated_secret_and_its_successor_are_both_masked(baked: Image) -> None:
    """In a running shipper the old value stays masked after the rotation, and the new one is before its first line."""
    log = baked.write("/var/log/app/app.log", "")
    process = baked.start("ship")
    out = baked.path("/out.ndjson")
    try:
        _append(log, f"before {PASSWORD}\n")
        wait_until(lambda: out.exists() and "before" in out.read_text(), 30, "the first line")
        baked.write("/site/common.json", baked.read("/site/common.json").replace(PASSWORD, "a-new-password-77"))
        assert baked.run("once").code == 0
        _append(log, f"after {PASSWORD} a-new-password-77\n")
        wait_until(lambda: "after" in out.read_text(), 30, "the second line")
        process.terminate()
        process.communicate(timeout=30)
    finally:
        process.kill()
        process.wait()
    messages = [json.loads(line)["MESSAGE"] for line in out.read_text().splitlines()]
    assert messages == ["before ********", "after ******** ********"]


def _append(log: Path, text: str) -> None:
    with log.open("a") as file:
        file.write(text)


def test_the_daemon_refreshes_the_metrics_with_what_the_shipper_says(baked: Image) -> None:
    """While `parbake run` waits for changes, metrics.prom follows the shipper, dead letters and all."""
    process = baked.start("run")
    try:
        wait_until(lambda: "parbake_state" in baked.path("/run/parbake/metrics.prom").read_text(), 30, "the first metrics")
        baked.write("/var/log/app/app.log", "a line\n")
        _shipped(baked)
        sent = 'parbake_ship_sent_total{sink="file"} 1\n'
        wait_until(lambda: sent in baked.read("/run/parbake/metrics.prom"), 30, "the sink's metrics")
    finally:
        process.terminate()
        process.communicate(timeout=30)
