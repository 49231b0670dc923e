"""Documents from stores: a value that no target can hold is refused when it is read, with its line and without its text."""

from __future__ import annotations

import base64
import json

import pytest

from agent.errors import SourceInvalid
from agent.sources.decoding import parse

LONG = "0x" + "f" * 5000


def test_binary_becomes_the_base64_that_a_key_of_bytes_expects() -> None:
    """Bytes would reach code that cannot write them, such as the last good run config."""
    assert parse("a: !!binary aGVs\n  bG8=", "YAML", "w") == {"a": base64.b64encode(b"hello").decode()}


@pytest.mark.parametrize(
    "value", ['!!int ""', "!!int hunter2", "!!bool hunter2", "!!timestamp hunter2", '!!float ""', "!!float hunter2"]
)
def test_a_value_that_does_not_fit_its_tag_is_named_by_its_line(value: str) -> None:
    """Any exception of the YAML library is a mistake in the document; the message does not quote it."""
    with pytest.raises(SourceInvalid, match="w is not valid YAML: line 2, column 4: a value that does not fit") as refused:
        parse(f"b: 1\na: {value}\n", "YAML", "w")
    assert "hunter2" not in str(refused.value)


@pytest.mark.parametrize(
    ("text", "form"),
    [
        (f"big: {LONG}", "YAML"),
        (f"big: [{LONG}]", "YAML"),
        (f"big: {{? {LONG} : 1}}", "YAML"),
        (f"? {LONG}\n: 1", "YAML"),
        (f"big: {'9' * 4500}", "YAML"),
        (f"big = {LONG}", "TOML"),
        (f"big = {'9' * 4500}", "TOML"),
        (json.dumps({"big": 1}).replace("1", "9" * 4500), "JSON"),
        (json.dumps({"big": 1}).replace("1", "9" * 4200), "JSON"),
    ],
)
def test_a_number_that_cannot_be_written_is_refused(text: str, form: str) -> None:
    """Python reads it and refuses to write it, which would fail in the middle of a convergence."""
    with pytest.raises(SourceInvalid) as refused:
        parse(text, form, "w")
    assert len(str(refused.value)) < 200


def test_a_long_number_that_can_be_written_is_taken() -> None:
    """An example is the modulus of a key of 8192 bits."""
    number = 2**8192 - 1
    assert parse(f"n: {number}", "YAML", "w") == parse(json.dumps({"n": number}), "JSON", "w") == {"n": number}
