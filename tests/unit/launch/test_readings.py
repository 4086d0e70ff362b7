"""What a node says of itself, each with its figure, and what is refused. Nothing is patched: folders, clocks and limits
are the test's own."""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from harness.tiny_disk import mount_tiny_disk

from megatron_ar3po.config.load import load_config
from megatron_ar3po.launch import readings
from megatron_ar3po.launch.preflight import find_within
from megatron_ar3po.model_shape import read_policy_shape

MODEL = {
    "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "num_hidden_layers": 2, "hidden_size": 64,
    "intermediate_size": 128, "num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 256,
    "max_position_embeddings": 512, "rms_norm_eps": 1e-6, "rope_theta": 10000.0, "tie_word_embeddings": True,
}  # fmt: skip


def make_config(folder: Path, *words: str):
    (folder / "model").mkdir(exist_ok=True)
    (folder / "model/config.json").write_text(json.dumps(MODEL))
    return load_config([], [f"model.path={folder}/model", f"run.dir={folder}/run", *words])


def test_the_disk_is_told_against_what_the_checkpoints_take(tmp_path):
    """A bfloat16 parameter takes 2 + 12 bytes of a checkpoint; two are kept and one is being written."""
    config = make_config(tmp_path, "checkpoint.keep_last=2", "model.dtype=bfloat16")
    one = read_policy_shape(config.model.path).num_parameters * 14
    reading = readings.read_disk(config)
    assert reading.problem == ""
    assert (
        f"a checkpoint takes {one / 2**20:.1f} MiB, 2 that are kept and one being" in reading.text
    )
    assert reading.text.endswith(f"written {3 * one / 2**20:.1f} MiB")
    free, where = reading.text.split()[1:3], reading.text.partition(" free in ")[2]
    assert float(free[0].replace(",", "")) > 0 and free[1] in ("MiB", "GiB", "TiB")
    assert where.startswith(f"{tmp_path}/run;")


def test_a_disk_with_room_for_no_checkpoint_is_refused_and_one_that_is_short_is_not(tmp_path):
    """The model's checkpoint takes 1.4 MiB: a disk of 1 MiB has room for none, one of 2 MiB for one of three."""
    found = []
    for mib in (1, 2):
        with mount_tiny_disk(tmp_path / f"disk{mib}", mib=mib) as disk:
            config = make_config(tmp_path, f"run.dir={disk.path}/run", "checkpoint.keep_last=2")
            found.append(readings.read_disk(config))
    none, one = found
    assert "has room for 1" in none.problem and none.problem.endswith(
        "; make room, or move run.dir."
    )
    assert none.text.startswith("disk: 1.0 MiB free in ")
    assert one.problem == "" and one.text.startswith("disk: 2.0 MiB free in ")
    assert one.text.endswith(" SHORT of what is still to come")


def test_a_model_that_cannot_be_read_leaves_the_free_space(tmp_path):
    config = load_config([], ["model.path=/nowhere", f"run.dir={tmp_path}/run"])
    assert readings.read_disk(config).text.endswith(f" free in {tmp_path}/run")


def test_shared_memory_of_64_mib_is_enough_for_one_gpu_and_too_little_for_eight(tmp_path):
    with mount_tiny_disk(tmp_path / "shm", mib=64) as disk:
        none, one, eight = (readings.read_shared_memory(n, str(disk.path)) for n in (0, 1, 8))
    assert none.text == f"{disk.path}: 64.0 MiB free of 64.0 MiB"
    assert none.problem == one.problem == ""
    assert eight.problem.startswith(
        f"{disk.path} has 64.0 MiB free, but 8 GPUs exchange data there"
    )
    assert "--ipc=host" in eight.problem


