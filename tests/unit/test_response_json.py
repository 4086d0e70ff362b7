"""A scored response as it stands in files. The lines are compared to the letter: the names of fields are a format."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from megatron_ar3po import cli
from megatron_ar3po.config.schema import Config
from megatron_ar3po.evaluation.figures import SetAnswers
from megatron_ar3po.evaluation.items import item_of
from megatron_ar3po.evaluation.report import write_files
from megatron_ar3po.observability.rollout_recorder import RolloutRecorder
from megatron_ar3po.reuse.admin.inspection import StoredResponse
from megatron_ar3po.reuse.codec import encode_responses
from megatron_ar3po.reuse.loans import Loan
from megatron_ar3po.types import (
    Prompt,
    Response,
    ResponseGroup,
    ScoredResponse,
    TrainingSample,
    Verdict,
)

PROMPT = Prompt(
    prompt_id="ab" * 32,
    token_ids=(5, 6),
    ground_truth="½",
    text="A half?",
    source="train.jsonl:1",
    metadata={"error": 0.5},
)
SCORED = ScoredResponse(
    response=Response(
        response_id="s3-p0-i1",
        prompt_id=PROMPT.prompt_id,
        token_ids=np.array([7, 8, 9], np.int32),
        logprobs=np.array([-0.5, -0.25, -1.0], np.float32),
        finish_reason="stop",
        policy_version=2,
        step=3,
        stage=1,
        index=1,
        seed=11,
        server="dp0.s0",
        num_cached_tokens=2,
        elapsed_s=0.5,
    ),
    verdict=Verdict(
        reward=1.0, status="correct", extracted="½", reason="equal as text", elapsed_s=0.125
    ),
)


def decode(token_ids: object) -> str:
    return f"it is {token_ids}"


def test_a_recorded_group_is_laid_out_to_be_read(tmp_path: Path) -> None:
    digits = {7: "it is 7", 8: "8", 9: "9"}
    recorder = RolloutRecorder(
        tmp_path / "file", lambda ids: "".join(digits[i] for i in ids), num_groups=1, every_steps=1
    )
    sample = TrainingSample(
        group_position=0,
        prompt_id=PROMPT.prompt_id,
        response_id="s3-p0-i1",
        prompt_token_ids=PROMPT.token_ids,
        response_token_ids=SCORED.response.token_ids,
        behaviour_logprobs=SCORED.response.logprobs,
        advantage=0.123456,
        reward=1.0,
        origin="fresh",
        policy_version=2,
    )
    recorder.record(3, [ResponseGroup(position=0, prompt=PROMPT, responses=(SCORED,))], [sample])
    assert (tmp_path / "file").read_text(encoding="utf-8") == (
        '{"step": 3, "prompt": "A half?", "ground_truth": "½", "stages": 1, "responses": [{"text": '
        '"it is 789", "reward": 1.0, "status": "correct", "reason": "equal as text", "origin": "fresh", '
        '"stage": 1, "tokens": 3, "policy_version": 2, "advantage": 0.1235, "logprobs": [-0.5, -0.25, -1.0], '
        '"token_lengths": [7, 1, 1]}], "prompt_id": "'
        f'{PROMPT.prompt_id}", "source": "train.jsonl:1"}}\n'
    )


def test_an_evaluated_prompt_is_laid_out_to_be_read(tmp_path: Path) -> None:
    items = [[item_of(SCORED, decode([7, 8, 9]))]]
    prompts = [replace(PROMPT, metadata={"id": "7"})]
    answers = SetAnswers(name="aime", config=Config(), prompts=prompts, items=items, reused=0)
    write_files(tmp_path, {}, [answers])
    assert (tmp_path / "responses.jsonl").read_text(encoding="utf-8") == (
        '{"set": "aime", "id": "7", "prompt": "A half?", "answer": "½", "responses": [{"text": "it is [7, 8, 9]", '
        '"status": "correct", '
        '"extracted": "½", "tokens": 3, "finish_reason": "stop"}]}\n'
    )


def test_a_row_of_the_store_says_where_its_response_came_from() -> None:
    (row,) = encode_responses([SCORED], session=4, deposit_step=3)
    assert row.details.decode() == (
        f'{{"response_id":"s3-p0-i1","prompt_id":"{PROMPT.prompt_id}","num_tokens":3,"finish_reason":"stop",'
        '"policy_version":2,"step":3,"stage":1,"index":1,"seed":11,"server":"dp0.s0","num_cached_tokens":2,'
        '"elapsed_s":0.5,"verdict":{"reward":1.0,"status":"correct","extracted":"½","reason":"equal as text",'
        '"elapsed_s":0.125},"session":4,"deposit_step":3}'
    )


def test_an_exported_response_holds_all_that_the_store_knows() -> None:
    stored = StoredResponse(
        shard=Path("dp00_of_01.sqlite"),
        scored=SCORED,
        prompt=PROMPT,
        deposit_step=3,
        evicted_step=None,
        loans=(Loan("s3-p0-i1", 4, 0, "recompute", drift=0.5),),
        sampler={"temperature": 1.0},
        session=4,
        hash_rank=77,
    )
    assert json.dumps(stored.as_json(), ensure_ascii=False) == (
        f'{{"response_id": "s3-p0-i1", "prompt_id": "{PROMPT.prompt_id}", "prompt": {{"token_ids": [5, 6], "text": '
        '"A half?", "ground_truth": "½", "source": "train.jsonl:1", "metadata": {"error": 0.5}}, "token_ids": '
        '[7, 8, 9], "logprobs": [-0.5, -0.25, -1.0], "finish_reason": "stop", "policy_version": 2, "step": 3, '
        '"stage": 1, "index": 1, "seed": 11, "server": "dp0.s0", "num_cached_tokens": 2, "elapsed_s": 0.5, '
        '"verdict": {"reward": 1.0, "status": "correct", "extracted": "½", "reason": "equal as text", "elapsed_s": '
        '0.125}, "sampler": {"temperature": 1.0}, "deposit_step": 3, "evicted_step": null, "times_borrowed": 1, '
        '"last_borrowed_step": 4, "loans": [{"step": 4, "position": 0, "option": "recompute", "mean_logprob": null, '
        '"drift": 0.5, "ratio": null, "clip_frac": null}]}'
    )


def test_a_graded_line_keeps_its_fields_and_gets_the_verdicts(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    (tmp_path / "in").write_text('{"id": 1, "gold": "½", "pred": "0.5"}\n', encoding="utf-8")
    files = [f"--input={tmp_path / 'in'}", f"--output={tmp_path / 'out'}"]
    assert cli.main(["grade", *files, "--workers=1"]) == 0
    line = (tmp_path / "out").read_text(encoding="utf-8")
    elapsed_s = json.loads(line)["elapsed_s"]
    assert elapsed_s == round(elapsed_s, 6) > 0
    assert line == (
        '{"id": 1, "gold": "½", "pred": "0.5", "reward": 1.0, "status": "correct", "extracted": "0.5", '
        f'"reason": "found by answer; number: 1/2 and 1/2 are equal", "elapsed_s": {elapsed_s}}}\n'
    )
