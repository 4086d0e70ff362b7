"""The threads that hand the rows of metrics.jsonl on, with a sink that only remembers. The real W&B, MLflow and
TensorBoard are in tests/e2e."""

from __future__ import annotations

import json
import logging
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from megatron_ar3po.observability.metric_sinks import MetricSinks, SinkKind

WAIT_S = 30.0


@dataclass
class Target:
    """Where a sink keeps what it is given: rows, and how each of its sinks was opened and closed."""

    name: str = "target"
    where: str = "there"
    rows: list[tuple[int, dict]] = field(default_factory=list)
    opened: list[tuple[str, int]] = field(default_factory=list)
    closed: list[bool] = field(default_factory=list)
    failures: int = 0  # so many writes fail first
    holds: threading.Event | None = None  # a write waits for it
    has_written: threading.Event = field(default_factory=threading.Event)

    def wait_for_rows(self, count: int) -> None:
        end = time.monotonic() + WAIT_S
        while len(self.rows) < count:
            assert time.monotonic() < end, self.rows
            time.sleep(0.005)

    def let_go(self) -> None:
        assert self.holds is not None
        self.holds.set()

    def kind(self) -> SinkKind:
        return SinkKind(name=self.name, where=self.where, open=self._open)

    def _open(self, run_id: str, first_step: int) -> RememberingSink:
        self.opened.append((run_id, first_step))
        return RememberingSink(self, run_id or f"id{len(self.opened)}")


@dataclass
class RememberingSink:
    target: Target
    run_id: str

    def write(self, step, row):
        self.target.has_written.set()
        if self.target.holds is not None:
            assert self.target.holds.wait(WAIT_S)
        if self.target.failures:
            self.target.failures -= 1
            raise ConnectionError("nobody answers")
        self.target.rows.append((step, dict(row)))

    def close(self, *, is_done):
        self.target.closed.append(is_done)


def write_rows(folder: Path, *steps: int) -> None:
    with (folder / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps({"step": step, "a/b": step / 2}) + "\n" for step in steps)


def run_steps(folder: Path, *targets: Target, steps=(), last_step: int = -1, is_done=True) -> None:
    """A run that goes on at `last_step` and writes these steps."""
    sinks = MetricSinks(
        folder, [p.kind() for p in targets], last_step=last_step, first_retry_s=0.01
    )
    for step in steps:
        write_rows(folder, step)
        sinks.notice_a_row()
    sinks.close(is_done=is_done)


def steps_of(target: Target) -> list[int]:
    return [step for step, _ in target.rows]


def test_several_places_get_every_row_with_the_numbers_of_the_file(tmp_path):
    targets = [Target("one"), Target("two")]
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "a/b": null, "c": 3}\n')
    run_steps(tmp_path, *targets, steps=(1, 2))
    for target in targets:
        assert target.rows == [(0, {"c": 3}), (1, {"a/b": 0.5}), (2, {"a/b": 1.0})]
        assert target.closed == [True]


def test_a_run_without_a_row_opens_nothing(tmp_path):
    target = Target()
    run_steps(tmp_path, target)
    assert (target.opened, target.closed) == ([], [])
    assert not (tmp_path / "sinks.json").exists()


def test_a_resume_goes_on_under_the_same_id_with_the_first_new_row(tmp_path):
    target = Target()
    run_steps(tmp_path, target, steps=(0, 1), is_done=False)
    run_steps(tmp_path, target, steps=(2, 3), last_step=1)
    assert target.opened == [("", 0), ("id1", 2)]
    assert steps_of(target) == [0, 1, 2, 3]
    assert target.closed == [False, True]


def test_steps_that_a_resume_does_again_are_sent_again(tmp_path):
    """Killed after step 3, it goes on from the checkpoint of step 1: rows 2 and 3 were cut off the file."""
    target = Target()
    run_steps(tmp_path, target, steps=(0, 1, 2, 3))
    (tmp_path / "metrics.jsonl").unlink()
    write_rows(tmp_path, 0, 1)
    run_steps(tmp_path, target, steps=(2, 3, 4), last_step=1)
    assert target.opened[1] == ("id1", 2)
    assert steps_of(target) == [0, 1, 2, 3, 2, 3, 4]


def test_a_place_that_is_asked_for_later_gets_the_rows_before_too(tmp_path):
    write_rows(tmp_path, 0, 1, 2)
    target = Target()
    run_steps(tmp_path, target, steps=(3,), last_step=2)
    assert steps_of(target) == [0, 1, 2, 3]


