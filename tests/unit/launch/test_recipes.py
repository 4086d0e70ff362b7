"""NeMo-Run plans against golden text; nothing is started and no cluster is asked."""

from __future__ import annotations

import argparse
import io
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_ar3po.cli import main
from megatron_ar3po.config.command_line import parse_with_late_words

nemo_config = pytest.importorskip(
    "nemo_run.config", reason="NeMo-Run is an extra: pip install 'megatron_ar3po[launch]'"
)

ROOT = Path(__file__).resolve().parents[3]
GOLDEN = Path(__file__).resolve().parent / "golden"


def without_paths(text: str, tmp_path: Path) -> str:
    text = re.sub(r"_\d{19}", "_ID", text)
    return (
        text.replace(str(tmp_path), "HERE")
        .replace(sys.executable, "PYTHON")
        .replace(str(ROOT), "ROOT")
    )


def batch_script_of(text: str) -> str:
    """Without what differs from commit to commit: the name of the code, which has a test of its own."""
    lines = [line.strip() for line in text.splitlines()]
    script = lines[lines.index("#!/bin/bash") :]
    kept = [line for line in script if line and not line.startswith("# Run with")]
    return re.sub(r"AR3PO_CODE=\S+", "AR3PO_CODE=CODE", "\n".join(kept)) + "\n"


CONTAINER = ["--account=rl", "--partition=batch", "--container-image=/images/ar3po.sqsh"]
GOLDEN_PLANS = {
    "qwen2.5_32b": ["qwen2.5_32b_dapo_math", "debug.dump_steps=[1, 2]", "--nodes=4", *CONTAINER],
    "bare_metal": [
        "qwen2.5_7b_dapo_math", "--account=rl", "--qos=high", "--reservation=spring", "--env=NOTE=a b",
        "--env=NCCL_SOCKET_IFNAME=bond0", "--sbatch=constraint=h200", "--sbatch=mail-type=END", "--srun=--mpi=none",
        "--srun=--wait=900", "--retries=1", "--warn-s=900",
    ],
    "files_in_container": ["qwen2.5_7b_dapo_math", "--code=files", "--container-mount=/models:/models:ro", *CONTAINER],
    "image": ["qwen2.5_7b_dapo_math", "--code=image", *CONTAINER],
    "files_by_ssh": ["qwen2.5_7b_dapo_math", "--code=files", "--account=rl", "--ssh=me@login", "--workdir=/shared/me"],
}  # fmt: skip


@pytest.mark.parametrize("name", GOLDEN_PLANS)
def test_the_batch_script_is_the_golden_one(name, tmp_path, monkeypatch, capfd):
    """To accept a change: write the text that the assertion shows into golden/."""
    example, *words = GOLDEN_PLANS[name]
    config = str(ROOT / "examples" / example / "config.yaml")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NEMORUN_HOME", str(tmp_path / "runs/nemo"))
    before = nemo_config.get_nemorun_home()
    nemo_config.set_nemorun_home(str(tmp_path / "runs/nemo"))  # read when it was imported
    monkeypatch.setattr(sys, "stdin", io.StringIO())  # NeMo-Run reads it while it packs
    try:
        assert main(["launch", "slurm", config, *words, "--dryrun"]) == 0
    finally:
        nemo_config.set_nemorun_home(before)
    script = batch_script_of(without_paths(capfd.readouterr().out, tmp_path))
    assert script == (GOLDEN / f"{name}.sbatch").read_text()
    shown = subprocess.run(["bash", "-n"], input=script, text=True, capture_output=True, timeout=30)
    assert shown.returncode == 0, shown.stderr


