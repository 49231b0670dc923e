"""How long a value stays masked after it was rotated out: over restarts, over reboots, and never without a bound."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import StateError
from agent.paths import Paths
from agent.state import mask_history
from agent.state.mask_history import INDEX, PLAIN, MaskHistory, next_history
from agent.state.records import Records
from agent.state.sealing import Sealer
from agent.state.store import StateStore

TEXTS = st.frozensets(st.text(min_size=1, max_size=5), max_size=5)
TIMES = st.floats(0, 1000)


class FakeSealer:
    """Seals as long as it can."""

    def __init__(self) -> None:
        self.can, self.unavailable, self.opened = True, False, 0

    def seal(self, content: bytes) -> bytes | None:
        return b"sealed:" + content[::-1] if self.can else None

    def open(self, sealed: bytes) -> bytes:
        self.opened += 1
        return sealed.removeprefix(b"sealed:")[::-1]


def never(retired_at: float) -> bool:
    return False


def history_of(directory: Path, cache: str = "plain", sealer: FakeSealer | None = None) -> MaskHistory:
    """The history as a process that has just started sees it."""
    records = Records(directory)
    records.writable = True
    return MaskHistory(records, sealer or Sealer(Paths(directory)), cache)  # type: ignore[arg-type]


@given(st.dictionaries(st.text(min_size=1, max_size=5), st.none() | TIMES, max_size=5), TEXTS, TEXTS, TIMES)
def test_every_text_that_was_ever_masked_stays(
    history: dict[str, float | None], current: frozenset[str], published: frozenset[str], now: float
) -> None:
    """Until it may expire, nothing leaves the mask; what is secret now is never retired."""
    updated = next_history(history, current, published, now, never)
    assert updated.keys() == {*history, *current, *published}
    assert all(updated[text] is None for text in current)
    for text in updated.keys() - current:
        assert updated[text] == (now if history.get(text) is None else history[text])


@given(TEXTS, TIMES, TIMES)
def test_what_has_expired_goes(texts: frozenset[str], retired: float, now: float) -> None:
    """A retired text goes once it may; one that is secret again does not."""
    history = dict.fromkeys(texts, retired)
    assert next_history(history, frozenset(), frozenset(), now, lambda at: True) == {}
    assert next_history(history, texts, frozenset(), now, lambda at: True) == dict.fromkeys(texts)


def test_the_history_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """The shipper's memory is bounded: beyond the bound the oldest retired texts go first, the current ones never."""
    monkeypatch.setattr(mask_history, "RETIRED_BYTES_MAX", 20)
    history: dict[str, float | None] = {f"{number:010}": float(number) for number in range(5)}
    updated = next_history(history, frozenset({"x" * 100}), frozenset(), 9.0, never)
    assert set(updated) == {"x" * 100, "0000000003", "0000000004"}


@pytest.mark.parametrize("cache", ["plain", "encrypted"])
def test_a_rotated_text_is_masked_after_a_reboot(tmp_path: Path, cache: str) -> None:
    """The mask file lies on a tmpfs. The history brings back what was rotated out before the reboot."""
    sealer = FakeSealer()
    first = history_of(tmp_path, cache, sealer)
    assert first.update(["one"], (), 1.0, never) == (frozenset({"one"}), None)
    assert first.update(["two"], ["one"], 2.0, never) == (frozenset({"one", "two"}), None)
    for _ in range(3):
        rebooted = history_of(tmp_path, cache, sealer)
        assert rebooted.update(["two"], (), 3.0, never) == (frozenset({"one", "two"}), None)
    rebooted = history_of(tmp_path, cache, sealer)
    assert rebooted.update(["three"], (), 4.0, lambda at: at == 2.0) == (frozenset({"two", "three"}), None)
    files = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.name.startswith("mask-history")}
    assert all(path.stat().st_mode & 0o777 == 0o600 for path in tmp_path.iterdir())
    if cache == "encrypted":
        assert not any(b"three" in content or b"two" in content for content in files.values())


def test_a_value_rotated_while_the_machine_was_off_stays_masked(tmp_path: Path) -> None:
    """The last run config before the reboot had it, and the first one after has another: its lines are still in the journal."""
    history_of(tmp_path).update(["before"], (), 1.0, never)
    assert history_of(tmp_path).update(["after"], (), 9.0, never)[0] == {"before", "after"}


