"""Section `observability`: what a run writes down."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Literal

from megatron_ar3po.config.at_resume import Free
from megatron_ar3po.config.ranges import COUNT, COUNT_OR_0, Range, check_values


@dataclass(frozen=True, kw_only=True, slots=True)
class ObservabilityConfig:
    """What a run writes down of itself."""

    record_groups_per_step: Free[Annotated[int, COUNT_OR_0]] = 2
    """Whole response groups of a recorded step that go to `rollouts.jsonl`, to be read. 0: none."""

    record_every_steps: Free[Annotated[int, COUNT]] = 1
    """Record the groups of every so many training steps."""

    tensorboard: Free[bool] = True
    """Write the metrics for TensorBoard too, beside `metrics.jsonl`."""

    trace_last_steps: Free[Annotated[int, COUNT_OR_0]] = 8
    """Of so many of the newest steps `trace/` keeps when each span, request and verdict began and ended, for
    `ar3po trace`; some 60 bytes for each. 0: of none."""

    trace_every_steps: Free[Annotated[int, COUNT_OR_0]] = 0
    """Of every so many steps that is kept for good. 0: of the newest alone."""
    wandb: Free[Literal["off", "offline", "online"]] = "off"
    """Show the metrics in Weights & Biases too (`pip install 'megatron_ar3po[wandb]'`). `offline`: they go to `wandb/`
    in the run's folder, and nothing goes to the network; `wandb sync` sends them later. `online`: they are sent as
    they come. A resume goes on under the same id."""

    wandb_project: Free[str] = "ar3po"
    """The project in Weights & Biases."""

    mlflow: Free[str] = ""
    """Show the metrics in MLflow too (`pip install 'megatron_ar3po[mlflow]'`): the address of a tracking server, as in
    `http://127.0.0.1:5000`, or a local store, as in `sqlite:////data/mlflow.db`, for which all of MLflow must be
    installed. Empty: not. A resume goes on under the same id."""

    mlflow_experiment: Free[str] = "ar3po"
    """The experiment in MLflow."""

    log_level: Free[Literal["DEBUG", "INFO", "WARNING"]] = "INFO"
    """Of the log lines of every rank."""

    max_logprob_mismatch: Free[Annotated[float, Range(ge=0, le=1e6)]] = 0.05
    """The log warns when servers and actor, with the same weights, disagree about the log-probs of the step's tokens by
    more than this (`mismatch/logprob_abs_mean`, nats a token). Two sets of bf16 kernels are reported to differ by 0.01
    to 0.04; much more is another dtype, temperature or model than the server's, or weights that did not arrive. 0:
    never."""

    def __post_init__(self) -> None:
        check_values("observability", self)
