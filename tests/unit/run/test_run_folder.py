"""What a run changes in its folder when it begins; that a refused one changes nothing is in
tests/unit/wiring/test_refused_start.py."""

from __future__ import annotations

import json
from itertools import takewhile
from pathlib import Path

import pytest

from megatron_ar3po.config.load import load_config
from megatron_ar3po.observability.row_file import read_rows
from megatron_ar3po.rollout.ledger_file import ledger_rows, rows_of_run
from megatron_ar3po.run.folder import begin_run, find_finished
from megatron_ar3po.run.state import RunState, StartingPoint
from megatron_ar3po.run.upgrade import upgrade_run
from megatron_ar3po.wiring.run import take_up_cost


def begin(folder: Path, start: StartingPoint, *words: str) -> None:
    config = load_config([folder / "resolved_config.yaml"], ["run.resume=true", *words])
    begin_run(config, start, take_up_ledger=lambda: take_up_cost(config, start))


def steps_of(folder: Path, name: str) -> list[int]:
    return sorted({row["step"] for row in read_rows(folder / name)})


def abandoned_steps(folder: Path) -> list[int]:
    rows = ledger_rows(folder / "ledger/dp00.jsonl")
    return sorted({row.get("step", 0) for row in rows if row.get("abandoned")})


def test_a_run_that_goes_on_from_step_2_keeps_the_rows_of_its_first_two_steps(old_run):
    """Of four. What the later two had cost stays in the ledger, marked."""
    upgrade_run(old_run)
    (old_run / "STOPPED").write_text("{}")
    start = StartingPoint(checkpoint=old_run / "checkpoints/step_00002", state=RunState(step=2))
    begin(old_run, start, "run.num_steps=9")
    assert steps_of(old_run, "metrics.jsonl") == [0, 1, 2]
    assert steps_of(old_run, "rollouts.jsonl") == [1, 2]
    assert abandoned_steps(old_run) == [3, 4]
    assert not (old_run / "DONE").exists() and not (old_run / "STOPPED").exists()
    assert "num_steps: 9" in (old_run / "resolved_config.yaml").read_text()


def test_events_of_later_steps_go_those_of_ranks_that_the_resumed_run_does_not_have_too(old_run):
    upgrade_run(old_run)
    names = [f"step_{step:05d}.rank{rank:04d}.json" for step in (2, 3) for rank in (0, 1)]
    (old_run / "trace").mkdir()
    for name in names:
        (old_run / "trace" / name).write_text("{}")
    start = StartingPoint(checkpoint=old_run / "checkpoints/step_00002", state=RunState(step=2))
    begin(old_run, start)
    assert sorted(path.name for path in (old_run / "trace").iterdir()) == names[:2]


def test_a_run_that_starts_anew_keeps_no_row_as_its_own(old_run):
    upgrade_run(old_run)
    begin(old_run, StartingPoint())
    assert steps_of(old_run, "metrics.jsonl") == steps_of(old_run, "rollouts.jsonl") == []
    assert abandoned_steps(old_run) == [0, 1, 2, 3, 4]


def test_the_history_of_a_run_that_goes_on_from_step_2_ends_there(old_run):
    """It is read before the later rows are marked."""
    rows = rows_of_run(old_run / "ledger", up_to=2)
    assert {row["step"] for row in rows if row["kind"] == "prompt"} == {1, 2}
    assert rows_of_run(old_run / "ledger", up_to=-1) == []


def test_the_rows_that_a_resume_keeps_are_kept_to_the_byte(old_run):
    """A checkpoint knows their checksum. In this ledger two prompts were rescued in step 2."""
    upgrade_run(old_run)
    names = ("metrics.jsonl", "rollouts.jsonl", "ledger/dp00.jsonl")
    before = {name: (old_run / name).read_bytes() for name in names}
    begin(old_run, StartingPoint(checkpoint=old_run, state=RunState(step=2)))
    for name in names:
        lines = before[name].splitlines()
        kept = [*takewhile(lambda line: json.loads(line).get("step", 0) <= 2, lines)]
        assert kept and (old_run / name).read_bytes().splitlines()[: len(kept)] == kept


def test_a_done_run_of_which_nothing_more_is_asked_is_finished(old_run):
    """Four steps. The marker tells it; where that was cut short, the run itself does."""
    upgrade_run(old_run)

    def find(*words: str) -> RunState | None:
        files = [old_run / "resolved_config.yaml"]
        return find_finished(load_config(files, ["run.resume=true", *words]))

    assert find("run.num_steps=4") == RunState(step=4, policy_version=4)
    assert find("run.num_steps=3") is not None
    assert find("run.num_steps=5") is None
    assert find("run.num_steps=4", "run.resume=false") is None
    assert find("run.num_steps=4", "checkpoint.export_hf=true") is None
    (old_run / "hf").mkdir()
    assert find("run.num_steps=4", "checkpoint.export_hf=true") is not None
    (old_run / "DONE").write_text('{"step": 4')
    assert find("run.num_steps=4") is None
    (old_run / "DONE").rename(old_run / "STOPPED")
    assert find("run.num_steps=4") is None


def test_a_folder_that_cannot_be_written_is_refused_by_its_option(old_run):
    upgrade_run(old_run)
    (old_run / "STOPPED").mkdir()
    with pytest.raises(ValueError, match=r"run\.dir=run cannot be written .*STOPPED"):
        begin(old_run, StartingPoint())
