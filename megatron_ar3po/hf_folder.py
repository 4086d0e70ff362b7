"""A policy as a Hugging Face folder: config, tokenizer, sharded safetensors, written bucket by bucket.

Written beside the target and renamed at the end: a folder of this name is always whole.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence, Set
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from megatron_ar3po.disk_faults import naming


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
    """`add` each bucket, then `finish`: only then is there a folder `target`, and an older one of this name is gone.
    With `keep_partial` the files that an interrupted writer has finished may be skipped."""

    def __init__(self, *, source: Path, target: Path, keep_partial: bool = False) -> None:
        self._source, self._target, self._keep_partial = source, target, keep_partial
        self._partial = target.with_name(target.name + ".partial")
        self._weight_map: dict[str, str] = {}
        self._num_files = 0
        self.num_bytes = 0

    def add(self, bucket: Sequence[tuple[str, Tensor]]) -> None:
        path = self._next_file()
        beside = path.with_suffix(".new")
        tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in bucket}
        with naming(path):
            save_file(tensors, beside, metadata={"format": "pt"})
        beside.rename(path)
        self._count(path, list(tensors))

    def skip_written(self, names: Set[str]) -> bool:
        """Whether the next file is there already with these tensors; it then counts as added."""
        path = self._partial / f"model-{self._num_files + 1:05d}.safetensors"
        if not path.is_file():
            return False
        with safe_open(path, framework="pt") as content:
            if set(content.keys()) != names:
                return False
        self._count(self._next_file(), list(names))
        return True

    def finish(self) -> None:
        self.write_index()
        if self._target.exists():
            shutil.rmtree(self._target)
        self._partial.rename(self._target)

    def write_index(self) -> None:
        """The last file of a folder that stays `.partial`: whoever checks it first renames it."""
        index = {"metadata": {"total_size": self.num_bytes}, "weight_map": self._weight_map}
        text = json.dumps(index, indent=1)
        (self._partial / "model.safetensors.index.json").write_text(text, "utf-8")

    def _next_file(self) -> Path:
        if not self._num_files:
            self._start()
        self._num_files += 1
        return self._partial / f"model-{self._num_files:05d}.safetensors"

    def _count(self, path: Path, names: Sequence[str]) -> None:
        self._weight_map.update(dict.fromkeys(names, path.name))
        self.num_bytes += path.stat().st_size

    def _start(self) -> None:
        if self._partial.exists() and not self._keep_partial:
            shutil.rmtree(self._partial)
        self._partial.mkdir(parents=True, exist_ok=True)
        for path in all_but_weights(self._source):
            shutil.copy2(path, self._partial / path.name)


def all_but_weights(folder: Path) -> list[Path]:
    """config.json, generation config, tokenizer, chat template."""
    return [
        path
        for path in sorted(folder.iterdir())
        if path.is_file()
        and path.suffix not in (".safetensors", ".bin", ".gguf", ".pt", ".pth", ".distcp")
        and not path.name.endswith(".index.json")
        and path.name not in (".metadata", "metadata.json")
    ]
