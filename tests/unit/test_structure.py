"""The shape of the code, as HOUSE-STYLE and CONTRIBUTING have it: what may import what, names, sizes, errors."""

from __future__ import annotations

import ast
import functools
import inspect
import subprocess
import sys
from pathlib import Path

import pytest

import agent
from agent import errors

PACKAGE = Path(agent.__file__).parent
HEAVY = ("requests", "urllib3", "jinja2", "tenacity", "watchdog", "systemd.journal")
BANNED = {"manager", "helper", "utils", "util", "data", "info", "handler"}
THEIR_NAMES = ("DataError", "Handler", "SecretsManager", "SecretManager", "secretsmanager", "secret_manager")
"""What a cloud calls its own service is no choice of ours; DataError is EX_DATAERR of sysexits.h,
Handler a class of logging's or watchdog's."""
PRIVATE_ERRORS = {"TooLong", "Trouble", "GaveUp", "Refused"}
"""Exceptions outside agent.errors, each caught in the family that raises it."""

LAYERS: tuple[tuple[str, ...], ...] = (
    # the values and errors that everything may use, and which use nothing of ours but each other
    ("errors", "model", "places", "logs", "jsontext", "tomltext", "runner", "sockets", "urls", "schema", "placeholders"),
    ("plugins", "masking", "disk", "credentials", "metrics", "shipstatus", "deadlines"),
    ("settings",),
    # the workers: each does one step and knows no other worker but those it is built of
    ("merge", "contract", "views", "reading", "dropins", "decoy", "sealing", "units"),
    ("last_good",),
    ("filters", "state", "generations", "plan", "apply", "report", "discovery", "httptransport", "httptls", "httpreply"),
    ("templating", "httpclient"),
    ("render", "sources", "shipping"),
    ("pull", "watching", "transaction", "rejections"),
    ("verification",),
    ("world",),
    ("outcome",),
    ("effect", "drift", "notifier"),
    ("converge", "rollback", "watchers"),
    ("daemon",),
    ("commands",),
    ("cli",),
    ("__main__",),
)
"""Lowest first: a module imports from its own layer or a lower one, never from a higher one."""


def _name(path: Path) -> str:
    parts = ["agent", *path.relative_to(PACKAGE).with_suffix("").parts]
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


