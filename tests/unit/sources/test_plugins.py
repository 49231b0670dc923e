"""The table of backends: third parties by dotted path, missing extras, and the small backends without a server."""

from __future__ import annotations

import shutil
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from agent.cli.main import main
from agent.errors import SettingsError, SourceDenied, SourceInvalid, SourceUnreachable
from agent.paths import Paths
from agent.settings import plugins
from agent.sources import BACKENDS, SourceContext, new_source, optional
from agent.sources.backends.env import EnvOptions, EnvSource
from agent.sources.backends.exec import ExecOptions, ExecSource
from tests.conftest import Image

PAGE = Path(__file__).parents[3] / "docs/reference/backends.md"


INI = """
[component]
name = "web"
[discovery]
providers = []
[[source]]
name = "site"
backend = "{backend}"
path = "/site.ini"
layers = ["common"]
[[template]]
source = "a.j2"
target = "/a.conf"
"""


@pytest.mark.parametrize("backend", ["tests.unit.sources.thirdparty:IniSource", "ini"])
def test_a_new_backend_renders_a_target(tmp_path: Path, backend: str) -> None:
    """A third party's backend is named by its path; one of parbake's own is one file and one line of the table."""
    repository = Path(__file__).parents[3]
    shutil.copytree(repository / "agent", tmp_path / "agent", ignore=shutil.ignore_patterns("__pycache__"))
    if backend == "ini":
        shutil.copy(Path(__file__).with_name("thirdparty.py"), tmp_path / "agent/sources/backends/ini.py")
        table = tmp_path / "agent/sources/__init__.py"
        line = "BACKENDS: dict[str, str] = {\n"
        table.write_text(
            table.read_text("utf-8").replace(line, f'{line}    "ini": "agent.sources.backends.ini:IniSource",\n'), "utf-8"
        )
    else:
        shutil.copytree(repository / "tests/unit/sources", tmp_path / "tests/unit/sources")
    settings = tmp_path / "root/etc/parbake/parbake.toml"
    (settings.parent / "templates").mkdir(parents=True)
    settings.write_text(INI.replace("{backend}", backend))
    (settings.parent / "templates/a.j2").write_text("{{ config.name }}\n")
    (tmp_path / "root/site.ini").write_text("[common]\nname = x\n")
    argv = [sys.executable, "-m", "agent", "--root", str(tmp_path / "root"), "once"]
    ran = subprocess.run(argv, cwd=tmp_path, capture_output=True, text=True, timeout=60, check=False)
    assert ran.returncode == 0, ran.stderr
    assert (tmp_path / "root/a.conf").read_text() == "x\n"


def test_the_third_partys_backend_of_the_page_works_by_its_dotted_path(tmp_path: Path) -> None:
    """The example is in the page as it is tested here, and reads its layers."""
    code = Path(__file__).with_name("thirdparty.py").read_text("utf-8")
    assert code in PAGE.read_text("utf-8")
    (tmp_path / "site.ini").write_text("[common]\nname = x\n")
    backend = "tests.unit.sources.thirdparty:IniSource"
    options = plugins.load(BACKENDS, backend, "backend").options_class(path="/site.ini")
    source = new_source(backend, options, SourceContext("site", Paths(tmp_path), 5.0))
    assert [layer.tree for layer in source.fetch(["common", "none"]).layers] == [{"name": "x"}, None]


def test_a_missing_library_is_an_error_that_says_what_to_install() -> None:
    """The hint names both ways to install it."""
    with pytest.raises(SettingsError) as caught:
        optional.require("no_such_library", "redis", "redis", "python3-redis")
    assert "apt install python3-redis" in str(caught.value.hint)
    assert "parbake[redis]" in str(caught.value.hint)


