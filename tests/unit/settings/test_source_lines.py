"""The line of a setting, which an operator needs and `tomllib` does not give."""

from __future__ import annotations

import pytest

from agent.settings.source_lines import Location, SourceFile

TEXT = """\
# a comment
[component]  # with a comment
name = "web"

[keys."db.password"]
type = "string"
["keys".'port']
type = "integer"

[[template]]
source = "a.j2"
[[template.units]]
name = "a.service"
[[template.units]]
name = "b.service"

[[ template ]]
source = "b.j2"
units = [
    { name = "c.service" },
]
[template.labels]
"x y" = 1
[ship.journal]
units = []
"""


@pytest.mark.parametrize(
    ("path", "line"),
    [
        ("component", 2),
        ("component.name", 3),
        ("component.colour", 2),
        ("keys", 5),
        ('keys."db.password"', 5),
        ('keys."db.password".type', 6),
        ("keys.port.type", 8),
        ("template", 10),
        ("template[0]", 10),
        ("template[0].source", 11),
        ("template[0].units[0]", 12),
        ("template[0].units[0].name", 13),
        ("template[0].units[1].name", 15),
        ("template[1]", 17),
        ("template[1].source", 18),
        ("template[1].units[0].name", 19),
        ("template[1].mode", 17),
        ('template[1].labels."x y"', 23),
        ("ship", 24),
        ("ship.journal.units", 25),
        ("absent.key", None),
    ],
)
def test_the_line_of_a_setting(path: str, line: int | None) -> None:
    """The line is that of the key, or of the nearest table around a key that is not written."""
    assert SourceFile("x.toml", TEXT).line(path) == line


def test_a_location_names_file_line_and_path() -> None:
    """A location is printed as FILE:LINE: PATH, with as much of it as is known."""
    file = SourceFile("x.toml", TEXT)
    table = Location("template", file).item(1)
    assert str(table.key("source")) == "x.toml:18: template[1].source"
    assert str(Location("keys", file).key("db.password").key("type")) == 'x.toml:6: keys."db.password".type'
    assert str(Location("absent", file)) == "x.toml: absent"
    assert str(Location("absent").key("key")) == "absent.key"
    other = Location("component", keys={"name": Location("component.name", file)})
    assert str(other.key("name")) == "x.toml:3: component.name"
