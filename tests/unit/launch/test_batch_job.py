"""What a job of launch_slurm/ asks before it starts anything, and the scripts outside of a cluster: `srun`, `scontrol`
are scripts of the test's own. On a real Slurm: tests/slurm."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time as clock
from dataclasses import replace
from pathlib import Path

import pytest

from megatron_ar3po.cli import main
from megatron_ar3po.config.load import load_config, to_yaml
from megatron_ar3po.folder_owner import FolderOwner, this_process, write_note
from megatron_ar3po.launch.batch_job import check_owner_of_folder, is_complete, run_dir_of_job
from megatron_ar3po.launch.sbatch_options import (
    check_signal_reaches_script,
    check_warning,
    read_sbatch_options,
)
from megatron_ar3po.run.folder_format import write_format

ROOT = Path(__file__).resolve().parents[3]
GOLDEN = Path(__file__).resolve().parent / "golden"
CONFIG = str(ROOT / "examples/qwen2.5_7b_dapo_math/config.yaml")
SCRIPTS = sorted(path.name for path in (ROOT / "launch_slurm").glob("ar3po_*.sh"))
PROFILE = ROOT / "launch_slurm/profiles/cpu.txt"


def call_script(script: str, *words: str, **variables: str) -> subprocess.CompletedProcess[str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "AR3PO", "SBATCH"))}
    return subprocess.run(
        ["bash", f"launch_slurm/{script}", *words],
        cwd=ROOT,
        env={**kept, "PYTHON": sys.executable, "PYTHONPATH": str(ROOT), **variables},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )


@pytest.mark.parametrize(
    ("words", "run_dir", "folder"),
    [
        ([], "", "HERE/runs/ar3po_qwen2.5_7b"),
        (["run.name=mine"], "", "HERE/runs/ar3po_mine"),
        (["algorithm.name=grpo"], "", "HERE/runs/grpo_qwen2.5_7b"),
        (["run.dir=there"], "", "HERE/there"),
        (["run.dir=there"], "there/", "HERE/there"),
        (["run.name=mine"], "a b=c", "HERE/a b=c"),
        (["run.dir=/x/lr=1e-6 #2"], "", "/x/lr=1e-6 #2"),
    ],
)
def test_the_folder_follows_from_the_config_as_it_is_loaded(
    words, run_dir, folder, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    found = run_dir_of_job(CONFIG, words, run_dir=run_dir)
    assert str(found) == folder.replace("HERE", str(tmp_path))


def test_a_config_of_ones_own_names_its_folder_and_its_algorithm(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("run: {name: mine}\nalgorithm: {name: dapo}\n")
    assert run_dir_of_job("mine.yaml", []) == tmp_path / "runs/dapo_mine"
    Path("mine.yaml").write_text("run: {dir: out}\n")
    assert run_dir_of_job("mine.yaml", []) == tmp_path / "out"
    assert run_dir_of_job("mine.yaml", [], run_dir="other") == tmp_path / "other"


@pytest.mark.parametrize(
    ("words", "more", "message"),
    [
        (["run.dir=/a"], ["--run-dir=/b"], "RUN_DIR=/b and run.dir=/a name two folders"),
        (["run.resume=false"], [], "run.resume=false: a job that is requeued has to go on"),
        (["algorithm.name=grpo"], ["--algorithm=dapo"], "ALGORITHM=dapo and algorithm.name=grpo name two"),
        (["run.seed=1"], ["--array-task=3"], "write %a for the task's number, as in run.seed=%a"),
        ([], ["--nodes=3", "--nproc-per-node=5"], "world size 15 does not fit actor.tensor_parallel_size=2"),
        ([], ["--nodes=1", "--nproc-per-node=8", "--gpus-per-node=4"], "8 ranks are to start on nodes of 4 GPUs"),
    ],
)  # fmt: skip
def test_words_that_clash_are_refused(words, more, message, capsys):
    assert main(["launch", "run-dir", CONFIG, *more, *words]) == 2
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "run_dir", "names"),
    [
        (["run.seed=%a"], "", ("ar3po_qwen2.5_7b_3", "ar3po_qwen2.5_7b_12")),
        (["run.seed=%a", "run.name=seed_%a"], "", ("ar3po_seed_3", "ar3po_seed_12")),
        (["run.seed=%a"], "mine", ("mine_3", "mine_12")),
        (["run.seed=%a"], "mine/%a", ("3", "12")),
    ],
)
def test_each_task_of_an_array_has_a_folder_of_its_own(words, run_dir, names):
    found = [run_dir_of_job(CONFIG, words, run_dir=run_dir, array_task=n).name for n in ("3", "12")]
    assert tuple(found) == names


def finish_run(folder: Path, *words: str) -> None:
    """As a run leaves it that was DONE after 400 steps."""
    (folder / "hf").mkdir(parents=True)
    write_format(folder)
    config = load_config([CONFIG], [f"run.dir={folder}", *words])
    (folder / "resolved_config.yaml").write_text(to_yaml(config))
    (folder / "DONE").write_text(json.dumps({"step": 400, "policy_version": 400}))


def ask_complete(folder: Path, *words: str) -> bool:
    return is_complete(load_config([CONFIG], [f"run.dir={folder}", "run.resume=true", *words]))


def test_a_run_that_is_done_is_left_alone_and_goes_on_where_more_steps_are_asked_for(tmp_path):
    finish_run(tmp_path / "run", "run.num_steps=400")
    assert ask_complete(tmp_path / "run", "run.num_steps=400", "servers.start_timeout_s=900")
    assert not ask_complete(tmp_path / "run", "run.num_steps=500")
    assert not ask_complete(tmp_path / "new")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["algorithm.name=grpo"], "algorithm.name was ar3po and is grpo now"),
        (["actor.learning_rate=0.5"], "with another config (actor.learning_rate was 1.0e-06 and is 0.5 now"),
    ],
)  # fmt: skip
def test_a_run_that_is_done_with_another_config_is_refused(words, message, tmp_path):
    finish_run(tmp_path / "run")
    with pytest.raises(ValueError) as refusal:
        ask_complete(tmp_path / "run", *words)
    assert message in str(refusal.value)


def test_the_command_prints_the_folder_and_whether_it_is_done(tmp_path, capsys):
    finish_run(tmp_path / "run")
    assert main(["launch", "run-dir", CONFIG, f"--run-dir={tmp_path}/run"]) == 0
    assert main(["launch", "run-dir", CONFIG, f"--run-dir={tmp_path}/new"]) == 0
    assert capsys.readouterr().out == f"{tmp_path}/run\nDONE\n{tmp_path}/new\n"


def test_a_folder_that_somebody_writes_is_refused_in_a_job_but_not_where_one_only_asks(
    tmp_path, monkeypatch, capsys
):
    monkeypatch.setenv("SLURM_JOB_ID", "7")
    owner = FolderOwner.claim(tmp_path)
    with contextlib.ExitStack() as stack:
        stack.callback(owner.release)
        for job, restart, code in (("8", "0", 2), ("7", "1", 0), ("7", "0", 2), ("", "", 0)):
            monkeypatch.setenv("SLURM_JOB_ID", job)
            monkeypatch.setenv("SLURM_RESTART_COUNT", restart)
            if not job:
                monkeypatch.delenv("SLURM_JOB_ID")
            assert main(["launch", "run-dir", CONFIG, f"--run-dir={tmp_path}"]) == code, job
    assert f"run.dir={tmp_path} has an owner (its owner.json): process" in capsys.readouterr().err


def test_an_owner_on_another_node_that_was_killed_a_moment_ago_is_waited_for(tmp_path, capsys):
    """A chain by --dependency=singleton: the next job starts as its predecessor is killed at the time limit."""
    gone = replace(this_process(), host="another", job="6")
    write_note(tmp_path / "owner.json", gone)
    began = clock.monotonic()
    check_owner_of_folder(tmp_path, stale_after_s=2.0)
    assert 1.5 < clock.monotonic() - began < 8
    assert "another, job 6" in capsys.readouterr().err

    owner = FolderOwner(tmp_path / "owner.json", gone, heartbeat_s=0.2)
    os.utime(tmp_path / "owner.json")
    try:
        with pytest.raises(ValueError, match=r"has an owner .* on another, job 6"):
            check_owner_of_folder(tmp_path, stale_after_s=30.0)
    finally:
        owner.release()
    assert clock.monotonic() - began < 15


@pytest.mark.parametrize(
    ("time", "signal", "is_refused"),
    [
        ("10", 600, True),
        ("00:10:01", 600, False),
        ("0-00:05", 301, True),
        ("1-0", 86_399, False),
        ("UNLIMITED", 10**6, False),
        ("", 600, False),
    ],
)
def test_a_warning_that_comes_as_the_job_starts_is_refused(time, signal, is_refused):
    if not is_refused:
        return check_warning(time, signal, "--warn-s=0")
    with pytest.raises(ValueError, match=f"--time={time} is .* raise --time, or lower --signal"):
        check_warning(time, signal, f"--signal=B:USR1@{signal}")


@pytest.mark.parametrize("signal", ["USR1@600", "B:TERM@600", "R:USR1"])
def test_a_warning_that_the_script_would_not_hear_is_refused(signal):
    with pytest.raises(ValueError, match="does not tell the batch script"):
        check_signal_reaches_script(signal)
    check_signal_reaches_script("RB:USR1@600")
    check_signal_reaches_script("")


def test_options_are_read_where_sbatch_reads_them(tmp_path):
    """Lines of the script, below variables, below words; not behind the first command."""
    script = tmp_path / "job.sh"
    script.write_text(
        "#!/bin/bash\n#SBATCH -N 2-4 --time=60 # an hour\n#SBATCH --gres=gpu:h100:4,fs:1\n#SBATCH --exclusive\n"
        "#SBATCH --signal B:USR1@5\n#SBATCH -a5-9\n\nset -e\n#SBATCH --nodes=9\n"
    )
    read = read_sbatch_options(script)
    assert (read.num_nodes, read.time, read.signal) == (2, "60", "B:USR1@5")
    assert (read.num_gpus_per_node, read.first_array_task) == (4, "5")
    read = read_sbatch_options(script, ["--nodes=7"], {"SBATCH_TIMELIMIT": "30"})
    assert (read.num_nodes, read.time) == (7, "30")
    assert read_sbatch_options(script, ["-t", "20"], {"SBATCH_TIMELIMIT": "30"}).time == "20"


@pytest.mark.parametrize(
    ("words", "refusal", "message"),
    [
        ([], False, "tp 2 x pp 1 x dp 4 fits 1 node\n"),
        (["--nodes=2"], False, "tp 2 x pp 1 x dp 8 fits 2 nodes\n"),
        (["actor.tensor_parallel_size=3"], True, "world size 8 does not fit actor.tensor_parallel_size=3"),
        (["rollout.prompts_per_step=3"], True, "prompts_per_step=3 is below the data-parallel size 4"),
        (["-N", "2", "rollout.prompts_per_step=7"], True, "prompts_per_step=7 is below the data-parallel size 8"),
        (["--time=00:10:00"], True, "--signal=B:USR1@600 warns 600 s before the time limit"),
        (["--array=1-3"], True, "write %a for the task's number"),
    ],
)  # fmt: skip
def test_a_launch_script_outside_of_a_job_says_whether_it_could_work(words, refusal, message):
    """With the nodes and GPUs of its own #SBATCH lines and the words for sbatch; then how to submit it."""
    done = call_script("ar3po_7b.sh", *words)
    assert done.returncode == 2
    assert message in done.stderr
    submit = " ".join(["submit it: sbatch", *words, "launch_slurm/ar3po_7b.sh\n"])
    assert (submit in done.stderr) == (not refusal), done.stderr


