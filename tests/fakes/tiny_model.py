"""A random Qwen2 of 70 thousand parameters, written to a folder in a second: for tests that need a real server."""

from __future__ import annotations

from pathlib import Path

from megatron_ar3po.platform.torchvision_schemas import ensure_torchvision_schemas

VOCAB_SIZE = 128
STOP_TOKEN_ID = 2
MAX_CONTEXT_TOKENS = 512


def write_tiny_model(folder: Path, *, seed: int = 0) -> Path:
    """Weights and config only: a server that takes and gives tokens needs no tokenizer."""
    ensure_torchvision_schemas()
    import torch
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(seed)
    config = Qwen2Config(
        vocab_size=VOCAB_SIZE,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=MAX_CONTEXT_TOKENS,
        tie_word_embeddings=False,
        eos_token_id=STOP_TOKEN_ID,
        bos_token_id=0,
        pad_token_id=0,
        dtype="float32",
    )
    Qwen2ForCausalLM(config).float().save_pretrained(folder)
    return folder
