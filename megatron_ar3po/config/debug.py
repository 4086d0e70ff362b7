"""Section `debug`: modes to look at one half of the loop."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Literal

from megatron_ar3po.config.at_resume import Fixed, Free
from megatron_ar3po.config.paths import PathText
from megatron_ar3po.config.ranges import COUNT, check_values


@dataclass(frozen=True, kw_only=True, slots=True)
class DebugConfig:
    """Modes to look at one half of the loop."""

    mode: Fixed[Literal["full", "rollout_only", "train_only"]] = "full"
    """`full`: the whole loop. `rollout_only`: sample and grade, train nothing. `train_only`: train on the dump of
    `debug.replay_path`, without a server."""

    dump_steps: Free[list[Annotated[int, COUNT]]] = field(default_factory=list[int])
    """Training steps whose response groups go to `dumps/step_NNNNN.pt` in the run's folder."""

    profile_steps: Free[list[Annotated[int, COUNT]]] = field(default_factory=list[int])
    """Training steps of which torch.profiler writes a trace for each rank, `profile/step_NNNNN.rankNNNN.json.gz`.
    Such a step takes longer."""

    memory_steps: Free[list[Annotated[int, COUNT]]] = field(default_factory=list[int])
    """Training steps of which the history of CUDA's allocator is written for each rank,
    `profile/step_NNNNN.rankNNNN.memory.pickle`. Without a GPU there is none."""

    replay_path: Free[PathText] = ""
    """The dump that `mode=train_only` trains on, at any layout."""

    def __post_init__(self) -> None:
        check_values("debug", self)
