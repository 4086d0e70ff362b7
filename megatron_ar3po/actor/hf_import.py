"""Hugging Face safetensors -> this rank's parameters, streamed: one tensor's part of this rank at a time.

Names and shapes of all files are checked before anything is read, so a checkpoint that does not fit leaves no half
filled model; a value that is not finite is named when it is met.
"""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from megatron.core import parallel_state
from safetensors import SafetensorError, safe_open
from torch import Tensor

from megatron_ar3po.actor.hf_mapping import chunk_parameters, read_shard
from megatron_ar3po.actor.model import PolicyModel
from megatron_ar3po.model_shape import ModelShape

_DTYPES = {"F32": torch.float32, "BF16": torch.bfloat16, "F16": torch.float16, "F64": torch.float64}


class HfTensors:
    """The *.safetensors of one folder, by tensor name. One file is open at a time, so that what was read from the
    others does not stay mapped; nothing is read ahead."""

    def __init__(self, folder: Path) -> None:
        self._file_of: dict[str, Path] = {}
        self._layout: dict[str, tuple[tuple[int, ...], torch.dtype]] = {}
        self._open: tuple[Path, Any] | None = None
        files = sorted(folder.glob("*.safetensors"))
        if not files:
            raise ValueError(
                f"model.path={folder} holds no *.safetensors; save the checkpoint with safe_serialization=True."
            )
        for path in files:
            handle = self._open_file(path)
            for name in handle.keys():  # noqa: SIM118  (no dict)
                part = handle.get_slice(name)
                self._file_of[name] = path
                self._layout[name] = (tuple(part.get_shape()), _DTYPES[part.get_dtype()])

    @property
    def names(self) -> set[str]:
        return set(self._file_of)

    def in_file_order(self, names: Iterable[str]) -> list[str]:
        """`names` so that each file is opened once."""
        return sorted(names, key=lambda name: (self._file_of[name], name))

    def shape_of(self, name: str) -> tuple[int, ...]:
        return self._layout[name][0]

    def dtype_of(self, name: str) -> torch.dtype:
        return self._layout[name][1]

    def read_whole(self, name: str) -> Tensor:
        return _require_finite(name, self._open_slice(name)[:])

    def read_rows(self, name: str, first: int, last: int) -> Tensor:
        return _require_finite(name, self._open_slice(name)[first:last])

    def read_columns(self, name: str, first: int, last: int) -> Tensor:
        return _require_finite(name, self._open_slice(name)[:, first:last])

    def close(self) -> None:
        if self._open is not None:
            self._open[1].__exit__(None, None, None)
            self._open = None

    def _open_slice(self, name: str) -> Any:
        return self._open_file(self._file_of[name]).get_slice(name)

    def _open_file(self, path: Path) -> Any:
        if self._open is None or self._open[0] != path:
            self.close()
            try:
                self._open = (path, safe_open(path, framework="pt").__enter__())
            except SafetensorError as error:
                raise ValueError(
                    f"{path} is no whole safetensors file ({error}); copy the checkpoint again."
                ) from error
        return self._open[1]


def _require_finite(name: str, part: Tensor) -> Tensor:
    if not torch.isfinite(part).all():
        count = int((~torch.isfinite(part)).sum())
        raise ValueError(
            f"tensor {name} of the checkpoint holds {count} values that are NaN or infinite; re-save it."
        )
    return part


def load_hf_weights(model: PolicyModel, folder: Path) -> None:
    """Fills this rank's parameters. No collective."""
    shape, config = model.shape, model.config
    tensors = HfTensors(folder)
    try:
        check_tensors(shape, tensors)
        wanted = model.hf_parameters()
        targets = dict(model.named_parameters())
        assert set(targets) == {p.name for p in wanted}, set(targets) ^ {p.name for p in wanted}
        for parameter in wanted:
            shard = read_shard(
                parameter,
                shape,
                config.tensor_model_parallel_size,
                parallel_state.get_tensor_model_parallel_rank(),
                tensors.read_rows,
                tensors.read_columns,
            )
            target = targets[parameter.name]
            assert shard.shape == target.shape, (parameter.name, shard.shape, target.shape)
            target.data.copy_(shard)
    finally:
        tensors.close()


def check_tensors(shape: ModelShape, tensors: HfTensors) -> None:
    """ValueError that names every missing, unexpected or misshapen tensor."""
    expected = expected_tensors(shape)
    # Buffers of older transformers; and a tied checkpoint may repeat its embedding as lm_head.
    ignorable = {n for n in tensors.names if n.endswith("rotary_emb.inv_freq")}
    ignorable |= {"lm_head.weight"} if shape.is_tied else set()
    missing = sorted(set(expected) - tensors.names)
    extra = sorted(tensors.names - set(expected) - ignorable)
    misshapen = [
        f"{name} is {list(tensors.shape_of(name))}, config.json says {list(size)}"
        for name, size in expected.items()
        if name in tensors.names and tensors.shape_of(name) != size
    ]
    problems = [
        *(["missing: " + _first_few(missing)] if missing else []),
        *(["not part of the model: " + _first_few(extra)] if extra else []),
        *(["wrong shape: " + _first_few(misshapen)] if misshapen else []),
    ]
    if problems:
        raise ValueError(
            f"model.path={shape.path} does not hold a whole {shape.architecture}. "
            + ". ".join(problems)
            + ". "
            "Copy the checkpoint again, or mend its config.json."
        )


def expected_tensors(shape: ModelShape) -> dict[str, tuple[int, ...]]:
    """HF name -> shape of every tensor of the model."""
    whole = chunk_parameters(shape, stage=0, num_stages=1, fused_norms=False)
    return {n: s for p in whole for n, s in zip(p.hf_names, p.hf_shapes, strict=True)}


def _first_few(names: Iterable[str], limit: int = 8) -> str:
    names = list(names)
    more = f" and {len(names) - limit} more" if len(names) > limit else ""
    return ", ".join(names[:limit]) + more
