"""The places that show a run's metrics beside metrics.jsonl, as its options name them."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Mapping
from contextlib import ExitStack
from operator import attrgetter
from pathlib import Path
from typing import Any

from megatron_ar3po.config.declared import dotted_options
from megatron_ar3po.config.observability import ObservabilityConfig
from megatron_ar3po.config.schema import Config
from megatron_ar3po.interfaces import MetricSink
from megatron_ar3po.observability.metric_sinks import MetricSinks, SinkKind
from megatron_ar3po.observability.mlflow_sink import MlflowSink
from megatron_ar3po.observability.tensorboard_sink import TensorBoardSink
from megatron_ar3po.observability.wandb_sink import WandbSink

_SIGNED_IN = re.compile(r"(://)[^/@\s]+@")  # user and password in an address
_IS_SECRET = re.compile(r"(?i)key|token$|secret|password|credential")


def check_sinks(config: ObservabilityConfig) -> None:
    """Raises ValueError where one is asked for whose library is not installed."""
    asked = {
        "wandb": ("wandb", config.wandb if config.wandb != "off" else ""),
        "mlflow": ("mlflow", config.mlflow),
    }
    for extra, (module, value) in asked.items():
        if value and importlib.util.find_spec(module) is None:
            raise ValueError(
                f"observability.{extra}={value} needs the library {module}, which is not installed: "
                f"pip install 'megatron_ar3po[{extra}]', or leave the option out."
            )


def make_sinks(config: Config, stack: ExitStack, *, last_step: int) -> MetricSinks:
    """For the first rank. `last_step`: at which the run goes on. Nothing is opened before the first row."""
    folder, options = config.run.path, config.observability
    kinds: list[SinkKind] = []
    if options.tensorboard:
        kinds.append(_tensorboard(folder / "tensorboard"))
    if options.wandb != "off":
        kinds.append(_wandb(config))
    if options.mlflow:
        kinds.append(_mlflow(config))
    sinks = MetricSinks(folder, kinds, last_step=last_step)
    stack.callback(lambda: sinks.close(is_done=(folder / "DONE").exists()))
    return sinks


def _tensorboard(folder: Path) -> SinkKind:
    def open_sink(run_id: str, first_step: int) -> MetricSink:
        return TensorBoardSink(folder, first_step=first_step)

    return SinkKind(name="TensorBoard", where="tensorboard/", open=open_sink)


def _wandb(config: Config) -> SinkKind:
    options = config.observability

    def open_sink(run_id: str, first_step: int) -> MetricSink:
        assert options.wandb != "off"
        return WandbSink(
            config.run.path,
            mode=options.wandb,
            project=options.wandb_project,
            name=config.run.name,
            run_id=run_id,
            config=_options_of(config),
        )

    return SinkKind(name="W&B", where=options.wandb_project, open=open_sink)


def _mlflow(config: Config) -> SinkKind:
    options = config.observability

    def open_sink(run_id: str, first_step: int) -> MetricSink:
        return MlflowSink(
            uri=options.mlflow,
            experiment=options.mlflow_experiment,
            name=config.run.name,
            run_id=run_id,
            options={name: str(value) for name, value in _options_of(config).items()},
        )

    where = f"{_without_secrets(options.mlflow)}, experiment {options.mlflow_experiment}"
    return SinkKind(name="MLflow", where=where, open=open_sink)


def _options_of(config: Config) -> dict[str, Any]:
    """All options, dotted; what looks like a secret among those that are passed through, or stands in an address, stays
    here."""
    return {name: _without_secrets(attrgetter(name)(config)) for name in dotted_options()}


def _without_secrets(value: Any) -> Any:
    """
    >>> _without_secrets({"api_key": "abc", "tp_size": 2})
    {'api_key': '(not shown)', 'tp_size': 2}
    >>> _without_secrets("https://user:abc@mlflow.example:5000")
    'https://(not shown)@mlflow.example:5000'
    """
    if isinstance(value, str):
        return _SIGNED_IN.sub(r"\1(not shown)@", value)
    if not isinstance(value, Mapping):
        return value
    return {
        key: "(not shown)" if _IS_SECRET.search(str(key)) else _without_secrets(inner)
        for key, inner in value.items()
    }
