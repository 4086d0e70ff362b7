"""What is refused before anything starts: by the trainer, by --dry-run and by `ar3po plan` alike. No server runs here;
that a run which passes does start is what tests/e2e shows."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from megatron_ar3po.cli import main
from megatron_ar3po.config.load import load_config
from megatron_ar3po.distributed.layout import ParallelLayout
from megatron_ar3po.hf_folder import check_weight_files
from megatron_ar3po.wiring.start_checks import check_data, check_start


@pytest.fixture
def words(tiny_task: Path) -> list[str]:
    return [
        f"model.path={tiny_task}/model",
        f"data.path={tiny_task}/train.jsonl",
        "data.max_prompt_tokens=10",
        "rollout.max_response_tokens=8",
    ]


def check(*words: str, has_gpu: bool | None = None) -> None:
    config = load_config([], words)
    check_start(config, ParallelLayout(), has_gpu=has_gpu)
    check_data(config)


def refusal(*words: str, has_gpu: bool | None = None) -> str:
    with pytest.raises(ValueError) as error:
        check(*words, has_gpu=has_gpu)
    return str(error.value)


def copy_of_model(tiny_task: Path, folder: Path, **changes: object) -> Path:
    """With these settings in config.json; None takes one out."""
    folder.mkdir()
    for file in (tiny_task / "model").iterdir():
        (folder / file.name).write_bytes(file.read_bytes())
    settings = json.loads((folder / "config.json").read_text()) | changes
    kept = {name: value for name, value in settings.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(kept))
    return folder


def write_weights(file: Path, dtype: str, num_bytes: int, *, cut: int = 0) -> None:
    """One tensor of so many bytes, as safetensors lays it out: the header's length, the header, the data."""
    entry = {"dtype": dtype, "shape": [num_bytes], "data_offsets": [0, num_bytes]}
    header = json.dumps({"model.embed_tokens.weight": entry}).encode()
    file.write_bytes(struct.pack("<Q", len(header)) + header + bytes(num_bytes - cut))


def test_a_run_that_can_start_passes(words):
    check(*words)


def test_prompts_of_10_and_responses_of_8_need_a_kv_cache_of_20(words):
    """SGLang keeps two tokens of it free."""
    said = refusal(*words, "servers.max_total_tokens=8")
    assert said == (
        "servers.max_total_tokens=8, which rules where there is no GPU, as here: the KV cache is smaller than one "
        "prompt with its response, which take 20 tokens (data.max_prompt_tokens=10, rollout.max_response_tokens=8, "
        "and what the server keeps); raise it to at least 20, or lower one of the two."
    )
    assert "servers.max_total_tokens=19" in refusal(*words, "servers.max_total_tokens=19")
    check(*words, "servers.max_total_tokens=20")


def test_with_short_responses_the_server_keeps_seven_tokens_behind_a_prompt(words):
    short = [*words, "rollout.max_response_tokens=1"]
    assert "take 17 tokens" in refusal(*short, "servers.max_total_tokens=16")
    check(*short, "servers.max_total_tokens=17")


def test_on_a_gpu_the_server_finds_its_kv_cache_itself_unless_it_is_told(words):
    check(*words, "servers.max_total_tokens=8", has_gpu=True)
    said = refusal(*words, "servers.sglang.max_total_tokens=8", has_gpu=True)
    assert said.startswith(
        "servers.sglang.max_total_tokens=8: the KV cache is smaller than one prompt"
    )


def test_a_sequence_must_fit_a_micro_batch_and_the_context(words):
    assert "actor.max_tokens_per_microbatch=17" in refusal(
        *words, "actor.max_tokens_per_microbatch=17"
    )
    assert "data.max_prompt_tokens=1000000" in refusal(*words, "data.max_prompt_tokens=1000000")


def test_a_verifier_that_there_is_not_is_refused(words, tmp_path, monkeypatch):
    assert refusal(*words, "rewards.verifier=maths").startswith("rewards.verifier=maths is neither")
    said = refusal(*words, "rewards.verifier=no_such_module:grader")
    assert said.startswith("rewards.verifier=no_such_module:grader cannot grade.")
    assert "no module 'no_such_module'" in said


def test_the_verifier_of_a_source_is_looked_at_as_the_one_of_all(words):
    said = refusal(*words, "rewards.by_source.sums=no_such_module:grader")
    assert said.startswith("rewards.by_source.sums: rewards.verifier=no_such_module:grader cannot")
    assert "maths is neither" in refusal(*words, "rewards.by_source.sums=maths")
    penalty = "rewards.by_source.sums={verifier: math, overlong_penalty_tokens: 8}"
    assert "sums.overlong_penalty_tokens=8 needs a longer rollout" in refusal(*words, penalty)
    for value, said in (("true", "tolerance=true: it must be a number"), ("-1", "is out of range")):
        flag = f"rewards.by_source.sums={{verifier: math, tolerance: {value}}}"
        assert said in refusal(*words, flag)
    infinite = "rewards.by_source.sums={verifier: math, correct: .inf}"
    assert "rewards.correct=inf is out of range" in refusal(*words, infinite)