@pytest.mark.parametrize("script", SCRIPTS)
def test_every_script_warns_its_job_in_time_and_fits_its_nodes(script):
    done = call_script(script, ALGORITHM="grpo")
    assert f"would write {ROOT}/runs/grpo_" in done.stderr, done.stderr


@pytest.mark.parametrize("config", sorted(ROOT.glob("examples/*_dapo_math/config.yaml")), ids=str)
def test_the_cpu_profile_shrinks_every_config_of_a_cluster(config):
    lines = [line for line in PROFILE.read_text().splitlines() if line and line[0] != "#"]
    small = load_config([config], lines)
    assert (small.actor.replica_size, small.model.path) == (1, ".cache/tiny_sum/model")
    assert small.rollout.prompts_per_step == 4


def test_the_words_of_a_profile_are_below_those_of_the_caller():
    done = call_script("ar3po_32b.sh", "--nodes=2", "rollout.prompts_per_step=1", PROFILE="cpu")
    assert "prompts_per_step=1 is below the data-parallel size 2" in done.stderr
    assert (
        "PROFILE=gpu is unknown; there is cpu" in call_script("ar3po_7b.sh", PROFILE="gpu").stderr
    )


_SHOWS = 'case "$2$3" in *hostnames*) echo node1 ;; *) echo " TimeLimit=1-00:00:00 " ;; esac'


