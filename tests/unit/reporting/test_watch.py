"""`ar3po watch`, from the files of a run that is going on. A real run's: tests/e2e/test_main_job.py."""

from __future__ import annotations

import doctest
import json
import logging
import time
from pathlib import Path

import pytest

from megatron_ar3po import cli
from megatron_ar3po.distributed.layout import ParallelLayout
from megatron_ar3po.distributed.rank_status import RankStatus, write_status
from megatron_ar3po.observability.rank_logging import setup_logging
from megatron_ar3po.observability.row_tail import RowTail
from megatron_ar3po.reporting import sparkline
from megatron_ar3po.reporting.run_watch import RunWatch

NOW = 1_000_000.0


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """Two of ten steps are done, at 4 seconds each; the rollout took half of them."""
    folder = tmp_path / "run"
    (folder / "status").mkdir(parents=True)
    (folder / "resolved_config.yaml").write_text(
        "run: {name: mine, num_steps: 10}\nalgorithm: {name: ar3po}\n"
    )
    add_rows(folder, {"step": 0, "eval/pass_at_1": 0.25})
    for step in (1, 2):
        row = {"reward/mean": 0.1 * step, "group/mixed_frac": 0.5, "group/all_wrong_frac": 0.25}
        seconds = {"time/wall_s": 4.0, "time/step_s": 3.0, "time/rollout_s": 2.0}
        parts = {"time/rollout/server_s": 1.5, "time/train_s": 1.0, "time/evaluation_s": 0.5}
        add_rows(folder, {"step": step, **row, **seconds, **parts})
    write_rank(folder)
    return folder


def add_rows(folder: Path, *rows: dict) -> None:
    with (folder / "metrics.jsonl").open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def write_rank(folder: Path, *, written: float = NOW, end: str = "") -> None:
    status = RankStatus(
        rank=0, world_size=1, host="node7", pid=1, steps_done=2, phase="step/rollout",
        phase_s=3.0, written=written, end=end,
    )  # fmt: skip
    write_status(folder / "status", status)


def test_worked_examples_of_the_docstrings():
    assert doctest.testmod(sparkline).failed == 0


def test_what_is_seen_of_a_run_that_is_going_on(run):
    view = RunWatch(run).look(NOW)
    assert (view.name, view.algorithm, view.step, view.num_steps) == ("mine", "ar3po", 2, 10)
    assert (view.seconds_per_step, view.seconds_left) == (4.0, 32.0)
    assert view.curves == {"reward": [0.1, 0.2], "pass@1": [0.25]}
    assert view.groups["mixed"] == 0.5
    assert view.phases == pytest.approx(
        {"rollout": 0.5, "train": 0.25, "evaluation": 0.125, "other": 0.125}
    )
    assert (view.has_ended, view.is_in_trouble) == (False, False)


def test_a_second_look_sees_what_came_since(run):
    watched = RunWatch(run)
    watched.look(NOW)
    add_rows(run, {"step": 3, "reward/mean": 0.4})
    assert watched.look(NOW).curves["reward"] == [0.1, 0.2, 0.4]


def test_rows_that_a_resume_has_cut_off_are_seen_no_more(run):
    watched = RunWatch(run)
    watched.look(NOW)
    lines = (run / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "new").write_text("".join(lines[:2]) + '{"step": 2, "reward/mean": 0.9}\n')
    (run / "new").replace(run / "metrics.jsonl")
    assert watched.look(NOW).curves["reward"] == [0.1, 0.9]


def test_a_row_that_is_half_written_is_seen_once_it_is_whole(tmp_path):
    path = tmp_path / "metrics.jsonl"
    tail = RowTail(path)
    assert tail.read() == []
    path.write_text('{"step": 1}\n{"st')
    assert tail.read() == [{"step": 1}]
    with path.open("a") as file:
        file.write('ep": 2}\n')
    assert tail.read() == [{"step": 2}]
    assert tail.num_restarts == 0


