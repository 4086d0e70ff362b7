"""A whole trainer in one process: the parts of a run, with fakes at the ports that need a server, a model or a store.

All that the fakes are asked goes into one list, `events`, in its order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, cast

import numpy as np
from fakes.actor import FakeActor
from fakes.algorithm_cases import group, make_errored
from fakes.ranks import OneRank

from megatron_ar3po.algorithm.entropy_floor import EntropyFloor
from megatron_ar3po.config.schema import Config
from megatron_ar3po.data.dump import StepDump
from megatron_ar3po.data.prompt_source import PromptSource
from megatron_ar3po.distributed.collectives import Ranks
from megatron_ar3po.evaluator import Evaluator
from megatron_ar3po.folder_owner import FolderOwnedError
from megatron_ar3po.observability.metrics import Metrics
from megatron_ar3po.observability.progress import RunProgress
from megatron_ar3po.observability.rollout_recorder import RolloutRecorder
from megatron_ar3po.observability.row_file import read_rows
from megatron_ar3po.observability.step_metrics import rollout_records
from megatron_ar3po.observability.step_profile import StepProfiles
from megatron_ar3po.policy_update import PolicyUpdate
from megatron_ar3po.prompt_set import PromptSet
from megatron_ar3po.records import Max, Record, Records, Sum
from megatron_ar3po.reuse.lender import Lender
from megatron_ar3po.reuse.replayer import NoReplayer
from megatron_ar3po.rollout.step_sampler import record_cost
from megatron_ar3po.run.checkpoint_folder import CheckpointFolder
from megatron_ar3po.run.checkpoints import CheckpointSaver
from megatron_ar3po.run.state import RunState
from megatron_ar3po.run.stop_request import StopRequest
from megatron_ar3po.trainer import Ar3poTrainer
from megatron_ar3po.types import (
    CollectedStep,
    Prompt,
    ResponseGroup,
    SamplingParams,
    ScoredResponse,
)
from megatron_ar3po.update_stats import LoanOutcome


@dataclass
class FakeSampler:
    """One group a prompt with the rewards of the step; the last step's rewards go on. None: the verifier failed."""

    prompts: PromptSource
    rewards: Sequence[Sequence[float | None]]
    events: list[str]
    on_collect: Any = lambda step: None

    def collect(self, *, step: int, policy_version: int) -> CollectedStep:
        self.events.append(f"rollout of step {step} by version {policy_version}")
        self.on_collect(step)
        rewards = self.rewards[min(step, len(self.rewards)) - 1]
        graded = [reward for reward in rewards if reward is not None]
        failed = (make_errored(),) * (len(rewards) - len(graded))
        groups = tuple(
            self._answer(
                replace(group(graded, position=p.position, step=step), left_out=failed),
                p.prompt,
                step,
            )
            for p in self.prompts.next_batch(2)
        )
        collected = CollectedStep(groups=groups, records=rollout_records(groups))
        return record_cost(collected, None, step=step, policy_version=policy_version)

    def record_loans(self, groups: Sequence[ResponseGroup], *, step: int) -> None:
        self.events.append(f"loans of step {step}: {sum(g.num_borrowed for g in groups)}")

    def learn(self, step: int) -> None:
        self.events.append(f"learns from step {step}")

    def _answer(self, whole: ResponseGroup, prompt: Prompt, step: int) -> ResponseGroup:
        responses = tuple(
            replace(
                scored,
                response=replace(
                    scored.response,
                    prompt_id=prompt.prompt_id,
                    response_id=f"s{step}.{prompt.prompt_id}.{index}",
                ),
            )
            for index, scored in enumerate(whole.responses)
        )
        return replace(whole, prompt=prompt, responses=responses)


@dataclass
class FakeStore:
    """Keeps one response a prompt, in memory, and lends it in later steps."""

    events: list[str]
    held: dict[str, ScoredResponse] = field(default_factory=dict)
    outcomes: list[LoanOutcome] = field(default_factory=list)
    records: Mapping[str, Record] = field(default_factory=Records)
    cursor: Mapping[str, Any] = field(default_factory=dict)

    def deposit(
        self, responses: Sequence[ScoredResponse], *, prompts: Mapping[str, Prompt], step: int
    ) -> int:
        self.events.append(f"deposit of step {step}: {len(responses)}")
        self.held |= {scored.response.prompt_id: scored for scored in responses}
        self.records = Records({"reuse/deposited": Sum(len(responses))})
        self.cursor = {"step": step}
        return len(responses)

    def shortlist(self, prompt_id: str, *, step: int, position: int) -> list[ScoredResponse]:
        return []

    def borrow(
        self,
        prompt_id: str,
        *,
        step: int,
        position: int,
        mean_logprobs: Mapping[str, float] | None = None,
    ) -> ScoredResponse | None:
        self.events.append(f"borrow in step {step} at {position}")
        scored = self.held.get(prompt_id)
        return scored and replace(scored, origin="reused")

    def record_outcomes(self, outcomes: Sequence[LoanOutcome], *, step: int) -> None:
        self.outcomes += outcomes

    def rollback(self, cursor: Mapping[str, Any]) -> None:
        self.cursor = cursor

    def commit_checkpoint(self, cursor: Mapping[str, Any]) -> None:
        self.events.append(f"no way back before {dict(cursor)}")

    def close(self) -> None:
        return None


