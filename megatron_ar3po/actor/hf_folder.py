"""The policy as a Hugging Face folder: config, tokenizer, sharded safetensors, written bucket by bucket.

Written beside the target and renamed at the end: a folder of this name is always whole.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence
from pathlib import Path

from safetensors.torch import save_file
from torch import Tensor


def write_hf_folder(
    buckets: Iterable[Sequence[tuple[str, Tensor]]], *, source: Path, target: Path
) -> None:
    """`buckets` as `Actor.hf_buckets` yields them, one file each; config and tokenizer are copied from `source`. Where
    the buckets are empty (ranks that lead nothing) nothing is written."""
    partial = target.with_name(target.name + ".partial")
    weight_map: dict[str, str] = {}
    total_bytes = 0
    for number, bucket in enumerate(buckets, start=1):
        if not bucket:
            continue
        if not weight_map:
            _start(partial, source)
        file = f"model-{number:05d}.safetensors"
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in bucket}
        save_file(tensors, partial / file, metadata={"format": "pt"})
        weight_map.update(dict.fromkeys(tensors, file))
        total_bytes += sum(tensor.nbytes for tensor in tensors.values())
    if not weight_map:
        return
    index = {"metadata": {"total_size": total_bytes}, "weight_map": weight_map}
    (partial / "model.safetensors.index.json").write_text(json.dumps(index, indent=1), "utf-8")
    if target.exists():
        shutil.rmtree(target)
    partial.rename(target)


def _start(partial: Path, source: Path) -> None:
    """Everything of the source but its weights: config.json, generation config, tokenizer, chat template."""
    if partial.exists():
        shutil.rmtree(partial)
    partial.mkdir(parents=True)
    for path in source.iterdir():
        is_weights = path.suffix in (".safetensors", ".bin", ".gguf", ".pt", ".pth")
        if path.is_file() and not is_weights and not path.name.endswith(".index.json"):
            shutil.copy2(path, partial / path.name)
