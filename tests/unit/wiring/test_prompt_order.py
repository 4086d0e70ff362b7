"""The order of prompts as a run takes it up: from its ledger, whoever wrote that, and its checkpoint's cursor."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

from megatron_ar3po.config.data import DataConfig
from megatron_ar3po.config.schema import Config
from megatron_ar3po.data.prompt_source import PromptSource
from megatron_ar3po.records import Max
from megatron_ar3po.run.state import RunState, StartingPoint
from megatron_ar3po.types import Prompt
from megatron_ar3po.wiring.prompt_order import build_prompt_order

PROMPTS = [Prompt(prompt_id=f"{i:032x}", token_ids=(i,), ground_truth="7") for i in range(10)]


def make_config(folder: Path, **data: object) -> Config:
    plain = Config()
    run = replace(plain.run, dir=str(folder))
    return replace(plain, run=run, data=DataConfig(**data))  # type: ignore[arg-type]


def write_ledger(folder: Path, rank: int, visits: list[tuple[int, int]]) -> None:
    """`visits`: (step, number of the prompt), two responses each, one of them correct."""
    rows = [
        {
            "kind": "prompt",
            "step": step,
            "position": position,
            "prompt_id": PROMPTS[number].prompt_id,
            "source": "",
            "responses": 2,
            "response_tokens": 6,
            "correct": 1,
            "outcome": "mixed",
        }
        for position, (step, number) in enumerate(visits)
    ]
    (folder / "ledger").mkdir(exist_ok=True)
    path = folder / f"ledger/dp{rank:02d}.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def take_up(config: Config, start: StartingPoint):
    source = PromptSource(PROMPTS, seed=0, shuffle=True)
    if start.checkpoint is not None:
        source.restore(start.state.prompt_cursor)
    return build_prompt_order(config, source, PROMPTS, start)


def test_by_default_it_is_the_epochs_and_nobody_learns_for_it(tmp_path):
    source = PromptSource(PROMPTS, seed=0, shuffle=True)
    order, learners = build_prompt_order(make_config(tmp_path), source, PROMPTS, StartingPoint())
    assert order is source and learners == []
    assert set(order.cursor) == {"epoch", "offset", "put_off", "fingerprint"}


def test_a_resume_has_the_visits_of_all_replicas_up_to_its_checkpoint(tmp_path):
    """Steps 1 and 2 visited prompts 0, 1 and 2; step 3, after the checkpoint, three others."""
    write_ledger(tmp_path, 0, [(1, 0), (2, 0), (3, 5), (3, 6)])
    write_ledger(tmp_path, 1, [(1, 1), (2, 2), (3, 7)])
    config = make_config(tmp_path, selection="weighted")
    cursor = {**PromptSource(PROMPTS, seed=0, shuffle=True).cursor, "draws": 2}
    state = RunState(step=2, prompt_cursor=cursor)
    order, learners = take_up(config, StartingPoint(checkpoint=tmp_path, state=state))
    assert order.records["selection/visited_frac"] == Max(0.3)
    assert order.records["selection/visits_max"] == Max(2)
    assert order.records["selection/longest_wait_steps"] == Max(2)
    order.start_step()
    order.next_batch(4)
    assert order.cursor["draws"] == 3 and len(learners) == 1


def test_a_run_that_starts_anew_knows_of_no_visit(tmp_path):
    write_ledger(tmp_path, 0, [(1, 0)])
    order, _ = take_up(make_config(tmp_path, selection="thompson"), StartingPoint())
    assert order.records["selection/visited_frac"] == Max(0.0)
