"""The global order of prompts: the same for every rank, resumable, no prompt twice in a step. Does
not cover how many ranks share a step: the source knows none."""

from __future__ import annotations

import hashlib
import itertools
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from megatron_ar3po.data.prompt_source import Part, PromptSource
from megatron_ar3po.data.prompt_table import Origin, make_table
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


def make_mixture(
    *sizes_and_weights: tuple[int, float], seed: int = 0, shuffle: bool = True
) -> PromptSource:
    """Files of p0 p1 ..., one behind the other."""
    ends = [0, *itertools.accumulate(size for size, _ in sizes_and_weights)]
    parts = [
        Part(range(start, stop), weight)
        for (start, stop), (_, weight) in zip(
            itertools.pairwise(ends), sizes_and_weights, strict=True
        )
    ]
    return PromptSource(prompts(ends[-1]), seed=seed, shuffle=shuffle, parts=parts)


def test_a_mixture_draws_by_weight_and_each_file_has_epochs_of_its_own():
    """Two prompts of weight 1 and ten of weight 3: of eight draws two and six; who is owed most comes first."""
    source = make_mixture((2, 1.0), (10, 3.0), shuffle=False)
    assert draw_step(source, 8) == ["p2", "p0", "p3", "p4", "p5", "p1", "p6", "p7"]
    assert draw_step(source, 8) == ["p8", "p0", "p9", "p10", "p11", "p1", "p2", "p3"]
    assert source.cursor["drawn"] == [4, 12]
    assert [part["epoch"] for part in source.cursor["parts"]] == [1, 1]


@pytest.mark.parametrize("weights", [(1.0, 1.0, 1.0), (0.2, 0.3, 0.5), (5.0, 1.0, 0.01)])
def test_after_any_draw_these_files_are_within_one_of_their_share(weights):
    source = make_mixture(*((50, weight) for weight in weights))
    counts = [0, 0, 0]
    for drawn in range(1, 301):
        (name,) = draw_step(source, 1)
        counts[int(name[1:]) // 50] += 1
        for count, weight in zip(counts, weights, strict=True):
            assert abs(count - drawn * weight / sum(weights)) < 1


def test_a_file_that_a_step_has_drawn_whole_leaves_its_share_to_the_others():
    source = make_mixture((1, 9.0), (8, 1.0), shuffle=False)
    assert draw_step(source, 5) == ["p0", "p1", "p2", "p3", "p4"]
    source.start_step()
    assert len(source.next_batch(9)) == 9 and source.next_batch(1) == []


@given(
    sizes=st.lists(st.integers(1, 6), min_size=2, max_size=3),
    steps=st.lists(st.integers(1, 6), max_size=8),
    cut=st.integers(0, 8),
)
def test_a_mixture_resumed_after_any_step_draws_what_it_would_have_drawn(sizes, steps, cut):
    weighted = [(size, 1.0 + number) for number, size in enumerate(sizes)]
    steps = [min(size, sum(sizes)) for size in steps]
    source = make_mixture(*weighted)
    expected, cursors = [], [source.cursor]
    for size in steps:
        expected.append(draw_step(source, size))
        cursors.append(source.cursor)
    cut = min(cut, len(steps))
    resumed = make_mixture(*weighted)
    resumed.restore(json.loads(json.dumps(cursors[cut])))
    assert [draw_step(resumed, size) for size in steps[cut:]] == expected[cut:]
    assert all(len(set(step)) == len(step) for step in expected)


def test_other_weights_are_another_order_and_one_file_is_no_mixture():
    with pytest.raises(ValueError, match=r"resume with what the run started with"):
        make_mixture((3, 1.0), (3, 2.0)).restore(make_mixture((3, 1.0), (3, 1.0)).cursor)
    assert make_mixture((6, 3.0)).cursor == PromptSource(prompts(6), seed=0, shuffle=True).cursor


def test_the_order_of_an_epoch_is_what_it_was_in_the_versions_before():
    """Prompts sorted by the hash of seed, epoch and id: a resume of an older run draws on. Of a table, of objects."""

    def fill(writer) -> None:
        for number, name in enumerate(names):
            one = Prompt(prompt_id=name, token_ids=(number,), ground_truth="1")
            writer.add(one, Origin(0, number + 1))

    names = [hashlib.blake2b(bytes([n]), digest_size=16).hexdigest() for n in range(50)]
    table = make_table(fill, None)

    def digest(text: str) -> str:
        return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()

    orders = [sorted(names, key=lambda name, e=epoch: digest(f"7:{e}:{name}")) for epoch in (0, 1)]
    for given_as in (table, list(table)):
        source = PromptSource(given_as, seed=7, shuffle=True)
        assert source.cursor["fingerprint"] == digest("\n".join(orders[0]))
        assert [draw_step(source, 50), draw_step(source, 50)] == orders
        source.restore({**source.cursor, "put_off": [names[3], names[1]]})
        assert source.cursor["put_off"] == [names[3], names[1]]
