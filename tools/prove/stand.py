"""Where a check runs and on what: the device, folders, shapes of models.

On a GPU the model has the shape of Qwen2.5-1.5B (head_dim 128), whole or four layers of it; on a CPU a shape of a
ten-thousandth of that, for the same lines of code.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

Dtype = Literal["float32", "bfloat16"]


@dataclass(frozen=True)
class Shape:
    hidden: int
    layers: int
    heads: int
    kv_heads: int
    ffn: int
    vocab: int

    @property
    def num_parameters(self) -> int:
        """Of the matrices."""
        projections = self.hidden * 2 * (self.hidden + self.hidden // self.heads * self.kv_heads)
        return self.layers * (projections + 3 * self.hidden * self.ffn) + self.vocab * self.hidden


WHOLE = Shape(hidden=1536, layers=28, heads=12, kv_heads=2, ffn=8960, vocab=151_936)
FOUR_LAYERS = replace(WHOLE, layers=4, vocab=32_768)
TINY = Shape(hidden=64, layers=2, heads=4, kv_heads=2, ffn=96, vocab=300)


@dataclass(frozen=True)
class Stand:
    """`device`: "cuda" or "cpu". `folder`: for whatever a check writes. `models`: for models, which others use too."""

    device: str
    folder: Path
    models: Path
    whole: Shape = WHOLE
    part: Shape = FOUR_LAYERS
    dtype: Dtype = "bfloat16"
    lengths: tuple[int, ...] = (97, 512, 33, 260, 700, 446)  # of the sequences of a batch

    @property
    def on_gpu(self) -> bool:
        return self.device == "cuda"


def tiny_stand(folder: Path, *, models: Path, dtype: Dtype = "bfloat16") -> Stand:
    lengths = (9, 23, 14, 6, 17, 12, 40, 8)
    return Stand("cpu", folder, models, whole=TINY, part=TINY, dtype=dtype, lengths=lengths)
