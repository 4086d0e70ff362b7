"""What a comparison refuses before its first server starts. No server runs here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megatron_ar3po.cli import main
from megatron_ar3po.comparison.experiment import from_command_line, from_file
from megatron_ar3po.comparison.runner import check_runs


@pytest.fixture
def config(tiny_task: Path, tmp_path: Path) -> Path:
    file = tmp_path / "config.yaml"
    file.write_text(
        f"model: {{path: {tiny_task}/model}}\n"
        f"data: {{path: {tiny_task}/train.jsonl, max_prompt_tokens: 8}}\n"
        f"evaluation: {{path: {tiny_task}/heldout.jsonl}}\n"
        "rollout: {max_response_tokens: 8}\n"
    )
    return file


def test_a_comparison_that_can_start_passes(config, tmp_path):
    check_runs(from_command_line(config, "ar3po,k_2", 2, []), tmp_path / "out")


def test_a_comparison_looks_at_each_variant_and_its_prompts_before_a_server_starts(
    config, tmp_path, capsys
):
    """Without it the servers load, and every run of every seed fails with exit code 2."""
    bad = tmp_path / "bad.jsonl"
    bad.write_text(json.dumps({"prompt": "1+1=", "answer": 2}))
    command = ["compare-algorithms", str(config), "--algorithms=ar3po,k_2", f"--out={tmp_path}/out"]
    for word, said in (
        (f"data.path={bad}", f"variant ar3po: {bad}:1: the answer 'answer' is 2"),
        ("servers.max_total_tokens=8", "variant ar3po: servers.max_total_tokens=8, which"),
        ("actor.tensor_parallel_size=2", "variant ar3po: "),
        ("rewards.by_source={sums: math}", "rewards.by_source names no verifier"),
    ):
        capsys.readouterr()
        assert main([*command, word]) == 2, word
        assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_prompts_are_read_once_for_all_variants_that_read_the_same(config, tmp_path):
    """Of a grid of 48 settings each took seconds, before anything ran."""
    words = {"a": "actor.learning_rate=1e-4", "b": "rollout.num_stages=1"}
    words |= {"c": "rollout.prompts_per_step=8", "d": "rewards.verifier=last_number"}
    file = tmp_path / "grid.yaml"
    variants = {name: ["algorithm.name=ar3po", word] for name, word in words.items()}
    file.write_text(json.dumps({"config": str(config), "seeds": 2, "variants": variants}))
    read: list[str] = []
    check_runs(
        from_file(file),
        tmp_path / "out",
        read_data=lambda found: read.append(found.rewards.verifier),
    )
    assert read == ["math", "math", "last_number"]  # a (and b), c, d
