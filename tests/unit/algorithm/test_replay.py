"""The numbers are those of `algorithm/replay.py`."""

from __future__ import annotations

import pytest

from megatron_ar3po.algorithm.replay import first_step_of_window, num_replayed, replay_rank


@pytest.mark.parametrize(
    ("num_rows", "frac", "drawn"), [(24, 1 / 2, 24), (24, 1 / 4, 8), (5, 1 / 3, 2), (0, 1 / 2, 0)]
)
def test_replayed_rows_are_their_share_of_the_step(num_rows: int, frac: float, drawn: int) -> None:
    assert num_replayed(num_rows, frac) == drawn


@pytest.mark.parametrize(("window", "first"), [(200, 3), (201, 2), (1, 4), (10_000, 1)])
def test_the_step_that_reaches_the_window_counts_whole(window: int, first: int) -> None:
    assert first_step_of_window({1: 100, 2: 120, 3: 90, 4: 110}, window) == first


def test_before_the_first_step_there_is_no_window() -> None:
    assert first_step_of_window({}, 100) == 0


def test_every_step_ranks_rows_anew() -> None:
    names = [f"s1.p{i}.1.0" for i in range(20)]
    orders = {
        tuple(sorted(names, key=lambda name, step=step: replay_rank(7, step, name)))
        for step in range(2, 6)
    }
    assert len(orders) == 4
    assert replay_rank(7, 2, names[0]) == replay_rank(7, 2, names[0]) != replay_rank(8, 2, names[0])
