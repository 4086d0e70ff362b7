"""Every bash command of the cluster examples' READMEs is run as it stands, in a copy of the repository's layout.

`sbatch` is asked with --test-only here: Slurm checks script, options and nodes; test_slurm_scripts.py runs the scripts.
Not run: the `console` blocks, which need the network.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from slurm_cluster import ROOT

EXAMPLES = ["qwen2.5_32b_dapo_math", "qwen2.5_7b_dapo_math", "llama3.1_8b_dapo_math"]


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The repository's folders, tools that README commands call, and a run that has taken one step."""
    home = tmp_path / "checkout"
    home.mkdir()
    for name in ("examples", "launch_slurm", "megatron_ar3po"):
        (home / name).symlink_to(ROOT / name)
    (home / "bin").mkdir()
    for name, words in {
        "sbatch": 'exec /usr/bin/sbatch --test-only "$@"',
        "ar3po": f'exec {sys.executable} -m megatron_ar3po.cli "$@"',
    }.items():
        (home / "bin" / name).write_text(f"#!/bin/bash\n{words}\n")
        (home / "bin" / name).chmod(0o755)
    return home


def write_run(run: Path) -> None:
    logs = run / "logs/job_1/restart_0"
    logs.mkdir(parents=True)
    (logs / "node_0.log").write_text("step 1\n")
    row = {
        "step": 1,
        "eval/pass_at_1": 0.5,
        "rollout/responses_per_prompt": 5.7,
        "time/step_s": 1.0,
    }
    (run / "metrics.jsonl").write_text(
        json.dumps({"step": 0, "eval/pass_at_1": 0.4}) + "\n" + json.dumps(row) + "\n"
    )


@pytest.mark.parametrize("example", EXAMPLES)
def test_every_bash_command_of_the_readme_works(example, cluster, checkout):
    readme = (ROOT / "examples" / example / "README.md").read_text()
    commands = [
        line
        for block in re.findall(r"```bash\n(.*?)```", readme, re.DOTALL)
        for line in block.splitlines()
    ]
    assert len(commands) >= 6
    write_run(checkout / re.search(r"ar3po report (\S+)", readme).group(1))
    env = {
        **cluster.env,
        "PATH": f"{checkout}/bin:{os.environ['PATH']}",
        "PYTHONPATH": str(checkout),
        "OMP_NUM_THREADS": "1",
    }
    for command in commands:
        done = subprocess.run(
            ["bash", "-c", command],
            cwd=checkout,
            env=env,
            capture_output=True,
            text=True,
            timeout=180,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
    done = subprocess.run(
        ["bash", f"examples/{example}/run.sh"],
        cwd=checkout,
        env=env,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert "to start at" in done.stderr, done.stderr  # what --test-only answers
