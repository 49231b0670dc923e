"""Logs that would be shipped in circles are found when the image is built, and not first on an instance that does not ship."""

from __future__ import annotations

import json

import pytest

from agent.cli.main import main
from tests.conftest import Image

FILE = '[[sink]]\nname = "copy"\ntype = "file"\npath = "{path}"\nkeep = 2\n'


def check(image: Image, capsys: pytest.CaptureFixture[str], files: str, sink: str) -> tuple[int, str]:
    """`parbake check` with these [ship] files and sink; its exit code and what it says."""
    image.settings(f"[ship]\njournal = true\nfiles = [{files}]\n{sink}")
    code = main(["--root", str(image.root), "check", "--json"])
    out, err = capsys.readouterr()
    return code, err or " ".join(json.loads(out)["warnings"])


@pytest.mark.parametrize(
    ("files", "path"),
    [
        ('"/var/log/app/*.log"', "/var/log/app/out.log"),
        ('"/var/log/**/*.log"', "/var/log/parbake/deep/out.log"),
        ('{ path = "/var/log/app/out.*", start = "^x" }', "/var/log/app/out"),
        ('"/var/log/linked/*"', "/srv/logs/out.log"),
        ('"/var/log/*/out.log"', "/srv/logs/out.log"),
    ],
)
def test_check_and_ship_refuse_a_file_that_is_written_and_read(
    files: str, path: str, image: Image, capsys: pytest.CaptureFixture[str]
) -> None:
    """By name, in a subdirectory, under the number of a rotation, and through a link: exit 78, naming the sink and the glob."""
    image.write("/srv/logs/out.log", "")
    image.path("/var/log").mkdir(parents=True)
    image.path("/var/log/linked").symlink_to(image.path("/srv/logs"))
    code, said = check(image, capsys, files, FILE.format(path=path))
    assert code == 78
    assert '"copy"' in said
    assert "would ship again" in said
    assert main(["--root", str(image.root), "ship", "--once"]) == 78
    assert "would ship again" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("files", "path"),
    [
        ('"/var/log/*.log"', "/var/log/app/out.log"),
        ('"/var/log/app/*.log"', "/var/log/app/out.ndjson"),
        ('"/var/log/app/out.?"', "/var/log/app/out"),
    ],
)
def test_a_file_that_no_glob_reads_is_fine(files: str, path: str, image: Image, capsys: pytest.CaptureFixture[str]) -> None:
    """A star does not reach into subdirectories, and a rotation that is not kept is not feared."""
    sink = FILE.format(path=path).replace("keep = 2", "keep = 0")
    assert check(image, capsys, files, sink) == (0, "")


def test_set_aside_entries_are_not_shipped_again(image: Image, capsys: pytest.CaptureFixture[str]) -> None:
    """A glob of the dead-letter files would send what was refused to be refused once more."""
    sink = '[[sink]]\nname = "web"\ntype = "http"\nurl = "https://logs.example/"\n'
    code, said = check(image, capsys, '"/var/lib/parbake/**/*.ndjson"', sink)
    assert code == 78
    assert "/var/lib/parbake/ship/dead-letter/web.ndjson" in said


def test_standard_output_is_the_journal_in_the_service(image: Image, capsys: pytest.CaptureFixture[str]) -> None:
    """A sink for people at a terminal is warned of in an image: the service would not start with it."""
    code, said = check(image, capsys, "", '[[sink]]\ntype = "stdout"\n')
    assert code == 0
    assert "stdout" in said
    assert "parbake-ship.service" in said
