"""`ParallelLayout`: who sits where. Plain torch, no Megatron: the actor starts Megatron's own parallel state and checks
that its ranks agree with this one.

Rank order is Megatron's default, tp fastest, then dp, then pp:  rank = tp + TP * (dp + DP * pp).
A *replica* is the set of ranks with one dp; its number is the data-parallel rank, its *leader* has tp = pp = 0.

Worked example, TP=2 PP=2 world 8 (DP=2):

    rank   0 1 2 3 4 5 6 7
    tp     0 1 0 1 0 1 0 1
    dp     0 0 1 1 0 0 1 1
    pp     0 0 0 0 1 1 1 1      replica 0 = {0, 1, 4, 5}, leader 0; replica 1 = {2, 3, 6, 7}, leader 2
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class ParallelLayout:
    world_size: int = 1
    rank: int = 0
    tensor_parallel_size: int = 1
    pipeline_parallel_size: int = 1

    def __post_init__(self) -> None:
        if self.world_size % self.replica_size:
            tp, pp = self.tensor_parallel_size, self.pipeline_parallel_size
            raise ValueError(
                f"world size {self.world_size} does not fit actor.tensor_parallel_size={tp} x "
                f"actor.pipeline_parallel_size={pp} = {self.replica_size} ranks per replica; start a multiple of "
                f"{self.replica_size} ranks, for instance: torchrun --nproc-per-node {self.replica_size} "
                "-m megatron_ar3po.train CONFIG"
            )

    @property
    def replica_size(self) -> int:
        return self.tensor_parallel_size * self.pipeline_parallel_size

    @property
    def data_parallel_size(self) -> int:
        return self.world_size // self.replica_size

    @property
    def tp_rank(self) -> int:
        return self.rank % self.tensor_parallel_size

    @property
    def dp_rank(self) -> int:
        return self.rank // self.tensor_parallel_size % self.data_parallel_size

    @property
    def pp_rank(self) -> int:
        return self.rank // (self.tensor_parallel_size * self.data_parallel_size)

    @property
    def is_leader(self) -> bool:
        return self.tp_rank == 0 and self.pp_rank == 0

    @property
    def is_last_stage(self) -> bool:
        return self.pp_rank == self.pipeline_parallel_size - 1

    def rank_of(self, *, tp: int, dp: int, pp: int) -> int:
        return tp + self.tensor_parallel_size * (dp + self.data_parallel_size * pp)

    def replica_ranks(self, dp: int) -> list[int]:
        return [
            self.rank_of(tp=tp, dp=dp, pp=pp)
            for pp in range(self.pipeline_parallel_size)
            for tp in range(self.tensor_parallel_size)
        ]

    def leader_rank(self, dp: int) -> int:
        return self.rank_of(tp=0, dp=dp, pp=0)

    def owner_dp_rank(self, prompt_id: str) -> int:
        """Which replica rolls a prompt out and stores its answers: a pure function of the prompt and the DP size."""
        return int(prompt_id[:16], 16) % self.data_parallel_size

    def describe(self) -> str:
        return f"tp {self.tensor_parallel_size} x pp {self.pipeline_parallel_size} x dp {self.data_parallel_size}"
