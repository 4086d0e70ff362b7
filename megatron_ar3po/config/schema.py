"""`Config`: all sections of a run's configuration.

A section has a file of its own in this folder, where each of its options is declared once: name, type, default, and a
docstring. Section names are room names, so a config file is the floor plan once more. A rule inside one section stands
in its `__post_init__`; rules across sections are in `validate.py`. A config is never changed after loading; derived
values are properties.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from megatron_ar3po.config.actor import ActorConfig
from megatron_ar3po.config.algorithm import AlgorithmConfig
from megatron_ar3po.config.checkpoint import CheckpointConfig
from megatron_ar3po.config.colocation import ColocationConfig
from megatron_ar3po.config.data import DataConfig
from megatron_ar3po.config.debug import DebugConfig
from megatron_ar3po.config.evaluation import EvaluationConfig
from megatron_ar3po.config.model import ModelConfig
from megatron_ar3po.config.observability import ObservabilityConfig
from megatron_ar3po.config.reuse import ReuseConfig
from megatron_ar3po.config.rewards import RewardsConfig
from megatron_ar3po.config.rollout import RolloutConfig
from megatron_ar3po.config.run import RunConfig
from megatron_ar3po.config.servers import ServersConfig
from megatron_ar3po.config.weight_sync import WeightSyncConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class Config:
    """The whole configuration of a run."""

    run: RunConfig = field(default_factory=RunConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    data: DataConfig = field(default_factory=DataConfig)
    rewards: RewardsConfig = field(default_factory=RewardsConfig)
    rollout: RolloutConfig = field(default_factory=RolloutConfig)
    servers: ServersConfig = field(default_factory=ServersConfig)
    reuse: ReuseConfig = field(default_factory=ReuseConfig)
    algorithm: AlgorithmConfig = field(default_factory=AlgorithmConfig)
    actor: ActorConfig = field(default_factory=ActorConfig)
    weight_sync: WeightSyncConfig = field(default_factory=WeightSyncConfig)
    colocation: ColocationConfig = field(default_factory=ColocationConfig)
    evaluation: EvaluationConfig = field(default_factory=EvaluationConfig)
    checkpoint: CheckpointConfig = field(default_factory=CheckpointConfig)
    observability: ObservabilityConfig = field(default_factory=ObservabilityConfig)
    debug: DebugConfig = field(default_factory=DebugConfig)
