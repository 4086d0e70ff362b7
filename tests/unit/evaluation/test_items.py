"""Answers that are kept: which ones are found again, and which are not."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from megatron_ar3po.evaluation.items import Item, ItemStore
from megatron_ar3po.rollout.draws import Draw
from megatron_ar3po.types import Prompt, SamplingParams

DRAW = Draw(
    response_id="eval.v0.0.0",
    prompt=Prompt(prompt_id="ab", token_ids=(5,), ground_truth="1"),
    step=0,
    stage=1,
    index=0,
    seed=11,
    sampling=SamplingParams(temperature=0.6),
    policy_version=0,
    rank=(0,),
)
ITEM = Item(text="½ \u2028", tokens=3, finish_reason="stop", status="correct", extracted="½")


def reopen(folder: Path, weights: str = "w") -> ItemStore:
    return ItemStore(folder, weights)


def test_an_answer_is_found_again_by_what_it_is_an_answer_to(tmp_path):
    first = ItemStore(tmp_path, "w")
    assert first.find(DRAW) is None
    first.keep(DRAW, ITEM)
    assert first.find(DRAW) == ITEM
    first.close()
    again = reopen(tmp_path)
    assert again.find(DRAW) == ITEM
    assert again.find(replace(DRAW, response_id="eval.suite.v3.7.0", rank=(1,))) == ITEM


@pytest.mark.parametrize(
    "other",
    [
        replace(DRAW, seed=12),
        replace(DRAW, sampling=SamplingParams(temperature=0.7)),
        replace(DRAW, sampling=SamplingParams(temperature=0.6, max_response_tokens=17)),
        replace(DRAW, prompt=replace(DRAW.prompt, prompt_id="ac")),  # a verifier changes it too
    ],
)
def test_another_seed_sampling_or_prompt_is_another_answer(tmp_path, other):
    ItemStore(tmp_path, "w").keep(DRAW, ITEM)
    assert reopen(tmp_path).find(other) is None


def test_other_weights_have_other_answers_and_unknown_ones_keep_none(tmp_path):
    ItemStore(tmp_path, "w").keep(DRAW, ITEM)
    assert reopen(tmp_path, "v").find(DRAW) is None
    unknown = reopen(tmp_path, "")
    unknown.keep(DRAW, ITEM)
    assert unknown.find(DRAW) is None
    assert [path.name for path in tmp_path.iterdir()] == ["w"]


@pytest.mark.parametrize("status", ["error", "ungradable"])
def test_an_answer_without_a_verdict_is_asked_for_again(tmp_path, status):
    """Or with one that may come of a slow machine."""
    ItemStore(tmp_path, "w").keep(DRAW, replace(ITEM, status=status))
    assert reopen(tmp_path).find(DRAW) is None


def test_what_was_answered_before_a_kill_stays_and_a_torn_row_is_asked_for_again(tmp_path):
    """No row is lost with the one that was being written, and the next process writes a file of its own."""
    store = ItemStore(tmp_path, "w")
    store.keep(DRAW, ITEM)
    store.keep(replace(DRAW, seed=12), ITEM)
    [file] = (tmp_path / "w").iterdir()
    file.write_bytes(file.read_bytes()[:-5])
    again = reopen(tmp_path)
    assert (again.find(DRAW), again.find(replace(DRAW, seed=12))) == (ITEM, None)
    again.keep(replace(DRAW, seed=12), ITEM)
    assert reopen(tmp_path).find(replace(DRAW, seed=12)) == ITEM


def test_a_row_that_was_changed_is_refused_with_its_line(tmp_path):
    ItemStore(tmp_path, "w").keep(DRAW, ITEM)
    [file] = (tmp_path / "w").iterdir()
    file.write_bytes(file.read_bytes().replace(b'"correct"', b'"truncated"'))
    with pytest.raises(ValueError, match=rf"{file}:1 is not what was written"):
        reopen(tmp_path)
