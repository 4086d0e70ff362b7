"""`ModelShape`: what an HF `config.json` says about a dense decoder, checked, and nothing of Megatron.

Qwen2 / Qwen2.5, Qwen3 (dense) and Llama (3.x rope scaling with its own parameters, SmolLM2 and alike). Read with plain
json, so that a rank need not import transformers.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron_ar3po.distributed.layout import ParallelLayout

SUPPORTED = ("Qwen2ForCausalLM", "Qwen3ForCausalLM", "LlamaForCausalLM")


@dataclass(frozen=True, slots=True, kw_only=True)
class Llama3Rope:
    """Llama 3.x's frequency scaling."""

    factor: float
    low_freq_factor: float
    high_freq_factor: float
    original_max_positions: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    path: str  # the folder, for messages
    architecture: str
    num_layers: int
    hidden_size: int
    ffn_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    vocab_size: int
    max_positions: int
    norm_eps: float
    rope_theta: float
    llama3_rope: Llama3Rope | None
    has_qkv_bias: bool
    has_qk_norm: bool
    is_tied: bool

    def check_layout(self, layout: ParallelLayout) -> None:
        """ValueError if TP or PP cannot cut this model."""
        tp, pp = layout.tensor_parallel_size, layout.pipeline_parallel_size
        for what, size in (
            ("num_attention_heads", self.num_heads),
            ("num_key_value_heads", self.num_kv_heads),
            ("intermediate_size", self.ffn_size),
            ("hidden_size", self.hidden_size),
        ):
            if size % tp:
                fitting = ", ".join(str(n) for n in range(1, size + 1) if self._fits(n))
                raise ValueError(
                    f"actor.tensor_parallel_size={tp} does not divide {what}={size} of {self.path}; use {fitting}."
                )
        if self.num_layers % pp:
            fitting = ", ".join(
                str(n) for n in range(1, self.num_layers + 1) if not self.num_layers % n
            )
            raise ValueError(
                f"actor.pipeline_parallel_size={pp} does not divide num_hidden_layers={self.num_layers} of "
                f"{self.path}; use {fitting}."
            )

    def _fits(self, tp: int) -> bool:
        sizes = (self.num_heads, self.num_kv_heads, self.ffn_size, self.hidden_size)
        return tp <= self.num_kv_heads and all(size % tp == 0 for size in sizes)


def read_model_shape(folder: str | Path) -> ModelShape:
    folder = Path(folder)
    config_file = folder / "config.json"
    if not config_file.is_file():
        raise ValueError(
            f"model.path={folder} holds no config.json; point it at the folder of a Hugging Face checkpoint "
            "(config.json, *.safetensors, tokenizer)."
        )
    hf: dict[str, Any] = json.loads(config_file.read_text(encoding="utf-8"))
    architecture = (hf.get("architectures") or ["none"])[0]
    _check_supported(folder, architecture, hf)
    is_qwen2, is_qwen3 = architecture.startswith("Qwen2"), architecture.startswith("Qwen3")
    heads = hf["num_attention_heads"]
    theta, llama3 = _read_rope(folder, hf)
    return ModelShape(
        path=str(folder),
        architecture=architecture,
        num_layers=hf["num_hidden_layers"],
        hidden_size=hf["hidden_size"],
        ffn_size=hf["intermediate_size"],
        num_heads=heads,
        num_kv_heads=hf.get("num_key_value_heads") or heads,
        head_dim=hf.get("head_dim") or (128 if is_qwen3 else hf["hidden_size"] // heads),
        vocab_size=hf["vocab_size"],
        max_positions=hf.get("max_position_embeddings", 2048),
        norm_eps=hf.get("rms_norm_eps", 1e-6),
        rope_theta=theta,
        llama3_rope=llama3,
        has_qkv_bias=is_qwen2,
        has_qk_norm=is_qwen3,
        is_tied=hf.get("tie_word_embeddings", False),
    )


def _check_supported(folder: Path, architecture: str, hf: dict[str, Any]) -> None:
    if architecture not in SUPPORTED:
        raise ValueError(
            f"model.path={folder} is a {architecture} checkpoint, which the actor cannot build; use one of "
            f"{', '.join(SUPPORTED)}."
        )
    wanted = {"hidden_act": "silu", "use_sliding_window": False, "mlp_bias": False}
    if not architecture.startswith("Qwen2"):
        wanted["attention_bias"] = False
    for name, value in wanted.items():
        if hf.get(name, value) not in (value, None):
            raise ValueError(
                f"model.path={folder} sets {name}={hf[name]!r} in config.json, which the actor does not compute; "
                f"use a checkpoint with {name}={value!r}."
            )


def _read_rope(folder: Path, hf: dict[str, Any]) -> tuple[float, Llama3Rope | None]:
    """transformers 5 writes `rope_parameters`; before it there were `rope_theta` and `rope_scaling`."""
    rope = dict(hf.get("rope_parameters") or hf.get("rope_scaling") or {})
    theta = float(rope.get("rope_theta") or hf.get("rope_theta") or 10000.0)
    kind = rope.get("rope_type") or rope.get("type") or "default"
    if kind == "default":
        return theta, None
    if kind != "llama3":
        raise ValueError(
            f"model.path={folder} asks for rope_type={kind!r}, which the actor does not compute; use a checkpoint "
            "with default or llama3 rope."
        )
    scaling = Llama3Rope(
        factor=float(rope["factor"]),
        low_freq_factor=float(rope["low_freq_factor"]),
        high_freq_factor=float(rope["high_freq_factor"]),
        original_max_positions=int(rope["original_max_position_embeddings"]),
    )
    return theta, scaling
