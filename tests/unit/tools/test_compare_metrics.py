"""The script that says whether a change has altered a number."""

import json
from pathlib import Path

import pytest

from tools.compare_metrics import main


def write_run(folder: Path, rows: list[dict[str, float]]) -> Path:
    folder.mkdir()
    lines = (json.dumps({"step": step, **row}) + "\n" for step, row in enumerate(rows))
    (folder / "metrics.jsonl").write_text("".join(lines))
    return folder


ROWS = [{"eval/pass_at_1": 0.25}, {"actor/loss": 0.5, "time/step_s": 1.0}]


def test_equal_numbers_in_the_rooms_compared_are_equal_runs(tmp_path, capsys):
    a = write_run(tmp_path / "a", ROWS)
    b = write_run(tmp_path / "b", [ROWS[0], {**ROWS[1], "time/step_s": 7.0}])
    assert main([str(a), str(b)]) == 0
    assert capsys.readouterr().out == "2 rows, 2 values of eval, rollout, reuse, actor: equal\n"


@pytest.mark.parametrize(
    ("changed", "line"),
    [
        ({"actor/loss": 0.50000001}, "step 1: actor/loss was 0.5, is 0.50000001"),
        ({}, "step 1: actor/loss was 0.5, is absent"),
        ({**ROWS[1], "reuse/loans": 2}, "step 1: reuse/loans was absent, is 2"),
    ],
)
def test_a_number_that_changed_or_is_missing_is_named_with_its_step(
    changed, line, tmp_path, capsys
):
    a, b = write_run(tmp_path / "a", ROWS), write_run(tmp_path / "b", [ROWS[0], changed])
    assert main([str(a), str(b)]) == 1
    assert line in capsys.readouterr().out.splitlines()


def test_a_run_that_ended_earlier_differs_unless_only_its_steps_are_compared(tmp_path):
    a, b = write_run(tmp_path / "a", ROWS), write_run(tmp_path / "b", ROWS[:1])
    assert main([str(a), str(b)]) == 1
    assert main([str(a), str(b), "--steps", "0"]) == 0


def test_a_folder_that_is_no_run_is_named(tmp_path, capsys):
    a = write_run(tmp_path / "a", ROWS)
    assert main([str(a), str(tmp_path / "none")]) == 2
    assert f"{tmp_path / 'none'} holds no metrics.jsonl" in capsys.readouterr().err


def test_what_two_runs_of_one_commit_do_not_share_is_left_out(tmp_path):
    a = write_run(tmp_path / "a", [{"reuse/store_bytes": 8192.0}])
    b = write_run(tmp_path / "b", [{"reuse/store_bytes": 4096.0}])
    assert main([str(a), str(b)]) == 0
    assert main([str(a), str(b), "--except"]) == 1
