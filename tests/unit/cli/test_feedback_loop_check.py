"""`parbake check` finds logs that would be shipped in a loop, so that an image build fails and not an instance."""

from __future__ import annotations

import json

import pytest

from agent.cli.main import main
from tests.conftest import Image

FILE = '[[sink]]\nname = "copy"\ntype = "file"\npath = "{path}"\nkeep = 2\n'


def check(image: Image, capsys: pytest.CaptureFixture[str], files: str, sink: str) -> tuple[int, str]:
    """Run `parbake check` with these [ship] files and sink. Returns its exit code, and its error or its warnings."""
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
    """By name, in a subdirectory, as a rotated file and through a link: exit 78, and the error names the sink."""
    image.write("/srv/logs/out.log", "")
    image.path("/var/log").mkdir(parents=True)
    image.path("/var/log/linked").symlink_to(image.path("/srv/logs"))
    code, text = check(image, capsys, files, FILE.format(path=path))
    assert code == 78
    assert '"copy"' in text
    assert "would ship again" in text
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
    """A star does not match in subdirectories, and a sink that keeps no rotated file has none to match."""
    sink = FILE.format(path=path).replace("keep = 2", "keep = 0")
    assert check(image, capsys, files, sink) == (0, "")


def test_dead_letters_are_not_shipped_again(image: Image, capsys: pytest.CaptureFixture[str]) -> None:
    """A glob that matches the dead-letter files would send refused entries again."""
    sink = '[[sink]]\nname = "web"\ntype = "http"\nurl = "https://logs.example/"\n'
    code, text = check(image, capsys, '"/var/lib/parbake/**/*.ndjson"', sink)
    assert code == 78
    assert "/var/lib/parbake/ship/dead-letter/web.ndjson" in text


def test_a_sink_on_standard_output_is_a_warning(image: Image, capsys: pytest.CaptureFixture[str]) -> None:
    """`check` warns of a sink that is for terminals: parbake-ship.service would not start with it."""
    code, text = check(image, capsys, "", '[[sink]]\ntype = "stdout"\n')
    assert code == 0
    assert "stdout" in text
    assert "parbake-ship.service" in text
