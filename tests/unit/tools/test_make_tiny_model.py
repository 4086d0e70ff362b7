"""What tools/make_tiny_model.py writes, with a handful of lessons. That the model learns in 400 of
them is seen by the runs that train on it, not here."""

from __future__ import annotations

import json
import random
from datetime import datetime

import pytest
import torch
from fakes.grading_rules import FakeGradingRules
from made_once import is_made, make_whole
from make_tiny_model import (
    NOT_LEARNT,
    PAD_ID,
    STOP_ID,
    Recipe,
    character_tokenizer,
    lesson,
    schedule,
    write_task,
)
from tiny_sum_task import CHARACTERS, Teacher

from megatron_ar3po.config.data import DataConfig
from megatron_ar3po.data.dataset import load_prompts
from megatron_ar3po.data.tokenizer import load_tokenizer, stop_token_ids

RECIPE = Recipe(num_train=30, num_heldout=20, num_steps=2, batch_size=8)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("task")
    facts = write_task(folder, RECIPE)
    assert facts["num_parameters"] == 298_624
    return folder


def test_the_folder_loads_as_a_checkpoint_with_prompts(folder):
    tokenizer = load_tokenizer(folder / "model")
    assert stop_token_ids(folder / "model", tokenizer) == (STOP_ID,)
    config = DataConfig(max_prompt_tokens=8)
    for name, count in (("train", 30), ("heldout", 20)):
        path = folder / f"{name}.jsonl"
        prompts = load_prompts(
            path,
            tokenizer,
            config,
            grading=FakeGradingRules(),
            rendered_at=datetime.now(),
            vocab_size=20,
        )
        assert len(prompts) == count
        assert all(len(prompt.token_ids) == 8 for prompt in prompts)


def test_text_comes_back_from_tokens_without_added_spaces():
    tokenizer = character_tokenizer()
    ids = tokenizer.encode("3+8+4xx=1;5$")
    assert ids == [CHARACTERS.index(character) for character in "3+8+4xx=1;5$"]
    assert tokenizer.decode(ids[8:], skip_special_tokens=True) == "1;5"
    assert tokenizer.encode("3€") == [CHARACTERS.index("3"), CHARACTERS.index("?")]


def test_the_saved_weights_depend_on_the_seed_alone(folder, tmp_path):
    weights = "model/model.safetensors"
    write_task(tmp_path, RECIPE)
    assert (tmp_path / weights).read_bytes() == (folder / weights).read_bytes()


def test_a_lesson_learns_the_response_and_its_stop_token_and_never_a_held_out_prompt():
    teacher = Teacher.with_misconceptions(seed=0)
    rng = random.Random(0)
    never = {(a, b) for a in range(10) for b in range(10)}
    token_ids, labels = lesson(teacher, Recipe(batch_size=64), rng, never)
    assert token_ids.shape == labels.shape == (64, 14)
    assert (labels[:, :8] == NOT_LEARNT).all()
    learnt = labels != NOT_LEARNT
    assert torch.equal(token_ids[learnt], labels[learnt])
    assert not (token_ids[learnt] == PAD_ID).any()
    assert ((labels == STOP_ID).sum(1) == 1).all()
    assert {int(n) for n in learnt.sum(1)} == {
        4,
        6,
    }  # two running sums or three: no pair of operands


def test_the_learning_rate_rises_over_a_tenth_and_falls_to_a_tenth():
    rates = [schedule(step, 100) for step in range(100)]
    assert rates[0] == pytest.approx(0.1)
    assert max(rates) == pytest.approx(1.0) == rates[10]
    assert rates[-1] == pytest.approx(1 - 0.9 * 89 / 90)


def test_a_folder_appears_whole_or_not_at_all(tmp_path):
    target = tmp_path / "made"
    with pytest.raises(RuntimeError, match="half way"), make_whole(target) as folder:
        (folder / "file").write_text("new")
        raise RuntimeError("half way")
    assert list(tmp_path.iterdir()) == []

    for content in ("first", "second"):
        with make_whole(target) as folder:
            (folder / "task.json").write_text(json.dumps({"recipe": {"content": content}}))
        assert is_made(target, {"content": content})
    assert not is_made(target, {"content": "first"})
    assert list(tmp_path.iterdir()) == [target]
