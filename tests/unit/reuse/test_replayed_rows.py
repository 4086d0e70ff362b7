"""Rows on disk and their draws, with replicas in threads; that they train in a real run, and come again after a resume
at another data-parallel size, is shown in tests/e2e."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes.algorithm_cases import group

from megatron_ar3po.config.reuse import ReuseConfig
from megatron_ar3po.distributed.layout import ParallelLayout
from megatron_ar3po.records import Max, Mean, Sum
from megatron_ar3po.reuse.recent_rows import RecentRows
from megatron_ar3po.reuse.replayer import Replayer
from megatron_ar3po.types import Prompt, ResponseGroup, TrainingSample

NUM_PROMPTS = 6  # a step, one response each
_WAIT_S = 30.0


class Replicas:
    """`gather_over_replicas` of leaders that are threads."""

    def __init__(self, size: int) -> None:
        self.size = size
        self._barrier = threading.Barrier(size)
        self._values: list[Any] = [None] * size

    def gather_of(self, rank: int) -> Callable[[Any], list[Any]]:
        def gather(value: Any) -> list[Any]:
            self._values[rank] = value
            self._barrier.wait(_WAIT_S)
            everyone = list(self._values)
            self._barrier.wait(_WAIT_S)
            return everyone

        return gather

    def run(self, task: Callable[[int], Any]) -> list[Any]:
        results: list[Any] = [None] * self.size

        def of_rank(rank: int) -> None:
            results[rank] = task(rank)

        threads = [threading.Thread(target=of_rank, args=(r,)) for r in range(self.size)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(_WAIT_S)
        return results


def make_row(step: int, position: int) -> TrainingSample:
    prompt = (7 * step + position) % 50
    return TrainingSample(
        group_position=position,
        prompt_id=f"{prompt:016x}{0:016x}",
        response_id=f"s{step}.p{position}.1.0",
        prompt_token_ids=(1, 2, step),
        response_token_ids=np.array([position, step, 5], np.int32),
        behaviour_logprobs=np.array([-0.1, -1 / 3, -np.pi * step], np.float32),
        advantage=0.1 * position - 1 / 3,
        reward=float(position % 2),
        origin="fresh",
        policy_version=step - 1,
    )


def groups_of(rows: list[TrainingSample]) -> list[ResponseGroup]:
    """One response each, and one group more without signal where a replica has any."""
    return [
        ResponseGroup(
            position=row.group_position,
            prompt=Prompt(prompt_id=row.prompt_id, token_ids=(1,), ground_truth="7"),
            responses=group([1], position=row.group_position).responses,
        )
        for row in rows
    ]


def run_steps(
    folder: Path,
    steps: range,
    *,
    dp: int = 1,
    window: int = 18,
    frac: float = 1 / 3,
    last_step: int | None = None,
) -> dict[int, list[TrainingSample]]:
    """Replayed rows by step, of all replicas by position. Opens as of `last_step`, by default that before the first."""
    replicas = Replicas(dp)

    def run_replica(rank: int) -> dict[int, list[TrainingSample]]:
        layout = ParallelLayout(world_size=dp, rank=rank)
        before = steps.start - 1 if last_step is None else last_step
        rows = RecentRows(folder, layout, window=window, last_step=before)
        gather = replicas.gather_of(rank)
        gather(None)  # all have opened before one goes on, as in a run
        replayer = Replayer(rows, replay_frac=frac, run_seed=5, gather_over_replicas=gather)
        drawn = {}
        for step in steps:
            mine = [
                row
                for row in (make_row(step, p) for p in range(NUM_PROMPTS))
                if layout.owner_dp_rank(row.prompt_id) == rank
            ]
            drawn[step] = replayer.draw(mine, groups_of(mine), step=step)
        return drawn

    parts = replicas.run(run_replica)
    return {
        step: sorted((row for part in parts for row in part[step]), key=lambda r: r.group_position)
        for step in steps
    }


def names(drawn: dict[int, list[TrainingSample]]) -> dict[int, list[str]]:
    return {step: [row.response_id for row in rows] for step, rows in drawn.items()}


def step_of(response_id: str) -> int:
    return int(response_id[1:].partition(".")[0])


def test_a_step_draws_its_share_from_earlier_steps_of_the_window_and_no_row_twice(tmp_path):
    """6 rows a step, a third of the step replayed: 3 rows; a window of 18 responses is 3 steps."""
    drawn = names(run_steps(tmp_path, range(1, 11)))
    assert [len(of_step) for of_step in drawn.values()] == [0] + [3] * 9
    for step, of_step in drawn.items():
        assert len(set(of_step)) == len(of_step)
        assert all(step - 3 <= step_of(name) < step for name in of_step)


def test_a_replayed_row_is_the_row_that_was_and_stands_behind_the_steps_groups(tmp_path):
    drawn = run_steps(tmp_path, range(1, 3))
    for index, row in enumerate(drawn[2]):
        there = make_row(1, int(row.response_id.split(".")[1][1:]))
        assert row.group_position == NUM_PROMPTS + index
        assert (row.origin, row.uses_behaviour_logprobs) == ("replayed", True)
        assert (row.advantage, row.reward) == (there.advantage, there.reward)
        assert row.prompt_token_ids == there.prompt_token_ids
        assert row.response_token_ids.tolist() == there.response_token_ids.tolist()


@pytest.mark.parametrize(("before", "after"), [(1, 2), (2, 1), (2, 3), (3, 1)])
def test_a_resume_at_another_size_draws_the_same_rows_to_the_bit(tmp_path, before, after):
    """Killed after step 8, gone on with from step 5: steps 6 to 8 are done again."""
    run_steps(tmp_path / "run", range(1, 9), dp=before)
    resumed = run_steps(tmp_path / "run", range(6, 11), dp=after)
    whole = run_steps(tmp_path / "whole", range(1, 11))
    assert names(resumed) == {step: of_step for step, of_step in names(whole).items() if step >= 6}
    for step in range(6, 11):
        for again, once in zip(resumed[step], whole[step], strict=True):
            assert again.behaviour_logprobs.tobytes() == once.behaviour_logprobs.tobytes()
            assert (again.advantage, again.group_position) == (once.advantage, once.group_position)


def test_rows_of_abandoned_steps_are_gone(tmp_path):
    run_steps(tmp_path, range(1, 9))
    RecentRows(tmp_path, ParallelLayout(), window=18, last_step=5)
    assert sorted(path.name[:10] for path in tmp_path.iterdir()) == [
        f"step_0000{step}" for step in range(1, 6)
    ]
    RecentRows(tmp_path, ParallelLayout(), window=18, last_step=-1)
    assert list(tmp_path.iterdir()) == []


def test_files_go_with_the_checkpoints_that_could_need_them(tmp_path):
    """A resume from step 6 draws step 7 from steps 4 to 6."""
    run_steps(tmp_path, range(1, 9))
    rows = RecentRows(tmp_path, ParallelLayout(), window=18, last_step=8)
    rows.forget_before(6)
    assert sorted(int(path.name[5:10]) for path in tmp_path.iterdir()) == [4, 5, 6, 7, 8]
    whole = run_steps(tmp_path / "whole", range(1, 9))
    assert names(run_steps(tmp_path, range(7, 9)))[7] == names(whole)[7]


def test_what_was_cut_off_in_the_writing_is_no_file(tmp_path):
    run_steps(tmp_path, range(1, 4))
    (tmp_path / "step_00004.dp00-of-01.jsonl.tmp").write_bytes(b'{"kind": "st')
    assert len(run_steps(tmp_path, range(4, 5))[4]) == 3


def test_a_sync_leaves_nothing_to_the_page_cache(tmp_path):
    """Every file of this process, and their names in the folder; a second one has nothing to do."""
    synced: list[str] = []
    rows = RecentRows(
        tmp_path,
        ParallelLayout(),
        window=18,
        last_step=-1,
        sync_path=lambda path: synced.append(path.name),
    )
    for step in (1, 2):
        rows.keep([make_row(step, 0)], step=step, num_own=1, num_responses=1)
    rows.sync()
    rows.sync()
    assert synced == ["step_00001.dp00-of-01.jsonl", "step_00002.dp00-of-01.jsonl", tmp_path.name]


@pytest.mark.parametrize("damage", ["flip", "cut", "empty"])
def test_damage_costs_the_rows_it_hits_and_is_said(tmp_path, caplog, damage):
    run_steps(tmp_path, range(1, 4))
    path = tmp_path / "step_00003.dp00-of-01.jsonl"
    content = path.read_bytes()
    lines = content.splitlines(keepends=True)
    if damage == "flip":
        lines[2] = lines[2].replace(b'"advantage": ', b'"advantage": 9')
    path.write_bytes({"flip": b"".join(lines), "cut": content[:-200], "empty": b""}[damage])
    with caplog.at_level(logging.WARNING):
        rows = RecentRows(tmp_path, ParallelLayout(), window=18, last_step=3)
    assert "step_00003.dp00-of-01.jsonl is damaged" in caplog.text
    assert len(rows.steps.get(3, ())) == {"flip": 5, "cut": 5, "empty": 0}[damage]
    assert len(rows.steps[2]) == NUM_PROMPTS


def test_rows_from_before_steps_without_replay_do_not_come_back(tmp_path):
    """Steps 1 to 3 replayed, 4 to 9 did not; a resume from step 9 finds nothing that is recent."""
    run_steps(tmp_path, range(1, 4))
    assert not RecentRows(tmp_path, ParallelLayout(), window=18, last_step=9).steps
    assert names(run_steps(tmp_path, range(10, 12)))[10] == []
    rows = RecentRows(tmp_path, ParallelLayout(), window=18, last_step=11)
    assert (sorted(rows.steps), rows.num_responses) == ([10, 11], 2 * NUM_PROMPTS)
    rows.forget_before(11)
    assert sorted(int(path.name[5:10]) for path in tmp_path.iterdir()) == [10, 11]


def test_a_file_that_is_lost_is_said(tmp_path, caplog):
    run_steps(tmp_path, range(1, 4), dp=2)
    with caplog.at_level(logging.WARNING):
        RecentRows(tmp_path, ParallelLayout(), window=18, last_step=3)
        assert not caplog.messages
        (tmp_path / "step_00002.dp01-of-02.jsonl").unlink()
        RecentRows(tmp_path, ParallelLayout(), window=18, last_step=3)
    (said,) = caplog.messages
    assert "files of 1 of the 2 replicas for step 2" in said


def test_what_was_replayed_is_counted_by_name_and_never_as_a_response(tmp_path):
    rows = RecentRows(tmp_path, ParallelLayout(), window=18, last_step=-1)
    replayer = Replayer(rows, replay_frac=1 / 3, run_seed=5)
    for step in (1, 2):
        mine = [make_row(step, p) for p in range(NUM_PROMPTS)]
        replayer.draw(mine, groups_of(mine), step=step)
    assert replayer.records == {
        "reuse/replayed_rows": Sum(3),
        "reuse/replayed_tokens": Sum(9),
        "reuse/replayed_age_steps": Mean(1.0, 3),
        "reuse/replay_window_rows": Sum(6),
        "reuse/replay_window_responses": Max(6),
    }


def test_borrowed_rows_are_not_kept_and_a_step_without_rows_ages_the_window(tmp_path):
    rows = RecentRows(tmp_path, ParallelLayout(), window=6, last_step=-1)
    replayer = Replayer(rows, replay_frac=0.5, run_seed=5)
    mine = [make_row(1, p) for p in range(NUM_PROMPTS)]
    replayer.draw([mine[0], replace(mine[1], origin="reused")], groups_of(mine), step=1)
    assert [row.response_id for row in rows.steps[1]] == ["s1.p0.1.0"]
    assert replayer.draw([], groups_of([make_row(2, p) for p in range(NUM_PROMPTS)]), step=2) == []
    assert not any(rows.steps.values())  # step 2 had the window's 6 responses
    later = [make_row(3, 0)]
    assert replayer.draw(later, groups_of(later), step=3) == []


def test_a_window_of_0_is_refused():
    with pytest.raises(ValueError, match=r"reuse\.replay_window=0 .* reuse\.replay_frac=0\.5"):
        ReuseConfig(replay_frac=0.5, replay_window=0)
    ReuseConfig(replay_window=0)
