"""NeMo-Run plans against golden text; nothing is started and no cluster is asked."""

from __future__ import annotations

import argparse
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from megatron_ar3po.cli import main
from megatron_ar3po.config.command_line import parse_with_late_words

pytest.importorskip("nemo_run", reason="NeMo-Run is an extra: pip install 'megatron_ar3po[launch]'")

ROOT = Path(__file__).resolve().parents[3]
GOLDEN = Path(__file__).resolve().parent / "golden"


def dryrun(tmp_path: Path, *words: str) -> str:
    """What `ar3po launch ... --dryrun` prints, without the log's margin and this machine's paths."""
    done = subprocess.run(
        [sys.executable, "-m", "megatron_ar3po.cli", "launch", *words, "--dryrun"],
        cwd=tmp_path,
        env={**os.environ, "COLUMNS": "2000", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    text = re.sub(r"_\d{19}", "_ID", done.stdout)
    return (
        text.replace(str(tmp_path), "HERE")
        .replace(str(ROOT), "ROOT")
        .replace(sys.executable, "PYTHON")
    )


def batch_script_of(text: str) -> str:
    lines = [line.strip() for line in text.splitlines()]
    script = lines[lines.index("#!/bin/bash") :]
    return "\n".join(line for line in script if line and not line.startswith("# Run with")) + "\n"


def test_the_batch_script_of_the_32b_example_is_the_golden_one(tmp_path):
    """To accept a change: write the text that the assertion shows into golden/."""
    text = dryrun(
        tmp_path,
        "slurm",
        str(ROOT / "examples/qwen2.5_32b_dapo_math/config.yaml"),
        "debug.dump_steps=[1, 2]",
        "--nodes=4",
        "--account=rl",
        "--partition=batch",
        "--container-image=/images/ar3po.sqsh",
    )
    assert batch_script_of(text) == (GOLDEN / "qwen2.5_32b.sbatch").read_text()


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
