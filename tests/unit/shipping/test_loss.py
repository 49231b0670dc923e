"""The entry about a loss: every sink accepts it, also one that wants ids."""

from __future__ import annotations

from agent.shipping import Batch
from agent.shipping.pipeline import with_loss


def test_a_loss_without_entries_has_an_id_of_its_own() -> None:
    """A read that found a hole and nothing behind it still gives a whole batch: one entry, one id, the same at a repeat."""
    read = Batch((), {}, {"files": [{"path": "/var/log/a.log"}], "key": "secret"}, lost=3)
    told = with_loss(read)
    assert (len(told), len(told.ids)) == (1, 1)
    assert told.ids == with_loss(read).ids
    assert told.ids != with_loss(Batch((), {}, read.position, lost=4)).ids
    assert "secret" not in told.ids[0]


def test_a_loss_before_entries_keeps_ids_and_entries_side_by_side() -> None:
    """Ids exist for all entries, or if the sink does not want them, for no entry."""
    columns = {"MESSAGE": [b"a", b"b"]}
    assert list(with_loss(Batch([1, 2], columns, {}, ["x", "y"], lost=1)).ids)[1:] == ["x", "y"]
    assert not with_loss(Batch([1, 2], columns, {}, lost=1)).ids


def test_the_id_of_a_loss_is_short_however_many_files_there_are() -> None:
    """Elasticsearch accepts 512 bytes; a position has every file."""
    position = {"files": [{"path": f"/var/log/{number}.log"} for number in range(1000)]}
    assert len(with_loss(Batch([1], {"MESSAGE": [b"a"]}, position, ["x"], lost=1)).ids[0]) < 100
