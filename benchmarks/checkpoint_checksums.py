"""What the checksums of a checkpoint cost, as a share of its save, in one run.

    python benchmarks/checkpoint_checksums.py [--size tiny|medium|large] [--rounds N] [--folder DIR]

The same actor is saved with checksums, as a run does it, and with a stream that only writes. Rounds alternate, so that
a busy machine slows both alike; a ratio is that of the medians, of the clock and of the processor's time. On a machine
that others use it wanders by more than checksums cost: the time inside them is counted too. A save is all of it: the
copy in host memory, the files, their sync, the commit under the final name. `--folder` is on the disk of interest;
/dev/shm shows the checksums beside memory alone.
"""

from __future__ import annotations

import argparse
import shutil
import statistics
import tempfile
import time
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import NamedTuple
from unittest import mock

from rich.console import Console
from rich.table import Table
from train_step import SIZES, Size, write_model

from megatron_ar3po.actor import background_save
from megatron_ar3po.actor.megatron_actor import MegatronActor
from megatron_ar3po.config.model import ModelConfig
from megatron_ar3po.config.schema import Config
from megatron_ar3po.distributed.collectives import start_process_group
from megatron_ar3po.distributed.layout import ParallelLayout
from megatron_ar3po.file_digests import DigestingFile, FileDigest
from megatron_ar3po.run import manifest
from megatron_ar3po.run.checkpoint_folder import CheckpointFolder
from megatron_ar3po.run.state import RunState

TARGET = 1.05
MORE_SIZES = {**SIZES, "large": replace(SIZES["medium"], hidden=768, layers=12, ffn=3072)}


class PlainFile(DigestingFile):
    """Writes, and sums up nothing."""

    def write(self, data: bytes | bytearray | memoryview) -> int:
        num_bytes = memoryview(data).nbytes
        self._num_bytes += num_bytes
        self._file.write(data)
        return num_bytes


class TimedFile(DigestingFile):
    """Notes the processor's time of the thread that its checksum takes."""

    spent_s = 0.0

    def write(self, data: bytes | bytearray | memoryview) -> int:
        started = time.thread_time()
        self._hash.update(data)
        TimedFile.spent_s += time.thread_time() - started
        num_bytes = memoryview(data).nbytes
        self._num_bytes += num_bytes
        self._file.write(data)
        return num_bytes


@contextmanager
def without_checksums():
    nothing = FileDigest(0, "")
    with (
        mock.patch.object(background_save, "DigestingFile", PlainFile),
        mock.patch.object(manifest, "digest_file", lambda path: nothing),
    ):
        yield


class Save(NamedTuple):
    seconds: float
    cpu_seconds: float  # of all threads
    num_bytes: int


def save(actor: MegatronActor, folder: Path) -> Save:
    """One whole save."""
    shutil.rmtree(folder, ignore_errors=True)
    checkpoints = CheckpointFolder(folder, keep_last=1)
    started, cpu_started = time.perf_counter(), time.process_time()
    unfinished = checkpoints.begin(1)
    pending = actor.save(unfinished / "model")
    while not pending.is_written():
        time.sleep(0.0005)
    digests = {f"model/{name}": digest for name, digest in pending.finish().items()}
    final = checkpoints.commit(unfinished, RunState(step=1), digests)
    seconds, cpu_seconds = time.perf_counter() - started, time.process_time() - cpu_started
    num_bytes = sum(path.stat().st_size for path in final.rglob("*") if path.is_file())
    return Save(seconds, cpu_seconds, num_bytes)


def measure(
    size: Size, rounds: int, folder: Path
) -> tuple[list[Save], list[Save], list[float], int]:
    """Saves with checksums, saves without, the share of checksums in the former, the number of parameters."""
    with tempfile.TemporaryDirectory() as name:
        num_parameters = write_model(size, Path(name))
        actor = MegatronActor(
            Config(model=ModelConfig(path=name, dtype="float32")), ParallelLayout()
        )
        with_them, without, shares = [], [], []
        for _ in range(rounds + 1):  # the first of each warms up
            with mock.patch.object(background_save, "DigestingFile", TimedFile):
                TimedFile.spent_s = 0.0
                with_them.append(save(actor, folder / "with"))
                shares.append(TimedFile.spent_s / with_them[-1].cpu_seconds)
            with without_checksums():
                without.append(save(actor, folder / "without"))
    return with_them[1:], without[1:], shares[1:], num_parameters


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=MORE_SIZES, default="medium")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--folder", type=Path, default=None, help="default: a temporary one")
    arguments = parser.parse_args()
    start_process_group(600.0)
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name:
        with_them, without, shares, num_parameters = measure(
            MORE_SIZES[arguments.size], arguments.rounds, Path(name)
        )
    mebibytes = with_them[0].num_bytes / 2**20
    table = Table(
        title=f"a save of {num_parameters:,} parameters ({mebibytes:.0f} MiB) with checksums beside one without"
    )
    for column in ("measured by", "with", "without", "ratio", "held to"):
        table.add_column(column, justify="right")
    for what in ("seconds", "cpu_seconds"):
        ours, bare = (
            statistics.median(getattr(one, what) for one in saves) for saves in (with_them, without)
        )
        table.add_row(what, f"{ours:.3f} s", f"{bare:.3f} s", f"{ours / bare:.3f}", f"{TARGET:.2f}")
    Console().print(table)
    print(
        f"in the checksums themselves: {statistics.median(shares):.2%} of a save's processor time "
        f"({min(shares):.2%} to {max(shares):.2%})"
    )


if __name__ == "__main__":
    main()
