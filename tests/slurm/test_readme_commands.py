"""Every bash command of the cluster examples' READMEs is run as it stands, in a copy of the repository's layout.

`sbatch` is asked with --test-only here: Slurm checks script, options and nodes; test_slurm_scripts.py runs the scripts.
`ar3po evaluate` finds its policy and settings here and samples in tests/e2e/test_main_job.py. Not run: the `console`
blocks, which need the network. That every command of every page can be given: tests/unit/test_documented_commands.py.
"""

from __future__ import annotations

import io
import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import pytest
from slurm_cluster import ROOT

from megatron_ar3po import cli
from megatron_ar3po.config.command_line import parse_with_late_words
from megatron_ar3po.config.load import load_config, to_yaml
from megatron_ar3po.distributed.rank_status import write_status
from megatron_ar3po.distributed.rank_watch import RankWatch
from megatron_ar3po.evaluation.cli import choose_sets
from megatron_ar3po.evaluation.subjects import find_subject
from megatron_ar3po.run.folder_format import write_format

EXAMPLES = ["qwen2.5_32b_dapo_math", "qwen2.5_7b_dapo_math", "llama3.1_8b_dapo_math"]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The repository's folders, tools that README commands call, and a run that has taken one step."""
    home = tmp_path / "checkout"
    home.mkdir()
    for name in ("examples", "launch_slurm", "megatron_ar3po"):
        (home / name).symlink_to(ROOT / name)
    (home / "bin").mkdir()
    (home / "bin" / "sbatch").write_text('#!/bin/bash\nexec /usr/bin/sbatch --test-only "$@"\n')
    (home / "bin" / "sbatch").chmod(0o755)
    return home


def write_run(run: Path, example: str) -> None:
    logs = run / "logs/job_1/restart_0"
    logs.mkdir(parents=True)
    (logs / "node_0.log").write_text("step 1\n")
    (run / "status").mkdir()
    write_status(run / "status", RankWatch(rank=0, world_size=1).status("ended"))
    row = {
        "step": 1,
        "eval/pass_at_1": 0.5,
        "rollout/responses_per_prompt": 5.7,
        "time/step_s": 1.0,
    }
    source = ROOT / "examples" / example
    config = load_config([source / "config.yaml"], [])
    (run / "resolved_config.yaml").write_text(to_yaml(config))
    write_format(run)
    for model in (run / "hf", run.parents[1] / config.model.path):
        model.mkdir(parents=True)
        (model / "config.json").write_text((source / "model_config.json").read_text())
    benchmark = run.parents[1] / config.evaluation.path
    benchmark.parent.mkdir()
    benchmark.touch()
    (run / "metrics.jsonl").write_text(
        json.dumps({"step": 0, "eval/pass_at_1": 0.4}) + "\n" + json.dumps(row) + "\n"
    )


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_bash_command_of_the_readme_works(example, cluster, checkout, monkeypatch, capfd):
    """`ar3po` is called in this process: importing torch for each command would cost most of the time."""
    readme = (ROOT / "examples" / example / "README.md").read_text()
    blocks = re.findall(r"```bash\n(.*?)```", readme, re.DOTALL)
    commands = [line for block in blocks for line in block.splitlines()]
    assert len(commands) >= 11
    report = re.search(r"ar3po report (\S+)", readme)
    assert report is not None
    write_run(checkout / report.group(1), example)
    env = {**cluster.env, "PATH": f"{checkout}/bin:{os.environ['PATH']}"}
    monkeypatch.chdir(checkout)
    monkeypatch.setenv("NEMORUN_HOME", f"{checkout}/runs/nemo")
    monkeypatch.setattr("sys.stdin", io.StringIO())  # NeMo-Run's shell calls read it

    for command in [*commands, f"examples/{example}/run.sh"]:
        if command.startswith("ar3po evaluate "):
            arguments = parse_with_late_words(cli.make_parser(), shlex.split(command)[1:])
            subject = find_subject(
                arguments.policy, files=arguments.config, words=arguments.overrides
            )
            [found] = choose_sets(subject.config, arguments)
            assert found.config.data.path == "data/math500.jsonl"
            continue
        if command.startswith("ar3po "):
            assert cli.main(shlex.split(command)[1:]) == 0, command
            continue
        done = subprocess.run(
            ["bash", "-c", command],
            env=env,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"

    assert "to start at" in done.stderr, done.stderr  # what --test-only answers to run.sh
    told = capfd.readouterr().out
    assert "responses  1024 to 2048 (2 stages of 4)" in told
    assert "_seed_3" in told
