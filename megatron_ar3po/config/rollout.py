"""Section `rollout`: what is sampled, in which stages."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from megatron_ar3po.config.at_resume import Fixed, Warn
from megatron_ar3po.config.ranges import (
    COUNT,
    COUNT_OR_0,
    FRACTION,
    LARGEST_64_BIT,
    TOP_P,
    Range,
    check_values,
)
from megatron_ar3po.config.rules import require_name_or_path

STAGE_RULES = ("fixed", "difficulty", "balance", "history")
STAGE_SIZE = Range(ge=1, le=65536)


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutConfig:
    """Adaptive rollout: what is sampled, in which stages. docs/rollout.md explains; where it is sampled is
    `servers`."""

    num_stages: Fixed[Annotated[int, Range(ge=1, le=1024)]] = 2
    """S, the most stages a prompt gets: one that is unsolved after a stage enters the next. The default comes with
    `algorithm.name`."""

    responses_per_stage: Fixed[Annotated[int, STAGE_SIZE]] = 4
    """k, the responses a prompt gets in each stage. The default comes with `algorithm.name`."""

    stage_plan: Fixed[list[Annotated[int, STAGE_SIZE]]] = field(default_factory=list[int])
    """Stages of unequal size, as in `[4, 4, 8]`; it then rules instead of `num_stages`. Empty: `num_stages` of
    `responses_per_stage`."""

    stage_rule: Fixed[str] = "fixed"
    """Who says how many responses a stage has. `fixed`: the plan above, as in the paper. `difficulty`: the first
    stage follows the prompt's history. `balance`: the plan goes on until a correct and an incorrect response are there.
    `history`: it goes on where the prompt is unsolved and a success is likely. Or the import path
    'package.module:function' of your own rule."""

    difficulty_solve_frac: Warn[Annotated[float, Range(gt=0, lt=1)]] = 0.75
    """For `stage_rule=difficulty`: the first stage is the smallest that solves the prompt with this estimated
    chance."""

    difficulty_least_responses: Warn[Annotated[int, COUNT]] = 2
    """For `stage_rule=difficulty`: responses of a first stage, however easy the prompt. Two is the least that can
    differ."""

    history_success_frac: Warn[Annotated[float, Range(gt=0, lt=1)]] = 0.25
    """For `stage_rule=history`: the least estimated chance that a further stage holds a correct response."""

    history_decay: Warn[Annotated[float, FRACTION]] = 0.95
    """Factor on what earlier steps said of a prompt, each time it is seen again, and once a step on what they said of
    all prompts: the policy changes, so old outcomes count less. 1 forgets nothing."""

    history_half_life: Warn[Annotated[float, Range(ge=0, le=1e6)]] = 0.0
    """After so many responses of the run for each prompt of the training set, what is known of a prompt counts half,
    whether it was seen again or not. 0: counts do not age between visits."""

    max_tokens_per_step: Warn[Annotated[int, Range(ge=0, le=LARGEST_64_BIT)]] = 0
    """Generated tokens of one step, over all replicas: a stage after the first begins only if all of it fits at full
    length. 0: no cap."""

    cancel_solved: Fixed[bool] = False
    """Abort a stage's other responses at its first correct one. It saves tokens and favours short answers, for what
    is still running is longer; so it is off."""

    cancelled_counts_as: Fixed[Literal["nothing", "truncated"]] = "nothing"
    """What a cancelled response is: no member of its group, or one that was truncated, with the reward of an incorrect
    one. It is cost either way."""

    prompts_per_step: Fixed[Annotated[int, COUNT]] = 16
    """Prompts of one training step, over all replicas. With dynamic sampling: the groups with signal that a step
    collects."""

    temperature: Fixed[Annotated[float, Range(ge=0.001, le=1000)]] = 1.0
    """Of sampling. The actor divides its logits by it too, so that both sides mean the same policy. 1: the policy as
    it is."""

    top_p: Fixed[Annotated[float, TOP_P]] = 1.0
    """Nucleus sampling. Below 1 the servers' log-probs stay those before the cut, so actor and server disagree about
    what was sampled. 1: no cut."""

    max_response_tokens: Fixed[Annotated[int, COUNT]] = 256
    """Longest response in tokens, its stop token included; a longer one is truncated."""

    extra_stop_token_ids: Fixed[list[Annotated[int, COUNT_OR_0]]] = field(default_factory=list[int])
    """Token ids that end a response too, beside the model's own stop tokens; a newline for a base model, say."""

    stage_scheduling: Warn[Literal["continuous", "barrier"]] = "continuous"
    """`continuous`: a prompt enters its next stage as soon as its own verdicts are in. `barrier`: each stage waits
    for all prompts, the paper's literal form; slower, with the same responses under `run.deterministic=true`."""

    def __post_init__(self) -> None:
        check_values("rollout", self)
        require_name_or_path("rollout.stage_rule", self.stage_rule, STAGE_RULES)

    @property
    def stage_sizes(self) -> tuple[int, ...]:
        """Responses of each stage; with another rule than fixed their sum is the most a prompt can get."""
        return tuple(self.stage_plan) or (self.responses_per_stage,) * self.num_stages

    @property
    def max_responses_per_prompt(self) -> int:
        return sum(self.stage_sizes)