def test_another_address_begins_anew(tmp_path):
    old, new = Target(where="here"), Target(where="elsewhere")
    run_steps(tmp_path, old, steps=(0, 1))
    run_steps(tmp_path, new, steps=(2,), last_step=1)
    assert new.opened == [("", 0)]
    assert steps_of(new) == [0, 1, 2]


def test_a_place_that_fails_is_said_once_and_has_all_rows_in_the_end(tmp_path, caplog):
    target = Target(failures=3)
    with caplog.at_level(logging.INFO):
        sinks = MetricSinks(tmp_path, [target.kind()], first_retry_s=0.01)
        write_rows(tmp_path, *range(6))
        sinks.notice_a_row()
        target.wait_for_rows(6)
        sinks.close(is_done=True)
    assert steps_of(target) == list(range(6))
    assert caplog.text.count("target (there) does not take the metrics: nobody answers") == 1
    assert "target (there) has all rows again" in caplog.text
    assert {run_id for run_id, _ in target.opened[1:]} == {"id1"}


def test_a_place_that_fails_to_the_end_fails_no_run_and_gets_its_rows_at_a_resume(tmp_path):
    target, other = Target(failures=10_000), Target("other")
    run_steps(tmp_path, target, other, steps=(0, 1))
    assert (steps_of(target), steps_of(other)) == ([], [0, 1])
    target.failures = 0
    run_steps(tmp_path, target, other, steps=(2,), last_step=1)
    assert steps_of(target) == steps_of(other) == [0, 1, 2]


def test_a_place_that_hangs_is_waited_for_a_limited_time_and_said(tmp_path, caplog):
    target = Target(holds=threading.Event())
    sinks = MetricSinks(tmp_path, [target.kind()], close_limit_s=0.05)
    write_rows(tmp_path, 0)
    sinks.notice_a_row()
    assert target.has_written.wait(WAIT_S)
    sinks.close(is_done=True)
    assert "target (there) has not taken all rows in time" in caplog.text
    target.let_go()


def test_a_note_that_cannot_be_read_is_said_and_the_place_begins_anew(tmp_path, caplog):
    (tmp_path / "sinks.json").write_text('{"target": 3}')
    target = Target()
    run_steps(tmp_path, target, steps=(0,))
    assert "sinks.json cannot be read" in caplog.text
    assert target.opened == [("", 0)]


@pytest.mark.parametrize("first_step", [0, 2])
def test_tensorboard_has_the_numbers_of_the_row_under_the_same_names(tmp_path, first_step):
    from tensorboard.backend.event_processing.event_file_loader import LegacyEventFileLoader

    from megatron_ar3po.observability.tensorboard_sink import TensorBoardSink

    sink = TensorBoardSink(tmp_path, first_step=first_step)
    sink.write(7, {"actor/loss": 0.25, "reward/mean": 0.5})
    sink.close(is_done=True)
    (path,) = tmp_path.iterdir()
    events = list(LegacyEventFileLoader(str(path)).Load())
    shown = [e for e in events if e.HasField("summary")]
    assert [(e.step, {v.tag: v.simple_value for v in e.summary.value}) for e in shown] == [
        (7, {"actor/loss": 0.25, "reward/mean": 0.5})
    ]
    restarts = [e.step for e in events if e.HasField("session_log")]
    assert restarts == ([2] if first_step else [])


def test_tensorboard_shows_no_row_that_was_done_again_twice(tmp_path):
    """Steps 2 and 3 were written before a kill, and again by the run that went on from step 1."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    from megatron_ar3po.observability.tensorboard_sink import TensorBoardSink

    for first_step, steps in ((0, (0, 1, 2, 3)), (2, (2, 3, 4))):
        sink = TensorBoardSink(tmp_path, first_step=first_step)
        for step in steps:
            sink.write(step, {"a/b": step + first_step})
        sink.close(is_done=True)
    board = EventAccumulator(str(tmp_path)).Reload()
    assert [(s.step, s.value) for s in board.Scalars("a/b")] == [
        *((0, 0), (1, 1)),
        *((2, 4), (3, 5), (4, 6)),
    ]


def test_a_damaged_row_is_told_and_the_rows_behind_it_come(tmp_path, caplog):
    write_rows(tmp_path, 0)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 1, "a/\n')
    write_rows(tmp_path, 2)
    target = Target()
    run_steps(tmp_path, target, steps=(3,), last_step=2)
    assert steps_of(target) == [0, 2, 3]
    told = [r.message for r in caplog.records if "target does not get a row" in r.message]
    assert len(told) == 1 and "metrics.jsonl holds a line that is not what was written" in told[0]
