"""The weights of a real checkpoint, SmolLM2-135M, on their way: through Megatron-Core and back bit for bit, and to a
running server by each of the three transports. Downloads 93 MB once; about three minutes."""

from __future__ import annotations

import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import pytest
import torch
from harness.publish_stage import TRANSPORTS, Poison, SpoilingTransport, Stage
from safetensors import safe_open

from megatron_ar3po.interfaces import WeightPublishError

pytestmark = pytest.mark.chaos

ROOT = Path(__file__).parents[2]
MODEL = ROOT / ".cache/smollm2_arithmetic/model"


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    subprocess.run(
        [sys.executable, ROOT / "tools/make_smollm2.py", "--out", MODEL.parent],
        check=True,
        timeout=900,
    )
    with ExitStack() as stack:
        yield Stage(
            stack,
            str(MODEL),
            tmp_path_factory.mktemp("publish"),
            bucket_bytes=64 * 1024 * 1024,
            vocab_size=49_152,
        )


def tensors_in(folder: Path) -> dict[str, torch.Tensor]:
    found = {}
    for file in folder.glob("*.safetensors"):
        with safe_open(file, framework="pt") as content:
            found |= {name: content.get_tensor(name) for name in content.keys()}  # noqa: SIM118
    return found


def test_to_megatron_and_back_is_bit_exact(stage, tmp_path):
    stage.actor.export_hf(tmp_path / "back")
    before, after = tensors_in(MODEL), tensors_in(tmp_path / "back")
    assert len(before) == 272  # 30 layers of 9, the tied embedding, the last norm
    assert before.keys() == after.keys()
    for name, tensor in before.items():
        assert tensor.dtype == after[name].dtype and torch.equal(
            tensor.view(torch.int32), after[name].view(torch.int32)
        ), name


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_the_server_answers_with_the_new_weights(stage, transport):
    with torch.no_grad():
        for parameter in stage.actor.policy.parameters():
            parameter.mul_(1 + 0.01 * torch.randn_like(parameter))
    stage.poison()
    assert stage.largest_difference(stage.publish(stage.actor, transport)) <= 1e-3


@pytest.mark.parametrize("transport", TRANSPORTS)
def test_one_changed_element_is_caught(stage, transport):
    spoiling = SpoilingTransport(
        stage.transports[transport], "model.layers.17.self_attn.k_proj.weight", (100, 7)
    )
    with pytest.raises(
        WeightPublishError, match=r"1 tensors: .*layers\.17\.self_attn\.qkv_proj\.weight differs"
    ):
        stage.publish(stage.actor, spoiling, verify=True)
    stage.publish(stage.actor, transport, verify=True)


def test_a_tensor_that_is_left_out_is_seen(stage):
    stage.poison()
    left_out = "model.layers.29.mlp.down_proj.weight"
    version = stage.publish(
        Poison(stage.actor, lambda name, x: None if name == left_out else (name, x))
    )
    assert stage.largest_difference(version) > 1e-2
