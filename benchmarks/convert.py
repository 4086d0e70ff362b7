"""What converting a sharded checkpoint costs: peak memory against its largest file, and bytes per second.

    python benchmarks/convert.py [--layers N]

A random bf16 model of Qwen2's architecture in four files is written, then converted to Megatron and back by the tool,
each in a process of its own whose peak resident memory is read from the kernel. What the interpreter and its libraries
need by themselves is reported beside it.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch
from rich.console import Console
from rich.table import Table
from safetensors.torch import save_file

from megatron_ar3po.actor.hf_import import expected_tensors
from megatron_ar3po.model_shape import read_policy_shape

TOOL = Path(__file__).parents[1] / "tools/convert_checkpoint.py"
NUM_FILES = 4
_RUN_AND_REPORT = """
import resource, runpy, sys
sys.argv = sys.argv[1:]
try:
    runpy.run_path(sys.argv[0], run_name="__main__")
finally:
    print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


def write_model(folder: Path, layers: int) -> int:
    """Bytes of the largest file."""
    folder.mkdir()
    config = {
        "architectures": ["Qwen2ForCausalLM"],
        "hidden_size": 2048,
        "intermediate_size": 8192,
        "num_hidden_layers": layers,
        "num_attention_heads": 16,
        "num_key_value_heads": 4,
        "vocab_size": 32_768,
        "max_position_embeddings": 4096,
        "rms_norm_eps": 1e-6,
        "rope_theta": 1e6,
        "tie_word_embeddings": False,
    }
    (folder / "config.json").write_text(json.dumps(config))
    sizes = list(expected_tensors(read_policy_shape(str(folder))).items())
    total = sum(torch.Size(size).numel() for _, size in sizes)
    tensors: dict[str, torch.Tensor] = {}
    number, held = 0, 0
    for name, size in sizes:
        tensors[name] = torch.randn(size, dtype=torch.bfloat16)
        held += tensors[name].numel()
        if held >= total / NUM_FILES:
            save_file(tensors, folder / f"model-{number}.safetensors")
            tensors, number, held = {}, number + 1, 0
    if tensors:
        save_file(tensors, folder / f"model-{number}.safetensors")
    return max(path.stat().st_size for path in folder.glob("*.safetensors"))


def run(*arguments: str | Path) -> tuple[float, float]:
    """(seconds, peak bytes of the process)"""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-c", _RUN_AND_REPORT, *map(str, arguments)],
        check=True,
        capture_output=True,
        text=True,
    )
    return time.perf_counter() - started, float(done.stdout.splitlines()[-1])


def write_small(folder: Path) -> Path:
    write_model(folder, 1)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=64, help="about 100 MB of weights each")
    layers = parser.parse_args().layers
    console = Console()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _, base = run(TOOL, "checksum", write_small(folder / "small"))
        largest = write_model(folder / "hf", layers)
        total = sum(p.stat().st_size for p in (folder / "hf").glob("*.safetensors"))
        rows = {
            "to-megatron": run(TOOL, "to-megatron", folder / "hf", folder / "meg"),
            "to-hf": run(TOOL, "to-hf", folder / "meg", folder / "back", "--like", folder / "hf"),
        }
    table = Table(
        title=f"{total / 1e9:.1f} GB in {NUM_FILES} files, the largest {largest / 1e9:.2f} GB"
    )
    for column in ("way", "seconds", "GB/s", "peak memory", "of the largest file"):
        table.add_column(column, justify="right")
    for way, (seconds, peak) in rows.items():
        table.add_row(
            way,
            f"{seconds:.0f}",
            f"{total / seconds / 1e9:.2f}",
            f"{peak / 1e9:.2f} GB",
            f"{peak / largest:.2f} (target <= 1.5)",
        )
    console.print(table)
    console.print(f"the interpreter with its libraries and next to no weights: {base / 1e9:.2f} GB")


if __name__ == "__main__":
    main()
