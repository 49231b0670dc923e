"""The file source reads layers in every form, refuses what is ambiguous, and sees changes through inotify."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest

from agent.errors import SourceDenied, SourceError, SourceInvalid
from agent.paths import Paths
from agent.sources import SourceContext
from agent.sources.backends import file
from agent.sources.backends.file import FileOptions, FileSource


@pytest.fixture
def top(tmp_path: Path) -> Path:
    directory = tmp_path / "etc/site"
    directory.mkdir(parents=True)
    return directory


@pytest.fixture
def source(tmp_path: Path) -> Iterator[FileSource]:
    opened = FileSource(FileOptions(path="/etc/site"), SourceContext("site", Paths(tmp_path), 5.0))
    yield opened
    opened.close()


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)


def test_every_form_gives_the_same_tree(top: Path, source: FileSource) -> None:
    """TOML, YAML, JSON and a directory of files are four ways to write one layer."""
    write(top / "a.toml", '[db]\nhost = "h"\nport = "1"\n')
    write(top / "b.yaml", "db: {host: h, port: '1'}\n")
    write(top / "c.yml", "db:\n  host: h\n  port: '1'\n")
    write(top / "d.json", '{"db": {"host": "h", "port": "1"}}')
    write(top / "e/db/host", "h\n")
    write(top / "e/db/port", "1")
    trees = [layer.tree for layer in source.fetch("abcde").layers]
    assert trees == [{"db": {"host": "h", "port": "1"}}] * 5


def test_absent_layers_are_absent_and_empty_ones_empty(top: Path, source: FileSource) -> None:
    """No such layer is None; an empty document or directory is a layer without keys."""
    write(top / "empty.toml", "")
    (top / "bare").mkdir()
    assert [layer.tree for layer in source.fetch(["empty", "bare", "none"]).layers] == [{}, {}, None]


def test_the_directory_of_a_deeper_layer_is_not_a_form_of_the_one_above(top: Path, source: FileSource) -> None:
    """env/dev.toml and env/dev/web.toml are two layers, as are directories inside one another."""
    write(top / "env/dev.toml", "a = 1")
    write(top / "env/dev/web.toml", "b = 2")
    write(top / "env/dev/db/c", "3")
    layers = source.fetch(["env/dev", "env/dev/web", "env/dev/db"]).layers
    assert [layer.tree for layer in layers] == [{"a": 1}, {"b": 2}, {"c": "3"}]


def test_two_forms_of_one_layer_are_an_error_that_names_both(top: Path, source: FileSource) -> None:
    """Which of two files wins is not guessed."""
    write(top / "common.toml", "a = 1")
    write(top / "common.json", "{}")
    with pytest.raises(SourceInvalid, match=r"common\.toml.*common\.json"):
        source.fetch(["common"])


def test_a_mounted_kubernetes_secret_is_read_through_its_links(top: Path, source: FileSource) -> None:
    """`..data` and dotfiles are not keys, and the swap of `..data` is one change."""
    write(top / "secret/..2024_1/password", "old")
    os.symlink("..2024_1", top / "secret/..data")
    os.symlink("..data/password", top / "secret/password")
    before = source.fetch(["secret"])
    assert before.layers[0].tree == {"password": "old"}
    write(top / "secret/..2024_2/password", "new")
    os.symlink("..2024_2", top / "secret/..tmp")
    os.replace(top / "secret/..tmp", top / "secret/..data")
    assert source.watch(before, 5.0)
    assert source.fetch(["secret"]).layers[0].tree == {"password": "new"}


def test_dates_become_text_and_only_text_has_keys(top: Path, source: FileSource) -> None:
    """A date of TOML or YAML is the same ISO text, and a number as a key is text."""
    write(top / "t.toml", "day = 2024-02-03\nat = 2024-02-03T04:05:06Z")
    write(top / "y.yaml", "day: 2024-02-03\n8080: open\n")
    toml, yaml = (layer.tree for layer in source.fetch(["t", "y"]).layers)
    assert toml == {"day": "2024-02-03", "at": "2024-02-03T04:05:06+00:00"}
    assert yaml == {"day": "2024-02-03", "8080": "open"}


SECRET = "s3cret-value"


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("x.toml", f'a = "{SECRET}'),
        ("x.toml", f'a = "{SECRET}"\na = 2'),
        ("x.toml", "a = inf"),
        ("x.yaml", f"a: [{SECRET}"),
        ("x.yaml", f"a: 1\nb: {SECRET}\na: 2"),
        ("x.yaml", f"- {SECRET}"),
        ("x.yaml", "yes: 1"),
        ("x.yaml", f"a: !!python/object:os.system {SECRET}"),
        ("x.yaml", "a: !!set {x, y}"),
        (
            "x.yaml",
            "a: &a [1,1,1,1,1,1,1,1,1]\n"
            + "".join(f"{chr(98 + i)}: &{chr(98 + i)} [{','.join(['*' + chr(97 + i)] * 9)}]\n" for i in range(8)),
        ),
        ("x.json", f'{{"a": "{SECRET}"'),
        ("x.json", "[]"),
        ("x.json", '{"a": 1, "a": 2}'),
    ],
)
def test_a_document_that_is_not_a_table_is_an_error_without_its_content(
    top: Path, source: FileSource, name: str, content: str
) -> None:
    """The error of a broken document names its file and line, and never quotes what may be a password."""
    write(top / name, content)
    with pytest.raises(SourceInvalid, match="/etc/site/x") as caught:
        source.fetch(["x"])
    assert SECRET not in str(caught.value) + str(caught.value.hint)


def test_a_key_file_that_is_not_text_is_an_error_that_names_it(top: Path, source: FileSource) -> None:
    """Bytes are stored in base64; anything else would be read differently by each locale."""
    (top / "x").mkdir()
    (top / "x/key").write_bytes(b"\xff\xfe")
    with pytest.raises(SourceInvalid, match="x/key"):
        source.fetch(["x"])


def test_a_layer_cannot_leave_its_directory(source: FileSource) -> None:
    """A fact with dots and slashes in it does not read another file of the machine."""
    for layer in ("../secrets", "env//x", "/etc"):
        with pytest.raises(SourceInvalid, match="not a path below"):
            source.fetch([layer])


def test_a_file_that_may_not_be_read_is_denied() -> None:
    """A missing permission is not a missing layer."""
    with tempfile.TemporaryDirectory() as name:
        root = Path(name)
        root.chmod(0o755)
        write(root / "site/x.toml", "a = 1")
        (root / "site/x.toml").chmod(0)
        source = FileSource(FileOptions(path="/site"), SourceContext("site", Paths(root), 5.0))
        user = os.geteuid()
        try:
            if user == 0:
                os.seteuid(65534)
            with pytest.raises(SourceDenied, match=r"x\.toml"):
                source.fetch(["x"])
        finally:
            os.seteuid(user)


def rewrite(path: Path, text: str) -> None:
    temporary = path.with_name(".new")
    temporary.write_text(text)
    temporary.replace(path)


def remove(path: Path, _: str) -> None:
    path.unlink()


@pytest.mark.parametrize("change", [write, rewrite, remove])
def test_a_change_is_seen_at_once(top: Path, source: FileSource, change: Callable[[Path, str], None]) -> None:
    """A write, an atomic rename and a removal are each seen in well under a second."""
    write(top / "x.toml", "a = 1")
    seen = source.fetch(["x"])
    assert not source.watch(seen, 0.2)
    threading.Timer(0.2, change, (top / "x.toml", "a = 2")).start()
    started = time.monotonic()
    assert source.watch(seen, 10)
    assert time.monotonic() - started < 1.0


def test_a_change_between_fetch_and_watch_is_seen(top: Path, source: FileSource) -> None:
    """A change before the watch began is not lost."""
    seen = source.fetch(["x"])
    write(top / "x.toml", "a = 1")
    assert source.watch(seen, 5)


def test_a_directory_that_appears_later_is_seen(tmp_path: Path) -> None:
    """The source may be configured before anything of its path exists."""
    source = FileSource(FileOptions(path="/run/a/b/c"), SourceContext("site", Paths(tmp_path), 5.0))
    seen = source.fetch(["x"])
    threading.Timer(0.2, write, (tmp_path / "run/a/b/c/x.toml", "a = 1")).start()
    started = time.monotonic()
    assert source.watch(seen, 10)
    assert time.monotonic() - started < 2.0
    source.close()


def test_a_directory_that_is_replaced_is_still_watched(top: Path, source: FileSource) -> None:
    """Deploying by renaming whole directories does not leave the watch on the old one."""
    write(top / "x.toml", "a = 1")
    seen = source.fetch(["x"])
    assert not source.watch(seen, 0.1)
    write(top.with_name("next") / "x.toml", "a = 1")
    top.rename(top.with_name("old"))
    top.with_name("next").rename(top)
    assert not source.watch(seen, 0.3)
    threading.Timer(0.2, write, (top / "x.toml", "a = 2")).start()
    assert source.watch(seen, 5)


def test_a_touch_and_a_neighbour_are_no_change(top: Path, source: FileSource) -> None:
    """Only the content of the layers counts."""
    write(top / "x.toml", "a = 1")
    seen = source.fetch(["x"])
    os.utime(top / "x.toml")
    write(top / "unrelated.toml", "b = 1")
    assert not source.watch(seen, 0.3)


def test_a_broken_document_is_fetched_once_and_its_repair_again(top: Path, source: FileSource) -> None:
    """A file that stays broken does not make the watch spin; the return to the old content is a change, too."""
    write(top / "x.toml", "a = 1")
    seen = source.fetch(["x"])
    write(top / "x.toml", "a = ")
    assert source.watch(seen, 5)
    with pytest.raises(SourceError):
        source.fetch(["x"])
    assert not source.watch(seen, 0.2)
    write(top / "x.toml", "a = 1")
    assert source.watch(seen, 5)


def test_close_ends_a_watch(top: Path, source: FileSource) -> None:
    """A stop does not wait for the time-out of a watch."""
    seen = source.fetch(["x"])
    threading.Timer(0.2, source.close).start()
    started = time.monotonic()
    assert not source.watch(seen, 30)
    assert time.monotonic() - started < 3


class RefusedObserver:
    """A watchdog observer that the kernel gives nothing to."""

    error: ClassVar[Exception]
    made: ClassVar[list[RefusedObserver]] = []

    def __init__(self) -> None:
        self.stopped = False
        self.made.append(self)

    def schedule(self, *args: Any, **named: Any) -> None:
        return None

    def unschedule_all(self) -> None:
        return None

    def start(self) -> None:
        raise self.error

    def stop(self) -> None:
        self.stopped = True


ERRORS = [OSError(errno.ENOSPC, "inotify watch limit reached"), OSError(errno.EMFILE, "x"), RuntimeError("no thread")]


@pytest.mark.parametrize("error", ERRORS)
def test_without_inotify_it_looks_and_tries_again_seldom(
    top: Path, source: FileSource, error: Exception, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """There is one observer in minutes, stopped again, and one warning; changes are seen by looking meanwhile."""
    monkeypatch.setattr(RefusedObserver, "error", error, raising=False)
    monkeypatch.setattr(RefusedObserver, "made", [])
    monkeypatch.setattr("watchdog.observers.Observer", RefusedObserver)
    seen = source.fetch(["x"])
    assert not source.watch(seen, 2.5)
    assert [observer.stopped for observer in RefusedObserver.made] == [True]
    assert len([record for record in caplog.records if record.levelno == logging.WARNING]) == 1
    write(top / "x.toml", "a = 1")
    assert source.watch(seen, 5)
    assert len(RefusedObserver.made) == 1


def test_inotify_is_used_again_once_it_works(
    top: Path, source: FileSource, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the pause the next watch observes: the log has it, and no look at the disk is needed any more."""
    caplog.set_level(logging.INFO, logger="parbake")
    monkeypatch.setattr(file, "RETRY_SECONDS", 0.0)
    monkeypatch.setattr(RefusedObserver, "error", ERRORS[0], raising=False)
    with monkeypatch.context() as refusing:
        refusing.setattr("watchdog.observers.Observer", RefusedObserver)
        assert not source.watch(source.fetch(["x"]), 0.2)
    monkeypatch.setattr(file, "LOOK_SECONDS", 60.0)
    seen = source.fetch(["x"])
    assert not source.watch(seen, 0.2)
    assert "inotify works again" in caplog.text
    threading.Timer(0.2, write, (top / "x.toml", "a = 1")).start()
    started = time.monotonic()
    assert source.watch(seen, 50)
    assert time.monotonic() - started < 30


