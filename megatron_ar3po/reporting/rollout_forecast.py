"""How long a step's sampling takes on one server, and what it brings: its decode iterations played through in virtual
time, for pass rates and lengths that are drawn once. Plain arithmetic, the same at every call.

A server decodes all that it holds by a token in each iteration, whose time grows with how many there are. A response
that ends makes room for the next; the last one of a stage opens its prompt's next stage, or ends it.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

SIGMA = 0.8  # of the logarithm of a length, where only the mean is known

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sampled:
    """Of one server in one step, or in one round of dynamic sampling."""

    seconds: float
    responses: int
    tokens: int
    mixed_responses: int  # of groups with a correct and a wrong response: a group-relative advantage learns from them
    mixed_tokens: int


@dataclass(slots=True)
class _Group:
    rate: float
    responses: int = 0
    correct: int = 0
    tokens: int = 0
    stage: int = 0
    left: int = 0  # of the stage, not yet there
    is_solved: bool = False


def draw_lengths(count: int, *, mean: float, most: int) -> Array:
    """Log-normal lengths that are cut at `most` tokens and then have this mean."""
    normal = np.random.default_rng(1).standard_normal(count)
    low, high = -20.0, 40.0
    for _ in range(60):
        middle = (low + high) / 2
        cut = np.minimum(most, np.exp(middle + SIGMA * normal))
        low, high = (middle, high) if cut.mean() < mean else (low, middle)
    return np.maximum(1, np.minimum(most, np.exp(high + SIGMA * normal)).round()).astype(int)


def play_rollout(
    rates: Sequence[float],
    lengths: Sequence[int],
    *,
    stage_sizes: Sequence[int],
    slots: int,
    iteration_s: Callable[[int], float],
    admit_s: float,
) -> Sampled:
    """`rates`: of the server's prompts, `lengths`: of its responses in the order in which they begin. `iteration_s`: of
    a decode iteration by the number of sequences in it. `admit_s`: to read one prompt; those that are let in together
    are read in an iteration of their own, meanwhile nothing is decoded."""
    luck = np.random.default_rng(2).random(len(rates) * sum(stage_sizes)).tolist()
    groups = [_Group(rate=rate) for rate in rates]
    waiting: deque[_Group] = deque()
    running: list[tuple[int, int, _Group]] = []  # (iteration at which it ends, number, group)
    seconds, iteration, number = 0.0, 0, 0

    def open_stage(group: _Group) -> None:
        size = stage_sizes[group.stage]
        group.stage, group.left = group.stage + 1, size
        waiting.extend([group] * size)

    for group in groups:
        open_stage(group)
    while waiting or running:
        if waiting and len(running) < slots:
            seconds += iteration_s(min(len(waiting), slots - len(running)))
        while waiting and len(running) < slots:
            group, length = waiting.popleft(), lengths[number % len(lengths)]
            heapq.heappush(running, (iteration + length, number, group))
            group.tokens += length
            number += 1
            seconds += admit_s
        end = running[0][0]
        seconds += (end - iteration) * iteration_s(len(running))
        iteration = end
        while running and running[0][0] == end:
            _, which, group = heapq.heappop(running)
            is_correct = luck[which] < group.rate
            group.responses, group.correct = group.responses + 1, group.correct + is_correct
            group.is_solved, group.left = group.is_solved or is_correct, group.left - 1
            if not group.left and not group.is_solved and group.stage < len(stage_sizes):
                open_stage(group)
    mixed = [g for g in groups if 0 < g.correct < g.responses]
    return Sampled(
        seconds=seconds,
        responses=sum(g.responses for g in groups),
        tokens=sum(g.tokens for g in groups),
        mixed_responses=sum(g.responses for g in mixed),
        mixed_tokens=sum(g.tokens for g in mixed),
    )