@dataclass
class FakePublisher:
    events: list[str]

    def publish(self, policy_version: int) -> Mapping[str, Record]:
        self.events.append(f"publish version {policy_version}")
        return {"weight_sync/bytes": Max(8)}

    def forget(self, url: str) -> None:
        return None


@dataclass
class FakeColocation:
    events: list[str]

    def enter_rollout_phase(self) -> None:
        self.events.append("phase rollout")

    def enter_train_phase(self) -> None:
        self.events.append("phase train")

    def enter_sync_phase(self) -> None:
        self.events.append("phase sync")

    def enter_save_phase(self) -> None:
        self.events.append("phase save")


@dataclass
class FakeOwnership:
    """Of the run's folder; `is_lost` once another process has taken it over."""

    is_lost: bool = False

    def check(self) -> None:
        if self.is_lost:
            raise FolderOwnedError("taken over")


@dataclass
class TrainerCase:
    """A trainer and what to look at beside it."""

    trainer: Ar3poTrainer
    events: list[str]
    actor: FakeActor
    sampler: FakeSampler
    store: FakeStore
    ownership: FakeOwnership
    folder: Path

    @property
    def rows(self) -> list[dict[str, Any]]:
        return read_rows(self.folder / "metrics.jsonl")


def make_prompts(count: int) -> list[Prompt]:
    return [Prompt(prompt_id=f"{i:032x}", token_ids=(1, 2), ground_truth="7") for i in range(count)]


def make_trainer(
    folder: Path,
    config: Config,
    *,
    rewards: Sequence[Sequence[float | None]] = ((1.0, 0.0),),
    num_prompts: int = 4,
    num_held_out: int = 1,
    state: RunState | None = None,
) -> TrainerCase:
    """`rewards`: of each prompt's group, by step. Two prompts a step, `num_prompts` in all, in their order."""
    events: list[str] = []
    ranks = cast("Ranks", OneRank())
    actor, store, ownership = FakeActor(events), FakeStore(events), FakeOwnership()
    prompts = PromptSource(make_prompts(num_prompts), seed=0, shuffle=False)
    metrics = Metrics(ranks, folder)
    sampler = FakeSampler(prompts, rewards, events)

    def sample_held_out(
        sets: Sequence[PromptSet], *, step: int, policy_version: int
    ) -> list[list[list[ScoredResponse]]]:
        events.append(f"evaluate version {policy_version} after step {step}")
        return [[list(group([1.0] * s.samples).responses) for _ in s.prompts] for s in sets]

    def commit(oldest: RunState) -> None:
        store.commit_checkpoint(oldest.store_cursor)

    held_out = PromptSet(
        name="",
        prompts=make_prompts(num_held_out),
        samples=config.evaluation.samples_per_prompt,
        sampling=SamplingParams(),
    )
    trainer = Ar3poTrainer(
        config=config,
        ranks=ranks,
        prompts=prompts,
        sampler=sampler,
        store=store,
        lender=Lender(store, run_seed=0),
        replay=NoReplayer(),
        policy_update=PolicyUpdate(
            actor,
            ranks,
            config,
            span=metrics.span,
            entropy_floor=EntropyFloor(config.algorithm, (state or RunState()).entropy_floor),
        ),
        actor=actor,
        weight_publisher=FakePublisher(events),
        colocation=FakeColocation(events),
        evaluator=Evaluator([held_out], sample_held_out, ranks),
        metrics=metrics,
        recorder=RolloutRecorder(
            folder / "rollouts.jsonl", lambda ids: str(np.array(ids)), num_groups=1, every_steps=1
        ),
        dump=StepDump(folder / "dumps", ranks, steps=config.debug.dump_steps),
        profiles=StepProfiles(folder / "profile", rank=0, profile_steps=config.debug.profile_steps),
        saver=CheckpointSaver(
            CheckpointFolder(folder / "checkpoints", keep_last=2),
            ranks,
            actor.save,
            commit,
            timeout_s=5.0,
            check_ownership=ownership.check,
        ),
        stop=StopRequest(),
        check_ownership=ownership.check,
        progress=RunProgress(config.run.num_steps, "plain", is_silent=True),
        state=state or RunState(),
        is_new=state is None,
    )
    return TrainerCase(trainer, events, actor, sampler, store, ownership, folder)
