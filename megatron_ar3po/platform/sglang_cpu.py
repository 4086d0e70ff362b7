"""Lets the published SGLang wheels serve a dense model on a machine without a GPU. Nothing here runs beside one.

What each shim is for (SGLang 0.5.23):

1. torchvision: see `torchvision_stand_in` (there is none) and `torchvision_schemas` (one that does not fit).
2. `sgl_kernel`: on the CPU engine SGLang imports a few names of a package that has no CPU wheel. A dense model without
   speculative decoding on the `torch_native` attention calls none of them; a call raises and says so.
3. `murmur_hash32_cpu`, the one operator that the per-request seed needs, written in numpy.
4. The seeded mode (`--enable-deterministic-inference`) refuses `torch_native`, and turns on Triton matmuls that need an
   accelerator. Here it gets `batch_invariance` instead, and attention whose shapes do not depend on the batch either:
   tokens and log-probs are, bit by bit, a function of prompt, seed and weights.
5. One attention call per layer for the whole batch: see `sglang_cpu_attention`.
6. Forked children: by default each child imports SGLang once more (9 CPU seconds each, beside a trainer that imports
   Megatron). Without CUDA nothing forbids a fork, so the children share the launcher's modules.
"""

from __future__ import annotations

import importlib.machinery
import importlib.util
import multiprocessing
import os
import sys
import types
from collections.abc import Callable
from typing import Any, NoReturn, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from megatron_ar3po.platform.batch_invariance import install
from megatron_ar3po.platform.torchvision_schemas import ensure_torchvision_schemas
from megatron_ar3po.platform.torchvision_stand_in import stand_in_for_torchvision

# The names that SGLang's CPU paths import at module level; none is called on the way described above.
_ABSENT_KERNELS = (
    "assign_draft_cache_locs_contiguous_cpu",
    "assign_extend_cache_locs_cpu",
    "assign_req_to_token_pool_cpu",
    "build_tree_kernel_efficient_cpu",
    "copy_all_layer_kv_cache_cpu",
    "fill_accept_out_cache_loc_cpu",
    "fill_bonus_tokens_cpu",
    "verify_tree_greedy_cpu",
)

_Words: TypeAlias = npt.NDArray[np.uint32]


def apply_shims(*, seeded: bool) -> None:
    """Before the first import of sglang, in the launcher."""
    os.environ["SGLANG_USE_CPU_ENGINE"] = "1"
    ensure_torchvision_schemas()
    stand_in_for_torchvision()
    if importlib.util.find_spec("sgl_kernel") is None:
        _install_sgl_kernel()
    if seeded:
        _open_seeded_mode()
    _fork_children()

    from megatron_ar3po.platform import sglang_cpu_attention  # imports SGLang: only now

    sglang_cpu_attention.register(batch_invariant=seeded)


def _install_sgl_kernel() -> None:
    module = types.ModuleType("sgl_kernel", "Stands in for the package that has no CPU wheel.")
    module.__spec__ = importlib.machinery.ModuleSpec("sgl_kernel", loader=None)
    for name in _ABSENT_KERNELS:
        setattr(module, name, _absent_kernel(name))
    # A Library takes its operators with it when it is collected: the module keeps it.
    setattr(module, "library", _register_murmur_hash())  # noqa: B010
    sys.modules["sgl_kernel"] = module


def _absent_kernel(name: str) -> Callable[..., NoReturn]:
    def call(*args: Any, **kwargs: Any) -> NoReturn:
        raise NotImplementedError(
            f"sgl_kernel.{name} has no CPU build here; serve a dense model with --attention-backend torch_native."
        )

    return call


def _register_murmur_hash() -> torch.library.Library:
    library = torch.library.Library("sgl_kernel", "FRAGMENT")
    library.define("murmur_hash32_cpu(Tensor seed, Tensor positions, Tensor col_indices) -> Tensor")
    library.impl("murmur_hash32_cpu", murmur_hash32, "CPU")
    return library


def murmur_hash32(seed: Tensor, positions: Tensor, col_indices: Tensor) -> Tensor:
    """MurmurHash3 (x86, 32 bit) of the 16 bytes (seed low, seed high, position, column), one row per (seed, position).

    seed: [N] 64-bit integers; positions: [N]; col_indices: [V]; result: [N, V] uint32. In numpy, whose uint32 wraps
    around as the hash wants it and which torch has no arithmetic for; a row at a time, which stays in the cache."""
    words = (seed.view(torch.int64) if seed.dtype == torch.uint64 else seed).numpy()
    state = np.zeros(len(words), np.uint32)
    for word in (words, words >> 32, positions.numpy()):
        state = _mix(state, _scramble(word.astype(np.uint32)))
    columns = _scramble(col_indices.numpy().astype(np.uint32))
    hashed = np.empty((len(state), len(columns)), np.uint32)
    for row, row_state in zip(hashed, state, strict=True):
        row[:] = _mix(row_state, columns)
        _finish(row)
    return torch.from_numpy(hashed)


def _scramble(word: _Words) -> _Words:
    return _rotate_left(word * np.uint32(0xCC9E2D51), 15) * np.uint32(0x1B873593)


def _mix(state: Any, scrambled: _Words) -> _Words:
    return _rotate_left(state ^ scrambled, 13) * np.uint32(5) + np.uint32(0xE6546B64)


def _finish(state: _Words) -> None:
    """In place: it is most of the work."""
    state ^= np.uint32(16)  # length of the input in bytes
    state ^= state >> np.uint32(16)
    state *= np.uint32(0x85EBCA6B)
    state ^= state >> np.uint32(13)
    state *= np.uint32(0xC2B2AE35)
    state ^= state >> np.uint32(16)


def _rotate_left(word: _Words, bits: int) -> _Words:
    return (word << np.uint32(bits)) | (word >> np.uint32(32 - bits))


def _open_seeded_mode() -> None:
    from sglang.srt import batch_invariant_ops
    from sglang.srt.arg_groups import choices

    choices.add_deterministic_attention_backend_choices(["torch_native"])
    choices.add_radix_supported_deterministic_attention_backend_choices(["torch_native"])
    batch_invariant_ops.enable_batch_invariant_mode = lambda *args, **kwargs: install()


def _fork_children() -> None:
    """SGLang asks for 'spawn' by name, always. The launcher is single-threaded but for its sleeping guard when it
    forks, and OMP_NUM_THREADS=1 keeps OpenMP from starting threads before it."""
    choose = multiprocessing.set_start_method
    multiprocessing.set_start_method = lambda method, force=False: choose("fork", force=force)
