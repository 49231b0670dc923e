"""Masking: every encoding, at any position, of any number of secrets, and nothing else."""

from __future__ import annotations

import base64
import html
import json
import os
import stat
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, quote_plus

import markupsafe
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.masking.mask_file import read_mask_file, write_mask_file
from agent.masking.masker import COMMON, Masker, encodings
from agent.secret import MASK, Secret
from agent.templates import filters

SECRET = "pa/ss 'the \"wörd\"'+9<?"
texts = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=7, max_size=60)


def _carriers(secret: str) -> list[str]:
    raw = secret.encode()
    return [
        secret,
        base64.b64encode(raw).decode(),
        base64.urlsafe_b64encode(raw).decode(),
        base64.b64encode(b"u:" + raw + b"!").decode(),
        base64.b64encode(b"me:" + raw).decode(),
        base64.b64encode(b"user:" + raw + b"xy").decode(),
        quote(secret, safe=""),
        quote_plus(secret),
        quote(secret, safe="").lower() if secret.islower() else quote(secret),
        json.dumps(secret),
        json.dumps(secret, ensure_ascii=False),
        json.dumps(secret).replace("/", "\\/"),
        raw.hex(),
        filters.to_yaml({"key": secret}).removeprefix("key: ").strip().strip("'"),
        filters.to_toml({"key": secret}).removeprefix("key = ").strip().strip('"'),
        filters.quote(secret).strip("'"),
        html.escape(secret),
        html.escape(secret, quote=False),
        str(markupsafe.escape(secret)),
    ]


@pytest.mark.parametrize("carrier", _carriers(SECRET))
@pytest.mark.parametrize("crowd", [0, 200])
def test_a_secret_is_masked_in_each_of_its_encodings(carrier: str, crowd: int) -> None:
    """A secret is found plain, in base64 at each alignment, URL-encoded, JSON-escaped, in hex; alone or among many."""
    masker = Masker([SECRET, *(f"other-secret-{os.urandom(9).hex()}" for _ in range(crowd))])
    masked = masker.mask(f"before {carrier} after")
    assert MASK in masked
    assert masked.startswith("before ")
    assert masked.endswith(" after")
    assert carrier.strip('"') not in masked


@given(st.lists(texts, min_size=1, max_size=40), st.text(max_size=30), st.text(max_size=30), st.integers(0))
def test_no_secret_survives_at_any_position(secrets: list[str], before: str, after: str, pick: int) -> None:
    """A masked text does not contain a secret, with any text around it and any number of other secrets."""
    secret = secrets[pick % len(secrets)]
    if secret.strip().lower() in COMMON or not len(secret.strip()) >= 4:
        return
    raw = f"{before}{secret}{after}".encode("utf-8", "surrogatepass")
    masked = Masker(secrets).mask(raw)
    assert MASK.encode() in masked
    assert secret.encode() not in masked or secret in MASK


@given(st.lists(st.binary(max_size=40).filter(lambda text: b"needle" not in text), max_size=30))
def test_a_batch_without_secrets_is_returned_unchanged(batch: list[bytes]) -> None:
    """Masking a batch in one pass changes no byte of texts without a secret."""
    assert list(Masker(["needle-in-a-haystack-0815"]).mask_all(batch)) == batch


@pytest.mark.parametrize("length", [10, 11, 14, 15, 22, 23, 30, 31, 39, 70])
@pytest.mark.parametrize("count", [1, 60])
def test_a_batch_masks_the_same_as_one_by_one(length: int, count: int) -> None:
    """One pass over many lines finds the same secrets as separate passes, at every alignment and at the end of a line, for
    every step that the lengths of the secrets allow."""
    secrets = [f"Zq{number:04}kJ8x".ljust(length, "w") for number in range(count)]
    masker = Masker(secrets)
    for at in range(80):
        line = b"y" * at + secrets[-1].encode()
        batch = [b"x" * at, line + b"z", b"", b"clean", line]
        masked = masker.mask_all(batch)
        assert masked == [masker.mask(text) for text in batch]
        expected = b"y" * at + MASK.encode()
        assert (masked[1], masked[4]) == (expected + b"z", expected)


def test_overlapping_secrets_leave_nothing_between_them() -> None:
    """Two secrets that overlap in a text are both masked."""
    assert Masker(["abcdefgh", "efghijkl"]).mask("abcdefghijkl") == MASK


def test_short_texts_are_masked_as_words_only() -> None:
    """Two or three characters are masked as a word; one, or a word such as "true", would mask the log away."""
    masker = Masker(["abc", "7", "true"])
    assert masker.mask("pin abc, abcd 7 true") == f"pin {MASK}, abcd 7 true"


