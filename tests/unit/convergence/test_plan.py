"""What would change, and how it is shown."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.convergence import plan
from agent.errors import RenderError
from agent.masking.masker import COMMON
from agent.model import Change, ChangeKind, Rendering, RunConfig, TargetFile
from agent.secret import MASK, Secret
from agent.settings.models import Template, TemplateUnit

TEMPLATE = Template(name="app", source="app.j2", target="/etc/app.conf")


def rendering(content: bytes, *, secret: bool = False) -> Rendering:
    return Rendering("app", content, frozenset(), frozenset(), secret)


def change(content: bytes, old: TargetFile | None, *, secret: bool = False, **template: Any) -> Change:
    stated = Template(**{"name": "app", "source": "app.j2", "target": "/etc/app.conf", **template})
    return plan.plan_change(stated, rendering(content, secret=secret), old, None, None)


def config(**secrets: Any) -> RunConfig:
    return RunConfig({name: Secret(value) for name, value in secrets.items()}, {}, frozenset((name,) for name in secrets))


OLD = TargetFile(b"one\n", 0o644, 0, 0)


def test_kinds() -> None:
    """Per target create, change content, change owner, group or mode, unchanged."""
    assert change(b"one\n", None).kind == "create"
    assert change(b"two\n", OLD).kind == "content"
    assert change(b"one\n", OLD, mode=0o600).kind == "attributes"
    assert plan.plan_change(TEMPLATE, rendering(b"one\n"), OLD, 5, None).kind == "attributes"
    assert change(b"one\n", OLD).kind == "unchanged"
    assert not change(b"one\n", OLD).pending


def test_modes_and_owners() -> None:
    """INTERFACE 3: 0644 by default and 0600 for a template that reads a secret; an old file's owner is kept."""
    assert change(b"x", None).mode == 0o644
    assert change(b"x", None, secret=True).mode == 0o600
    assert change(b"x", None, secret=True, mode=0o640).mode == 0o640
    kept = change(b"x", TargetFile(b"y", 0o600, 7, 8))
    assert (kept.uid, kept.gid) == (7, 8)


@pytest.mark.parametrize("mode", [0o644, 0o604, 0o601])
def test_a_secret_is_never_world_readable(mode: int) -> None:
    """Promise 5: a template that reads a secret and a mode that lets every user read its target are refused."""
    with pytest.raises(RenderError, match="lets every user read"):
        change(b"x", None, secret=True, mode=mode)


ACTIONS = ["none", "start", "reload", "reload-or-restart", "restart"]


@given(st.lists(st.tuples(st.sampled_from(["a", "b", "c"]), st.sampled_from(ACTIONS), st.booleans()), max_size=8))
def test_one_strongest_action_a_unit(wishes: list[tuple[str, str, bool]]) -> None:
    """Promise 3: per unit one action, the strongest of the changed templates; none for a unit nothing changed for."""
    templates, changes = [], []
    for index, (unit, action, changed) in enumerate(wishes):
        entry = TemplateUnit(name=f"{unit}.service", action=action)  # type: ignore[arg-type]
        templates.append(Template(name=str(index), source="x", target=f"/{index}", units=(entry,)))
        changes.append(
            Change(
                str(index), f"/{index}", ChangeKind.CONTENT if changed else ChangeKind.UNCHANGED, "", 0o644, 0, 0, False, b""
            )
        )
    steps = {step.unit: step for step in plan.unit_steps(templates, changes)}
    for unit in "abc":
        asked = [a for u, a, changed in wishes if u == unit and changed and a != "none"]
        if asked:
            # a reload starts nothing, so that one and a start are more than either
            both = set(asked) == {"start", "reload"}
            assert steps[f"{unit}.service"].action == ("reload-or-restart" if both else max(asked, key=ACTIONS.index))
        else:
            assert f"{unit}.service" not in steps
    order = [f"{unit}.service" for unit, _, _ in wishes]
    assert list(steps) == sorted(steps, key=order.index)


def test_a_diff_shows_that_a_secret_changed() -> None:
    """Diffs with secrets masked but visibly changed."""
    old = TargetFile(b"user = app\npassword = earlier-secret\n", 0o600, 0, 0)
    shown = plan.diff(change(b"user = app\npassword = hunter2-now\n", old, secret=True), config(pw="hunter2-now"))
    assert f"+password = {MASK}" in shown
    assert "-(a line of the old file, withheld" in shown
    assert " user = app" in shown
    assert "earlier-secret" not in shown
    assert "hunter2-now" not in shown


