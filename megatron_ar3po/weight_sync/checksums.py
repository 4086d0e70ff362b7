"""What a server's `/weights_checker` must answer after a publish, computed from what was sent.

SGLang keeps q, k, v as one tensor and gate, up as another, pads the vocabulary with zero rows, and cuts all of it over
its own tensor-parallel ranks. The hash is SGLang's own function on the same bytes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

_MERGED = {
    "q_proj": ("qkv_proj", 3),
    "k_proj": ("qkv_proj", 3),
    "v_proj": ("qkv_proj", 3),
    "gate_proj": ("gate_up_proj", 2),
    "up_proj": ("gate_up_proj", 2),
}
_ROW_PARALLEL = ("o_proj.weight", "down_proj.weight")
_VOCAB = ("embed_tokens.weight", "lm_head.weight")
_VOCAB_MULTIPLE = 64


class SentChecksums:
    """Collects hashes while buckets go out; holds no tensor longer than until its partners have come."""

    def __init__(self, server_tp: int) -> None:
        self._server_tp = server_tp
        self._parts: dict[str, list[Tensor]] = {}
        self.expected: list[dict[str, str]] = [{} for _ in range(server_tp)]  # per server rank

    def add(self, tensors: Sequence[tuple[str, Tensor]]) -> None:
        """HF names; q before k before v, gate before up, as `Actor.hf_buckets` yields them."""
        for name, tensor in tensors:
            merged, count = _server_name(name)
            parts = self._parts.setdefault(merged, [])
            parts.append(tensor)
            if len(parts) == count:
                self._hash(merged, self._parts.pop(merged))
        # A partner may come with the next bucket, when these tensors are valid no more.
        self._parts = {name: [x.clone() for x in parts] for name, parts in self._parts.items()}

    def differences(self, ranks: Sequence[Mapping[str, object]]) -> list[str]:
        """`ranks` of the server's response -> one line per tensor that is not what was sent."""
        lines = []
        for rank, expected in enumerate(self.expected):
            held = ranks[rank]["checksums"]
            assert isinstance(held, Mapping)
            lines += [f"{name} was never sent" for name in held.keys() - expected.keys()]
            lines += [f"{name} is not held by the server" for name in expected.keys() - held.keys()]
            lines += [
                f"{n} differs" for n in expected.keys() & held.keys() if expected[n] != held[n]
            ]
        return sorted(lines)

    def _hash(self, name: str, parts: Sequence[Tensor]) -> None:
        from sglang.srt.managers.mm_utils import tensor_hash

        if name.endswith(_VOCAB):
            parts = [self._pad(parts[0])]
        for rank, expected in enumerate(self.expected):
            shard = torch.cat([_shard(name, x, self._server_tp, rank) for x in parts])
            expected[name] = f"{tensor_hash(shard):016x}"

    def _pad(self, vocab: Tensor) -> Tensor:
        multiple = _VOCAB_MULTIPLE
        if -(-len(vocab) // multiple) * multiple % self._server_tp:
            multiple *= self._server_tp
        return F.pad(vocab, (0, 0, 0, -len(vocab) % multiple))


def _server_name(name: str) -> tuple[str, int]:
    """(name of the tensor it becomes part of, how many make it up)"""
    for part, (merged, count) in _MERGED.items():
        if f".{part}." in name:
            return name.replace(part, merged), count
    return name, 1


def _shard(name: str, tensor: Tensor, tp: int, rank: int) -> Tensor:
    if tp == 1 or "norm" in name:
        return tensor
    return tensor.chunk(tp, dim=1 if name.endswith(_ROW_PARALLEL) else 0)[rank]
