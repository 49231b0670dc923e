"""What the repository cites is in the repository, and its text uses the words of plain engineering English."""

from __future__ import annotations

import ast
import functools
import io
import re
import tokenize
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from agent import discovery, errors
from agent.cli.main import COMMANDS
from agent.sources import BACKENDS
from agent.templates.filters import FILTERS
from tests.conftest import REPOSITORY
from tests.unit.test_structure import FLOORS

DIRECTORIES = ("agent", "tests", "docs", "packaging", "systemd", "tools", "bench", "examples", ".ci")
SKIPPED = {"__pycache__", ".mypy_cache", ".ruff_cache"}

PATH = re.compile(
    r"(?<![\w/.}\]-])(?:agent|tests|docs|packaging|systemd|tools|bench|examples)(?:/[\w.@-]+)+/?"  # docs/reference/status.md
    r"|(?<![\w/.-])(?:README|CONTRIBUTING|CHANGELOG|ARCHITECTURE|INTERFACE)\.md\b"
)
"""A path below the repository as a text writes it, or a document by its name alone."""

PLACEHOLDER = re.compile(r"(?<=/)[A-Z]{2,}(?=[./]|$)(?!\.md)")
"""A part of a path that a name replaces: NAME in agent/sources/backends/NAME.py."""

MODULE = re.compile(r"(?<![\w./-])(?:agent|tests)(?:\.[a-zA-Z_]\w*)+")
"""A module, or a name in one, by its dotted path."""

LINK = re.compile(r"(?<!!)\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#{1,6} (.+)$", re.MULTILINE)

INTERFACE = re.compile(r"INTERFACE(?:\.md)?,? (?:section )?(\d+)(?:\.(\d+))?")
"""A citation of docs/INTERFACE.md: the section, and for section 8 the promise."""

FOREIGN = re.compile(
    r"HOUSE-STYLE|\bREDESIGN\b|\b(?:SINKS|CLOUDS|GATE|LAB|PEERS|SWARM)\.md\b|(?:\.\./|/work/)shared\b|\b[Ii]ssues? #?\d+\b"
)
"""A document that is not in the repository, or the tracker's number of an issue."""

WORDS = re.compile(
    r"\b(?:anew|besides|whoever|nobody|anybody|stands|whatever\s+it\s+is|of\s+its\s+own|for\s+want\s+of|knows\s+no"
    r"|(?:is|are)\s+(?:none|told)|had\s+it|that\s+is\s+away)\b"
)
"""Words that this project's texts do without. `is none` is looked for in small letters: `is None` is Python."""


@dataclass(frozen=True)
class Text:
    """A part of a file that is written for people, and the line of the file that it begins on."""

    path: Path
    line: int
    text: str

    @property
    def name(self) -> str:
        return str(self.path.relative_to(REPOSITORY))

    def found(self, pattern: re.Pattern[str]) -> Iterator[tuple[str, re.Match[str]]]:
        """Yield `FILE:LINE` and the match, for each match of `pattern`."""
        for match in pattern.finditer(self.text):
            yield f"{self.name}:{self.line + self.text.count(chr(10), 0, match.start())}", match


@functools.cache
def files() -> tuple[Path, ...]:
    """Return every text file of the repository, this one left out: it has to name what it forbids."""
    paths = [path for path in REPOSITORY.iterdir() if path.is_file() and not path.name.startswith(".")]
    for name in DIRECTORIES:
        paths += [path for path in (REPOSITORY / name).rglob("*") if path.is_file() and not SKIPPED & set(path.parts)]
    return tuple(sorted(path for path in paths if path != Path(__file__) and _is_text(path)))


def _is_text(path: Path) -> bool:
    try:
        return "\0" not in path.read_text("utf-8")
    except UnicodeDecodeError:
        return False


@functools.cache
def texts() -> tuple[Text, ...]:
    """Return what people read: a Python file's comments and docstrings, in agent/ its messages too, any other file whole."""
    found: list[Text] = []
    for path in files():
        content = path.read_text("utf-8")
        found += _of_python(path, content) if path.suffix == ".py" else [Text(path, 1, content)]
    return tuple(found)


