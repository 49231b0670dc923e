"""For any input a parser returns facts or raises DiscoveryError, and an accepted fact is safe."""

from __future__ import annotations

import importlib
import json
import socket
import threading
import time
from collections.abc import Callable
from http.client import HTTPException
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from agent.discovery import dmi, fact_validation, parsers, userdata
from agent.discovery.clouds import CLOUDS
from agent.discovery.metadata_client import Connection, TooLong
from agent.discovery.parsers import pick, tags_of
from agent.discovery.providers import cloud_init_datasources
from agent.discovery.providers.kernel import parse
from agent.errors import DiscoveryError

quick = settings(suppress_health_check=[HealthCheck.too_slow])

TEXT = st.text(max_size=30)
JSON: st.SearchStrategy[Any] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | TEXT,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(TEXT, inner, max_size=4),
    max_leaves=12,
)
# The keys that the parsers look for, so that the search gets below the first level.
_KEYS = """
instance_id id uuid region zone location address interfaces public private ipv4 ipv6 ip_address tags tagsList
name value meta metadata user_data userData compute network interface ipAddress privateIpAddress networks type
network-config config subnets definedTags freeformTags vnics ip networkInterfaces accessConfigs attributes
machineType image public_ips placement instance meta-data meta_data dynamic imds ec2_metadata network_json ds
ip_addresses family storageProfile imageReference instanceId Events Resources EventType
"""
KEYS = st.sampled_from(_KEYS.split())
DOCUMENT: st.SearchStrategy[dict[str, Any]] = st.dictionaries(
    KEYS,
    st.recursive(
        st.none() | st.integers() | TEXT,
        lambda inner: st.lists(inner, max_size=3) | st.dictionaries(KEYS, inner, max_size=4),
        max_leaves=20,
    ),
    max_size=8,
)


@pytest.mark.parametrize("parser", [parsers.json_table, parsers.toml_table, parsers.yaml_table])
@quick
@given(raw=st.binary(max_size=200) | TEXT.map(str.encode) | JSON.map(lambda value: json.dumps(value).encode()))
def test_documents_are_tables_or_a_discovery_error(parser: Callable[[bytes, str], dict[str, Any]], raw: bytes) -> None:
    """Any bytes give a table, or an error that names the document."""
    message = "the document"
    try:
        assert isinstance(parser(raw, message), dict)
    except DiscoveryError as error:
        message = error.message
    assert message.startswith("the document")


def test_yaml_that_expands_is_refused() -> None:
    """A few hundred bytes that expand to gigabytes are refused before a value is built."""
    bomb = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(
        f"{b}: &{b} [{','.join(['*' + a] * 9)}]\n" for a, b in zip("abcdefgh", "bcdefghi", strict=True)
    )
    with pytest.raises(DiscoveryError, match="aliases"):
        parsers.yaml_table(bomb.encode(), "user-data")
    assert userdata.parbake_table(f"parbake: {{}}\n{bomb}".encode()) is None


@pytest.mark.parametrize(
    "raw", [b"[" * 100_000, b'{"a":' * 50_000, b"a: " + b"[" * 50_000, b"- " * 20_000, b"a = " + b"[" * 50_000]
)
def test_deep_documents_are_refused(raw: bytes) -> None:
    """Nesting that overruns a stack is an error, not a crash."""
    for parser in (parsers.json_table, parsers.toml_table, parsers.yaml_table):
        with pytest.raises(DiscoveryError):
            parser(raw, "the document")


@quick
@given(raw=st.binary(max_size=300) | st.binary(max_size=100).map(lambda raw: b"\x1f\x8b" + raw))
def test_user_data_may_be_anything(raw: bytes) -> None:
    """A body without a mapping under the key is not an error, also with the key's name somewhere in it."""
    assert userdata.parbake_table(raw) is None or isinstance(userdata.parbake_table(raw), dict)
    assert userdata.parbake_table(raw + b" parbake") is None or b":" in raw


@quick
@given(table=st.dictionaries(st.text("abc_", min_size=1, max_size=5), st.text("xyz 1:{}#'\"", max_size=9), max_size=4))
def test_user_data_in_json_and_in_yaml_is_the_same(table: dict[str, str]) -> None:
    """The `parbake` key gives the same table in either notation."""
    raw = json.dumps({"parbake": table, "other": 1}).encode()
    assert userdata.parbake_table(raw) == table
    assert userdata.parbake_table(b"#cloud-config\n" + raw) == table


def test_user_data_with_a_key_twice_is_still_read() -> None:
    """cloud-init takes the last one of duplicate keys, so an image that boots with two must keep its `parbake` table."""
    for raw in (b"runcmd: [a]\nparbake: {a: 1}\nruncmd: [b]\n", b'{"runcmd": ["a"], "parbake": {"a": 1}, "runcmd": ["b"]}'):
        assert userdata.parbake_table(raw) == {"a": 1}
    for parser, raw in ((parsers.yaml_value, b"a: 1\na: 2\n"), (parsers.json_value, b'{"a": 1, "a": 2}')):
        assert parser(raw, "the document") == {"a": 2}