def run_as_job(
    tmp_path: Path, script: str, *words: str, nodes: int, srun_help: str = "echo --container-image; exit",
    scontrol: str = _SHOWS, **variables: str,
) -> str:  # fmt: skip
    """What a job would start: `srun` writes its words, one a line, and the run is DONE."""
    tools = {
        "srun": f'if [ "$1" = --help ]; then {srun_help}; fi\n'
        f'printf \'%s\\n\' "$@" >{tmp_path}/words; touch "$RUN_DIR/DONE"',
        "scontrol": scontrol,
    }
    for name, text in tools.items():
        (tmp_path / name).write_text(f"#!/bin/bash\n{text}\n")
        (tmp_path / name).chmod(0o755)
    slurm = {"SLURM_JOB_ID": "7", "SLURM_JOB_NUM_NODES": str(nodes), "SLURM_JOB_NODELIST": "n"}
    done = call_script(
        script, *words, PATH=f"{tmp_path}:{os.environ['PATH']}", RUN_DIR=f"{tmp_path}/run",
        **{"SLURM_GPUS_ON_NODE": "8", **slurm, **variables},
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    told = (tmp_path / "words").read_text().replace(sys.executable, "PYTHON")
    return told.replace(str(tmp_path), "HERE").replace(str(ROOT), "ROOT")


@pytest.mark.parametrize(
    ("golden", "script", "nodes", "variables", "words"),
    [
        ("ar3po_32b", "ar3po_32b.sh", 4, {"CONTAINER_IMAGE": "registry#ar3po", "ALGORITHM": "dapo"}, ["run.seed=1"]),
        ("ar3po_7b", "ar3po_7b.sh", 1, {"MODEL_PATH": "/m", "DATA_PATH": "/d", "EVAL_PATH": "/e"}, []),
        ("ar3po_llama8b_cpu", "ar3po_llama8b.sh", 1, {"PROFILE": "cpu"}, ["run.name=a b"]),
    ],
)  # fmt: skip
def test_what_a_script_starts_on_its_nodes_is_the_golden_text(
    golden, script, nodes, variables, words, tmp_path
):
    """To accept a change: write the text that the assertion shows into golden/."""
    told = run_as_job(tmp_path, script, *words, nodes=nodes, **variables)
    assert told == (GOLDEN / f"{golden}.srun").read_text()


def test_a_pyxis_that_has_much_to_say_is_found(tmp_path):
    """`grep -q` leaves at the first hit; srun, which writes on, would end by SIGPIPE and pyxis count as missing."""
    help_text = "echo --container-image; for i in {1..5000}; do echo 'a line of help of an option'; done; exit"
    told = run_as_job(
        tmp_path, "ar3po_7b.sh", nodes=1, srun_help=help_text, CONTAINER_IMAGE="registry#ar3po"
    )
    assert "--container-image=registry#ar3po" in told


def test_nodes_with_more_gpus_than_the_script_asks_for_are_used(tmp_path):
    """sbatch --gpus-per-node=16: of a job's words only Slurm's variables know."""
    words = ["rollout.prompts_per_step=512"]
    told = run_as_job(tmp_path, "ar3po_7b.sh", *words, nodes=1, SLURM_GPUS_ON_NODE="16")
    assert "--nproc-per-node=16\n--gpus-per-node=16\n" in told


def test_a_controller_that_does_not_reply_ends_no_job_that_needs_nothing_of_it(tmp_path):
    shows = 'case "$2$3" in *hostnames*) echo node1 ;; *) exit 1 ;; esac'
    assert "--nproc-per-node=8" in run_as_job(tmp_path, "ar3po_7b.sh", nodes=1, scontrol=shows)
