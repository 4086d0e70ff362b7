"""Published shapes at cluster layouts, built on the meta device with torch's fake process group: no memory, no network.
Says nothing about speed, and nothing about Transformer Engine, whose modules need a GPU."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from typing import Any

import pytest

QWEN2_5_32B = {
    "architectures": ["Qwen2ForCausalLM"],
    "num_hidden_layers": 64,
    "hidden_size": 5120,
    "intermediate_size": 27648,
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
    "vocab_size": 152064,
}
QWEN2_5_7B = {
    "architectures": ["Qwen2ForCausalLM"],
    "num_hidden_layers": 28,
    "hidden_size": 3584,
    "intermediate_size": 18944,
    "num_attention_heads": 28,
    "num_key_value_heads": 4,
    "vocab_size": 152064,
}
LLAMA_3_1_8B = {
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "rope_theta": 500000.0,
    "rope_scaling": {
        "rope_type": "llama3",
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 8192,
    },
}

MODELS = {
    "qwen2.5-32b-tp8pp4": (QWEN2_5_32B, 32, 8, 4, 32_763_876_352),
    "qwen2.5-32b-tp8pp2": (QWEN2_5_32B, 16, 8, 2, 32_763_876_352),
    "qwen2.5-7b-tp4": (QWEN2_5_7B, 8, 4, 1, 7_615_616_512),
    "llama3.1-8b-tp8": (LLAMA_3_1_8B, 8, 8, 1, 8_030_261_248),
}

# In a process of its own: the fake process group would be the whole session's.
BUILD = """
import json, sys
import torch, torch.distributed as dist
from torch.testing._internal.distributed.fake_pg import FakeStore
from megatron_ar3po.actor.model import build_model, initialize_megatron
from megatron_ar3po.actor.model_shape import read_model_shape
from megatron_ar3po.config.schema import ActorConfig
from megatron_ar3po.distributed.layout import ParallelLayout
from megatron.core import parallel_state

def build(folder, world, tp, pp, stage):
    rank = world // pp * stage  # TP ranks of a stage have the same shapes
    dist.init_process_group("fake", rank=rank, world_size=world, store=FakeStore())
    layout = ParallelLayout(
        world_size=world, rank=rank, tensor_parallel_size=tp, pipeline_parallel_size=pp
    )
    initialize_megatron(layout, seed=0)
    actor = ActorConfig(tensor_parallel_size=tp, pipeline_parallel_size=pp)
    with torch.device("meta"):
        model = build_model(read_model_shape(folder), layout, actor, torch.bfloat16)
    held = {name: list(p.shape) for name, p in model.named_parameters()}
    plan = [
        {"name": p.name, "cut": p.cut, "hf_shapes": p.hf_shapes} for p in model.hf_parameters()
    ]
    parallel_state.destroy_model_parallel()
    dist.destroy_process_group()
    return {"held": held, "plan": plan}

found = {
    name: [build(folder, world, tp, pp, stage) for stage in range(pp)]
    for name, (folder, world, tp, pp) in json.loads(sys.argv[1]).items()
}
print("RESULT" + json.dumps(found))
"""


@pytest.fixture(scope="module")
def stages_of(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[Any]]:
    wanted = {}
    for name, (config, world, tp, pp, _) in MODELS.items():
        folder = tmp_path_factory.mktemp(name)
        (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
        wanted[name] = (str(folder), world, tp, pp)
    command = [sys.executable, "-W", "ignore", "-c", BUILD, json.dumps(wanted)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
    assert "RESULT" in done.stdout, done.stderr[-3000:]
    return json.loads(done.stdout.split("RESULT", 1)[1])


def cut_by_hand(parameter: dict[str, Any], tp: int, padded_vocab: int) -> list[int]:
    sizes = parameter["hf_shapes"]
    rows = sum(size[0] for size in sizes)
    tail = list(sizes[0][1:])
    return {
        "whole": [rows, *tail],
        "vocab": [padded_vocab // tp, *tail],
        "columns": [rows, *(n // tp for n in tail)],
        "gate_up": [rows // tp, *tail],
        "qkv": [rows // tp, *tail],
    }[parameter["cut"]]


@pytest.mark.parametrize("name", MODELS)
def test_every_rank_holds_its_slices_of_the_published_model(
    name: str, stages_of: dict[str, list[Any]]
) -> None:
    """The vocabularies are multiples of 128: nothing is padded, so the counts are exact."""
    config, _, tp, pp, distinct = MODELS[name]
    assert len(stages_of[name]) == pp
    total = 0
    for stage in stages_of[name]:
        assert set(stage["held"]) == {p["name"] for p in stage["plan"]}
        for parameter in stage["plan"]:
            held = stage["held"][parameter["name"]]
            assert held == cut_by_hand(parameter, tp, config["vocab_size"]), parameter["name"]
            copies = 1 if parameter["cut"] == "whole" else tp
            total += math.prod(held) * copies
    assert total == distinct
