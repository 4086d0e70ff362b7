"""What a save costs each rank in host memory beyond the model, as a ratio to the rank's own shard.

    python benchmarks/checkpoint_memory.py [--hidden N] [--layers N] [--beside-gathering]

Four ranks of a bf16 model of Qwen2's architecture (about 200 million parameters by default) save model and optimizer
while they hold both, in layouts of TP, PP and DP. A rank's own shard is the optimizer's state that it owns and its
share of the weights, which its data-parallel peers hold as well. Its peak resident memory during a save, from the plan
to the last byte on the disk, is read from the kernel; what it held before is taken off.

`--beside-gathering` adds, in the same processes, the format of Megatron's own that loads at any layout
(`fully_reshardable`), which gathers the state on every rank: for smaller models, since it takes up to 8 shards a rank.
Without a GPU all memory is the host's, and a save is a copy of the shard there; with one it is the copy off the GPU.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file

from megatron_ar3po.actor import checkpoint
from megatron_ar3po.actor.hf_import import expected_tensors
from megatron_ar3po.actor.megatron_actor import MegatronActor
from megatron_ar3po.config.actor import ActorConfig
from megatron_ar3po.config.model import ModelConfig
from megatron_ar3po.config.schema import Config
from megatron_ar3po.distributed.collectives import start_process_group
from megatron_ar3po.distributed.layout import ParallelLayout
from megatron_ar3po.model_shape import read_policy_shape

TARGET = 1.3
WORLD = 4
LAYOUTS = ((1, 1), (2, 1), (1, 2), (2, 2))  # TP, PP; what is left is DP
# What is freed goes back to the system at once, so that no save lives on what the one before has left.
ENVIRONMENT = {"OMP_NUM_THREADS": "1", "MALLOC_MMAP_THRESHOLD_": "65536"}


def write_model(folder: Path, hidden: int, layers: int) -> int:
    """Its number of parameters."""
    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "hidden_size": hidden,
        "intermediate_size": 4 * hidden,
        "num_hidden_layers": layers,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "vocab_size": 32_768,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "tie_word_embeddings": True,
    }
    (folder / "config.json").write_text(json.dumps(config))
    sizes = expected_tensors(read_policy_shape(str(folder)))
    save_file(
        {name: 0.02 * torch.randn(size).bfloat16() for name, size in sizes.items()},
        folder / "model.safetensors",
    )
    return sum(torch.Size(size).numel() for size in sizes.values())


# --- one rank


def gather_part(one: Any, sharded: dict[str, Any], *, is_loading: bool) -> Any:
    """Instead of `checkpoint._optimizer_part`: Megatron's own format that loads at any layout."""
    metadata = {"distrib_optim_sharding_type": "fully_reshardable"}
    return one.sharded_state_dict(sharded, is_loading=is_loading, metadata=metadata)


@contextlib.contextmanager
def saving_as(form: str) -> Iterator[None]:
    patch = mock.patch.object(checkpoint, "_optimizer_part", gather_part)
    with patch if form == "fully_reshardable" else contextlib.nullcontext():
        yield


def memory_of_this_process(field: str) -> int:
    """Bytes; of /proc/self/status."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(field):
            return int(line.split()[1]) * 1024
    raise AssertionError(field)


def measure(actor: MegatronActor, folder: Path) -> int:
    """Bytes of peak resident memory that a save adds."""
    gc.collect()
    before = memory_of_this_process("VmRSS:")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    pending = actor.save(folder)
    while not pending.is_written():
        time.sleep(0.01)
    pending.finish()
    return memory_of_this_process("VmHWM:") - before


def own_shard(actor: MegatronActor) -> int:
    weights = sum(p.nbytes for p in actor.policy.parameters()) // actor.layout.data_parallel_size
    (one,) = actor.optimizer.inner.chained_optimizers
    main = [p for group in one.optimizer.param_groups for p in group["params"]]
    return weights + sum(3 * p.nbytes for p in main)


def fill_moments(actor: MegatronActor) -> None:
    """As an update would; zeros that nobody wrote take no memory."""
    checkpoint._ensure_state(actor.optimizer)
    (one,) = actor.optimizer.inner.chained_optimizers
    for state in one.optimizer.state.values():
        state["exp_avg"].normal_()
        state["exp_avg_sq"].uniform_()


def run_rank(model: str, folder: Path, tp: int, pp: int, formats: Sequence[str]) -> None:
    rank, world_size = start_process_group(600.0)
    actor = MegatronActor(
        Config(
            model=ModelConfig(path=model, dtype="bfloat16"),
            actor=ActorConfig(tensor_parallel_size=tp, pipeline_parallel_size=pp),
        ),
        ParallelLayout(
            world_size=world_size, rank=rank, tensor_parallel_size=tp, pipeline_parallel_size=pp
        ),
    )
    fill_moments(actor)
    results = {}
    for number, form in enumerate((formats[0], *formats)):  # the first warms up
        target = folder / f"{number}"
        if rank == 0:
            target.mkdir()
        dist.barrier()
        with saving_as(form):
            results[form] = measure(actor, target)
    everyone: list[Any] = [None] * world_size
    dist.all_gather_object(everyone, (own_shard(actor), results))
    if rank == 0:
        (folder / "results.json").write_text(json.dumps(everyone))


# --- all of them


def run_layout(
    model: Path, tp: int, pp: int, formats: Sequence[str]
) -> list[tuple[int, dict[str, int]]]:
    """(own shard, peak by format) of each rank, in bytes."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-W", "ignore", "-m", "torch.distributed.run", "--standalone"]
        command += ["--nproc-per-node", str(WORLD), __file__, "--rank-of", str(model), folder]
        subprocess.run(
            [*command, str(tp), str(pp), *formats], check=True, env=os.environ | ENVIRONMENT
        )
        return json.loads((Path(folder) / "results.json").read_text())


def main() -> None:
    if sys.argv[1:2] == ["--rank-of"]:
        model, folder, tp, pp, *formats = sys.argv[2:]
        run_rank(model, Path(folder), int(tp), int(pp), formats)
        return
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--layers", type=int, default=12)
    parser.add_argument("--beside-gathering", action="store_true")
    arguments = parser.parse_args()
    formats = ["ours", *(["fully_reshardable"] if arguments.beside_gathering else [])]
    with tempfile.TemporaryDirectory() as model:
        num_parameters = write_model(Path(model), arguments.hidden, arguments.layers)
        table = Table(
            title=f"peak of a save beyond the model, {num_parameters:,} parameters in bf16"
        )
        for column in ("TP", "PP", "DP", "rank", "own shard", "format", "peak", "ratio", "held to"):
            table.add_column(column, justify="right")
        for tp, pp in LAYOUTS:
            cut = (str(tp), str(pp), str(WORLD // (tp * pp)))
            for rank, (shard, peaks) in enumerate(run_layout(Path(model), tp, pp, formats)):
                for form, peak in peaks.items():
                    sizes = (f"{shard / 2**20:.0f} MiB", form, f"{peak / 2**20:.0f} MiB")
                    held_to = f"{TARGET}" if form == "ours" else ""
                    table.add_row(*cut, str(rank), *sizes, f"{peak / shard:.2f}", held_to)
    Console().print(table)


if __name__ == "__main__":
    main()
