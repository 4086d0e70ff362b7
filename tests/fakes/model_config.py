"""A `config.json` as a Hugging Face folder holds it."""

from __future__ import annotations

import json
from pathlib import Path

TINY_QWEN2: dict[str, object] = {
    "architectures": ["Qwen2ForCausalLM"],
    "num_hidden_layers": 2,
    "hidden_size": 8,
    "intermediate_size": 12,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 10,
    "max_position_embeddings": 64,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1e6,
    "tie_word_embeddings": False,
}


def write_model_config(folder: Path, **changes: object) -> Path:
    """Returns the folder."""
    (folder / "config.json").write_text(json.dumps(TINY_QWEN2 | changes), encoding="utf-8")
    return folder