PARSERS = [
    pytest.param(getattr(importlib.import_module(path.partition(":")[0]), name), id=f"{cloud}.{name}")
    for cloud, path in CLOUDS.items()
    for name in ("parse", "parse_document", "parse_network", "parse_networks", "parse_vnics", "parse_server", "parse_tree")
    if hasattr(importlib.import_module(path.partition(":")[0]), name)
]


@pytest.mark.parametrize("parser", PARSERS)
@quick
@given(document=DOCUMENT)
def test_a_document_of_any_shape_gives_facts(parser: Callable[..., dict[str, Any]], document: dict[str, Any]) -> None:
    """A platform's parser never fails on a shape, and its facts are accepted or refused like any value."""
    facts = parser(document, document) if parser.__name__ == "parse_tree" and "ec2" in parser.__module__ else parser(document)
    for name, value in facts.items():
        try:
            fact_validation.validate(name, value)
        except fact_validation.FactRejected:
            continue


@pytest.mark.parametrize("platform", sorted({*CLOUDS, "nocloud"}))
@quick
@given(ds=DOCUMENT | JSON)
def test_a_ds_of_any_shape_gives_facts(platform: str, ds: Any) -> None:
    """The shape of cloud-init's ds is not guaranteed."""
    assert isinstance(cloud_init_datasources.facts(platform, ds), dict)


@quick
@given(words=st.lists(st.text("ab=.,\\'é/", min_size=1, max_size=8), max_size=6))
def test_plain_words_of_a_command_line_come_back(words: list[str]) -> None:
    """Words without blanks or quotes are themselves, and so is a quoted one with blanks."""
    assert parse(" ".join(words)) == words
    assert parse(" ".join(f'"{word} x"' for word in words)) == [f"{word} x" for word in words]


@quick
@given(text=st.text(max_size=80))
def test_any_command_line_has_words_without_quotes(text: str) -> None:
    """Unbalanced quotes lose nothing else and raise nothing."""
    assert "".join(parse(text)) == "".join(text.replace('"', " ").split()) or '"' in text
    assert all('"' not in word for word in parse(text))


@quick
@given(name=TEXT, value=JSON | st.text(max_size=3000))
def test_accepted_values_hold_nothing_bad(name: str, value: Any) -> None:
    """An accepted text has no control characters and a bounded length, and its name is valid in settings."""
    try:
        accepted = fact_validation.validate(name, value)
    except fact_validation.FactRejected:
        return
    assert fact_validation.NAME.fullmatch(name)
    if isinstance(accepted, str):
        assert 0 < len(accepted) <= fact_validation.MAX_TEXT
        assert not any(ord(c) < 32 or 0x7F <= ord(c) < 0xA0 for c in accepted)


@quick
@given(value=st.text(max_size=300) | st.text("./\\a", max_size=6))
def test_a_segment_never_leaves_its_directory(value: str) -> None:
    """A value that is accepted is one name in a directory."""
    try:
        passed = fact_validation.check_segment("x", value)
    except DiscoveryError:
        return
    assert passed == value
    assert "/" not in passed
    assert passed not in ("", ".", "..")
    assert len(passed.encode()) <= 255


@quick
@given(value=JSON)
def test_tags_are_a_table_or_nothing(value: Any) -> None:
    """A list of any things, a mapping, or something else."""
    assert tags_of(value) is None or isinstance(tags_of(value), dict)


@quick
@given(value=JSON, path=st.lists(TEXT | st.integers(-3, 3), max_size=4))
def test_a_path_into_anything_is_a_value_or_none(value: Any, path: list[str | int]) -> None:
    """Descending never fails."""
    pick(value, *path)


@quick
@given(strings=st.dictionaries(st.sampled_from(sorted(dmi.Field)), st.text(max_size=40)))
def test_any_firmware_is_a_platform_or_none(strings: dict[dmi.Field, str]) -> None:
    """Firmware may hold anything. A recognised platform is in the table."""
    assert dmi.identify(strings)[0] in ("", *(row[0] for row in dmi.TABLE))


@given(
    raw=st.binary(max_size=200)
    | st.builds(
        lambda status, headers, body: b"HTTP/1.1 " + status + b"\r\n" + headers + b"\r\n" + body,
        st.sampled_from([b"200 OK\r\n", b"200\r\n", b"abc OK\r\n", b"204 x\r\n", b"99999 x\r\n"]),
        st.sampled_from(
            [b"Content-Length: 5\r\n", b"Content-Length: -1\r\n", b"Content-Length: x\r\n", b"Transfer-Encoding: chunked\r\n"]
        ),
        st.binary(max_size=40),
    )
)
def test_any_answer_is_a_reply_or_a_connection_error(raw: bytes) -> None:
    """An answer that is not HTTP raises an error that the client takes for a broken connection, and no other."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(5)
        connection = Connection(f"http://127.0.0.1:{listener.getsockname()[1]}", threading.Event())

        def answer() -> None:
            wire, _ = listener.accept()
            with wire:
                wire.recv(65536)
                wire.sendall(raw)

        thread = threading.Thread(target=answer, daemon=True)
        thread.start()
        try:
            reply = connection.send("GET", "/", {}, time.monotonic() + 2)
            assert isinstance(reply.status, int)
        except (OSError, HTTPException, ValueError, TooLong):
            pass
        finally:
            connection.close()
            thread.join(5)
