"""Writers on a disk that is really full, one by one: the error names the file, and what was whole stays whole. A whole
run on such a disk is in tests/e2e/test_full_disk.py, the reuse store in tests/unit/reuse/test_reuse_faults.py."""

from __future__ import annotations

import errno
import logging
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import pytest
import torch
from fakes.algorithm_cases import group
from fakes.ranks import OneRank
from harness.tiny_disk import TinyDisk, mount_tiny_disk

from megatron_ar3po.data.dump import load_groups, save_groups
from megatron_ar3po.disk_faults import describe_disk_fault, missing_room, naming
from megatron_ar3po.distributed.layout import ParallelLayout
from megatron_ar3po.hf_folder import write_hf_folder
from megatron_ar3po.observability.metric_sinks import MetricSinks, SinkKind
from megatron_ar3po.observability.metrics import Metrics
from megatron_ar3po.observability.rank_logging import setup_logging
from megatron_ar3po.observability.rollout_recorder import RolloutRecorder
from megatron_ar3po.observability.row_file import read_rows
from megatron_ar3po.observability.tensorboard_sink import TensorBoardSink
from megatron_ar3po.rollout.ledger import Ledger
from megatron_ar3po.run.durable import write_durably
from megatron_ar3po.types import StepPrompt

ONE_RANK = cast(Any, OneRank())


@pytest.fixture
def disk(tmp_path: Path):
    with mount_tiny_disk(tmp_path / "disk", mib=2) as tiny:
        yield tiny


def write_metrics(path: Path) -> None:
    metrics = Metrics(ONE_RANK, path.parent)
    for step in range(100):  # a few bytes may fit into a block that is begun
        metrics.totals[f"total_{step}"] = 1.0
        with metrics.span("a_name_that_takes_some_room_in_the_row" * 5):
            pass
        metrics.flush(step)


def write_rollouts(path: Path) -> None:
    recorder = RolloutRecorder(path, lambda ids: "x" * 5000, num_groups=9, every_steps=1)
    recorder.record(1, [group([1, 0])] * 9)


def write_ledger(path: Path) -> None:
    prompt = group([1, 0]).prompt
    asked = [StepPrompt(position=i, prompt=prompt) for i in range(2000)]
    Ledger(path).open_step(asked, step=1, policy_version=0)


def write_hf(path: Path) -> None:
    source = path.parents[2] / "model"
    source.mkdir(exist_ok=True)
    weights = [[("weight", torch.zeros(200_000))]]
    write_hf_folder(weights, source=source, target=path.parent.with_name("hf"))


WRITERS: dict[str, Callable[[Path], None]] = {
    "metrics.jsonl": write_metrics,
    "rollouts.jsonl": write_rollouts,
    "dp00.jsonl": write_ledger,
    "STOPPED": lambda path: write_durably(path, "x" * 5000),
    "step_00001.pt": lambda path: save_groups(path, [group([1, 0])], step=1, policy_version=0),
    "hf.partial/model-00001.safetensors": write_hf,
}


@pytest.mark.parametrize("name", WRITERS)
def test_a_full_disk_is_one_sentence_that_names_the_file(name: str, disk: TinyDisk) -> None:
    (disk.path / "hf.partial").mkdir()
    (disk.path / name).touch()
    disk.fill()
    with pytest.raises(OSError) as caught:
        WRITERS[name](disk.path / name)
    assert caught.value.errno == errno.ENOSPC
    assert caught.value.filename in (str(disk.path / name), str(disk.path / name) + ".tmp")
    said = describe_disk_fault(caught.value)
    assert said.startswith(
        f"{caught.value.filename} cannot be written: No space left on device (0.0 MiB"
    )
    assert said.endswith("then resume with run.resume=true; the newest checkpoint is whole.")


def test_what_was_there_before_the_disk_filled_stays_whole(disk: TinyDisk) -> None:
    write_durably(disk.path / "latest", "step_00003")
    save_groups(disk.path / "step.pt", [group([1, 0])], step=1, policy_version=0)
    disk.fill()
    with pytest.raises(OSError):
        write_durably(disk.path / "latest", "step_00004" * 1000)
    with pytest.raises(OSError):
        save_groups(disk.path / "step.pt", [group([1, 0])] * 50, step=2, policy_version=0)
    assert (disk.path / "latest").read_text() == "step_00003"
    assert len(load_groups(disk.path / "step.pt")) == 1


