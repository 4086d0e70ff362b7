"""Section `run`: the run as a whole."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

from megatron_ar3po.config.at_resume import Fixed, Free, Warn
from megatron_ar3po.config.paths import PathText
from megatron_ar3po.config.ranges import (
    COUNT_OR_0,
    LARGEST_64_BIT,
    SECONDS,
    SECONDS_OR_0,
    Range,
    check_values,
)


@dataclass(frozen=True, kw_only=True, slots=True)
class RunConfig:
    """The run as a whole: its folder, its length, its seed, and how long its ranks wait for each other."""

    name: Fixed[str] = "run"
    """Names the run's folder and its log lines."""

    dir: Free[PathText] = ""
    """Folder of all the run writes. Empty: `runs/NAME`, so that a run needs no path of its own."""

    num_steps: Free[Annotated[int, COUNT_OR_0]] = 100
    """Training steps. One step samples one batch of `rollout.prompts_per_step` prompts and trains on it once."""

    max_seconds: Free[Annotated[float, Range(ge=0, le=1e9)]] = 0.0
    """The run stops by itself after the first step that ends so many seconds after its start: it saves, and
    `run.resume=true` goes on. For machines that are lent for a time: leave room for one step and a save. 0: no
    limit."""

    seed: Fixed[Annotated[int, Range(ge=0, le=LARGEST_64_BIT)]] = 0
    """Every random choice of the run is a function of it: the order of prompts, the seed of each response, which
    response is borrowed."""

    deterministic: Warn[bool] = False
    """Two runs of one config, one of them killed and resumed or not, draw the same tokens and end with the same weights
    and metrics, but for seconds and bytes: the servers honour the seed of each response, whatever else is in their
    batches, and the actor's kernels sum in one order. At another data-parallel size draws are equal and losses agree
    to 1e-5. Off by default, since such kernels are slower. Options whose outcome rests on what comes first are
    refused with it."""

    resume: Free[bool] = False
    """Go on from the newest checkpoint in `run.dir`. false: `run.dir` must not hold a run, so that no run is
    overwritten by mistake."""

    allow_changed: Free[list[str]] = field(default_factory=list[str])
    """Options fixed at a resume that may change in it all the same, as in `[rollout.max_response_tokens]`: two unlike
    runs in one curve, then. `run_facts.json` in the run's folder keeps what was changed, and at which step."""

    ledger_sync_s: Free[Annotated[float, SECONDS_OR_0]] = 5.0
    """Seconds within which a finished response is on the disk, so that it outlives its node
    (docs/checkpoints.md). It outlives its process at once. 0: it is on the disk before the rollout goes on with it,
    which costs a disk's answer for each."""

    collective_timeout_s: Free[Annotated[float, SECONDS]] = 1800.0
    """Seconds that a rank waits for the others before the run ends with an error. Must exceed the longest difference
    between two replicas in a step, and the longest save."""

    stall_report_s: Free[Annotated[float, SECONDS_OR_0]] = 120.0
    """Seconds of waiting after which the log names the ranks that the others wait for, in Megatron's collectives too. A
    phase that has waited long before is given twice its longest wait so far. A rank that falls silent is named within
    twice as many seconds in any phase. 0: never."""

    progress: Free[Literal["auto", "bar", "plain"]] = "auto"
    """How the leader shows progress. `auto`: a bar on a terminal, plain lines in a file or a batch job."""

    def __post_init__(self) -> None:
        check_values("run", self)

    @property
    def path(self) -> Path:
        return Path(self.dir) if self.dir else Path("runs") / self.name