def test_what_a_dry_run_prints_can_be_copied(tmp_path):
    """On a terminal of 80 columns too, whatever is behind it: unwrapped, not indented, and bash takes it."""
    config = str(ROOT / "examples/tiny_sum/config.yaml")
    words = [sys.executable, "-m", "megatron_ar3po.cli", "launch", "slurm", config, "--dryrun"]
    done = subprocess.run(
        [*words, "--gpus-per-node=0", "--account=rl"],
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "80", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    hint, _, script = done.stdout.partition("\n#!/bin/bash\n")
    assert hint.endswith(": save what follows as FILE, then: sbatch --requeue --parsable FILE")
    assert "\n#SBATCH --account=rl\n" in script
    subprocess.run(["bash", "-n"], input=script, text=True, check=True, timeout=30)
    [chdir] = re.findall(r"--chdir (\S+)", script)
    assert Path(chdir).is_dir()  # srun would find it


def test_a_sweep_plans_one_run_for_each_combination(tmp_path, monkeypatch, capfd):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("NEMORUN_HOME", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "2000")
    config = str(ROOT / "examples/qwen2.5_7b_dapo_math/config.yaml")
    sweep = ["--vary=run.seed=1,2", "--vary=algorithm.name=ar3po,grpo"]
    assert main(["launch", "local", config, "--gpus-per-node=8", *sweep, "--dryrun"]) == 0
    text = capfd.readouterr().out
    for name in ("seed_1_name_ar3po", "seed_1_name_grpo", "seed_2_name_ar3po", "seed_2_name_grpo"):
        assert f"run.name=qwen2.5_7b_{name}" in text


def test_a_variant_that_cannot_start_is_refused_before_anything_is_submitted(tmp_path, monkeypatch):
    monkeypatch.setenv("NEMORUN_HOME", str(tmp_path))
    from megatron_ar3po.launch.cli import add_launch_parser

    parser = argparse.ArgumentParser()
    add_launch_parser(parser.add_subparsers())
    config = str(ROOT / "examples/qwen2.5_7b_dapo_math/config.yaml")
    arguments = parser.parse_args(
        ["launch", "local", config, "--gpus-per-node=8", "--vary=algorithm.name=ar3po,ppo"]
    )
    with pytest.raises(ValueError, match=r"algorithm\.name=ppo"):
        arguments.command(arguments)


@pytest.mark.parametrize("name", ["ar3po_32b", "ar3po_7b", "ar3po_llama8b"])
def test_each_recipe_is_a_partial_of_the_function_every_launcher_ends_in(name):
    from megatron_ar3po.config.load import load_config
    from megatron_ar3po.launch import recipes
    from megatron_ar3po.launch.node import run_node

    recipe = getattr(recipes, name)(algorithm="grpo", overrides=["run.seed=7"])
    assert recipe.__fn_or_cls__ is run_node
    config = load_config([ROOT / recipe.config], recipe.overrides)
    assert (config.algorithm.name, config.run.seed, config.run.resume) == ("grpo", 7, True)


def test_a_script_says_the_same_as_its_recipe_and_is_quoted_for_slurm():
    from megatron_ar3po.launch.arguments import node_words
    from megatron_ar3po.launch.executors import local_executor, slurm_executor
    from megatron_ar3po.launch.recipes import as_script, training

    recipe = training("c.yaml", ["debug.dump_steps=[1, 2]"], workdir="/w")
    words = node_words("c.yaml", ["run.resume=true", "debug.dump_steps=[1, 2]"], nproc_per_node=8, gpus_per_node=8,
                       workdir="/w")  # fmt: skip
    assert as_script(recipe, local_executor()).args == words
    assert as_script(recipe, slurm_executor()).args[-1] == "'debug.dump_steps=[1, 2]'"


def test_a_sweep_without_values_is_refused():
    from megatron_ar3po.launch.recipes import variants

    with pytest.raises(
        ValueError, match=r"--vary run\.seed must be of the form option=value,value"
    ):
        list(variants("run", ["run.seed"]))


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--nodes=3"], r"rollout\.prompts_per_step=8 is below the data-parallel size 12"),
        (["actor.tensor_parallel_size=3"], "world size 8 does not fit actor.tensor_parallel_size=3"),
        (["--nproc-per-node=16"], "16 ranks are to start on nodes of 8 GPUs"),
        (["--nodes=2", "--nproc-per-node=3"], r"tensor_parallel_size=2 would cut .* nodes of 3 GPUs; use one of 1, 3"),
        (["actor.tensor_parallel_size=8"], r"does not divide num_attention_heads=28 .*; use 1, 2, 4"),
        (["--vary=run.seed=1,2", "run.dir=out"], "seed_1 and .*seed_2, which would both write run.dir=out; leave"),
        (["--time=00:10:00"], "--warn-s=600 warns 600 s before the time limit"),
        (["actor.pipeline_parallel_size=4"], r"gives each server 8 GPUs .*servers_per_replica=2 or 4 or 8"),
    ],
)  # fmt: skip
def test_a_layout_that_cannot_be_is_refused_on_the_login_node(
    words, message, tmp_path, monkeypatch
):
    """The model is not there: its shape is that of model_config.json beside the config. 28 heads are cut into 1, 2, 4
    by the actor and, 7 being no divisor of 8 GPUs, by a server."""
    monkeypatch.setenv("NEMORUN_HOME", str(tmp_path))
    from megatron_ar3po.launch.cli import add_launch_parser

    parser = argparse.ArgumentParser()
    add_launch_parser(parser.add_subparsers())
    config = str(ROOT / "examples/qwen2.5_7b_dapo_math/config.yaml")
    arguments = parse_with_late_words(
        parser, ["launch", "slurm", config, "--dryrun", "rollout.prompts_per_step=8", *words]
    )
    with pytest.raises(ValueError, match=message):
        arguments.command(arguments)
