"""CloudWatch Logs and S3 against moto: limits, missing resources, keys."""

from __future__ import annotations

import dataclasses
import importlib.util
import time
from pathlib import Path
from typing import Any

import pytest

from agent.errors import SinkDenied
from tests.integration.shipping.receivers import aws, deliver, letters, make
from tests.integration.shipping.test_sink_contract import NOW_US, batch

needs_moto = pytest.mark.skipif(not importlib.util.find_spec("moto"), reason="moto[server] is not installed")


@needs_moto
def test_cloudwatch_cuts_a_batch_as_the_api_wants_it(tmp_path: Path) -> None:
    """1 MiB, 24 hours, order of time: a batch beyond them all arrives complete, and an event beyond the limit is set aside."""
    with aws(tmp_path, "cloudwatch") as target:
        sink = make("cloudwatch", target.options, tmp_path)
        messages = [*(f"{number:03d}" + "x" * 90_000 for number in range(30)), "L" * 1_100_000, "yesterday"]
        made = batch(messages, {})
        moved = dataclasses.replace(made, times=[*made.times[:-1], NOW_US - 25 * 3_600_000_000])
        progress = deliver(sink, tmp_path, moved)
        assert target.messages() == ["yesterday", *messages[:30]]
        assert [letter["MESSAGE"] for letter in letters(tmp_path)] == ["L" * 1_100_000]
        assert progress.counts["sent"] == 31
        sink.close()


@needs_moto
def test_cloudwatch_large_batches_cost_no_square_of_their_size(tmp_path: Path) -> None:
    """10,000 events, the most of a batch, take a bounded CPU time."""
    with aws(tmp_path, "cloudwatch") as target:
        sink = make("cloudwatch", target.options, tmp_path)
        began = time.process_time()
        sink.send(batch(["m"] * 10_000, {}))
        assert time.process_time() - began < 20
        assert len(target.rows()) > 0
        sink.close()


@needs_moto
@pytest.mark.parametrize("kind", ["cloudwatch", "s3"])
def test_what_does_not_exist_on_aws_is_made_by_hand(kind: str, tmp_path: Path) -> None:
    """A missing bucket, or a missing group with create = false: the entries wait, and the hint names what to create."""
    with aws(tmp_path, kind) as target:
        wrong: dict[str, dict[str, Any]] = {"cloudwatch": {"create": False, "log_group": "missing"}, "s3": {}}
        wrong["s3"]["bucket"] = "missing-8f1c"
        sink = make(kind, {**target.options, **wrong[kind]}, tmp_path)
        with pytest.raises(SinkDenied, match="does not exist") as found:
            sink.send(batch(["a"]))
        assert found.value.hint
        sink.close()


@needs_moto
def test_keys_for_aws_come_from_a_file_and_are_read_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """credentials_file replaces the keys of the environment; a corrected file needs no restart."""
    with aws(tmp_path, "s3") as target:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "ENVIRONMENT")
        path = tmp_path / "keys"
        path.write_text("[default]\n")
        sink = make("s3", {**target.options, "credentials_file": "/keys"}, tmp_path)
        with pytest.raises(SinkDenied, match="credentials"):
            sink.send(batch(["a"]))
        path.write_text("[default]\naws_access_key_id = testing\naws_secret_access_key = testing\n")
        sink.send(batch(["a"]))
        assert target.messages() == ["a"]
        sink.close()
