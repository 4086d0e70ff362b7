"""The script that says whether two runs are one run."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from fakes.algorithm_cases import group

from megatron_ar3po.data.dump import save_groups
from tools.compare_runs import compare_runs, main

PROMPT = {"kind": "prompt", "step": 1, "position": 0, "responses": 2, "request_s": 0.5}


def write_run(folder: Path, *, metrics=(), ledger=(), tokens=(1, 2), weights="aa") -> Path:
    (folder / "ledger").mkdir(parents=True)
    rows = [{"step": 0, "time/step_s": 1.0}, {"step": 1, "actor/loss": 0.5, **dict(metrics)}]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    lines = ledger or [PROMPT]
    (folder / "ledger/dp00.jsonl").write_text("".join(json.dumps(row) + "\n" for row in lines))
    first, second = group([1.0, 0.0]).responses
    drawn = replace(first.response, token_ids=np.array(tokens, np.int32))
    whole = replace(group([1.0, 0.0]), responses=(replace(first, response=drawn), second))
    save_groups(folder / "dumps/step_00001.pt", [whole], step=1, policy_version=0)
    checkpoint = folder / "checkpoints/step_00001"
    checkpoint.mkdir(parents=True)
    files = {"model/__0_0.distcp": [9, weights], "model/.metadata": [1, folder.name]}
    (checkpoint / "manifest.json").write_text(json.dumps({"files": files}))
    (folder / "checkpoints/latest").write_text("step_00001\n")
    return folder


@pytest.fixture
def run(tmp_path) -> Path:
    return write_run(tmp_path / "a")


def test_seconds_and_what_a_resume_did_again_do_not_make_another_run(run, tmp_path, capsys):
    again = [{**PROMPT, "responses": 7, "abandoned": True}, {**PROMPT, "request_s": 9.0}]
    other = write_run(tmp_path / "b", metrics={"time/step_s": 2.0}.items(), ledger=again)
    assert main([str(run), str(other)]) == 0
    assert capsys.readouterr().out == "equal\n"


@pytest.mark.parametrize(
    ("change", "line"),
    [
        ({"metrics": {"actor/loss": 0.25}.items()}, "step 1: actor/loss was 0.5, is 0.25"),
        ({"ledger": [{**PROMPT, "responses": 3}]}, "ledger prompt of step 1 position 0: was"),
        ({"ledger": [PROMPT, PROMPT]}, "ledger prompt of step 1 position 0 again: was absent"),
        ({"tokens": (1, 3)}, "response p0.0 in position 0 of step_00001.pt: was"),
        ({"weights": "ab"}, "file model/__0_0.distcp: was [9, 'aa'], is [9, 'ab']"),
    ],
)
def test_each_difference_is_named(run, tmp_path, change, line, capsys):
    other = write_run(tmp_path / "b", **change)
    assert main([str(run), str(other)]) == 1
    first, last = capsys.readouterr().out.splitlines()
    assert first.startswith(line) and last == "1 differ"


def test_a_step_that_was_written_twice_and_a_folder_that_is_no_run_are_refused(run, tmp_path):
    path = run / "metrics.jsonl"
    path.write_text(path.read_text() + '{"step": 1}\n')
    with pytest.raises(ValueError, match="has 3 rows for 2 steps"):
        list(compare_runs(run, run))
    assert main([str(run), str(tmp_path / "none")]) == 2
