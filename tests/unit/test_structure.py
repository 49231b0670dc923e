"""The shape of the code, as docs/ARCHITECTURE.md and CONTRIBUTING.md have it: imports, names, sizes, errors."""

from __future__ import annotations

import ast
import functools
import importlib
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
PRIVATE_ERRORS = {
    "SinkBug",
    "IllegalTransition",
    "WatchUnavailable",
    "TooLong",
    "TransportFailure",
    "DeliveryAborted",
    "FactRejected",
}
"""Exceptions outside agent.errors, each caught in the family that raises it."""

FLOORS: tuple[frozenset[str], ...] = (
    frozenset({"errors", "paths", "formats"}),
    frozenset({"model", "keypath", "secret"}),
    frozenset({"settings", "system"}),
    frozenset({"net", "runconfig", "state", "masking", "status", "discovery"}),
    frozenset({"sources", "shipping", "templates"}),
    frozenset({"convergence"}),
    frozenset({"daemon"}),
    frozenset({"cli"}),
    frozenset({"__main__"}),
)
"""The packages of `agent`, lowest floor first. A package imports from lower floors only."""
SAME_FLOOR = {("model", "keypath"), ("model", "secret"), ("secret", "keypath"), ("discovery", "net")}
"""The only imports within a floor: the values are three files, and discovery backs off as every client does."""


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


def _package(module: str) -> str:
    """The package on a floor that a module belongs to: `sources` for agent.sources.backends.consul."""
    return module.split(".")[1] if "." in module else ""


def _floor(package: str) -> int:
    for number, packages in enumerate(FLOORS, 1):
        if package in packages:
            return number
    raise AssertionError(f"{package} is on no floor of this test: say where it belongs")


def _across() -> list[tuple[str, str, str]]:
    """The imports from one package of `agent` to another: module, imported module, imported name or ""."""
    rows = []
    for module, path in MODULES.items():
        for node in ast.walk(_tree(path)):
            if isinstance(node, ast.Import):
                pairs = [(alias.name, "") for alias in node.names]
            elif isinstance(node, ast.ImportFrom) and node.module:
                whole = [f"{node.module}.{alias.name}" for alias in node.names]
                pairs = [
                    (name, "") if name in MODULES else (node.module, alias.name)
                    for name, alias in zip(whole, node.names, strict=True)
                ]
            else:
                continue
            rows += [(module, *pair) for pair in pairs if _package(pair[0]) not in ("", _package(module))]
    return [row for row in rows if row[1].startswith("agent.")]


def test_no_import_runs_upward() -> None:
    """Nine floors of packages, and every import goes down."""
    wrong = [
        f"{module} imports {imported}"
        for module, imported, _ in _across()
        if _package(module)
        and _floor(_package(imported)) >= _floor(_package(module))
        and (_package(module), _package(imported)) not in SAME_FLOOR
    ]
    assert wrong == []


def test_every_package_is_on_one_floor() -> None:
    """A new package says where it belongs."""
    there = {_package(module) for module in MODULES} - {""}
    assert there == frozenset().union(*FLOORS)


def test_a_package_is_used_by_its_face() -> None:
    """Each package's `__init__` names what others may import, and they import nothing else."""
    wrong = []
    for module, imported, name in _across():
        package = f"agent.{_package(imported)}"
        if MODULES[package].name != "__init__.py":
            continue  # a package of one file
        face = set(importlib.import_module(package).__all__)
        used = imported.removeprefix(f"{package}.").split(".")[0] if imported != package else name
        if used not in face:
            wrong.append(f"{module} imports {used} of {package}")
    assert wrong == []


def test_a_face_names_what_there_is() -> None:
    """A face has no name that leads nowhere."""
    packages = {f"agent.{_package(module)}" for module in MODULES} - {"agent."}
    faces = {package: importlib.import_module(package) for package in packages}
    wrong = [
        f"{package}.{name}"
        for package, face in faces.items()
        for name in getattr(face, "__all__", ())
        if f"{package}.{name}" not in MODULES and not hasattr(face, name)
    ]
    assert wrong == []


def test_no_package_reaches_into_another_s_private_names() -> None:
    """A name with an underscore is for its own package."""
    wrong = [
        f"{module} imports {imported}{'.' if name else ''}{name}"
        for module, imported, name in _across()
        if any(part.startswith("_") for part in (*imported.split("."), name) if part != "__main__")
    ]
    for module, path in MODULES.items():
        foreign = {
            alias.asname or alias.name
            for node in ast.walk(_tree(path))
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("agent")
            for alias in node.names
            if f"{node.module}.{alias.name}" in MODULES and _package(f"{node.module}.{alias.name}") != _package(module)
        }
        wrong += [
            f"{module} uses {node.value.id}.{node.attr}"
            for node in ast.walk(_tree(path))
            if isinstance(node, ast.Attribute)
            and isinstance(node.value, ast.Name)
            and node.value.id in foreign
            and node.attr.startswith("_")
        ]
    assert wrong == []


def test_http_libraries_are_imported_in_one_place() -> None:
    """One module speaks HTTP; a source or sink that imports requests itself escapes its deadline."""
    allowed = {"agent.net.http_client", "agent.net.http_transport", "agent.net.http_reply", "agent.net.tls"}
    wrong = [
        f"{module} imports {imported}"
        for module, path in MODULES.items()
        for imported in _imports(path)
        if imported.split(".")[0] in ("requests", "urllib3") and module not in allowed
    ]
    assert wrong == []


@pytest.mark.parametrize("module", ["agent.cli.main", "agent.convergence.converge", "agent.daemon.loop", "agent.cli.once"])
def test_start_up_imports_nothing_heavy(module: str) -> None:
    """The five libraries cost 140 ms; the command line and the convergence start without them."""
    code = f"import sys, {module}; print(*[name for name in {HEAVY!r} if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=PACKAGE.parent)
    assert ran.stdout.split() == []


def test_no_banned_names() -> None:
    """Manager, helper, utils, data, info and handler say nothing of what a thing is."""
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
    """A file of 350 lines wants splitting."""
    long = {module: lines for module, path in MODULES.items() if (lines := len(path.read_text("utf-8").splitlines())) > 350}
    assert long == {}


def test_nothing_is_swallowed() -> None:
    """No bare `except:`, and no broad one whose body does nothing."""
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
    "CheckError": 65, "SourceError": 69, "SourceMissing": 69, "DiscoveryError": 69, "ApplyError": 74, "StateError": 74,
    "BusyError": 75, "SourceUnreachable": 69, "RolledBack": 74, "SinkError": 74, "SinkUnavailable": 74,
}  # fmt: skip


@pytest.mark.parametrize("name", EXIT_CODES)
def test_exit_codes(name: str) -> None:
    """INTERFACE section 6: the exit codes are a promise."""
    assert getattr(errors, name).exit_code == EXIT_CODES[name]


def test_other_exceptions_are_of_the_tree_or_known_here() -> None:
    """Errors that reach a user are ParbakeErrors; a private one is caught where it is raised."""
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
    """Each error has a slot for the next step, and a list of problems prints every one of them."""
    error = errors.SettingsError("the settings are invalid", ["one", "two"], hint="mend them")
    assert str(error) == "the settings are invalid\n  - one\n  - two"
    assert error.hint == "mend them"
    assert errors.SourceUnreachable("x", retry_after_seconds=3.0).retry_after_seconds == 3.0
    assert errors.SinkUnavailable("x").retry_after_seconds is None
