"""The global order of prompts: the same for every rank, resumable, no prompt twice in a step. Does
not cover how many ranks share a step: the source knows none."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_ar3po.data.prompt_source import PromptSource
from megatron_ar3po.types import Prompt


def prompts(num_prompts: int) -> list[Prompt]:
    return [
        Prompt(prompt_id=f"p{i}", token_ids=(i,), ground_truth=str(i)) for i in range(num_prompts)
    ]


def ids(batch) -> list[str]:
    return [step_prompt.prompt.prompt_id for step_prompt in batch]


def draw_step(source: PromptSource, *sizes: int) -> list[str]:
    source.start_step()
    return [prompt_id for size in sizes for prompt_id in ids(source.next_batch(size))]


def test_without_shuffling_prompts_come_in_the_order_of_the_file():
    source = PromptSource(prompts(5), seed=0, shuffle=False)
    assert [draw_step(source, 2), draw_step(source, 2)] == [["p0", "p1"], ["p2", "p3"]]
    assert (source.cursor["epoch"], source.cursor["offset"]) == (0, 4)


def test_a_step_over_the_end_of_an_epoch_puts_off_what_it_already_holds():
    source = PromptSource(prompts(3), seed=0, shuffle=False)
    # Epochs: p0 p1 p2 | p0 p1 p2. The second step holds p2, then p0; the third starts with p1.
    assert [draw_step(source, 2) for _ in range(3)] == [["p0", "p1"], ["p2", "p0"], ["p1", "p2"]]

    source = PromptSource(prompts(4), seed=0, shuffle=False)
    # Three a step: p0 p1 p2 | p3 p0 p1 | p2 p3 ... the third step holds p2, p3 of epoch 1 and p0 of
    # epoch 2.
    assert [draw_step(source, 3) for _ in range(4)][2:] == [["p2", "p3", "p0"], ["p1", "p2", "p3"]]


def test_a_prompt_put_off_is_drawn_first_in_the_next_step():
    source = PromptSource(prompts(4), seed=0, shuffle=False)
    source.restore({**source.cursor, "offset": 3})
    assert draw_step(source, 4) == ["p3", "p0", "p1", "p2"]
    assert source.cursor["put_off"] == []  # p3 stands last in epoch 1 and was not met
    source.restore({**source.cursor, "epoch": 0, "offset": 2, "put_off": ["p0"]})
    assert draw_step(source, 4) == ["p0", "p2", "p3", "p1"]
    assert source.cursor["put_off"] == ["p0"]


def test_positions_count_on_through_the_batches_of_a_step():
    source = PromptSource(prompts(10), seed=3, shuffle=True)
    assert [p.position for p in source.next_batch(3) + source.next_batch(2)] == [0, 1, 2, 3, 4]
    source.start_step()
    assert [p.position for p in source.next_batch(2)] == [0, 1]


def test_a_step_that_has_drawn_every_prompt_gets_fewer_than_it_asks_for():
    source = PromptSource(prompts(5), seed=0, shuffle=True)
    source.start_step()
    assert [len(source.next_batch(3)) for _ in range(3)] == [3, 2, 0]


def test_more_prompts_a_step_than_there_are_is_refused_with_both_numbers():
    with pytest.raises(
        ValueError, match=r"rollout\.prompts_per_step=6 is more than the 5 prompts of data\.path"
    ):
        PromptSource(prompts(5), seed=0, shuffle=True).next_batch(6)


def test_every_epoch_has_another_order_and_every_seed_too():
    source = PromptSource(prompts(20), seed=1, shuffle=True)
    first, second = draw_step(source, 20), draw_step(source, 20)
    other = draw_step(PromptSource(prompts(20), seed=2, shuffle=True), 20)
    assert sorted(first) == sorted(second) == sorted(other)
    assert len({tuple(first), tuple(second), tuple(other)}) == 3


def test_a_reordered_file_trains_in_the_same_order():
    forwards = PromptSource(prompts(20), seed=1, shuffle=True)
    backwards = PromptSource(prompts(20)[::-1], seed=1, shuffle=True)
    backwards.restore(forwards.cursor)
    assert draw_step(forwards, 7) == draw_step(backwards, 7)


@given(
    num_prompts=st.integers(1, 12),
    steps=st.lists(st.lists(st.integers(1, 12), min_size=1, max_size=4), max_size=12),
    cut=st.integers(0, 12),
    shuffle=st.booleans(),
)
def test_a_run_resumed_after_any_step_draws_what_it_would_have_drawn(
    num_prompts, steps, cut, shuffle
):
    steps = [[min(size, num_prompts) for size in sizes] for sizes in steps]
    source = PromptSource(prompts(num_prompts), seed=5, shuffle=shuffle)
    expected, cursors = [], [source.cursor]
    for sizes in steps:
        expected.append(draw_step(source, *sizes))
        cursors.append(source.cursor)
    cut = min(cut, len(steps))

    resumed = PromptSource(prompts(num_prompts), seed=5, shuffle=shuffle)
    resumed.restore(json.loads(json.dumps(cursors[cut])))
    assert [draw_step(resumed, *sizes) for sizes in steps[cut:]] == expected[cut:]

    drawn = [prompt_id for step in expected for prompt_id in step]
    counts = [drawn.count(prompt.prompt_id) for prompt in prompts(num_prompts)]
    assert all(len(set(step)) == len(step) for step in expected)
    assert max(counts) - min(counts) <= 2  # no prompt is lost where epochs meet
    cursor = source.cursor
    num_taken = cursor["epoch"] * num_prompts + cursor["offset"] - len(cursor["put_off"])
    assert num_taken == len(drawn)


@pytest.mark.parametrize(
    "changed",
    [
        PromptSource(prompts(4), seed=0, shuffle=True),
        PromptSource(prompts(5), seed=1, shuffle=True),
        PromptSource(prompts(5), seed=0, shuffle=False),
    ],
)
def test_a_cursor_of_other_prompts_or_another_seed_is_refused(changed):
    cursor = PromptSource(prompts(5), seed=0, shuffle=True).cursor
    with pytest.raises(ValueError, match=r"resume with what the run started with"):
        changed.restore(cursor)


def test_other_prompts_that_may_be_there_begin_with_the_next_epoch():
    """Epoch 0 of five prompts was under way; a resume has three others."""
    source = PromptSource(prompts(5), seed=0, shuffle=True)
    draw_step(source, 2)
    changed = PromptSource(prompts(3), seed=0, shuffle=False)
    changed.restore(source.cursor, may_differ=True)
    assert changed.cursor["epoch"] == 1
    assert draw_step(changed, 3) == ["p0", "p1", "p2"]

    same = PromptSource(prompts(5), seed=0, shuffle=True)
    same.restore(source.cursor, may_differ=True)
    assert same.cursor == source.cursor