def test_a_start_at_which_nothing_changed_opens_nothing(tmp_path: Path) -> None:
    """A start stays as fast as it was: the index says that nothing is retired and nothing is new."""
    sealer = FakeSealer()
    history_of(tmp_path, "encrypted", sealer).update(["one", "two"], (), 1.0, never)
    before = (tmp_path / INDEX).stat().st_mtime_ns
    assert history_of(tmp_path, "encrypted", sealer).update(["two", "one"], ["one"], 2.0, never)[0] == {"one", "two"}
    assert (sealer.opened, (tmp_path / INDEX).stat().st_mtime_ns) == (0, before)


def test_what_cannot_be_sealed_is_said_and_kept_in_this_process(tmp_path: Path) -> None:
    """No plain secret is written where the settings ask for sealed ones; the process itself forgets nothing."""
    sealer = FakeSealer()
    sealer.can = False
    history = history_of(tmp_path, "encrypted", sealer)
    assert history.update(["one"], (), 1.0, never)[1] is not None
    texts, problem = history.update(["two"], (), 2.0, never)
    assert texts == {"one", "two"}
    assert problem is not None
    assert "systemd-creds" in problem
    assert not any(b"one" in path.read_bytes() for path in tmp_path.iterdir())
    sealer.can = True
    assert history.update(["two"], (), 3.0, never) == (frozenset({"one", "two"}), None)
    assert history_of(tmp_path, "encrypted", sealer).update(["two"], (), 4.0, never)[0] == {"one", "two"}


def test_nothing_is_written_with_cache_none(tmp_path: Path) -> None:
    """[state] cache = "none" keeps no secret on the disk."""
    history = history_of(tmp_path, "none")
    history.update(["one"], (), 1.0, never)
    assert history.update(["two"], (), 2.0, never) == (frozenset({"one", "two"}), None)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith("mask")] == []


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b'{"texts": 5}', b'{"texts": {"a": "b"}}', b"\xff"])
@pytest.mark.parametrize("name", [PLAIN, INDEX])
def test_a_damaged_history_costs_the_past_only(tmp_path: Path, name: str, content: bytes) -> None:
    """Damaged state never stops a convergence, and the current secrets are masked all the same."""
    history_of(tmp_path).update(["one"], (), 1.0, never)
    history_of(tmp_path).update(["two"], (), 2.0, never)
    (tmp_path / name).write_bytes(content)
    assert {"three"} <= history_of(tmp_path).update(["three"], (), 3.0, never)[0]
    assert {"three"} <= history_of(tmp_path).update(["three"], (), 4.0, never)[0]


def test_another_instance_does_not_get_it(tmp_path: Path) -> None:
    """An image that was captured from a running instance holds none of that instance's secrets."""
    store = StateStore(Paths(tmp_path), "plain")
    store.prepare()
    store.mask_history.update(["one"], (), 1.0, never)
    archive = store.archive_previous_instance()
    assert not list(archive.glob("mask-history*"))
    assert StateStore(Paths(tmp_path), "plain").mask_history.update([], (), 2.0, never)[0] == frozenset()


def test_a_history_that_cannot_be_opened_now_is_not_overwritten(tmp_path: Path) -> None:
    """systemd-creds fails once at a boot: what is retired is read again later, and is not lost for good."""
    sealer = FakeSealer()
    history_of(tmp_path, "encrypted", sealer).update(["one"], (), 1.0, never)
    history_of(tmp_path, "encrypted", sealer).update(["two"], (), 2.0, never)

    class Failing(FakeSealer):
        def open(self, sealed: bytes) -> bytes:
            self.unavailable = True
            raise StateError("systemd-creds does not run")

    failing = history_of(tmp_path, "encrypted", Failing())
    texts, problem = failing.update(["two"], (), 3.0, never)
    assert texts == {"two"}
    assert problem is not None
    assert "cannot be opened" in problem
    assert history_of(tmp_path, "encrypted", sealer).update(["two"], (), 4.0, never)[0] == {"one", "two"}


def test_no_plain_copy_stays_once_secrets_are_to_be_sealed(tmp_path: Path) -> None:
    """Another `cache` takes effect also on a machine that cannot seal."""
    history_of(tmp_path, "plain").update(["one"], (), 1.0, never)
    sealer = FakeSealer()
    sealer.can = False
    history_of(tmp_path, "encrypted", sealer).update(["two"], (), 2.0, never)
    assert not (tmp_path / PLAIN).exists()
