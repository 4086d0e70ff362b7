"""Section `algorithm`: the objective."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from megatron_ar3po.config.at_resume import Fixed, Warn
from megatron_ar3po.config.ranges import (
    COUNT,
    COUNT_OR_0,
    LARGEST_COUNT,
    Range,
    ZeroOr,
    check_values,
)
from megatron_ar3po.config.rules import require, require_name_or_path

ADVANTAGES = ("group", "rloo", "leave_one_out", "global", "global_baseline", "history")
RELATIVE_TO_GROUP = ("group", "rloo", "leave_one_out", "global_baseline")  # 0 in a group of one
PRIOR_OPTIONS = ("history_prior_weight", "history_prior")  # stage rules read them too
HISTORY_OPTIONS = (
    *PRIOR_OPTIONS,
    "history_std",
    "history_variance_floor",
    "history_least_advantage",
)
POLICY_LOSSES = ("ppo", "dual_clip", "gspo", "cispo", "gmpo")
ImportanceSampling = Literal["off", "token", "sequence", "token_mask", "sequence_mask"]


@dataclass(frozen=True, kw_only=True, slots=True)
class AlgorithmConfig:
    """The objective. docs/algorithms.md has the formulas."""

    name: Fixed[Literal["ar3po", "grpo", "dapo", "history"]] = "ar3po"
    """The method. It chooses defaults for the stages of `rollout`, for `reuse.enabled`, `algorithm.dynamic_sampling`
    and `algorithm.advantage`; what a file or the command line says goes before them."""

    advantage: Fixed[str] = "group"
    """How rewards become advantages: `group` (GRPO), `rloo`, `leave_one_out`, `global` (REINFORCE++),
    `global_baseline`, `history` (the prompt's own history is the baseline: one response a prompt is enough), or the
    import path 'package.module:function' of your own. The default comes with `algorithm.name`."""

    advantage_std: Fixed[Literal["population", "sample", "none"]] = "population"
    """The standard deviation by which advantages are divided, for all but `rloo`. `none`: undivided, as in Dr.
    GRPO."""

    history_prior_weight: Warn[Annotated[float, Range(gt=0, le=1e6)]] = 0.5
    """For `advantage=history` and `rollout.stage_rule=history`: how many responses the prior mean of a prompt counts
    for."""

    history_prior: Fixed[Literal["run", "source"]] = "run"
    """For the same two: the prior mean of a prompt is the pass rate of all prompts of the run, or of those of
    its source. It is decayed by `rollout.history_decay`, once a step."""

    history_std: Fixed[Literal["posterior", "none"]] = "posterior"
    """For `advantage=history`: divided by the standard deviation that the history expects, or not."""

    history_variance_floor: Warn[Annotated[float, Range(gt=0, le=1e6)]] = 0.05
    """For `advantage=history`: added to the variance, so that a rare success weighs at most so much more."""

    history_least_advantage: Warn[Annotated[float, Range(ge=0, le=1e6)]] = 0.02
    """For `advantage=history`: a response whose advantage is at most this, either way, carries no gradient."""

    downsample_to: Fixed[Annotated[int, ZeroOr(Range(ge=2, le=LARGEST_COUNT))]] = 0
    """Responses of a group that train, chosen before the advantages. 0: all."""

    downsample_rule: Fixed[Literal["max_variance", "random"]] = "max_variance"
    """With `downsample_to`: those whose rewards differ most (PODS), or any."""

    policy_loss: Fixed[str] = "ppo"
    """The loss of a token: `ppo`, `dual_clip`, `gspo`, `cispo`, `gmpo`, or the import path 'package.module:function'
    of your own."""

    loss_aggregation: Fixed[
        Literal["token_mean", "seq_mean_token_mean", "seq_mean_token_sum", "prompt_mean"]
    ] = "token_mean"
    """How the losses of tokens become that of an optimizer step. `token_mean`: all tokens weigh the same (DAPO).
    `seq_mean_token_mean`: all responses do, whatever their length (GRPO). `seq_mean_token_sum`: Dr. GRPO up to a
    constant. `prompt_mean`: all prompts do."""

    denominator: Fixed[Literal["kept", "all"]] = "kept"
    """What the loss of an optimizer step is divided by. `kept`: the units that carry gradient. `all`: those of every
    fresh graded response of the training step, an even share for each of its mini-batches; responses without an
    advantage then weigh on the others as if they had trained with 0."""

    clip_ratio_low: Warn[Annotated[float, Range(gt=0, lt=1)]] = 0.2
    """The ratio of new to old probability is clipped below 1 minus this."""

    clip_ratio_high: Warn[Annotated[float, Range(gt=0, le=1e6)]] = 0.28
    """The ratio is clipped above 1 plus this. 0.28 is DAPO's clip-higher, which lets unlikely tokens grow; equal to
    `clip_ratio_low` it is plain PPO."""

    dual_clip_ratio: Warn[Annotated[float, Range(gt=1, le=1e6)]] = 3.0
    """With `policy_loss=dual_clip`: the loss of a token with a negative advantage is at most this times the absolute
    value of its advantage."""

    num_mini_batches: Fixed[Annotated[int, COUNT]] = 1
    """Optimizer steps of one pass over a training step's batch. 1, in one pass: every update is on-policy, and the
    ratio is 1 but for borrowed responses under `reuse.option=stored`."""

    num_epochs: Fixed[Annotated[int, COUNT]] = 1
    """Passes over the batch of a training step, each of `num_mini_batches` optimizer steps. The first is in the step's
    order, every later one in an order of its own. The old log-probs are those before the first update; each pass costs
    a forward pass for them, unless `old_logprobs=behaviour`."""

    negative_weight: Warn[Annotated[float, Range(ge=0, le=1e6)]] = 1.0
    """Factor on advantages below 0: below 1, wrong answers are pushed down less than right ones are pushed up, which
    keeps entropy. A response that is left with an advantage of 0 stays in the denominators (not with
    `advantage=history`). 1: as they are."""

    old_logprobs: Fixed[Literal["recompute", "behaviour"]] = "recompute"
    """What the ratio of a fresh response is measured against. `recompute`: the actor's own log-probs at the start of
    the step. The first mini-batch takes them from the forward pass that trains it; only later ones cost a pass before
    the update, and all of them where `kl_in=reward` wants it. `behaviour`: those that the server reported when it
    sampled. No pass, but the ratio, its clipping and `actor/approx_kl` then hold what server and actor disagree about
    as well, and `importance_sampling` is refused. What a borrowed response is measured against is `reuse.option`."""

    kl_coef: Warn[Annotated[float, Range(ge=0, le=1e6)]] = 0.0
    """Weight of the KL divergence from the reference policy. 0: no reference policy is kept, which saves its memory
    and a forward pass."""

    kl_in: Fixed[Literal["loss", "reward"]] = "loss"
    """Where the KL goes: a term of each token's loss, or a penalty on the response's reward before the advantages."""

    reference_refresh_steps: Fixed[Annotated[int, COUNT_OR_0]] = 0
    """The reference becomes the policy as it is, every so many training steps. 0: it stays the policy at the start of
    the run."""

    kl_estimator: Fixed[Literal["k1", "k2", "k3", "low_var"]] = "k3"
    """How the KL of a token is estimated from its two log-probs. `k3`, GRPO's, is unbiased and never negative;
    `low_var` is k3 with its extremes cut; `k1` suits `kl_in=reward`, where its gradient is the KL's own."""

    entropy_coef: Warn[Annotated[float, Range(ge=-1e6, le=1e6)]] = 0.0
    """Weight of the entropy bonus in the loss. 0: the entropy is not differentiated, which saves memory. With
    `entropy_target`: the weight that it begins with."""

    entropy_target: Warn[Annotated[float, Range(ge=0, le=100)]] = 0.0
    """The entropy bonus holds the policy's entropy to at least this, in nats per token: while the entropy that the
    updates of a step measure is below it, the bonus's weight grows step by step; above it there is no bonus. 0: the
    weight is `entropy_coef` throughout."""

    entropy_coef_change: Warn[Annotated[float, Range(gt=0, le=1e6)]] = 0.005
    """With `entropy_target`: by how much the weight of the bonus grows or falls in a step. The default is
    Skywork-OR1's."""

    entropy_coef_max: Warn[Annotated[float, Range(gt=0, le=1e6)]] = 0.1
    """With `entropy_target`: the largest weight. A large one drives the policy towards noise."""

    dynamic_sampling: Fixed[bool] = False
    """DAPO: draw new prompts until `rollout.prompts_per_step` groups carry signal. The default comes with
    `algorithm.name`."""

    dynamic_sampling_by: Fixed[Literal["correctness", "reward"]] = "correctness"
    """Which groups dynamic sampling keeps: those with a correct and an incorrect response (the paper's Eq. 11), or
    those whose rewards differ, for graded rewards."""

    max_sampling_rounds: Warn[Annotated[int, COUNT]] = 8
    """Rounds of dynamic sampling in one step; after them the step trains on what it has."""

    prompts_per_round: Warn[Annotated[int, COUNT_OR_0]] = 0
    """Prompts of one round of dynamic sampling. More than `rollout.prompts_per_step` is over-sampling: fewer rounds,
    more groups thrown away. 0: `rollout.prompts_per_step`."""

    overlong_filtering: Fixed[bool] = False
    """A truncated response carries no gradient; its siblings keep their advantages."""

    importance_sampling: Fixed[ImportanceSampling] = "off"
    """Correction of what actor and server disagree about: a factor on the loss, by `token` or over the whole
    `sequence`, cut to `importance_sampling_cap`, or with `_mask` 0 beyond it."""

    importance_sampling_cap: Warn[Annotated[float, Range(gt=0, le=1e6)]] = 2.0
    """Largest factor of `importance_sampling`."""

    @property
    def updates_per_step(self) -> int:
        """Optimizer steps of one training step, at most."""
        return self.num_epochs * self.num_mini_batches

    def __post_init__(self) -> None:
        check_values("algorithm", self)
        require_name_or_path("algorithm.advantage", self.advantage, ADVANTAGES)
        require_name_or_path("algorithm.policy_loss", self.policy_loss, POLICY_LOSSES)
        require(
            self.entropy_target == 0 or 0 <= self.entropy_coef <= self.entropy_coef_max,
            f"algorithm.entropy_coef={self.entropy_coef:g} is where the bonus begins that holds "
            f"algorithm.entropy_target={self.entropy_target:g}, and that lies between 0 and algorithm.entropy_coef_max="
            f"{self.entropy_coef_max:g}; set an algorithm.entropy_coef in between, or algorithm.entropy_target=0.",
        )
        require(
            self.old_logprobs == "recompute" or self.importance_sampling == "off",
            f"algorithm.importance_sampling={self.importance_sampling} corrects what server and actor disagree about, "
            "which the ratio itself holds with algorithm.old_logprobs=behaviour: it would be counted twice; set "
            "algorithm.importance_sampling=off or algorithm.old_logprobs=recompute.",
        )