def test_a_model_by_its_name_on_the_hub_is_told_how_to_fetch_it(words):
    said = refusal(*words, "model.path=Qwen/Qwen2.5-7B")
    assert "`hf download Qwen/Qwen2.5-7B --local-dir FOLDER`" in said
    assert "holds no config.json" in refusal(*words, "model.path=tests/Qwen2.5-7B")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"architectures": None}, "names no architecture (architectures=None)"),
        ({"architectures": []}, "names no architecture (architectures=[])"),
        ({"architectures": [5]}, "names no architecture (architectures=[5])"),
        ({"quantization_config": {"quant_method": "fp8"}}, "is quantised"),
        ({"rms_norm_eps": "small"}, "rms_norm_eps='small', which must be above 0 and below 1"),
    ],
)
def test_a_config_json_that_no_model_can_be_built_from_is_refused(
    words, tiny_task, tmp_path, changes, said
):
    folder = copy_of_model(tiny_task, tmp_path / "model", **changes)
    found = refusal(*words, f"model.path={folder}")
    assert said in found and f"model.path={folder}" in found


def test_a_config_json_that_says_that_nothing_is_quantised_passes(words, tiny_task, tmp_path):
    folder = copy_of_model(tiny_task, tmp_path / "model", quantization_config={})
    check(*words, f"model.path={folder}")


@pytest.mark.parametrize("dtype", ["I8", "F8_E4M3", "U8"])
def test_quantised_weights_are_refused_by_their_type(tmp_path, dtype):
    write_weights(tmp_path / "model.safetensors", dtype, 16)
    with pytest.raises(ValueError, match=rf"model.embed_tokens.weight as {dtype}: .* quantised"):
        check_weight_files(tmp_path)


def test_weights_that_are_not_there_or_cut_short_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"holds no \*.safetensors"):
        check_weight_files(tmp_path)
    write_weights(tmp_path / "model.safetensors", "F32", 16, cut=4)
    with pytest.raises(ValueError, match=r"no whole safetensors file"):
        check_weight_files(tmp_path)
    write_weights(tmp_path / "model.safetensors", "BF16", 0)
    check_weight_files(tmp_path)
    index = {"weight_map": {"a": "model.safetensors", "b": "model-2.safetensors"}}
    (tmp_path / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ValueError, match=r"lacks 1 files .* first model-2.safetensors"):
        check_weight_files(tmp_path)


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("servers.sglang.mem_fraction=0.5", "servers.sglang.mem_fraction is no option"),
        ("servers.sglang.mem_fraction_static=7", "=7 is no share of a GPU's memory"),
        ("servers.sglang.mem_fraction_static=much", "='much' is no share of a GPU's memory"),
        ("servers.sglang.context_length=19", "which take 20 tokens (data.max_prompt_tokens=10"),
        ("actor.megatron.num_layerss=2", "actor.megatron.num_layerss is no option"),
        ("actor.megatron.attention_dropout=much", "should be a valid number"),
        ("actor.megatron.activation_func=silu", "actor.megatron.activation_func"),
        ("servers.urls=[http://a:1,http://b:1]", "names 2 server(s), but 1 replica(s)"),
        ("model.megatron_path=nowhere", "model.megatron_path=nowhere is no folder"),
        ("model.megatron_path=tests", "tests is no Megatron distributed checkpoint: no .metadata"),
        ("servers.urls=[a:1]", "a:1 is no server; write http://HOST:PORT"),
        ("rewards.overlong_penalty_tokens=8", "needs a longer rollout.max_response_tokens"),
        ("rollout.prompts_per_step=301", "is more than the 300 prompts of data.path"),
        ("rollout.stage_rule=no_such_module:rule", "rollout.stage_rule=no_such_module:rule"),
    ],
)
def test_what_would_end_a_run_after_its_servers_had_started_is_refused_before(words, word, said):
    assert said in refusal(*words, word)


def test_the_last_port_must_exist(words):
    config = load_config([], [*words, "servers.port=65534", "servers.servers_per_replica=3"])
    with pytest.raises(ValueError, match=r"first of 3 ports, .* use at most 65533"):
        check_start(config, ParallelLayout())


def test_a_dry_run_and_a_plan_read_the_prompts_and_refuse_what_the_trainer_refuses(
    words, tiny_task, tmp_path, capsys
):
    """A prompt of 11 tokens, a ground truth that last_number cannot grade, a KV cache of 8."""
    (tmp_path / "long.jsonl").write_text(json.dumps({"prompt": "1+1+1+1+1+=", "answer": "5"}))
    (tmp_path / "odd.jsonl").write_text(json.dumps({"prompt": "1+1=", "answer": "two"}))
    (tmp_path / "config.yaml").write_text("rewards: {verifier: last_number}\n")
    config = str(tmp_path / "config.yaml")
    commands = ["train", config, "--dry-run"], ["plan", config, "--gpus-per-node", "1"]
    for command in commands:
        assert main([*command, *words]) == 0
        for word, said in (
            (f"data.path={tmp_path}/long.jsonl", "long.jsonl:1: 11 tokens"),
            (f"data.path={tmp_path}/odd.jsonl", "'two' is no plain integer or decimal"),
            ("servers.sglang.max_total_tokens=8", "the KV cache is smaller"),
            ("rewards.verifier=no_such_module:grader", "cannot grade"),
        ):
            capsys.readouterr()
            assert main([*command, *words, word]) == 2, word
            assert said in capsys.readouterr().err


def test_a_plan_for_a_model_that_is_elsewhere_says_what_it_has_not_looked_at(
    words, tiny_task, capsys
):
    config = "examples/qwen2.5_7b_dapo_math/config.yaml"
    assert main(["plan", config]) == 0
    assert "cannot be found here, so weights, prompts and ground truths" in capsys.readouterr().out
    assert main(["plan", config, "rewards.verifier=no_such_module:grader"]) == 2
