"""The small values: secrets, states, key paths, durations, placeholders, TOML text."""

from __future__ import annotations

import copy
import json
import logging
import pickle
import tomllib
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import DiscoveryError
from agent.formats import toml_writer
from agent.keypath import dotted, segments
from agent.model import ChangeKind, SourceState, UnitAction, UnitOutcome
from agent.secret import MASK, Secret
from agent.settings import interpolation, schema
from agent.settings.schema import Problems
from agent.settings.source_lines import Location


@dataclass(frozen=True)
class Holder:
    secret: Secret


def shown(secret: Secret) -> list[str]:
    return [
        repr(secret), str(secret), f"{secret}", f"{secret!r}", f"{secret:>20}", "{} {!r}".format(secret, secret),  # noqa: UP032
        repr([secret]), repr({"k": secret}), repr(Holder(secret)), repr(asdict(Holder(secret))),
        json.dumps({"k": secret}, default=str), repr(copy.deepcopy(secret)), repr(copy.copy(secret)),
        repr(pickle.loads(pickle.dumps(secret)).reveal()), logging.LogRecord("", 0, "", 0, "%s", (secret,), None).getMessage(),
    ]  # fmt: skip


@given(st.one_of(st.text(), st.binary(), st.integers(), st.lists(st.text())))
def test_a_secret_redacts_itself(value: Any) -> None:
    """Promise 5: repr, str, format, JSON, pickles, copies, logging and dataclasses show the same of every value: the mask."""
    texts = shown(Secret(value))
    assert texts == shown(Secret("another"))
    assert all(MASK in text for text in texts)
    assert Secret(value).reveal() == value


def test_a_secret_does_not_leak_through_json_or_iteration() -> None:
    """Without a default JSON refuses it, and it cannot be iterated over."""
    with pytest.raises(TypeError):
        json.dumps(Secret("hunter2"))
    with pytest.raises(TypeError):
        list(Secret("hunter2"))
    with pytest.raises((TypeError, AttributeError)):
        vars(Secret("hunter2"))


@pytest.mark.parametrize("member", [*ChangeKind, *SourceState, *UnitAction, *UnitOutcome])
def test_a_state_is_written_as_its_text(member: StrEnum) -> None:
    """Records on disk, status.json and messages hold the text of a state, and the text gives the state back."""
    text = member.value
    assert json.dumps({"state": member}) == json.dumps({"state": text})
    assert (f"{member}", "%s" % member, str(member)) == (text, text, text)  # noqa: UP031
    assert type(member)(text) is member


def test_the_actions_of_units_are_ordered_by_strength() -> None:
    """Promise 3: the strongest action that the templates name is the one that is done."""
    assert max([UnitAction.RESTART, UnitAction.START, UnitAction.RELOAD], key=lambda action: action.strength) == "restart"


@given(st.one_of(st.text(), st.integers(), st.booleans()), st.one_of(st.text(), st.integers(), st.booleans()))
def test_a_rotated_secret_counts_as_changed(one: Any, two: Any) -> None:
    """Equality and hash are the value's, so that a rotation is a change; 1 and True are not the same."""
    same = type(one) is type(two) and one == two
    assert (Secret(one) == Secret(two)) is same
    if same:
        assert hash(Secret(one)) == hash(Secret(two))
    assert Secret(one) != one
    assert Secret(Secret(one)).reveal() == one


@given(st.lists(st.text(st.characters(exclude_characters='"'), max_size=4), min_size=1, max_size=4).map(tuple))
def test_key_paths_are_written_and_read(path: tuple[str, ...]) -> None:
    """INTERFACE section 4: keys are written with dots. A segment that contains a dot is quoted, and is read back unchanged."""
    assert segments(dotted(path)) == path


@pytest.mark.parametrize(
    ("text", "expected"),
    [("200ms", 0.2), ("5s", 5), ("2m", 120), ("1h", 3600), ("1.5h", 5400), ("1d", 86400), ("3min", 180), (7, 7), (0.5, 0.5),
     ("soon", None), ("-1s", None), (-1, None), (True, None), ("", None), ("5 parsecs", None), (float("inf"), None),
     ("1e3", None)],
)  # fmt: skip
def test_durations(text: object, expected: float | None) -> None:
    """INTERFACE section 3: a bad duration is an error, never a guess."""
    assert schema.seconds(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [("512KiB", 524288), ("10MiB", 10485760), (5, 5), ("1kB", 1000), ("-1", None), (True, None), ("x", None)],
)
def test_sizes(text: object, expected: int | None) -> None:
    """A size is in bytes; binary and decimal suffixes differ."""
    assert schema.size(text) == expected


@dataclass(frozen=True, kw_only=True)
class Options:
    path: str = schema.setting("a path")
    mode: schema.Mode = schema.setting("a mode", schema.Mode(0o644))
    often: schema.Seconds = schema.setting("how often", schema.Seconds(1.0))
    parts: tuple[str, ...] = schema.setting("parts", ())


@given(
    st.dictionaries(
        st.sampled_from(["path", "mode", "often", "parts", "paht"]),
        st.one_of(st.integers(), st.text(), st.booleans(), st.lists(st.integers()), st.none()),
    )
)
def test_a_table_is_read_or_every_problem_named(table: dict[str, Any]) -> None:
    """A table becomes its record, or a problem for each wrong key, and never an exception."""
    problems = Problems()
    found = schema.read(Options, table, Location("x"), problems)
    assert (found is None) == bool(problems.messages)
    if "paht" in table:
        assert any('unknown key "paht"; did you mean "path"?' in text for text in problems.messages)
    if "path" not in table:
        assert any('"path" is missing' in text for text in problems.messages)


SPACES: dict[str, dict[str, Any]] = {
    "facts": {"environment": "dev", "tags": {"role": "edge"}, "userdata": {}},
    "build": {"component": "web"},
}


def test_placeholders() -> None:
    """INTERFACE section 3: layers and labels name facts and build config; an absent fact is an error, never an empty string."""
    assert interpolation.fill("env/{{ facts.environment }}/{{build.component}}", SPACES) == "env/dev/web"
    assert interpolation.fill("{{ facts.tags.role }}", SPACES) == "edge"
    for absent in ("{{ facts.region }}", "{{ facts.tags.nope }}", "{{ facts.tags }}", "{{ build.x }}"):
        with pytest.raises(DiscoveryError) as failed:
            interpolation.fill(absent, SPACES)
        assert absent.strip("{} ") in str(failed.value)
        assert failed.value.hint
    assert interpolation.names("a/{{ facts.tags.role }}/{{ facts.zone }}/{{ build.component }}") == {"tags.role", "zone"}


@pytest.mark.parametrize(
    "text", ["{{ fact.x }}", "{{ config.x }}", "{{ facts.x | upper }}", "{{ facts. }}", "{{ facts.x", "{% if %}"]
)
def test_an_expression_is_not_a_placeholder(text: str) -> None:
    """A placeholder is a lookup and not a template: other expressions are refused when the settings are read."""
    assert list(interpolation.problems(text))


TOML = st.recursive(
    st.one_of(st.text(), st.integers(-(2**63), 2**63 - 1), st.booleans(), st.floats(allow_nan=False)),
    lambda deeper: st.one_of(st.lists(deeper, max_size=3), st.dictionaries(st.text(max_size=5), deeper, max_size=3)),
    max_leaves=10,
)


@given(st.dictionaries(st.text(max_size=5), TOML, max_size=4))
def test_toml_reads_back(table: dict[str, Any]) -> None:
    """What to_toml writes, tomllib reads back as it was."""
    assert tomllib.loads(toml_writer.dumps(table)) == table