def test_a_run_that_goes_on_after_its_end_is_not_called_done(run):
    """A resume takes RUN/DONE away only when its servers are up."""
    (run / "DONE").write_text("{}")
    assert not RunWatch(run).look(NOW).has_ended
    write_rank(run, end="ended")
    view = RunWatch(run).look(NOW)
    assert (view.has_ended, view.end, view.is_in_trouble) == (True, "DONE", False)


@pytest.mark.parametrize(
    ("written", "end", "has_ended"),
    [(NOW - 1000, "", False), (NOW, "failed: OSError: disk", True)],
    ids=["silent", "failed"],
)
def test_a_rank_that_failed_or_is_not_heard_of_is_trouble(run, written, end, has_ended):
    write_rank(run, written=written, end=end)
    view = RunWatch(run).look(NOW)
    assert (view.is_in_trouble, view.has_ended) == (True, has_ended)


def test_the_last_warnings_are_shown_and_nothing_else_of_the_log(run):
    log = logging.getLogger("megatron_ar3po")
    before = (list(log.handlers), log.propagate, log.level)
    try:
        setup_logging(ParallelLayout(), "INFO", folder=run)
        for number in range(7):
            log.warning("disk %d is slow", number)
            log.info("step %d is done: no warning: none", number)
    finally:
        log.handlers, log.propagate = before[0], before[1]
        log.setLevel(before[2])
    shown = RunWatch(run).look(NOW).warnings
    assert [line[9:] for line in shown] == [f"warning: disk {n} is slow" for n in range(2, 7)]


def test_what_a_log_holds_moves_no_cursor(run):
    (run / "train.log").write_text("12:00:00 warning: \x1b[2Jgone\n")
    assert RunWatch(run).look(NOW).warnings == ("12:00:00 warning: ␛[2Jgone",)


def test_a_server_is_shown_with_the_last_line_about_its_work(run):
    (run / "logs").mkdir()
    (run / "logs/sglang_dp0.s1.log").write_text(
        "[2026-11-29 16:14:58] Decode batch, #running-req: 7\n[2026-11-29 16:14:59] Cache flushed\n"
    )
    (server,) = RunWatch(run).look(time.time()).servers
    assert (server.name, server.said) == ("dp0.s1", "Decode batch, #running-req: 7")
    assert 0 <= server.silent_s < 60


def test_once_prints_a_screen_and_json_the_same_for_scripts(run, capsys):
    write_rank(run, written=time.time())
    assert cli.main(["watch", str(run), "--once"]) == 0
    screen = capsys.readouterr().out
    for part in ("mine (ar3po", "step 2/10  4.00 s a step  left 0:32", "reward", "rollout 50%"):
        assert part in screen
    assert cli.main(["watch", str(run), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["step"] == 2


def test_a_rank_in_trouble_is_exit_code_1(run):
    write_rank(run, end="failed: OSError: disk")
    assert cli.main(["watch", str(run), "--once"]) == 1


def test_a_run_that_has_no_row_yet_shows_where_its_ranks_are(run, capsys):
    (run / "metrics.jsonl").unlink()
    write_rank(run, written=time.time())
    assert cli.main(["watch", str(run), "--once"]) == 0
    out = capsys.readouterr().out
    assert "no step has ended yet" in out and "step/rollout" in out


@pytest.mark.parametrize("what", ["absent", "empty", "newer"])
def test_what_is_no_run_of_ours_is_one_sentence(tmp_path, what, capsys):
    folder = tmp_path / "x"
    if what != "absent":
        folder.mkdir()
    if what == "newer":
        (folder / "version.json").write_text('{"format": 99, "written_by": "9.0"}')
    assert cli.main(["watch", str(folder), "--once"]) == 2
    said = capsys.readouterr().err
    assert said.startswith("ar3po: error: ") and said.count("\n") == 1
    assert {"absent": "is no folder", "empty": "holds nothing", "newer": "format 99"}[what] in said
