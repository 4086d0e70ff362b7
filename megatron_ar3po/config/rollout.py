"""Section `rollout`: what is sampled, in which stages."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Literal

from megatron_ar3po.config.at_resume import Fixed, Warn
from megatron_ar3po.config.rules import require


@dataclass(frozen=True, kw_only=True, slots=True)
class RolloutConfig:
    """Adaptive rollout: what is sampled, in which stages. docs/rollout.md explains; where it is sampled is
    `servers`."""

    num_stages: Fixed[int] = 2
    """S, the most stages a prompt gets: one that is unsolved after a stage enters the next. The default comes with
    `algorithm.name`."""

    responses_per_stage: Fixed[int] = 4
    """k, the responses a prompt gets in each stage. The default comes with `algorithm.name`."""

    stage_plan: Fixed[list[int]] = field(default_factory=list[int])
    """Stages of unequal size, as in `[4, 4, 8]`; it then rules instead of `num_stages`. Empty: `num_stages` of
    `responses_per_stage`."""

    stage_rule: Fixed[str] = "fixed"
    """Who says how many responses a stage has. `fixed`: the plan above, as in the paper. `difficulty`: the first
    stage follows the prompt's history. Or the import path 'package.module:function' of your own rule."""

    difficulty_solve_frac: Warn[float] = 0.75
    """For `stage_rule=difficulty`: the first stage is the smallest that solves the prompt with this estimated
    chance."""

    difficulty_least_responses: Warn[int] = 2
    """For `stage_rule=difficulty`: responses of a first stage, however easy the prompt. Two is the least that can
    differ."""

    history_decay: Warn[float] = 0.8
    """Factor on what earlier steps said of a prompt, each time it is seen again: the policy changes, so old outcomes
    count less. 1 forgets nothing."""

    max_tokens_per_step: Warn[int] = 0
    """Generated tokens of one step, over all replicas: a stage after the first begins only if all of it fits at full
    length. 0: no cap."""

    cancel_solved: Fixed[bool] = False
    """Abort a stage's other responses at its first correct one. It saves tokens and favours short answers, for what
    is still running is longer; so it is off."""

    cancelled_counts_as: Fixed[Literal["nothing", "truncated"]] = "nothing"
    """What a cancelled response is: no member of its group, or one that was truncated, with the reward of an incorrect
    one. It is cost either way."""

    prompts_per_step: Fixed[int] = 16
    """Prompts of one training step, over all replicas. With dynamic sampling: the groups with signal that a step
    collects."""

    temperature: Fixed[float] = 1.0
    """Of sampling. The actor divides its logits by it too, so that both sides mean the same policy. 1: the policy as
    it is."""

    top_p: Fixed[float] = 1.0
    """Nucleus sampling. Below 1 the servers' log-probs stay those before the cut, so actor and server disagree about
    what was sampled. 1: no cut."""

    max_response_tokens: Fixed[int] = 256
    """Longest response in tokens, its stop token included; a longer one is truncated."""

    extra_stop_token_ids: Fixed[list[int]] = field(default_factory=list[int])
    """Token ids that end a response too, beside the model's own stop tokens; a newline for a base model, say."""

    stage_scheduling: Warn[Literal["continuous", "barrier"]] = "continuous"
    """`continuous`: a prompt enters its next stage as soon as its own verdicts are in. `barrier`: each stage waits
    for all prompts, the paper's literal form; slower, with the same responses under `run.deterministic=true`."""

    def __post_init__(self) -> None:
        for name in (
            "num_stages",
            "responses_per_stage",
            "prompts_per_step",
            "max_response_tokens",
        ):
            value = getattr(self, name)
            require(value >= 1, f"rollout.{name}={value} must be at least 1.")
        require(
            self.temperature > 0,
            f"rollout.temperature={self.temperature} must be above 0 to explore; use 1.0.",
        )
        require(
            0 < self.top_p <= 1,
            f"rollout.top_p={self.top_p} must lie in (0, 1]; use 1.0 for no cut.",
        )
        require(
            self.max_tokens_per_step >= 0,
            f"rollout.max_tokens_per_step={self.max_tokens_per_step} is negative; 0 means no cap.",
        )
        self._check_stages()

    def _check_stages(self) -> None:
        require(
            all(size >= 1 for size in self.stage_plan),
            f"rollout.stage_plan={self.stage_plan}: every stage needs at least 1 response.",
        )
        require(
            self.stage_rule in ("fixed", "difficulty") or ":" in self.stage_rule,
            f"rollout.stage_rule={self.stage_rule} is not known; use fixed, difficulty, or the import path of your own "
            "function, 'package.module:function'.",
        )
        require(
            0 < self.difficulty_solve_frac < 1,
            f"rollout.difficulty_solve_frac={self.difficulty_solve_frac} must lie between 0 and 1.",
        )
        require(
            self.difficulty_least_responses >= 1,
            f"rollout.difficulty_least_responses={self.difficulty_least_responses} must be at least 1.",
        )
        require(
            0 <= self.history_decay <= 1,
            f"rollout.history_decay={self.history_decay} must lie in [0, 1]; 1 forgets nothing.",
        )

    @property
    def stage_sizes(self) -> tuple[int, ...]:
        """Responses of each stage; with another rule than fixed their sum is the most a prompt can get."""
        return tuple(self.stage_plan) or (self.responses_per_stage,) * self.num_stages

    @property
    def max_responses_per_prompt(self) -> int:
        return sum(self.stage_sizes)