def test_no_backend_imports_its_library_before_it_is_used() -> None:
    """Loading every backend of the table costs none of the libraries."""
    heavy = ("requests", "urllib3", "tenacity", "boto3", "botocore", "redis", "kazoo", "dns", "watchdog")
    code = (
        "import sys; from agent.settings import plugins; from agent.sources import BACKENDS\n"
        "for name in BACKENDS: plugins.load(BACKENDS, name, 'backend')\n"
        f"print([m for m in {heavy!r} if m in sys.modules])"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"


def execute(*command: str, seconds: float = 30.0, stopping: threading.Event | None = None) -> ExecSource:
    context = SourceContext("exec", Paths(), seconds, stopping=stopping or threading.Event())
    return ExecSource(ExecOptions(command=command), context)


def test_a_program_gets_its_layer_and_no_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """The layer is the last argument; a secret in parbake's environment is not passed on."""
    monkeypatch.setenv("DB_PASSWORD", "s3cret")
    script = 'printf \'{"layer": "%s", "seen": "%s"}\' "$1" "$DB_PASSWORD"'
    assert execute("/bin/sh", "-c", script, "sh").fetch(["env/dev"]).layers[0].tree == {"layer": "env/dev", "seen": ""}


@pytest.mark.parametrize(
    ("script", "error"),
    [
        ("exit 3", SourceUnreachable),
        ("exit 77", SourceDenied),
        ("echo '{\"a\": '", SourceInvalid),
        ("echo '[1]'", SourceInvalid),
        ("printf '\\377'", SourceInvalid),
        ("head -c 40000000 /dev/zero", SourceInvalid),
    ],
)
def test_a_program_that_fails_is_an_error_of_its_kind(script: str, error: type[Exception]) -> None:
    """Neither a failure nor an invalid output is an empty config."""
    with pytest.raises(error):
        execute("/bin/sh", "-c", script).fetch([""])


def test_a_program_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    """The time-out of the source ends the whole group."""
    pid = tmp_path / "pid"
    started = time.monotonic()
    with pytest.raises(SourceUnreachable, match="did not end"):
        execute("/bin/sh", "-c", f"sleep 60 & echo $! > {pid}.new; mv {pid}.new {pid}; wait", seconds=2.0).fetch([""])
    assert time.monotonic() - started < 30
    assert has_ended(int(pid.read_text()))


def has_ended(pid: int) -> bool:
    """Wait until a process has ended; a zombie of another parent counts as ended."""
    end = time.monotonic() + 20
    while time.monotonic() < end:
        try:
            state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
        except (FileNotFoundError, ProcessLookupError):
            return True
        if state in "ZX":
            return True
        time.sleep(0.02)
    return False


BROKEN = INI.replace('backend = "{backend}"', 'backend = "tests.unit.sources.broken:BrokenSource"').replace(
    'layers = ["common"]\n', 'layers = ["common"]\n[state]\ncache = "plain"\n'
)


def test_a_bug_of_a_backend_ends_neither_once_nor_the_config(image: Image, capsys: pytest.CaptureFixture[str]) -> None:
    """INTERFACE section 6: 69 without a last good run config, and 75 with one; it is never 70, and no value is shown."""
    image.write("/etc/parbake/parbake.toml", BROKEN)
    image.template("a.j2", "{{ config.name }}\n")
    outputs = []
    for content, code in (("KeyError", 69), ("fine", 0), ("KeyError", 75), ("SystemExit", 75), ("a list", 75)):
        image.write("/site.ini", content)
        assert main(["--root", str(image.root), "once"]) == code
        outputs.append("".join(capsys.readouterr()))
    assert image.read("/a.conf") == "fine\n"
    assert "broken.py:" in outputs[0]
    assert "KeyError at" in outputs[0]
    assert not [output for output in outputs if "s3cret" in output]


def test_variables_of_a_deeper_layer_are_not_keys_of_the_one_above() -> None:
    """CFG_ENV__DEV__NAME is the key name of env/dev, and no key of the top layer."""
    variables = {b"CFG_A": b"1", b"CFG_ENV__DEV__NAME": b"x", b"OTHER": b"y"}
    source = EnvSource(EnvOptions(prefix="CFG_"), SourceContext("env", Paths(), 5.0), variables)
    assert [layer.tree for layer in source.fetch(["", "env/dev"]).layers] == [{"a": "1"}, {"name": "x"}]
