"""A policy as a Hugging Face folder: config, tokenizer, sharded safetensors, written bucket by bucket.

Written beside the target and renamed at the end: a folder of this name is always whole. `check_weight_files` looks at
one that somebody else has written.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable, Sequence, Set
from pathlib import Path
from typing import TYPE_CHECKING

from safetensors import SafetensorError, safe_open

from megatron_ar3po.disk_faults import naming

if TYPE_CHECKING:
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
    """`add` each bucket, then `finish`: only then is there a folder `target`, and an older one of this name is gone.
    With `keep_partial` the files that an interrupted writer has finished may be skipped."""

    def __init__(self, *, source: Path, target: Path, keep_partial: bool = False) -> None:
        self._source, self._target, self._keep_partial = source, target, keep_partial
        self._partial = target.with_name(target.name + ".partial")
        self._weight_map: dict[str, str] = {}
        self._num_files = 0
        self.num_bytes = 0

    def add(self, bucket: Sequence[tuple[str, Tensor]]) -> None:
        from safetensors.torch import save_file  # imports torch, which who only looks does without

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


# As safetensors calls them.
READABLE_DTYPES = ("F64", "F32", "F16", "BF16")


def check_weight_files(folder: Path) -> None:
    """Raises ValueError where weights are missing, cut short or quantised. Reads the headers of the files alone."""
    found = f"model.path={folder}"
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ValueError(
            f"{found} holds no *.safetensors; save the checkpoint with safe_serialization=True."
        )
    missing = sorted(_files_of_index(folder) - {file.name for file in files})
    if missing:
        raise ValueError(
            f"{found} lacks {len(missing)} files of weights that its index names, first {missing[0]}; copy it again."
        )
    for file in files:
        try:
            with safe_open(file, framework="numpy") as content:
                dtypes = {name: str(content.get_slice(name).get_dtype()) for name in content.keys()}  # noqa: SIM118  (no dict)
        except (SafetensorError, OSError) as error:
            raise ValueError(
                f"{file} is no whole safetensors file ({error}); copy the checkpoint again."
            ) from error
        for name, dtype in dtypes.items():
            if dtype not in READABLE_DTYPES:
                raise ValueError(
                    f"{file} holds {name} as {dtype}: the checkpoint is quantised, and the actor trains weights of "
                    f"{', '.join(READABLE_DTYPES)}; name the checkpoint it was made from."
                )


def _files_of_index(folder: Path) -> set[str]:
    index = folder / "model.safetensors.index.json"
    if not index.is_file():
        return set()
    try:
        return set(json.loads(index.read_text("utf-8"))["weight_map"].values())
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{index} is no index of weights ({error}); copy it again.") from error
