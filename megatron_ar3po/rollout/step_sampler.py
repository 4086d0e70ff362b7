"""Which prompts one step trains on: a fixed batch, or DAPO's dynamic sampling. Both are `StepSampler`s. Leaders only.

Prompts come from one global order; each replica rolls out the prompts it owns. `next_prompts` is called equally often
with equal arguments on every leader, so the order stays one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import Any, Literal, Protocol

from megatron_ar3po.algorithm.advantages import carries_signal, is_mixed
from megatron_ar3po.distributed.collectives import PeerError
from megatron_ar3po.distributed.layout import ParallelLayout
from megatron_ar3po.observability.step_metrics import rollout_records, slot_records
from megatron_ar3po.observability.timeline import Span, no_span
from megatron_ar3po.records import Records, merge_records
from megatron_ar3po.rollout.ledger import Ledger
from megatron_ar3po.rollout.ledger_rows import prompt_rows
from megatron_ar3po.rollout.lessons import Lessons
from megatron_ar3po.sampling_cost import cost_records, total_records
from megatron_ar3po.types import CollectedStep, ResponseGroup, StepPrompt

NextPrompts = Callable[[int], Sequence[StepPrompt]]
GatherOverReplicas = Callable[[Any], list[Any]]  # collective over leaders, in data-parallel order


class Collector(Protocol):
    """The controller, as the samplers see it."""

    def collect(
        self,
        prompts: Sequence[StepPrompt],
        *,
        step: int,
        policy_version: int,
    ) -> CollectedStep: ...


class FixedSampler:
    """One batch of `prompts_per_step` prompts a step (AR3PO, GRPO)."""

    def __init__(
        self,
        collector: Collector,
        next_prompts: NextPrompts,
        *,
        layout: ParallelLayout,
        prompts_per_step: int,
        ledger: Ledger | None = None,
        sources: Collection[str] = (),
        lessons: Lessons | None = None,
        tell_failure: Callable[[str], object] = lambda text: None,
        span: Span = no_span,
    ) -> None:
        """`sources` of prompts have metrics of their own. `tell_failure`: where leaders close their books together, the
        others wait for us there. `span` times parts of the rollout."""
        self._tell_failure = tell_failure
        self._span = span
        self._collector = collector
        self._next_prompts = next_prompts
        self._layout = layout
        self._prompts_per_step = prompts_per_step
        self._ledger = ledger
        self._sources = sources
        self._lessons = lessons or Lessons()

    def collect(self, *, step: int, policy_version: int) -> CollectedStep:
        try:
            prompts = select_owned(self._next_prompts(self._prompts_per_step), self._layout)
            if self._ledger is not None:
                with self._span("ledger"):
                    self._ledger.open_step(prompts, step=step, policy_version=policy_version)
            drawn = self._collector.collect(prompts, step=step, policy_version=policy_version)
            with self._span("records"):
                records = merge_records(
                    rollout_records(drawn.groups, sources=self._sources), drawn.records
                )
            with self._span("ledger"):
                collected = record_cost(
                    replace(drawn, records=records),
                    self._ledger,
                    step=step,
                    policy_version=policy_version,
                )
        except Exception as error:  # it travels on; the others must not wait in vain
            self._tell_failure(f"{type(error).__name__}: {error}")
            raise
        self._lessons.note(collected)
        if self._ledger is not None:
            with self._span("ledger"):
                self._ledger.reconcile(step=step)
        return collected

    def record_loans(self, groups: Sequence[ResponseGroup], *, step: int) -> None:
        if self._ledger is not None:
            self._ledger.record_loans(groups, step=step)

    def learn(self, step: int) -> None:
        self._lessons.learn(step)


class DynamicSampler:
    """DAPO (arXiv:2503.14476): draws rounds of prompts until `prompts_per_step` groups, over all replicas, carry
    signal; at most `max_rounds`, then the step trains on what it has. Which do is the paper's Eq. 11, a correct and a
    wrong response in one group (`keep_by=correctness`): an overlong punishment alone makes none. With graded rewards
    `keep_by=reward` keeps those whose rewards differ.

    A round has `prompts_per_round` prompts, by default `prompts_per_step`. More are DAPO's over-sampling: fewer rounds,
    each of which waits for its slowest answer, for more groups that come too late to be used.

    A group without signal, and one beyond `prompts_per_step` in the global order, is discarded: it trains nothing and
    counts as cost. Collective over leaders: all of them take the same decision from the same numbers."""

    def __init__(
        self,
        collector: Collector,
        next_prompts: NextPrompts,
        *,
        layout: ParallelLayout,
        prompts_per_step: int,
        max_rounds: int,
        prompts_per_round: int = 0,
        keep_by: Literal["correctness", "reward"] = "correctness",
        gather_over_replicas: GatherOverReplicas,
        ledger: Ledger | None = None,
        sources: Collection[str] = (),
        lessons: Lessons | None = None,
        tell_failure: Callable[[str], object] = lambda text: None,
        span: Span = no_span,
    ) -> None:
        """`sources`, `tell_failure`, `span`: as with `FixedSampler`; `tell_failure` for what fails after the last
        round."""
        self._tell_failure = tell_failure
        self._span = span
        self._collector = collector
        self._next_prompts = next_prompts
        self._layout = layout
        self._prompts_per_step = prompts_per_step
        self._max_rounds = max_rounds
        self._prompts_per_round = prompts_per_round or prompts_per_step
        self._is_kept = is_mixed if keep_by == "correctness" else carries_signal
        self._gather_over_replicas = gather_over_replicas
        self._ledger = ledger
        self._sources = sources
        self._lessons = lessons or Lessons()

    def collect(self, *, step: int, policy_version: int) -> CollectedStep:
        groups: list[ResponseGroup] = []
        signal_positions: list[int] = []  # over all replicas
        records = Records()
        restored: frozenset[str] = frozenset()
        num_rounds = 0
        while num_rounds < self._max_rounds and len(signal_positions) < self._prompts_per_step:
            prompts = self._next_prompts(self._prompts_per_round)
            if not prompts:
                break  # the step has drawn every prompt there is
            num_rounds += 1
            drawn = self._round(prompts, step, policy_version)
            groups += drawn.groups
            records.add_all(drawn.records)
            restored |= drawn.restored
            signal_positions += self._positions_everywhere(drawn.groups)
        kept = set(sorted(signal_positions)[: self._prompts_per_step])
        trained = tuple(group for group in groups if group.position in kept)
        discarded = tuple(group for group in groups if group.position not in kept)
        try:
            with self._span("records"):
                records.add_all(
                    rollout_records(trained, discarded, self._sources),
                    slot_records(trained, discarded),
                )
            with self._span("ledger"):
                collected = record_cost(
                    CollectedStep(
                        groups=trained, discarded=discarded, restored=restored, records=records
                    ),
                    self._ledger,
                    step=step,
                    policy_version=policy_version,
                )
        except Exception as error:  # as above: the others must not wait in vain
            self._tell_failure(f"{type(error).__name__}: {error}")
            raise
        self._lessons.note(collected)
        if self._ledger is not None:
            with self._span("ledger"):
                self._ledger.reconcile(step=step)
        return collected

    def record_loans(self, groups: Sequence[ResponseGroup], *, step: int) -> None:
        if self._ledger is not None:
            self._ledger.record_loans(groups, step=step)

    def learn(self, step: int) -> None:
        self._lessons.learn(step)

    def _round(
        self, prompts: Sequence[StepPrompt], step: int, policy_version: int
    ) -> CollectedStep:
        mine = select_owned(prompts, self._layout)
        try:
            if self._ledger is not None:
                with self._span("ledger"):
                    self._ledger.open_step(mine, step=step, policy_version=policy_version)
            return self._collector.collect(
                mine,
                step=step,
                policy_version=policy_version,
            )
        except Exception as error:
            # The other leaders are on their way to the exchange below and would wait there in vain.
            self._gather_over_replicas(f"{type(error).__name__}: {error}")
            raise

    def _positions_everywhere(self, drawn: Sequence[ResponseGroup]) -> list[int]:
        mine = [group.position for group in drawn if self._is_kept(group)]
        positions: list[int] = []
        for replica, answer in enumerate(self._gather_over_replicas(mine)):
            if isinstance(answer, str):
                raise PeerError(f"the rollout of replica {replica} failed: {answer}")
            positions += answer
        return positions


def record_cost(
    collected: CollectedStep, ledger: Ledger | None, *, step: int, policy_version: int
) -> CollectedStep:
    """With the records of what it cost: sums over the rows that the ledger has written."""
    records = Records(collected.records)
    if ledger is None:
        rows = prompt_rows(collected, step=step, policy_version=policy_version)
    else:
        rows = ledger.record_step(collected, step=step, policy_version=policy_version)
        records.add_all(total_records(ledger.total))
    records.add_all(cost_records(rows))
    return replace(collected, records=records)


def select_owned(prompts: Sequence[StepPrompt], layout: ParallelLayout) -> list[StepPrompt]:
    """The prompts that this replica rolls out; together the replicas roll out each exactly once."""
    return [p for p in prompts if layout.owner_dp_rank(p.prompt.prompt_id) == layout.dp_rank]
