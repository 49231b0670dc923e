"""The limits of the YAML decoder: nesting, aliases, and the number of keys."""

from __future__ import annotations

import subprocess
import sys

import pytest

from agent.formats import strict_yaml

DEEP = [b"[" * 50_000, b"a: " + b"[" * 50_000, b"- " * 20_000, b"? " * 20_000, b"{a: " * 20_000]


@pytest.mark.parametrize("raw", DEEP, ids=lambda raw: raw[:8].decode())
@pytest.mark.parametrize("loader", ["C", "Python"])
def test_deep_nesting_is_an_error_and_never_the_end_of_the_process(raw: bytes, loader: str) -> None:
    """Each loader refuses nesting that overruns its stack. It runs in a separate process, which an overrun would kill."""
    code = (
        "import sys, yaml\n"
        f"if {loader == 'Python'}: yaml.__dict__.pop('CSafeLoader', None)\n"
        "from agent.formats import strict_yaml\n"
        "try: strict_yaml.load(sys.stdin.read())\n"
        "except ValueError as error: print(error)"
    )
    ended = subprocess.run([sys.executable, "-c", code], input=raw, capture_output=True, timeout=60, check=True)
    # libyaml has a limit as well, and meets it first in a line of brackets.
    assert b"nested too deeply" in ended.stdout or b"exceeded maximum nesting depth" in ended.stdout


def test_nesting_within_the_limit_is_read() -> None:
    """A document of a hundred levels is a value."""
    assert strict_yaml.load("[" * strict_yaml.MAX_DEPTH + "]" * strict_yaml.MAX_DEPTH)


def test_aliases_are_read_unless_they_are_refused() -> None:
    """A source may use aliases; a document from an untrusted writer may not."""
    text = "a: &x [1]\nb: *x\n"
    assert strict_yaml.load(text) == {"a": [1], "b": [1]}
    with pytest.raises(ValueError, match="line 2, column 4: aliases are not allowed here"):
        strict_yaml.load(text, aliases=False)


def test_a_key_that_is_there_twice_is_an_error_among_many() -> None:
    """Keys are compared in linear time, and the second of two is refused."""
    text = "\n".join(f"k{number}: 1" for number in range(20_000))
    assert len(strict_yaml.load(text)) == 20_000
    with pytest.raises(ValueError, match=r"^line \d+, column \d+: "):
        strict_yaml.load(f"{text}\nk7: 2\n")