def _of_python(path: Path, content: str) -> Iterator[Text]:
    for token in tokenize.generate_tokens(io.StringIO(content).readline):
        if token.type == tokenize.COMMENT:
            yield Text(path, token.start[0], token.string)
    messages = path.is_relative_to(REPOSITORY / "agent")
    for node in ast.walk(ast.parse(content)):
        value = node if messages else node.value if isinstance(node, ast.Expr) else None
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            yield Text(path, value.lineno, value.value)


def _listed(wrong: list[str]) -> str:
    return f"{len(wrong)} found:\n" + "\n".join(sorted(wrong))


def _exists(cited: str, citing: Path) -> bool:
    """Return whether a cited path is there, seen from the repository, from the file that cites it, or from docs/.

    Of a path with a placeholder in it, such as agent/sources/backends/NAME.py, the directory must be there. PATH cuts a
    pattern such as docs/reference/*.md at its first star.
    """
    cited = cited.rstrip(".")
    if PLACEHOLDER.search(cited):
        cited = PLACEHOLDER.split(cited)[0]
    return any((base / cited).exists() for base in (REPOSITORY, citing.parent, REPOSITORY / "docs"))


def test_every_path_that_a_text_cites_exists() -> None:
    """A comment, a docstring or a page that names a file of the repository names one that is there."""
    wrong = [
        f"{where}: {match[0]}" for text in texts() for where, match in text.found(PATH) if not _exists(match[0], text.path)
    ]
    assert not wrong, _listed(wrong)


def test_every_module_that_a_text_cites_exists() -> None:
    """A dotted name such as agent.net.http_client leads to a module of the repository, or to a name in one."""
    wrong = [f"{where}: {match[0]}" for text in texts() for where, match in text.found(MODULE) if not _resolves(match[0])]
    assert not wrong, _listed(wrong)


@functools.cache
def _resolves(dotted: str) -> bool:
    path = REPOSITORY
    for index, part in enumerate(parts := dotted.split(".")):
        if (path / part).is_dir():
            path /= part
            continue
        module = path / f"{part}.py"
        rest = parts[index + 1 :] if module.is_file() else parts[index:]
        module = module if module.is_file() else path / "__init__.py"
        # an attribute must be a word of its module; `agent.status.report` may also be written with a file's suffix
        return module.is_file() and (not rest or re.search(rf"\b{re.escape(rest[0])}\b", module.read_text("utf-8")) is not None)
    return True


def _anchors(page: Path) -> set[str]:
    """Return the anchors of a page's headings, as GitHub makes them."""
    headings = HEADING.findall(page.read_text("utf-8"))
    return {re.sub(r"[^\w\- ]", "", heading.strip().lower()).replace(" ", "-") for heading in headings}


def test_every_link_leads_somewhere() -> None:
    """A relative link of a page leads to a file that exists, and its anchor to a heading in that file."""
    wrong = []
    for text in texts():
        if text.path.suffix != ".md":
            continue
        for where, match in text.found(LINK):
            target, _, anchor = match[1].partition("#")
            if "://" in target or target.startswith("mailto:"):
                continue
            page = text.path.parent / target if target else text.path
            if not page.exists() or (anchor and anchor not in _anchors(page)):
                wrong.append(f"{where}: {match[1]}")
    assert not wrong, _listed(wrong)


def test_every_cited_section_of_the_interface_exists() -> None:
    """`INTERFACE section 8`, and `INTERFACE 8.5` for its fifth promise, are sections and promises of docs/INTERFACE.md."""
    page = (REPOSITORY / "docs" / "INTERFACE.md").read_text("utf-8")
    sections = set(re.findall(r"^## (\d+)\. ", page, re.MULTILINE))
    promises = set(re.findall(r"^(\d+)\. ", page.partition("## 8. ")[2], re.MULTILINE))
    assert sections == {"1", "2", "3", "4", "5", "6", "7", "8"}
    assert promises == {"1", "2", "3", "4", "5", "6", "7", "8", "9"}
    wrong = [
        f"{where}: {match[0]}"
        for text in texts()
        for where, match in text.found(INTERFACE)
        if match[1] not in sections or (match[2] and (match[1] != "8" or match[2] not in promises))
    ]
    assert not wrong, _listed(wrong)


