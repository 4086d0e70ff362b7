"""Prompts read in a process without torch are those read beside it, and servers are started before there is any."""

from __future__ import annotations

import json
import logging
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from harness.trainer_runs import ROOT

from megatron_ar3po.config.load import load_config
from megatron_ar3po.config.schema import Config
from megatron_ar3po.data.tokenizer import LateTokenizer
from megatron_ar3po.wiring import prompt_reading
from megatron_ar3po.wiring.prompt_reading import read_prompts

NOW = datetime(2026, 1, 2)


@pytest.fixture
def config(tiny_task: Path, tmp_path: Path) -> Config:
    """A model with a chat template; the last of the lines is too long, and left out with a warning."""
    model = tmp_path / "model"
    shutil.copytree(tiny_task / "model", model)
    template = "{% for message in messages %}{{ message.content }}={% endfor %}"
    (model / "chat_template.jinja").write_text(template)
    rows = [{"prompt": [{"role": "user", "content": f"{n}+1"}], "answer": "1"} for n in range(9)]
    rows.append({"prompt": "1+" * 30, "answer": "1"})
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    words = [
        f"model.path={model}",
        f"data.path={tmp_path}/train.jsonl",
        "data.overlong_prompts=skip",
        "evaluation.path=",
    ]
    return load_config([ROOT / "examples/tiny_sum/config.yaml"], words)


def test_a_process_of_their_own_reads_the_same_prompts_and_says_the_same(config, caplog):
    caplog.set_level(logging.INFO)
    here = read_prompts(config, LateTokenizer(config.model.path), NOW)
    said_here = [(r.name, r.levelno, r.getMessage()) for r in caplog.records]
    caplog.clear()
    apart = prompt_reading._read_apart(config, NOW)
    assert apart == here and len(here.training) == 9
    assert [(r.name, r.levelno, r.getMessage()) for r in caplog.records] == said_here
    assert any("left out, as data.overlong_prompts=skip says" in said for *_, said in said_here)


def test_what_it_refuses_is_refused_here_in_its_words(config):
    refuses = replace(config, data=replace(config.data, overlong_prompts="refuse"))
    with pytest.raises(ValueError, match=r"1 of .* prompts have more tokens than data") as refused:
        prompt_reading._read_apart(refuses, NOW)
    assert type(refused.value) is ValueError


START = """
import sys
from megatron_ar3po.cli import main
from megatron_ar3po.wiring import servers

def make_server(*args, **kwargs):
    raise ValueError("imported: " + " ".join({name.partition(".")[0] for name in sys.modules}))

servers.make_server = make_server
sys.exit(main(["train", *sys.argv[1:]]))
"""


def test_a_server_is_started_before_torch_is_imported(tiny_task, tmp_path):
    """The whole start of a run, up to its first server, which imports while the prompts are read."""
    words = [
        str(ROOT / "examples/tiny_sum/config.yaml"),
        f"model.path={tiny_task}/model",
        f"data.path={tiny_task}/train.jsonl",
        f"evaluation.path={tiny_task}/heldout.jsonl",
        f"run.dir={tmp_path}/run",
    ]
    done = subprocess.run(
        [sys.executable, "-c", START, *words], capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 2, done.stderr
    first, last = done.stderr.splitlines()
    assert first.endswith(f" tiny_sum: 130 steps, in {tmp_path}/run")
    imported = set(last.removeprefix("ar3po: error: imported: ").split())
    assert "megatron_ar3po" in imported
    assert imported & {"torch", "sglang", "megatron", "transformers", "sympy"} == set()
