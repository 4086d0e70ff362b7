"""Published shapes at cluster layouts, every rank of them built on the meta device with torch's fake process group: no
memory, no network. Once with Megatron's local layers and once with its Transformer Engine spec over stand-ins that
have Transformer Engine's parameter names. Says nothing about speed, nor that Transformer Engine computes the same."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from megatron_ar3po.actor.rank_sizes import as_table, stage_sizes
from megatron_ar3po.model_shape import read_policy_shape
from tools import convert_checkpoint

QWEN2_5_32B = {
    "architectures": ["Qwen2ForCausalLM"],
    "num_hidden_layers": 64,
    "hidden_size": 5120,
    "intermediate_size": 27648,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
    "vocab_size": 152064,
    "max_position_embeddings": 2048,
}
QWEN2_5_7B = {
    "architectures": ["Qwen2ForCausalLM"],
    "num_hidden_layers": 28,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
    "max_position_embeddings": 2048,
}
LLAMA_3_1_8B = {
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 2048,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}

# A vocabulary that is no multiple of 128, and tied embeddings over pipeline stages.
QWEN3_ODD = {
    "architectures": ["Qwen3ForCausalLM"],
    "num_hidden_layers": 4,
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 32,
    "vocab_size": 300,
    "max_position_embeddings": 2048,
    "tie_word_embeddings": True,
}
ODD_DISTINCT = 300 * 64 + 4 * (2 * 64 * 128 + 2 * 64 * 64 + 3 * 64 * 96 + 2 * 64 + 2 * 32) + 64

# name: (config, world size, tp, pp, parameters of the published model)
MODELS = {
    "qwen2.5-32b-tp8pp4": (QWEN2_5_32B, 32, 8, 4, 32_763_876_352),
    "qwen2.5-32b-tp8pp2": (QWEN2_5_32B, 16, 8, 2, 32_763_876_352),
    "qwen2.5-7b-tp4": (QWEN2_5_7B, 8, 4, 1, 7_615_616_512),
    "llama3.1-8b-tp8": (LLAMA_3_1_8B, 8, 8, 1, 8_030_261_248),
    "qwen3-odd-tp2pp2": (QWEN3_ODD, 8, 2, 2, ODD_DISTINCT),
    "qwen3-odd-tp2cp2pp2": (QWEN3_ODD, 16, 2, 2, ODD_DISTINCT),
}
CONTEXT_PARALLEL = {"qwen3-odd-tp2cp2pp2": 2}  # its ranks hold the same; they share sequences
WITH_TRANSFORMER_ENGINE = ("qwen2.5-32b-tp8pp4", "llama3.1-8b-tp8", "qwen3-odd-tp2pp2")
PROGRAM = Path(__file__).parents[2] / "harness" / "build_every_rank.py"
Ranks = list[dict[str, Any]]


def build(
    names: Iterable[str], layers: str, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Ranks]:
    """What each rank holds, by name of the model. In a process of its own: the fake process group would be the whole
    session's, and a Transformer Engine that computes nothing too."""
    wanted = {
        name: [
            str(folder_of(name, tmp_path_factory)),
            *MODELS[name][1:4],
            CONTEXT_PARALLEL.get(name, 1),
        ]
        for name in names
    }
    command = [sys.executable, "-W", "ignore", str(PROGRAM), json.dumps(wanted), layers]
    done = subprocess.run(command, capture_output=True, text=True, timeout=600, check=False)
    assert "RESULT" in done.stdout, done.stderr[-3000:]
    return json.loads(done.stdout.split("RESULT", 1)[1])


@pytest.fixture(scope="module")
def local(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ranks]:
    return build(MODELS, "local", tmp_path_factory)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Ranks]:
    return build(WITH_TRANSFORMER_ENGINE, "te", tmp_path_factory)


