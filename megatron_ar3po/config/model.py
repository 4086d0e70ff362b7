"""Section `model`: the policy to start from."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from megatron_ar3po.config.at_resume import Fixed, Warn
from megatron_ar3po.config.paths import PathText
from megatron_ar3po.config.ranges import check_values


@dataclass(frozen=True, kw_only=True, slots=True)
class ModelConfig:
    """The policy to start from."""

    path: Warn[PathText] = ""
    """Folder of a Hugging Face checkpoint (config.json, *.safetensors, tokenizer). The servers and the actor both
    load it; there is no default, for no model is everyone's."""

    megatron_path: Warn[PathText] = ""
    """A Megatron distributed checkpoint to take the weights from; config and tokenizer stay those of `model.path`.
    Empty: the weights of `model.path`."""

    dtype: Fixed[Literal["float32", "bfloat16"]] = "float32"
    """Of the weights, in actor and servers alike. float32 suits a tiny model on a CPU; on GPUs take bfloat16, as the
    examples for GPUs do."""

    def __post_init__(self) -> None:
        check_values("model", self)
