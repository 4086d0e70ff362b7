"""Section `actor`: Megatron-Core."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

from megatron_ar3po.config.at_resume import Fixed, Free, Warn
from megatron_ar3po.config.paths import PassedThrough
from megatron_ar3po.config.ranges import COUNT, COUNT_OR_0, Range, check_values
from megatron_ar3po.config.rules import require

RANKS = Range(ge=1, le=65536)


@dataclass(frozen=True, kw_only=True, slots=True)
class ActorConfig:
    """Megatron-Core: layout, batching, optimizer."""

    tensor_parallel_size: Warn[Annotated[int, RANKS]] = 1
    """Ranks over which each layer is cut. Keep it inside a node, and take the smallest that fits: every replica is
    more throughput."""

    pipeline_parallel_size: Warn[Annotated[int, RANKS]] = 1
    """Groups of layers, each on ranks of its own. For models that tensor parallelism inside a node does not fit."""

    context_parallel_size: Warn[Annotated[int, RANKS]] = 1
    """Ranks over which each sequence is cut. Needs Transformer Engine, and losses that look at single tokens."""

    sequence_parallel: Free[bool] = False
    """Shard the activations of norms over the tensor-parallel ranks too, which saves memory. Needs
    `actor.tensor_parallel_size` > 1."""

    max_tokens_per_microbatch: Free[Annotated[int, COUNT]] = 4096
    """Packed tokens of one forward pass. Larger is faster until memory ends. Must hold the longest sequence,
    `data.max_prompt_tokens` + `rollout.max_response_tokens`."""

    logprob_chunk_tokens: Free[Annotated[int, COUNT]] = 2048
    """Response tokens whose logits exist at one time. They take this many times the vocabulary times 4 bytes, some
    times over; smaller saves memory and costs little time."""

    measure_entropy: Free[bool] = True
    """`actor/entropy` is among the metrics. false saves a pass over the logits in each update."""

    learning_rate: Warn[Annotated[float, Range(ge=0, le=100)]] = 1e-6
    """Of AdamW, after the warm-up. 1e-6 is common for RL on models of some billion parameters; tiny models want
    more."""

    min_learning_rate: Warn[Annotated[float, Range(ge=0, le=100)]] = 0.0
    """What `actor.lr_decay` falls to; the last update is one step above it, so it learns even where this is 0."""

    lr_warmup_steps: Warn[Annotated[int, COUNT_OR_0]] = 0
    """Optimizer steps over which the learning rate rises: with 4, the first runs at a quarter of it and the fourth at
    all of it."""

    lr_decay: Warn[Literal["constant", "linear", "cosine"]] = "constant"
    """How the learning rate falls after the warm-up, over the rest of the `run.num_steps` *
    `algorithm.num_epochs` * `algorithm.num_mini_batches` optimizer steps. A resume with another `run.num_steps` goes on
    at the rate that a run of that length would have there."""

    weight_decay: Warn[Annotated[float, Range(ge=0, le=100)]] = 0.0
    """Of AdamW."""

    adam_beta1: Warn[Annotated[float, Range(ge=0, lt=1)]] = 0.9
    """Decay of AdamW's mean of gradients."""

    adam_beta2: Warn[Annotated[float, Range(ge=0, lt=1)]] = 0.95
    """Decay of AdamW's mean of squared gradients. Raise it where gradients come in bursts, as with rare rewards."""

    adam_eps: Warn[Annotated[float, Range(ge=1e-30, le=1)]] = 1e-8
    """Added to the root of AdamW's mean of squared gradients."""

    clip_grad: Warn[Annotated[float, Range(ge=0, le=1e6)]] = 1.0
    """Largest norm of the gradient over all parameters; a longer one is scaled down. 0: no clipping."""

    max_skipped_updates: Free[Annotated[int, COUNT_OR_0]] = 5
    """Updates in a row that may be skipped because their loss or gradient is not finite. One more ends the run: it
    saves, and its exit code is 1. 0: the first one does. A single one is an odd batch; a row of them is a broken run,
    which costs samples and learns nothing."""

    recompute: Free[Literal["none", "full"]] = "none"
    """`full` keeps only the inputs of each layer and computes its activations again in the backward pass: much less
    memory for one more forward pass."""

    use_distributed_optimizer: Fixed[bool] = True
    """The optimizer's state is sharded over the data-parallel ranks. false: each of them has all of it."""

    megatron: Fixed[PassedThrough] = field(default_factory=dict[str, Any])
    """Further options of the model under the names of Megatron's TransformerConfig. One that it does not know is
    refused."""

    def __post_init__(self) -> None:
        check_values("actor", self)
        require(
            self.min_learning_rate <= self.learning_rate,
            f"actor.min_learning_rate={self.min_learning_rate:g} is above "
            f"actor.learning_rate={self.learning_rate:g}, from which it falls; lower it.",
        )
        require(
            not self.sequence_parallel or self.tensor_parallel_size > 1,
            "actor.sequence_parallel=true needs actor.tensor_parallel_size > 1; raise it or set "
            "actor.sequence_parallel=false.",
        )

    @property
    def replica_size(self) -> int:
        """Ranks that hold one copy of the model."""
        return self.tensor_parallel_size * self.pipeline_parallel_size * self.context_parallel_size