def _section(number: int) -> str:
    """Return the text of a section of docs/INTERFACE.md."""
    page = (REPOSITORY / "docs" / "INTERFACE.md").read_text("utf-8")
    return re.split(rf"^## {number}\. ", page, flags=re.MULTILINE)[1].partition("\n## ")[0]


def test_the_interface_has_what_the_code_has() -> None:
    """docs/INTERFACE.md names the backends, facts, filters, commands and exit codes that exist."""
    section = {number: set(re.findall(r"`([^`\n]+)`", _section(number))) for number in (3, 4, 5)}
    assert set(BACKENDS) <= section[3]
    assert set(discovery.FACT_NAMES) <= section[3]
    assert set(FILTERS) - {"tojson"} <= section[4]
    commands = {text.split()[1] for text in section[5] if text.startswith("parbake ")}
    assert commands == set(COMMANDS)
    codes = {error.exit_code for error in vars(errors).values() if isinstance(error, type) and hasattr(error, "exit_code")}
    assert set(map(int, re.findall(r"^\| (\d+) \|", _section(6), re.MULTILINE))) == {0, 2, *codes}


def test_the_readme_and_the_manual_have_the_exit_codes_and_commands() -> None:
    """README.md has the exit codes in the words of docs/INTERFACE.md, and parbake(8) every command and code."""
    rows = re.findall(r"^\| \d+ \|.*$", _section(6), re.MULTILINE)
    readme = (REPOSITORY / "README.md").read_text("utf-8")
    assert [row for row in rows if row not in readme] == []
    manual = (REPOSITORY / "packaging" / "parbake.8").read_text("utf-8")
    assert [name for name in COMMANDS if not re.search(rf"^\.(?:B|BI|BR) {name}\b", manual, re.MULTILINE)] == []
    assert [code for row in rows if f".TP\n.B {(code := row.split()[1])}\n" not in manual] == []


def test_the_architecture_draws_the_layout() -> None:
    """docs/ARCHITECTURE.md has each package of agent/ on the floor that tests/unit/test_structure.py gives it."""
    page = (REPOSITORY / "docs" / "ARCHITECTURE.md").read_text("utf-8")
    drawn: dict[int, set[str]] = {}
    for number, names in re.findall(r"^\| (\d) \| (`[^|]+`) \|", page, re.MULTILINE):
        drawn.setdefault(int(number), set()).update(re.findall(r"`(\w+)/?`", names))
    assert drawn == {number: set(packages) for number, packages in enumerate(FLOORS, 1)}


def test_no_text_cites_a_document_from_outside() -> None:
    """Whatever a reader is sent to is in the repository: no working paper of another place, and no number of an issue."""
    wrong = [
        f"{Text(path, 1, content).name}:{content.count(chr(10), 0, match.start()) + 1}: {match[0]}"
        for path in files()
        for content in (path.read_text("utf-8"),)
        for match in FOREIGN.finditer(content)
    ]
    assert not wrong, _listed(wrong)


def test_texts_use_plain_words() -> None:
    """Pages, messages, comments and names in agent/, docs/, packaging/ and systemd/ do without the words of WORDS."""
    wrong = []
    for path in files():
        name = str(path.relative_to(REPOSITORY))
        if name.startswith(("agent/", "docs/", "packaging/", "systemd/")) or name in ("README.md", "CONTRIBUTING.md"):
            text = Text(path, 1, path.read_text("utf-8"))
            wrong += [f"{where}: {' '.join(match[0].split())}" for where, match in text.found(WORDS)]
    assert not wrong, _listed(wrong)