MODULES = {_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


@functools.cache
def _tree(path: Path) -> ast.Module:
    return ast.parse(path.read_text("utf-8"))


def _imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(_tree(path)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                found.add(whole if whole in MODULES else node.module)
    return found


def _part(module: str) -> str:
    """The piece of the table above that a module belongs to: agent.sources.consul is of `sources`."""
    return module.split(".")[1] if "." in module else ""


def _rank(module: str) -> int:
    for rank, parts in enumerate(LAYERS):
        if _part(module) in parts:
            return rank
    raise AssertionError(f"{module} is in no layer of this test: say where it belongs")


def test_imports_go_one_way() -> None:
    """HOUSE-STYLE: model, errors <- settings <- the workers <- converge <- daemon <- cli, and never back."""
    wrong = [
        f"{module} imports {imported}"
        for module, path in MODULES.items()
        if module != "agent"
        for imported in _imports(path)
        if imported.startswith("agent.") and _rank(imported) > _rank(module)
    ]
    assert wrong == []


@pytest.mark.parametrize("family", ["sources", "shipping", "discovery"])
def test_a_family_knows_no_other(family: str) -> None:
    """HOUSE-STYLE: workers do not import one another: a source knows no sink, a provider no source."""
    others = {"agent.sources", "agent.shipping", "agent.discovery"} - {f"agent.{family}"}
    wrong = [
        f"{module} imports {imported}"
        for module, path in MODULES.items()
        if module.startswith(f"agent.{family}")
        for imported in _imports(path)
        if any(imported == other or imported.startswith(f"{other}.") for other in others)
    ]
    assert wrong == []


def test_http_libraries_are_imported_in_one_place() -> None:
    """HOUSE-STYLE: one module speaks HTTP; a source or sink that imports requests itself escapes its deadline."""
    allowed = {"agent.httpclient", "agent.httptransport", "agent.httpreply", "agent.httptls"}
    wrong = [
        f"{module} imports {imported}"
        for module, path in MODULES.items()
        for imported in _imports(path)
        if imported.split(".")[0] in ("requests", "urllib3") and module not in allowed
    ]
    assert wrong == []


@pytest.mark.parametrize("module", ["agent.cli", "agent.converge", "agent.daemon", "agent.commands.once"])
def test_start_up_imports_nothing_heavy(module: str) -> None:
    """HOUSE-STYLE: the five libraries cost 140 ms; the command line and the convergence start without them."""
    code = f"import sys, {module}; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    assert ran.stdout.split() == []


def test_no_banned_names() -> None:
    """HOUSE-STYLE: manager, helper, utils, data, info and handler say nothing of what a thing is."""
    found = []
    for module, path in MODULES.items():
        names = [path.stem]
        names += [node.name for node in ast.walk(_tree(path)) if isinstance(node, ast.ClassDef)]
        for name in names:
            for theirs in THEIR_NAMES:
                name = name.replace(theirs, "")
            words = "".join(f"_{c.lower()}" if c.isupper() else c for c in name).split("_")
            if set(words) & BANNED:
                found.append(f"{module}: {name}")
    assert found == []


def test_no_file_is_a_program_of_its_own() -> None:
    """HOUSE-STYLE: a file of 400 lines wants splitting."""
    long = {module: lines for module, path in MODULES.items() if (lines := len(path.read_text("utf-8").splitlines())) > 400}
    assert long == {}


def test_nothing_is_swallowed() -> None:
    """HOUSE-STYLE: no bare `except:`, and no broad one whose body does nothing."""
    found = []
    for module, path in MODULES.items():
        for node in ast.walk(_tree(path)):
            if not isinstance(node, ast.ExceptHandler):
                continue
            broad = node.type is None or (isinstance(node.type, ast.Name) and node.type.id in ("Exception", "BaseException"))
            idle = all(isinstance(line, (ast.Pass, ast.Continue)) for line in node.body)
            if node.type is None or (broad and idle):
                found.append(f"{module}:{node.lineno}")
    assert found == []


ERRORS = [thing for _, thing in inspect.getmembers(errors, inspect.isclass) if thing.__module__ == errors.__name__]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: error.__name__)
def test_every_error_has_an_exit_code_of_the_interface(error: type[errors.ParbakeError]) -> None:
    """INTERFACE section 6: whatever ends a command, its exit code is one of the table."""
    assert issubclass(error, errors.ParbakeError)
    assert error.exit_code in (64, 65, 69, 70, 74, 75, 78)


EXIT_CODES = {
    "UsageError": 64, "SettingsError": 78, "DataError": 65, "MergeError": 65, "ContractError": 65, "RenderError": 65,
    "CheckError": 65, "SourceError": 69, "SourceMissing": 69, "DiscoveryError": 69, "ApplyError": 74, "UnitError": 74,
    "StateError": 74, "BusyError": 75,
}  # fmt: skip


@pytest.mark.parametrize("name", EXIT_CODES)
def test_exit_codes(name: str) -> None:
    """INTERFACE section 6: the exit codes are a promise."""
    assert getattr(errors, name).exit_code == EXIT_CODES[name]


def test_other_exceptions_are_of_the_tree_or_known_here() -> None:
    """HOUSE-STYLE: errors that reach a user are ParbakeErrors; a private one is caught where it is raised."""
    ours = {error.__name__ for error in ERRORS}
    found = []
    for module, path in MODULES.items():
        if module == "agent.errors":
            continue
        for node in ast.walk(_tree(path)):
            if not isinstance(node, ast.ClassDef):
                continue
            bases = {base.id for base in node.bases if isinstance(base, ast.Name)}
            bases |= {base.attr for base in node.bases if isinstance(base, ast.Attribute)}
            raised = {base for base in bases if base.endswith(("Error", "Exception"))}
            if raised - ours and node.name not in PRIVATE_ERRORS:
                found.append(f"{module}.{node.name}({', '.join(sorted(raised))})")
    assert found == []


def test_every_error_says_what_and_what_next() -> None:
    """HOUSE-STYLE: each error has a slot for the next step, and a list of problems prints every one of them."""
    error = errors.SettingsError("the settings are invalid", ["one", "two"], hint="mend them")
    assert str(error) == "the settings are invalid\n  - one\n  - two"
    assert error.hint == "mend them"
    assert errors.SourceUnreachable("x", retry_after_seconds=3.0).retryable
    assert not errors.SourceDenied("x").retryable
