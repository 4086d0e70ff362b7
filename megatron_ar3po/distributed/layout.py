"""`ParallelLayout`: who sits where. Plain torch, no Megatron: the actor starts Megatron's own parallel state and checks
that its ranks agree with this one.

Rank order is Megatron's default, tp fastest, then cp, dp, pp:  rank = tp + TP * (cp + CP * (dp + DP * pp)).
A *replica* is the set of ranks with one dp; its number is the data-parallel rank, its *leader* has tp = cp = pp = 0.

Worked example, TP=2 PP=2 world 8 (DP=2):

    rank   0 1 2 3 4 5 6 7
    tp     0 1 0 1 0 1 0 1
    dp     0 0 1 1 0 0 1 1
    pp     0 0 0 0 1 1 1 1      replica 0 = {0, 1, 4, 5}, leader 0; replica 1 = {2, 3, 6, 7}, leader 2
"""

from __future__ import annotations

from dataclasses import dataclass


def owner_dp_rank(prompt_id: str, dp_size: int) -> int:
    """Which of `dp_size` replicas rolls a prompt out and stores its responses.

    >>> owner_dp_rank("00000000000000070123456789abcdef", 4)
    3
    """
    return int(prompt_id[:16], 16) % dp_size


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelLayout:
    world_size: int = 1
    rank: int = 0
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1
    context_parallel_size: int = 1

    def __post_init__(self) -> None:
        if self.world_size % self.replica_size:
            tp, pp, cp = (
                self.tensor_parallel_size,
                self.pipeline_parallel_size,
                self.context_parallel_size,
            )
            context = f"actor.context_parallel_size={cp} x " if cp > 1 else ""
            raise ValueError(
                f"world size {self.world_size} does not fit {context}actor.tensor_parallel_size={tp} x "
                f"actor.pipeline_parallel_size={pp} = {self.replica_size} ranks per replica; start a multiple of "
                f"{self.replica_size} ranks, for instance: torchrun --nproc-per-node {self.replica_size} "
                "-m megatron_ar3po.train CONFIG"
            )

    @property
    def replica_size(self) -> int:
        return self.tensor_parallel_size * self.pipeline_parallel_size * self.context_parallel_size

    @property
    def data_parallel_size(self) -> int:
        return self.world_size // self.replica_size

    @property
    def tp_rank(self) -> int:
        return self.rank % self.tensor_parallel_size

    @property
    def cp_rank(self) -> int:
        return self.rank // self.tensor_parallel_size % self.context_parallel_size

    @property
    def dp_rank(self) -> int:
        inner = self.tensor_parallel_size * self.context_parallel_size
        return self.rank // inner % self.data_parallel_size

    @property
    def pp_rank(self) -> int:
        return self.rank // (self.world_size // self.pipeline_parallel_size)

    @property
    def is_leader(self) -> bool:
        return self.tp_rank == 0 and self.cp_rank == 0 and self.pp_rank == 0

    @property
    def is_last_stage(self) -> bool:
        return self.pp_rank == self.pipeline_parallel_size - 1

    def rank_of(self, *, tp: int, dp: int, pp: int, cp: int = 0) -> int:
        outer = dp + self.data_parallel_size * pp
        return tp + self.tensor_parallel_size * (cp + self.context_parallel_size * outer)

    def replica_ranks(self, dp: int) -> list[int]:
        return [
            self.rank_of(tp=tp, dp=dp, pp=pp, cp=cp)
            for pp in range(self.pipeline_parallel_size)
            for cp in range(self.context_parallel_size)
            for tp in range(self.tensor_parallel_size)
        ]

    def leader_rank(self, dp: int) -> int:
        return self.rank_of(tp=0, dp=dp, pp=0)

    def owner_dp_rank(self, prompt_id: str) -> int:
        """In this layout; a function of the prompt and the data-parallel size alone."""
        return owner_dp_rank(prompt_id, self.data_parallel_size)

    def describe(self) -> str:
        context = f"cp {self.context_parallel_size} x " if self.context_parallel_size > 1 else ""
        model = f"tp {self.tensor_parallel_size} x pp {self.pipeline_parallel_size}"
        return f"{model} x {context}dp {self.data_parallel_size}"
