"""A policy as a Hugging Face folder: config, tokenizer, sharded safetensors, written bucket by bucket.

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
    writer = HfFolderWriter(source=source, target=target)
    for bucket in buckets:
        if bucket:
            writer.add(bucket)
    if writer.num_bytes:
        writer.finish()


class HfFolderWriter:
    """`add` each bucket, then `finish`: only then is there a folder `target`, and an older one of this name is gone."""

    def __init__(self, *, source: Path, target: Path) -> None:
        self._source, self._target = source, target
        self._partial = target.with_name(target.name + ".partial")
        self._weight_map: dict[str, str] = {}
        self._num_files = 0
        self.num_bytes = 0

    def add(self, bucket: Sequence[tuple[str, Tensor]]) -> None:
        if not self._num_files:
            self._start()
        self._num_files += 1
        file = f"model-{self._num_files:05d}.safetensors"
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in bucket}
        save_file(tensors, self._partial / file, metadata={"format": "pt"})
        self._weight_map.update(dict.fromkeys(tensors, file))
        self.num_bytes += sum(tensor.nbytes for tensor in tensors.values())

    def finish(self) -> None:
        index = {"metadata": {"total_size": self.num_bytes}, "weight_map": self._weight_map}
        text = json.dumps(index, indent=1)
        (self._partial / "model.safetensors.index.json").write_text(text, "utf-8")
        if self._target.exists():
            shutil.rmtree(self._target)
        self._partial.rename(self._target)

    def _start(self) -> None:
        """Everything of the source but its weights: config.json, generation config, tokenizer, chat template."""
        if self._partial.exists():
            shutil.rmtree(self._partial)
        self._partial.mkdir(parents=True)
        for path in self._source.iterdir():
            is_weights = path.suffix in (".safetensors", ".bin", ".gguf", ".pt", ".pth")
            if path.is_file() and not is_weights and not path.name.endswith(".index.json"):
                shutil.copy2(path, self._partial / path.name)
