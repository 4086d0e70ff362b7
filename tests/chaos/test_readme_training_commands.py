"""The training commands of the root README and of examples/tiny_sum, as a reader gives them, one after the other; only
the number of steps and of held-out prompts is smaller. Not run: `sbatch`, `ar3po plan` and `ar3po launch`
(tests/slurm/test_readme_commands.py), `docker` (test_cpu_image.py), `make`, and what needs the network.
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from harness.trainer_runs import ROOT

pytestmark = [pytest.mark.chaos, pytest.mark.timeout(3600)]

SHORTER = "run.num_steps=1 evaluation.max_prompts=8 evaluation.samples_per_prompt=2"
ELSEWHERE = ("sbatch", "docker", "make", "ar3po plan", "ar3po launch")
PAGES = {"README.md": 7, "examples/tiny_sum/README.md": 6}


def commands_of(page: str) -> list[str]:
    text = (ROOT / page).read_text().replace("\\\n", " ")
    blocks = re.findall(r"^```(?:bash)?\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    lines = [line.partition("  #")[0].strip() for block in blocks for line in block.splitlines()]
    programs = ("ar3po ", "torchrun ", ".venv/bin/", *ELSEWHERE)
    return [line for line in lines if line.startswith(programs)]


@pytest.mark.parametrize("page", PAGES)
def test_the_training_commands_of_a_page_work_in_their_order(page, tmp_path):
    for name in ("examples", "megatron_ar3po"):
        (tmp_path / name).symlink_to(ROOT / name)
    shutil.copytree(ROOT / "tools", tmp_path / "tools")  # they write into the .cache beside them
    (tmp_path / ".venv").symlink_to(Path(sys.executable).parents[1])
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    env = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    commands = [c for c in commands_of(page) if not c.startswith(ELSEWHERE)]
    commands.sort(key=lambda c: "make_tiny_model" not in c)  # the model first
    assert len(commands) >= PAGES[page]
    if page == "README.md":
        (tmp_path / ".cache").symlink_to(ROOT / ".cache")

    for command in commands:
        trains = " train " in command or "megatron_ar3po.train" in command
        done = subprocess.run(
            ["bash", "-c", f"{command} {SHORTER if trains else ''}"],
            cwd=tmp_path,
            env=env,
            capture_output=True,
            text=True,
            timeout=900,
            check=False,
        )
        assert done.returncode == 0, f"{command}\n{done.stdout[-2000:]}{done.stderr[-3000:]}"

    assert (tmp_path / "runs" / "mine" / "DONE").exists()
