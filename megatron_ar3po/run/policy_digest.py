"""`PolicyDigest`: one number for all that a policy was trained on, so that two processes can tell whether they arrived
at the same one.

It is a chain: after each update, the digest before, the settings of the training, and the samples of all replicas.
Samples and not weights: a step that is done again gives weights that differ in their last bits on most machines, and is
the same step. It does not depend on the layout.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import Any

import numpy as np
import xxhash

from megatron_ar3po.config.schema import Config
from megatron_ar3po.types import TrainingSample

# Of `actor`: how the same update is computed, not which one it is.
_NOT_OF_THE_UPDATE = frozenset(
    {
        *("tensor_parallel_size", "pipeline_parallel_size", "context_parallel_size"),
        *("sequence_parallel", "max_tokens_per_microbatch", "logprob_chunk_tokens"),
        *("measure_entropy", "recompute", "use_distributed_optimizer"),
    }
)


class PolicyDigest:
    """`value` is "" for the policy that the run starts from; a checkpoint keeps it (`RunState.policy_digest`)."""

    def __init__(self, config: Config, value: str = "") -> None:
        actor = {n: v for n, v in asdict(config.actor).items() if n not in _NOT_OF_THE_UPDATE}
        # The length of a run is part of a decaying learning rate.
        num_steps = config.run.num_steps if config.actor.lr_decay != "constant" else 0
        self._settings = digest_of(asdict(config.algorithm), actor, num_steps)
        self.value = value

    def advance(self, samples: Iterable[TrainingSample]) -> None:
        """The policy was updated with `samples`: those of all replicas, in the step's order."""
        total = xxhash.xxh3_64(f"{self.value} {self._settings}".encode())
        for sample in samples:
            name = f"{sample.row_key} {sample.advantage!r} {sample.reward!r} {sample.origin}"
            total.update(name.encode())
            total.update(np.ascontiguousarray(sample.response_token_ids, dtype="<i4").tobytes())
        self.value = total.hexdigest()


def digest_of(*parts: Any) -> str:
    """Of plain values: the same in every process.

    >>> digest_of({"a": 1, "b": (2,)}) == digest_of({"b": [2], "a": 1}) != digest_of({"a": 1})
    True
    """
    return xxhash.xxh3_64_hexdigest(json.dumps(parts, sort_keys=True, default=str).encode())