def test_a_disk_that_takes_no_tensorboard_ends_that_alone(disk: TinyDisk, tmp_path, caplog) -> None:
    """Its files are on the full disk, metrics.jsonl is not."""

    def open_sink(run_id: str, first_step: int) -> TensorBoardSink:
        return TensorBoardSink(disk.path, first_step=first_step)

    kind = SinkKind(name="TensorBoard", where="tensorboard/", open=open_sink)
    sinks = MetricSinks(tmp_path, [kind])
    metrics = Metrics(ONE_RANK, tmp_path, sinks=sinks)
    disk.fill()
    for step in range(30):
        with metrics.span("step" * 100):
            pass
        metrics.flush(step)
    sinks.close(is_done=True)
    assert len(read_rows(tmp_path / "metrics.jsonl")) == 30
    said = (
        "TensorBoard (tensorboard/) does not take the metrics: [Errno 28] No space left on device"
    )
    assert caplog.text.count(said) == 1


def test_a_log_file_that_takes_no_more_is_said_once_on_the_console(disk: TinyDisk, capsys) -> None:
    log = logging.getLogger("megatron_ar3po")
    before = (list(log.handlers), log.propagate, log.level)
    try:
        setup_logging(ParallelLayout(), "INFO", folder=disk.path)
        disk.fill()
        for number in range(3):
            log.info("line %d %s", number, "x" * 5000)
        said = capsys.readouterr().err
    finally:
        for handler in log.handlers:
            handler.close()
        log.handlers[:], log.propagate = before[:2]
        log.setLevel(before[2])
    assert said.count("train.log cannot be written (No space left on device)") == 1
    assert "Traceback" not in said and "line 2" in said


def test_a_thread_that_ends_of_a_full_disk_is_silent_and_of_anything_else_not() -> None:
    program = """
import threading
from megatron_ar3po.disk_faults import silence_threads_that_end_of_one
silence_threads_that_end_of_one()
def end(error):
    raise error
for error in (OSError(28, "No space left on device"), ValueError("of something else")):
    thread = threading.Thread(target=end, args=(error,))
    thread.start()
    thread.join()
"""
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=True
    )
    assert "of something else" in done.stderr and "No space" not in done.stderr


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT, errno.EROFS, errno.EIO])
def test_every_fault_of_a_disk_gets_the_name_of_the_file(number: int, tmp_path: Path) -> None:
    with pytest.raises(OSError) as caught, naming(tmp_path / "file"):
        raise OSError(number, os.strerror(number))
    said = describe_disk_fault(RuntimeError("a step failed").with_traceback(None))
    assert said == ""
    outer = RuntimeError("a step failed")
    outer.__cause__ = caught.value
    assert f"{tmp_path / 'file'} cannot be written: {os.strerror(number)}" in describe_disk_fault(
        outer
    )


def test_dev_full_is_a_full_disk_without_a_mount() -> None:
    with (
        pytest.raises(OSError) as caught,
        naming(Path("/dev/full")),
        open("/dev/full", "w") as file,
    ):
        file.write("x")
    assert (caught.value.errno, caught.value.filename) == (errno.ENOSPC, "/dev/full")


def test_what_is_no_fault_of_a_disk_travels_on_as_it_is(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError), naming(tmp_path):
        (tmp_path / "nothing").read_text()
    with pytest.raises(ValueError, match="a bug"), naming(tmp_path):
        raise ValueError("a bug")
    assert describe_disk_fault(ValueError("a bug")) == ""


def test_room_is_counted_before_a_folder_is_there(disk: TinyDisk) -> None:
    """2 MiB hold one of 1 MiB and not one of 3."""
    folder = disk.path / "checkpoints/later"
    assert missing_room(folder, 2**20) == ""
    assert missing_room(folder, 3 * 2**20) == (
        f"{folder} has room for 2.0 MiB of the 3.0 MiB that a checkpoint takes (a quota may leave less)"
    )