LEAKING = """
import json, os, sys, threading
from pathlib import Path
from agent.paths import Paths
from agent.sources import SourceContext
from agent.sources.backends import file
file.RETRY_SECONDS = file.LOOK_SECONDS = 0.01
source = file.FileSource(file.FileOptions(path="/site"), SourceContext("site", Paths(Path(sys.argv[1])), 5.0))
seen = source.fetch(["x"])
counts = []
for _ in range(2):
    source.watch(seen, 0.5)
    counts.append((len(os.listdir("/proc/self/fd")), threading.active_count()))
print(json.dumps(counts))
"""


def test_nothing_leaks_where_the_kernel_is_out_of_watches(tmp_path: Path) -> None:
    """Dozens of failed tries hold no more descriptors and threads than a few; the limit is the kernel's, in a namespace."""
    (tmp_path / "site/a/b").mkdir(parents=True)
    limit = ["unshare", "-Ur", "sh", "-c", 'echo 1 > /proc/sys/user/max_inotify_watches && exec "$@"', "sh"]
    if not shutil.which("unshare") or subprocess.run([*limit, "true"], capture_output=True, check=False).returncode:
        pytest.skip("no user namespace may be made here")
    command = [*limit, sys.executable, "-c", LEAKING, str(tmp_path)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60, check=True)
    assert "inotify does not work" in ran.stderr
    (descriptors, threads), (more_descriptors, more_threads) = json.loads(ran.stdout)
    assert more_descriptors <= descriptors + 1
    assert more_threads <= threads + 1