def test_the_lines_of_a_key_are_masked_one_by_one() -> None:
    """A private key that is logged line by line is masked; its header and footer stay."""
    body = [base64.b64encode(os.urandom(48)).decode() for _ in range(4)]
    masker = Masker(["\n".join(["-----BEGIN PRIVATE KEY-----", *body, "-----END PRIVATE KEY-----"])])
    assert [masker.mask(line) for line in body] == [MASK] * 4
    assert masker.mask("-----BEGIN PRIVATE KEY-----") == "-----BEGIN PRIVATE KEY-----"


def test_the_beginning_of_a_secret_at_a_cut_is_masked() -> None:
    """A line that was cut in the middle of a secret does not reveal its first half."""
    masker = Masker(["correct-horse-battery-staple"])
    assert masker.mask_cut(b"login with correct-horse-ba") == b"login with " + MASK.encode()


@pytest.mark.parametrize("pattern", [r"token=(\w+)", r"^.*token=(\w+)$", r"(?<=token=)\w+", r"(?i)TOKEN=(\w+)"])
def test_added_patterns_are_masked_in_batches_too(pattern: str) -> None:
    """A pattern of the settings masks its groups, or its whole match, also if it looks at the text around it."""
    batch = [b"clean", b"a token=abc123", b"clean"]
    assert Masker([], [pattern]).mask_all(batch) == [b"clean", b"a token=" + MASK.encode(), b"clean"]


def test_the_mask_file_is_unreadable_for_others(tmp_path: Path) -> None:
    """The mask file is never world-readable, and not written again without a change."""
    path = tmp_path / "mask"
    assert read_mask_file(path) is None
    assert write_mask_file(path, ["b", "a"], group="no-such-group")
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_mask_file(path) == ("a", "b")
    assert not write_mask_file(path, ["a", "b"], group="no-such-group")
    assert [entry.name for entry in tmp_path.iterdir()] == ["mask"]


BLOB = bytes(range(250, 256)) + b"\0raw-\xe9\n'\"" + bytes(range(130, 150))
TABLE = {"user": "admin-of-all", "pins": [1234, 77, 0.25], "deep": {"phrase": 'it\'s "that" one/two', "on": True}}


@pytest.mark.parametrize("render", [filters.to_json, filters.to_nice_json, filters.to_yaml, filters.to_toml, str])
def test_a_secret_table_is_masked_however_a_template_writes_it(render: Callable[[object], str]) -> None:
    """No part of a secret list or table survives in JSON, YAML, TOML or as Python's repr, nor the whole in base64."""
    shown = render(TABLE)
    masker = Masker(Secret(TABLE).texts())
    for text in (shown, *shown.splitlines()):
        masked = masker.mask(f"config is {text}.")
        assert not [part for part in ("admin-of-all", "1234", "77", "0.25", "that", "one/two", "it'") if part in masked]
    encoded = filters.b64encode(shown)
    assert filters.b64encode("admin-of-all")[2:14] not in masker.mask(encoded)
    assert masker.mask(encoded) != encoded


@pytest.mark.parametrize("value", [BLOB, [BLOB], {"a": {"b": BLOB}}], ids=["alone", "list", "table"])
def test_secret_bytes_are_masked_raw_and_encoded(value: object) -> None:
    """Bytes that are not text are found raw, in base64 of both alphabets, in hex, and with replacement characters."""
    masker = Masker(Secret(value).texts())
    for carrier in (
        BLOB,
        base64.b64encode(BLOB),
        base64.urlsafe_b64encode(BLOB),
        BLOB.hex().encode(),
        BLOB.decode("utf-8", "replace").encode(),
    ):
        assert masker.mask(b"it is " + carrier + b" now") == b"it is " + MASK.encode() + b" now"
    inside = base64.b64encode(b"x" + BLOB + b"y")
    assert inside[4:-4] not in masker.mask(inside)


@pytest.mark.parametrize("secret", ["\ud800\ud800", "\udcff\udcfe", "\x00\x01\x02\x03"], ids=["half", "bytes", "control"])  # noqa: PT014 - ruff sees them alike
def test_odd_characters_stop_no_masker_and_mask_nothing_else(secret: str) -> None:
    """Surrogates and control characters as a secret cause no error, and ordinary text is unchanged."""
    assert Masker([secret]).mask("what???? is \x00 \ud800 that?") == Masker(["zzzz"]).mask("what???? is \x00 \ud800 that?")
    assert Masker([secret]).mask(f"a {secret} b") == f"a {MASK} b"


@pytest.mark.parametrize("content", ["{}", "[1]", "", "\x00"])
def test_a_damaged_mask_file_is_an_error_and_not_an_empty_list(tmp_path: Path, content: str) -> None:
    """A mask file that cannot be parsed must not mean that there are no secrets."""
    (tmp_path / "mask").write_text(content)
    with pytest.raises(ValueError):
        read_mask_file(tmp_path / "mask")


def test_encodings_are_long_enough_to_be_distinct() -> None:
    """No encoding is so short that it would mask other words."""
    assert all(len(encoding) >= 4 for encoding in encodings("abcd"))
