"""What a comparison refuses before its first server starts. No server runs here."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from megatron_ar3po.cli import main
from megatron_ar3po.comparison import cli


@pytest.fixture
def compare(tiny_task, tmp_path, monkeypatch):
    """The exit code of a comparison with these words behind its options, and whether it came as far as its runs."""
    came_to_runs: list[Path] = []

    def run_all(experiment, out, **kwargs):
        came_to_runs.append(out)
        return []

    monkeypatch.setattr(cli, "run_all", run_all)
    config = tmp_path / "config.yaml"
    config.write_text(
        f"model: {{path: {tiny_task}/model}}\n"
        f"data: {{path: {tiny_task}/train.jsonl, max_prompt_tokens: 8}}\n"
        f"evaluation: {{path: {tiny_task}/heldout.jsonl}}\n"
        "rollout: {max_response_tokens: 8}\n"
    )

    def compare(*words: str) -> tuple[int, bool]:
        came_to_runs.clear()
        options = ["--algorithms=ar3po,k_2", "--seeds=2", f"--out={tmp_path}/out"]
        return main(["compare-algorithms", str(config), *options, *words]), bool(came_to_runs)

    return compare


def test_a_comparison_looks_at_each_variant_and_its_prompts_before_a_server_starts(
    compare, tmp_path, capsys
):
    """Without it the servers load, and every run of every seed fails with exit code 2."""
    _, came_to_runs = compare()  # there is nothing to report
    assert came_to_runs
    bad = tmp_path / "bad.jsonl"
    bad.write_text(json.dumps({"prompt": "1+1=", "answer": 2}))
    for word, said in (
        (f"data.path={bad}", f"variant ar3po: {bad}:1: the answer 'answer' is 2"),
        ("servers.max_total_tokens=8", "variant ar3po: servers.max_total_tokens=8, which"),
        ("actor.tensor_parallel_size=2", "variant ar3po: "),
        ("rewards.by_source={sums: math}", "rewards.by_source names no verifier"),
    ):
        capsys.readouterr()
        assert compare(word) == (2, False), word
        assert said in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
