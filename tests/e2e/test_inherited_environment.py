"""What a user's shell, container or batch job leaves in the environment. All that a run goes on with is in one run of
two steps, on one server; what is refused is said before anything starts (tests/unit/platform has the parts)."""

from __future__ import annotations

import importlib.util
import os
import subprocess
import sys
from pathlib import Path

import pytest
from harness.trainer_runs import CONFIG, ROOT, SHORT, Run, RunStarter

# Bash, so that `ulimit` and `umask` are the shell's; a localhost of IPv6 alone in a mount of its own.
ODD_SHELL = ["bash", "-c", 'umask 077; ulimit -S -n 64; exec "$@"', "odd"]
ODD_HOSTS = ["unshare", "--mount", "bash", "-c", 'mount --bind "$0" /etc/hosts && exec "$@"']


@pytest.fixture(scope="module")
def odd(tmp_path_factory: pytest.TempPathFactory, tiny_task: Path) -> Path:
    """A folder with a long TMPDIR, a data file behind a link, hosts, and a config whose path holds `=`."""
    folder = tmp_path_factory.mktemp("odd")
    (folder / ("t" * 140)).mkdir()
    (folder / "data.jsonl").symlink_to(tiny_task / "train.jsonl")
    (folder / "hosts").write_text("::1 localhost\n")
    (folder / "lr=1e-4").mkdir()
    (folder / "lr=1e-4" / "config.yaml").write_text(CONFIG.read_text())
    return folder


def odd_environment(odd: Path) -> dict[str, str]:
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("LC_", "LANG", "XDG_"))}
    nowhere = "http://127.0.0.1:9"
    return kept | {
        **dict.fromkeys(("http_proxy", "https_proxy", "HTTP_PROXY", "all_proxy"), nowhere),
        "TMPDIR": str(odd / ("t" * 140)),
        "HOME": "/proc",  # nobody can write there, root included
        "LC_ALL": "C",
        "PYTHONHASHSEED": "7",
        "CUDA_VISIBLE_DEVICES": "7",
        "RANK": "1",
        "WORLD_SIZE": "4",
        "MASTER_PORT": "1",
        "PYTHONPATH": os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH")])),
    }


@pytest.fixture(scope="module")
def odd_run(module_runs: RunStarter, odd: Path, tiny_task: Path) -> Run:
    may_mount = subprocess.run([*ODD_HOSTS, str(odd / "hosts"), "true"], capture_output=True)
    hosts = [] if may_mount.returncode else [*ODD_HOSTS, str(odd / "hosts")]
    return module_runs(
        f"model.path={tiny_task}/model",
        f"data.path={odd}/data.jsonl",
        f"evaluation.path={tiny_task}/heldout.jsonl",
        f"run.dir={odd}/ein Lauf für zwei",
        "run.num_steps=2",
        "servers.routing=global",
        "checkpoint.export_hf=true",
        config=Path("lr=1e-4/config.yaml"),
        cwd=odd,
        within=[*hosts, *ODD_SHELL],
        environment=odd_environment(odd),
    ).wait(300)


def test_a_run_goes_its_way_through_an_odd_environment(odd_run: Run):
    odd_run.require_success()
    assert [row["step"] for row in odd_run.metrics][-1] == 2
    assert odd_run.processes_left() == []


def test_it_says_what_it_does_otherwise(odd_run: Run):
    assert "TMPDIR=" in odd_run.err and "has more than 40 bytes" in odd_run.err
    assert "HOME=/proc cannot be written: caches of libraries go to" in odd_run.err
    assert "RANK=1 WORLD_SIZE=4 MASTER_PORT=1 is ignored" in odd_run.err


def test_its_temporary_folder_is_left_empty(odd_run: Run, odd: Path):
    assert list((odd / ("t" * 140)).iterdir()) == []


def test_the_user_who_wrote_it_reads_it(odd_run: Run, odd: Path):
    assert (odd_run.folder / "metrics.jsonl").stat().st_mode & 0o077 == 0
    command = [sys.executable, "-m", "megatron_ar3po.cli", "report", str(odd_run.folder), "--text"]
    done = subprocess.run(
        command, env=odd_environment(odd), cwd=odd, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "2 steps" in done.stdout


@pytest.mark.skipif(
    importlib.util.find_spec("torchvision") is not None,
    reason="torchvision is installed here, which requirements/ does not ask for; `make setup` removes it",
)
def test_a_plain_python_loads_the_exported_policy(odd_run: Run):
    program = """
import sys
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
policy = AutoModelForCausalLM.from_pretrained(sys.argv[1])
tokens = AutoTokenizer.from_pretrained(sys.argv[1])("1+1=", return_tensors="pt")
print(policy.generate(**tokens, max_new_tokens=2).shape[1] - tokens["input_ids"].shape[1])
"""
    command = [sys.executable, "-c", program, str(odd_run.folder / "hf")]
    done = subprocess.run(command, cwd="/", capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr[-2000:]
    assert 1 <= int(done.stdout) <= 2


@pytest.mark.parametrize(
    ("shell", "environment", "said"),
    [
        ("ulimit -n 64", {}, "a process may have 64 files open here (ulimit -n)"),
        (
            "true",
            {"RANK": "4", "WORLD_SIZE": "4", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"},
            "RANK=4 of the environment is none of WORLD_SIZE=4 ranks",
        ),
        ("true", {"NCCL_ALGO": "NVLS"}, "run.deterministic=true, but NCCL_ALGO=NVLS lets kernels"),
    ],
    ids=["too few open files", "no such rank", "sums in any order"],
)
def test_what_no_run_can_go_on_with_is_one_sentence(tmp_path, tiny_task, shell, environment, said):
    words = ["bash", "-c", f'{shell}; exec "$@"', "odd", sys.executable, "-m"]
    words += ["megatron_ar3po.train", str(CONFIG), *SHORT, f"run.dir={tmp_path}/run"]
    done = subprocess.run(
        words,
        cwd=ROOT,
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("ar3po: error: ") and said in line
    assert not (tmp_path / "run").exists()
