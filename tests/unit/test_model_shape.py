"""What is read of a `config.json`. What the actor refuses and how layouts cut a model: actor/test_hf_weights.py."""

from __future__ import annotations

from pathlib import Path

import pytest
from fakes.model_config import write_model_config

from megatron_ar3po.model_shape import read_model_shape, read_policy_shape


def test_what_a_config_leaves_out_has_the_value_of_its_architecture(tmp_path: Path) -> None:
    """8 hidden and 4 heads: 2 a head, but for Qwen3, whose heads have 128 whatever the hidden size."""
    left_out = {"num_key_value_heads": None, "tie_word_embeddings": None, "rope_theta": None}
    qwen2 = read_model_shape(write_model_config(tmp_path, **left_out))
    assert (qwen2.num_kv_heads, qwen2.head_dim, qwen2.rope_theta) == (4, 2, 10000.0)
    assert qwen2.has_qkv_bias and not qwen2.has_qk_norm
    qwen3 = read_model_shape(write_model_config(tmp_path, architectures=["Qwen3ForCausalLM"]))
    assert (qwen3.num_kv_heads, qwen3.head_dim) == (2, 128)
    assert qwen3.has_qk_norm and not qwen3.has_qkv_bias


def test_servers_take_a_decoder_that_the_actor_cannot_build(tmp_path: Path) -> None:
    folder = write_model_config(
        tmp_path, architectures=["MistralForCausalLM"], rope_scaling={"type": "yarn"}
    )
    shape = read_model_shape(folder)
    assert (shape.architecture, shape.max_positions) == ("MistralForCausalLM", 64)
    with pytest.raises(ValueError, match="is a MistralForCausalLM checkpoint, which the actor"):
        read_policy_shape(folder)


def test_a_file_by_itself_is_named_without_an_option(tmp_path: Path) -> None:
    file = write_model_config(tmp_path, hidden_act="gelu") / "config.json"
    with pytest.raises(ValueError, match=rf"^{file} sets hidden_act='gelu'"):
        read_policy_shape(file)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", r"config\.json is not JSON \(Expecting property name .*copy the checkpoint again"),
        ("[]", r"config\.json holds no JSON object; copy the checkpoint again"),
        ("{}", r"config\.json names no architecture \(architectures=None\)"),
        (
            '{"architectures": ["Qwen2ForCausalLM"]}',
            r"config\.json has num_attention_heads=None, which must be a whole number",
        ),
    ],
)
def test_a_file_that_is_no_config_says_what_is_wrong(
    tmp_path: Path, content: str, message: str
) -> None:
    (tmp_path / "config.json").write_text(content)
    with pytest.raises(ValueError, match=message):
        read_model_shape(tmp_path)


@pytest.mark.parametrize("value", [None, 0, -1, 2.5, "2", True])
def test_a_count_that_is_none_is_named(tmp_path: Path, value: object) -> None:
    write_model_config(tmp_path, num_hidden_layers=value)
    with pytest.raises(ValueError, match=rf"model\.path=.* has num_hidden_layers={value!r}, which"):
        read_model_shape(tmp_path)


def test_no_path_says_what_to_name() -> None:
    with pytest.raises(ValueError, match=r"model\.path=\(empty\) holds no config\.json; name the"):
        read_model_shape("")


LLAMA3 = {"rope_type": "llama3", "low_freq_factor": 1.0, "high_freq_factor": 4.0}


@pytest.mark.parametrize(
    ("rope", "sentence"),
    [
        (LLAMA3, r"asks for rope_type=llama3 without 'factor'; copy the checkpoint again"),
        ("x", r"the rope settings of config.json cannot be read"),
        ({**LLAMA3, "factor": "eight"}, r"cannot be read \(could not convert string to float"),
    ],
    ids=["a factor is missing", "no object", "no number"],
)
def test_rope_settings_that_cannot_be_read_are_a_sentence(tmp_path, rope, sentence) -> None:
    folder = write_model_config(tmp_path, rope_scaling=rope)
    with pytest.raises(ValueError, match=rf"model\.path=.*: .*{sentence}"):
        read_model_shape(folder)


def test_an_architecture_that_is_no_list_is_read_whole(tmp_path) -> None:
    folder = write_model_config(tmp_path, architectures="Qwen3ForCausalLM")
    assert read_model_shape(folder).architecture == "Qwen3ForCausalLM"
