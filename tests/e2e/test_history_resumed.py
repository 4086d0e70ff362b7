"""A run with `algorithm.name=history`, resumed in its middle at another data-parallel size: the same history."""

from __future__ import annotations

from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from megatron_ar3po.data.dump import load_groups
from megatron_ar3po.reporting.prompt_history import summarize_history
from tools.compare_runs import responses_of

WORDS = [
    "algorithm.name=history",
    "run.deterministic=true",
    "rollout.prompts_per_step=8",
    "rollout.num_stages=2",
    "rollout.stage_rule=history",
    "rollout.history_success_frac=0.1",
    "rollout.history_half_life=4",
    "evaluation.path=",
    "debug.dump_steps=[1,2,3,4]",
    "actor.learning_rate=1e-3",
    "actor.lr_warmup_steps=0",
]


def records_of(folder: Path) -> dict[str, Any]:
    """What each group was measured against, to the bit."""
    return {
        f"{path.name} position {group.position}": group.record
        for path in sorted((folder / "dumps").glob("step_*.pt"))
        for group in load_groups(path)
    }


def test_a_history_outlives_a_resume_at_another_data_parallel_size(start_run, tiny_task, tmp_path):
    """Twelve prompts, eight a step: from the third step on all have been seen. The steps after the resume rest
    on rows that one replica wrote; two go on."""
    prompts = tmp_path / "twelve.jsonl"
    with (tiny_task / "train.jsonl").open() as file:
        prompts.write_text("".join(islice(file, 12)))
    words = [*WORDS, f"data.path={prompts}"]
    whole = start_run(*words, "run.num_steps=4", f"run.dir={tmp_path / 'whole'}")
    whole.wait().require_success()
    cut = f"run.dir={tmp_path / 'cut'}"
    start_run(*words, "run.num_steps=2", cut).wait().require_success()
    resumed = start_run(*words, "run.num_steps=4", "run.resume=true", cut, ranks=2)
    resumed.wait().require_success()

    assert responses_of(resumed.folder) == responses_of(whole.folder)
    records = records_of(whole.folder)
    assert records_of(resumed.folder) == records and len(records) == 4 * 8
    assert sum(record.last_step > 0 for record in records.values()) >= 4 * 8 - 12
    before, after = (summarize_history(run.folder) for run in (whole, resumed))
    assert (before.prompts, before.windows) == (after.prompts, after.windows)
    for one, other in zip(whole.metrics, resumed.metrics, strict=True):
        if "actor/loss" in one:
            assert other["actor/loss"] == pytest.approx(one["actor/loss"], abs=1e-5)