def test_the_forms_of_a_diff() -> None:
    """A person can read what changes: a new file against /dev/null, attributes in words, a binary file by its size."""
    assert plan.diff(change(b"one\n", None), config()).startswith("--- /dev/null\n+++ b/etc/app.conf\n")
    assert "mode 0644 -> 0600" in plan.diff(change(b"one\n", OLD, mode=0o600), config())
    assert "binary, 4 -> 3 bytes" in plan.diff(change(b"a\0b", OLD), config())
    assert "\\ No newline at end of file" in plan.diff(change(b"one", OLD), config())
    assert plan.diff(change(b"one\n", OLD), config()) == ""


@pytest.mark.parametrize("before", [None, b"key:\nabc\ndef\nghi\nend\n", b"key:\nolder\nend\n"])
def test_a_secret_of_several_short_lines(before: bytes | None) -> None:
    """Promise 5: a secret that spans lines is masked as a whole: no line of it is shown, not even the short last one."""
    old = TargetFile(before, 0o600, 0, 0) if before else None
    shown = plan.diff(change(b"key:\nabc\ndef\nghi\nend\n# more\n", old, secret=True), config(pw="abc\ndef\nghi"))
    assert "key:" in shown
    assert "end" in shown
    assert not {"abc", "def", "ghi", "older"} & {line[1:] for line in shown.splitlines()}


SECRETS = st.text(st.characters(codec="utf-8", exclude_characters="\r"), min_size=4, max_size=30).filter(
    lambda text: len(text.strip()) >= 4 and text.strip().lower() not in COMMON and MASK not in text and text.strip("* ") != ""
)


@given(st.lists(st.one_of(SECRETS, st.lists(SECRETS, min_size=1, max_size=2)), min_size=1, max_size=3), st.data())
def test_no_secret_in_any_diff(secrets: list[Any], data: st.DataObject) -> None:
    """Promise 5: no secret of the run config stands in a diff, wherever a template prints it and whatever was there before."""
    texts = [text for secret in secrets for text in (secret if isinstance(secret, list) else [secret])]
    parts = st.lists(st.one_of(st.sampled_from(texts), st.sampled_from(["user = ", "\n", "=", "x: "])), max_size=8)
    before, after = ("".join(data.draw(parts)) for _ in range(2))
    old = TargetFile(before.encode("utf-8", "surrogatepass"), 0o600, 0, 0) if data.draw(st.booleans()) else None
    made = change(after.encode("utf-8", "surrogatepass"), old, secret=True)
    shown = plan.diff(made, config(**{f"s{i}": secret for i, secret in enumerate(secrets)}))
    body = "\n".join(line[1:] for line in shown.splitlines()[2:] if line[:1] in "+- " and "withheld" not in line)
    for text in texts:
        assert text.strip() not in body.replace(MASK, "\0")


@pytest.mark.parametrize(
    ("stated", "old", "kind"),
    [
        ({}, TargetFile(b"by hand\n", 0o644, 0, 0), ChangeKind.DRIFTED),
        ({}, TargetFile(b"by hand\n", 0o600, 7, 7), ChangeKind.DRIFTED),
        ({}, TargetFile(b"one\n", 0o600, 0, 0), ChangeKind.DRIFTED),
        ({"mode": 0o600}, TargetFile(b"one\n", 0o644, 0, 0), ChangeKind.ATTRIBUTES),
        ({"drift": "repair"}, TargetFile(b"by hand\n", 0o644, 0, 0), ChangeKind.CONTENT),
    ],
)
def test_what_is_an_edit_by_hand(stated: dict[str, Any], old: TargetFile, kind: ChangeKind) -> None:
    """A target that was applied and differs was edited. One that is to hold something else now was not: settings changed."""
    template = Template(name="app", source="app.j2", target="/etc/app.conf", **stated)
    applied = plan.AppliedTarget.of(b"one\n", 0o644, 0, 0)
    assert plan.plan_change(template, rendering(b"one\n"), old, None, None, applied=applied).kind == kind
    assert plan.plan_change(template, rendering(b"two\n"), old, None, None, applied=applied).kind == ChangeKind.CONTENT