def test_too_few_open_files_are_told_with_the_limit():
    done = subprocess.run(
        ["bash", "-c", f"ulimit -n 200; exec {sys.executable} -c \"$0\"",
         "from megatron_ar3po.launch.readings import *; print(read_open_files(0))"],
        cwd=Path(__file__).parents[3], capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert "text='ulimit -n: 200 (at most 200)'" in done.stdout, done.stderr
    assert "a process may have 200 files open here" in done.stdout
    assert readings.read_open_files(0).problem == ""


def test_a_small_memlock_is_refused_only_where_gpus_and_infiniband_are(tmp_path):
    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, hard))
    try:
        nobody = tmp_path / "no_proc"
        both = readings.read_locked_memory(8, str(tmp_path), nobody)
        others = [
            readings.read_locked_memory(0, str(tmp_path), nobody),
            readings.read_locked_memory(8, "/no", nobody),
        ]
    finally:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (soft, hard))
    assert both.text == "ulimit -l: 64.0 KiB"
    assert both.problem.startswith(f"ulimit -l is 64.0 KiB, but {tmp_path} is there")
    assert [reading.problem for reading in others] == ["", ""]


def test_who_may_pin_any_memory_is_not_refused_for_a_limit(tmp_path):
    """CAP_IPC_LOCK (bit 14), as examples/kubernetes gives it; that of a user namespace does not count."""

    def problem(capabilities: str, uids: str = "0 0 4294967295") -> str:
        (tmp_path / "status").write_text(f"Name:\tx\nCapEff:\t{capabilities}\n")
        (tmp_path / "uid_map").write_text(f"{uids}\n")
        return readings.read_locked_memory(8, str(tmp_path), tmp_path).problem

    soft, hard = resource.getrlimit(resource.RLIMIT_MEMLOCK)
    resource.setrlimit(resource.RLIMIT_MEMLOCK, (65536, hard))
    try:
        found = [
            problem("0000000000004000"),
            problem("0000000000003fff"),
            problem("0000000000004000", "0 1000 1"),
        ]
    finally:
        resource.setrlimit(resource.RLIMIT_MEMLOCK, (soft, hard))
    assert [bool(text) for text in found] == [False, True, True]


def test_a_wrong_clock_is_told(tmp_path):
    late = readings.read_clock(tmp_path, clock=lambda: time.time() + 60)
    assert late.text.startswith("clock: +60.0") or late.text.startswith("clock: +59.9")
    assert "differs from the file server's by 60 s" in late.problem
    assert readings.read_clock(tmp_path).problem == ""


def test_a_file_server_that_takes_its_time_makes_no_clock_wrong(tmp_path):
    """Ten seconds between the question and the reply; the file was written within them."""
    now = time.time()
    readings_of_clock = iter((now - 5, now + 5))
    slow = readings.read_clock(tmp_path, clock=lambda: next(readings_of_clock))
    assert (slow.problem, slow.text) == ("", "clock: +0.00 s from the file server's")
    behind = readings.read_clock(tmp_path, clock=lambda: time.time() - 60)
    assert "differs from the file server's by -60 s" in behind.problem


def test_what_does_not_reply_is_told_within_its_limit_and_left_alone():
    """As a read from a dead NFS server: it never comes back."""
    forever = threading.Event()
    began = time.monotonic()
    (problem,) = find_within("run.dir", lambda: [str(forever.wait())], limit_s=0.2)
    assert time.monotonic() - began < 5
    assert problem.startswith("run.dir did not reply within 0 s; a file system hangs")
    forever.set()
    assert find_within("x", lambda: ["found"]) == ["found"]
    with pytest.raises(ValueError, match="as it was raised"):
        readings.within(5, "x", lambda: int("as it was raised"))


def test_every_reading_of_a_node_has_a_figure(tmp_path):
    config = make_config(tmp_path)
    config.run.path.mkdir()
    found = readings.read_node(config, gpus=0)
    assert [r.problem for r in found] == [""] * 5
    names = [reading.text.partition(": ")[0] for reading in found]
    assert names == ["disk", "/dev/shm", "ulimit -n", "ulimit -l", "clock"]
    assert all(any(c.isdigit() for c in r.text) or "unlimited" in r.text for r in found)
