"""Section `reuse`: the reuse store and how a borrowed response trains."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from megatron_ar3po.config.at_resume import Fixed, Warn
from megatron_ar3po.config.ranges import (
    COUNT,
    COUNT_OR_0,
    FRACTION,
    LARGEST_64_BIT,
    Range,
    check_values,
)
from megatron_ar3po.config.rules import require, require_name_or_path

PICKS = ("uniform", "newest", "shortest", "likely")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReuseConfig:
    """The reuse store, and how a borrowed response trains. docs/reuse_store.md explains."""

    enabled: Fixed[bool] = True
    """Correct responses are stored, and an unsolved prompt borrows one. false: nothing is stored, nothing is
    borrowed. The default comes with `algorithm.name`."""

    option: Fixed[Literal["detach", "recompute", "stored"]] = "recompute"
    """How a borrowed response trains. `detach`, the paper's Option II: without gradient, it only serves its siblings'
    advantages. `recompute`, Option I: as any other, its old log-probs computed anew by the actor. `stored`: with the
    log-probs of the policy that sampled it, for ablations. docs/ablations.md says why Option I is the default."""

    weight: Warn[Annotated[float, Range(gt=0, le=1e6)]] = 1.0
    """Factor on the advantages of a group that borrowed. 1 is the paper's."""

    max_borrowed_frac: Warn[Annotated[float, FRACTION]] = 1.0
    """At most this share of the groups that train have borrowed; which are left out is decided by a hash, the same on
    every rank. 1: no cap."""

    pick: Fixed[str] = "uniform"
    """Which stored response an unsolved prompt borrows: `uniform` (any), `newest`, `shortest`, `likely` (under the
    policy as it is now), or the import path 'package.module:function' of your own choice."""

    max_responses_per_prompt: Warn[Annotated[int, COUNT]] = 8
    """Responses of one prompt in the store. A few are enough for variety, and each costs disk."""

    keep: Fixed[Literal["newest", "reservoir"]] = "newest"
    """Which responses stay when a prompt has more: the `newest`, closest to the current policy, or a uniform sample
    of all that were ever deposited."""

    max_shard_bytes: Warn[Annotated[int, Range(ge=0, le=LARGEST_64_BIT)]] = 0
    """Bytes of the responses in one shard, that of a replica; beyond them the oldest are evicted. 0: no limit."""

    max_age_steps: Warn[Annotated[int, COUNT_OR_0]] = 0
    """A response that is older, in training steps, is not lent and is evicted with the next deposit. 0: no limit."""

    max_times_borrowed: Warn[Annotated[int, COUNT_OR_0]] = 0
    """A response that was lent so often is not lent again. 0: no limit."""

    min_mean_logprob: Warn[Annotated[float, Range(ge=-1e6, le=0)]] = 0.0
    """A response whose mean token log-prob under the current policy is below this (nats per token, as -1.5) is not
    lent. The servers compute it, at the cost of a prefill. 0: no floor."""

    max_scored_candidates: Warn[Annotated[int, COUNT]] = 4
    """Stored responses of one unsolved prompt whose log-probs the servers compute, where `pick=likely` or
    `min_mean_logprob` asks for them. Only these can then be lent."""

    max_logprob_drift: Warn[Annotated[float, Range(ge=0, le=1e6)]] = 0.0
    """With `option=recompute`: a response whose recomputed log-probs differ from the stored ones by more than this,
    the mean of the absolute differences over its tokens in nats, trains as with `detach`. 0: no limit."""

    replay_frac: Warn[Annotated[float, Range(ge=0, lt=1)]] = 0.0
    """Rows of earlier steps that train again, as a share of the rows of a step: 0.5 replays as many as the step has of
    its own. They are measured against their stored log-probs, keep their advantage, and cost no response. Also with
    `reuse.enabled=false`. 0: none, and none are kept."""

    replay_window: Warn[Annotated[int, COUNT_OR_0]] = 400
    """With `replay_frac`: rows are drawn from the last steps that had so many responses, in all. What dynamic sampling
    discarded is not among them."""

    def __post_init__(self) -> None:
        check_values("reuse", self)
        require(
            not self.replay_frac or self.replay_window > 0,
            f"reuse.replay_window=0 holds no row to draw from, but reuse.replay_frac={self.replay_frac:g} of a step's "
            "rows are to be replayed; set the window in responses, as reuse.replay_window=400, or reuse.replay_frac=0.",
        )
        require_name_or_path("reuse.pick", self.pick, PICKS)

    @property
    def wants_scores(self) -> bool:
        """The servers are asked how likely stored answers are now."""
        return self.pick == "likely" or self.min_mean_logprob < 0