def folder_of(name: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("shape")
    (folder / "config.json").write_text(json.dumps(MODELS[name][0]), encoding="utf-8")
    return folder


@pytest.mark.parametrize("name", MODELS)
def test_every_rank_holds_its_slices_of_the_published_model(
    name: str, local: dict[str, Ranks]
) -> None:
    """`slices`: what the loader would read from the Hugging Face tensors for this rank."""
    _, world, _, _, distinct = MODELS[name]
    ranks = local[name]
    assert len(ranks) == world
    for rank in ranks:
        assert rank["held"] == rank["slices"], rank["at"]
    first_replica = [rank for rank in ranks if rank["at"]["dp"] == rank["at"]["cp"] == 0]
    counted: dict[str, int] = {}
    for rank in first_replica:
        for hf_name, count in rank["elements_read"].items():
            counted[hf_name] = counted.get(hf_name, 0) + count
    assert sum(counted.values()) == distinct, (
        "each element of each tensor has one home in a replica"
    )


@pytest.mark.parametrize("name", MODELS)
def test_counts_and_bytes_of_every_rank_are_those_that_are_listed(
    name: str, local: dict[str, Ranks], tmp_path_factory: pytest.TempPathFactory
) -> None:
    _, _, tp, pp, distinct = MODELS[name]
    sizes = stage_sizes(read_policy_shape(folder_of(name, tmp_path_factory)), tp=tp, pp=pp)
    for rank in local[name]:
        held = sum(math.prod(size) for size in rank["held"].values())
        assert held == sizes[rank["at"]["pp"]].held
        assert f"{held:,} | {2 * held:,} |" in as_table(sizes, tp, 2)
    assert sum(size.distinct for size in sizes) == distinct
    held = sum(size.held for size in sizes) * tp
    assert held == distinct + sum(size.padding + size.copies for size in sizes)


def test_the_listing_of_32b_at_tp8_pp4(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Worked by hand. A layer's rank: qkv 896 x 5120 + 896, proj 5120 x 640, fc1 6912 x 5120, fc2 5120 x 3456, two
    norms; the ends hold 152064 / 8 rows of 5120."""
    layer = 896 * 5120 + 896 + 5120 * 640 + 6912 * 5120 + 5120 * 3456 + 2 * 5120
    end = 152_064 // 8 * 5120
    first, second, third, last = stage_sizes(
        read_policy_shape(folder_of("qwen2.5-32b-tp8pp4", tmp_path_factory)), tp=8, pp=4
    )
    assert (first.held, second.held, third.held) == (16 * layer + end, 16 * layer, 16 * layer)
    assert last.held == 16 * layer + end + 5120
    assert first.padding == last.padding == 0
    assert second.copies == 16 * 2 * 5120 * 7  # the norms of seven more ranks


def test_a_vocabulary_of_300_is_padded_to_384_and_counted(
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    first, last = stage_sizes(
        read_policy_shape(folder_of("qwen3-odd-tp2pp2", tmp_path_factory)), tp=2, pp=2
    )
    assert first.padding == 84 * 64 and last.padding == 84 * 64
    norms = 2 * (2 * 64 + 2 * 32)
    assert first.copies == norms
    assert last.copies == norms + 64 + 300 * 64  # the last norm, and the tied output layer


@pytest.mark.parametrize("name", WITH_TRANSFORMER_ENGINE)
def test_the_transformer_engine_spec_has_the_same_parameters_under_its_own_names(
    name: str, local: dict[str, Ranks], engine: dict[str, Ranks]
) -> None:
    for plain, fused in zip(local[name], engine[name], strict=True):
        assert fused["held"] == fused["slices"], fused["at"]
        assert fused["elements_read"] == plain["elements_read"]
        norms = {n for n in fused["held"] if n.endswith("layer_norm_weight")}
        assert len(norms) == 2 * plain["num_layers"]
        assert not any("input_layernorm" in n or "pre_mlp" in n for n in fused["held"])


def test_the_tool_prints_the_listing(
    tmp_path_factory: pytest.TempPathFactory, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["shards", str(folder_of("qwen2.5-7b-tp4", tmp_path_factory))]
    assert convert_checkpoint.main([*words, "--tp", "4"]) == 0
    said = capsys.readouterr().out
    assert "7,615,616,512 distinct parameters; a replica of 4 ranks" in said
    assert convert_checkpoint.main([*words, "--tp", "8"]) == 2
    refused = capsys.readouterr().err
    assert "actor.tensor_parallel_size=8 does not divide num_attention_heads=28" in refused
    assert "use 1, 2, 4." in refused
