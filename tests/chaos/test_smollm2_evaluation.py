"""`ar3po evaluate` of a real checkpoint, SmolLM2-135M, with a real server on real benchmarks, beside a plain loop in
transformers. Downloads 93 MB once; ten minutes and more on two cores."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from megatron_ar3po.platform.torchvision_schemas import ensure_torchvision_schemas

pytestmark = pytest.mark.chaos

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / ".cache/smollm2_arithmetic"
TIME_LIMIT_S = 3600
ROWS = 50


@pytest.fixture(scope="module")
def suite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """50 rows of GSM8K and of SVAMP as one user message each, and the few-shot arithmetic of the example."""
    data = os.environ.get("AR3PO_TEST_DATA")
    if not data:
        pytest.skip("AR3PO_TEST_DATA names no folder: 2 sets of 50 rows are not evaluated")
    command = [sys.executable, "tools/make_smollm2.py", "--out", str(FOLDER)]
    subprocess.run(command, cwd=ROOT, check=True, timeout=900)
    asked = {"prompt_field": "problem", "apply_chat_template": True, "max_prompt_tokens": 400}
    problems = Path(data) / "problems"
    sets = {
        "gsm8k": {
            "path": str(problems / "gsm8k_test.jsonl"),
            "max_response_tokens": 96,
            "max_prompts": ROWS,
            "data": asked,
        },
        "svamp": {
            "path": str(problems / "svamp.jsonl"),
            "max_response_tokens": 64,
            "max_prompts": ROWS,
            "data": asked,
        },
        "arithmetic": {
            "path": str(FOLDER / "heldout.jsonl"),
            "max_response_tokens": 16,
            "stop_token_ids": [198, 1116],
        },
    }
    common = {
        "samples": 1,
        "temperature": 0.0,
        "verifier": "last_number",
        "rewards": {"truncated": "grade"},
    }
    path = tmp_path_factory.mktemp("suite") / "suite.yaml"
    path.write_text(yaml.safe_dump({"defaults": common, "sets": sets}))
    return path


def evaluate(suite: Path, folder: Path) -> dict:
    words = ["evaluate", FOLDER / "model", "--suite", suite, "--json", "--out", folder / "out"]
    words += ["--store", folder / "items", "run.deterministic=true", "model.dtype=float32"]
    words += ["servers.max_total_tokens=16384"]
    done = subprocess.run(
        [sys.executable, "-m", "megatron_ar3po.cli", *map(str, words)],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT_S,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def first(suite, tmp_path_factory) -> tuple[Path, dict]:
    folder = tmp_path_factory.mktemp("first")
    return folder, evaluate(suite, folder)


def test_a_second_evaluation_generates_nothing_and_says_the_same(suite, first):
    folder, result = first
    again = evaluate(suite, folder)
    for name, found in result["sets"].items():
        assert again["sets"][name] == found | {"generated": 0, "reused": found["generated"]}


def test_one_set_is_neither_hopeless_nor_solved(first):
    """So that equal figures mean something."""
    rates = {name: found["pass_at_1"] for name, found in first[1]["sets"].items()}
    assert any(0.2 <= rate <= 0.8 for rate in rates.values()), rates


def last_number(text: str) -> str:
    return (re.findall(r"-?\d+", text.replace(",", "")) or [""])[-1]


def test_the_figures_are_those_of_a_plain_loop_in_transformers(suite, first):
    """One prompt at a time, greedy. Graded by hand: the last number of the answer."""
    folder, result = first
    ensure_torchvision_schemas()
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(FOLDER / "model", dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(FOLDER / "model")
    rows = [json.loads(line) for line in (folder / "out/responses.jsonl").open()]
    for name, asked in yaml.safe_load(suite.read_text())["sets"].items():
        mine = [row for row in rows if row["set"] == name]
        lines = Path(asked["path"]).read_text("utf-8").splitlines()
        problems = [json.loads(line) for line in lines]
        problems = problems[: asked.get("max_prompts")]
        assert [row["answer"] for row in mine] == [problem["answer"] for problem in problems]
        right = 0
        for row, problem in zip(mine, problems, strict=True):
            text = problem.get("prompt")
            if text is None:
                chat = [{"role": "user", "content": problem["problem"]}]
                text = tokenizer.apply_chat_template(
                    chat, tokenize=False, add_generation_prompt=True
                )
            assert row["prompt"] == text
            ids = tokenizer(text, return_tensors="pt", add_special_tokens=False).input_ids
            found = model.generate(
                ids,
                do_sample=False,
                max_new_tokens=asked["max_response_tokens"],
                eos_token_id=[tokenizer.eos_token_id, *asked.get("stop_token_ids", [])],
                pad_token_id=0,
            )
            answer = tokenizer.decode(found[0, ids.shape[1] :], skip_special_tokens=True)
            assert last_number(answer) == last_number(row["responses"][0]["text"])
            right += last_number(answer) == last_number(problem["answer"])
        assert right / len(mine) == pytest.approx(result["sets"][name]["pass_at_1"])
