"""Lets the published Megatron-Core 0.16.1 run on gloo, on a machine without a GPU.

`install()` rebinds the name `torch` inside the modules of `megatron.core` to a proxy whose `cuda` namespace and whose
factories with device="cuda" mean the CPU. The global `torch` stays as it is, so SGLang, transformers and our own code
in the same process see no change. Where CUDA is available `install()` does nothing at all.

Three more places need a hand, because they do not go through the name `torch`:

- `Tensor.type()` is compared with "torch.cuda.FloatTensor" in the optimizers and in gradient clipping;
- `Tensor.cuda()` is called while the embedding is tied over pipeline stages and while checkpoints are exchanged;
- the RNG helpers of `tensor_parallel.random` reach for the CUDA default generators.

(Its checkpoint writer forks and spawns processes; actor/background_save.py does without, with and without a GPU.)
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import sys
import types
import warnings
from collections.abc import Callable, Iterator
from typing import Any

import torch

# Imported at once, so that the proxy reaches them: a module that is loaded later keeps the real torch.
_MODULES = (
    "megatron.core.models.gpt",
    "megatron.core.optimizer",
    "megatron.core.optimizer_param_scheduler",
    "megatron.core.distributed",
    "megatron.core.pipeline_parallel",
    "megatron.core.tensor_parallel.random",
    "megatron.core.timers",
    "megatron.core.dist_checkpointing",
    "megatron.core.dist_checkpointing.strategies.torch",
    "megatron.core.dist_checkpointing.strategies.fully_parallel",
    "megatron.core.dist_checkpointing.strategies.filesystem_async",
    "megatron.core.dist_checkpointing.strategies.async_utils",
)
_FACTORIES = (
    "tensor",
    "zeros",
    "ones",
    "empty",
    "full",
    "arange",
    "rand",
    "randn",
    "zeros_like",
    "ones_like",
    "empty_like",
    "full_like",
)
_CPU = torch.device("cpu")


class _CpuAsCuda(types.ModuleType):
    """What Megatron finds under `torch.cuda`. Anything not named here is the real namespace's."""

    def __init__(self) -> None:
        super().__init__("torch.cuda")

    def current_device(self) -> torch.device:
        return _CPU

    def is_available(self) -> bool:
        return False

    def device_count(self) -> int:
        return 0

    def synchronize(self, *_: object) -> None: ...

    def empty_cache(self) -> None: ...

    def set_device(self, *_: object) -> None: ...

    def is_current_stream_capturing(self) -> bool:
        return False

    def get_rng_state(self, *_: object) -> torch.Tensor:
        return torch.get_rng_state()

    def manual_seed(self, seed: int) -> None:
        torch.manual_seed(seed)

    def __getattr__(self, name: str) -> Any:
        return getattr(torch.cuda, name)


class _TorchOnCpu(types.ModuleType):
    """`torch` as Megatron sees it. Attributes are copied once so that a look-up costs what it did before."""

    def __init__(self) -> None:
        super().__init__("torch")
        self.__dict__.update({k: v for k, v in torch.__dict__.items() if not k.startswith("__")})
        self.__dict__.update({name: _on_cpu(getattr(torch, name)) for name in _FACTORIES})
        self.__dict__["cuda"] = _CpuAsCuda()

    def __getattr__(self, name: str) -> Any:
        return getattr(torch, name)


def _on_cpu(factory: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
    @functools.wraps(factory)
    def create(*args: Any, **kwargs: Any) -> torch.Tensor:
        device = kwargs.get("device")
        if device is not None and torch.device(device).type == "cuda":
            kwargs["device"] = _CPU
            kwargs.pop("pin_memory", None)
        return factory(*args, **kwargs)

    return create


@contextlib.contextmanager
def _replace(owner: Any, name: str, value: Any) -> Iterator[None]:
    original = getattr(owner, name)
    setattr(owner, name, value)
    try:
        yield
    finally:
        setattr(owner, name, original)


def _cuda_type_names() -> contextlib.AbstractContextManager[None]:
    """Within it, `Tensor.type()` answers 'torch.cuda.FloatTensor' for a CPU tensor."""
    original = torch.Tensor.type

    def name_cuda_type(self: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        answer = original(self, *args, **kwargs)
        return answer.replace("torch.", "torch.cuda.", 1) if isinstance(answer, str) else answer

    return _replace(torch.Tensor, "type", name_cuda_type)


def _tensor_cuda_stays() -> contextlib.AbstractContextManager[None]:
    return _replace(torch.Tensor, "cuda", lambda self, *_, **__: self)


def _run_within(
    scope: Callable[[], contextlib.AbstractContextManager[None]], owner: Any, name: str
) -> None:
    """`owner.name` runs inside `scope` from now on; plain functions, methods and classmethods alike."""
    declared: Any = vars(owner)[name]
    kind = type(declared) if isinstance(declared, (classmethod, staticmethod)) else None
    function: Any = declared.__func__ if kind else declared

    @functools.wraps(function)
    def run_in_scope(*args: Any, **kwargs: Any) -> Any:
        with scope():
            return function(*args, **kwargs)

    setattr(owner, name, kind(run_in_scope) if kind else run_in_scope)


def _patch_type_comparisons() -> None:
    from megatron.core.optimizer import clip_grads, distrib_optimizer, optimizer

    _run_within(_cuda_type_names, optimizer.Float16OptimizerWithFloat16Params, "__init__")
    _run_within(
        _cuda_type_names,
        distrib_optimizer.DistributedOptimizer,
        "_build_model_and_main_param_groups",
    )
    _run_within(_cuda_type_names, clip_grads, "clip_grad_by_total_norm_fp32")
    optimizer.clip_grad_by_total_norm_fp32 = clip_grads.clip_grad_by_total_norm_fp32


def _patch_moves_to_cuda() -> None:
    from megatron.core.dist_checkpointing import exchange_utils
    from megatron.core.models.common.language_module.language_module import LanguageModule
    from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer

    _run_within(_tensor_cuda_stays, LanguageModule, "setup_embeddings_and_output_layer")
    _run_within(_tensor_cuda_stays, DistributedOptimizer, "get_parameter_state_dp_zero")
    for name in ("gather_rounds", "broadcast"):
        _run_within(_tensor_cuda_stays, exchange_utils, f"exchange_loaded_tensors_{name}")


def _patch_rng() -> None:
    from megatron.core.tensor_parallel import random

    def get_state(
        device: Any = None, clone: bool = False, graph_safe: bool = False
    ) -> torch.Tensor:
        return torch.get_rng_state()

    def set_state(state: torch.Tensor, device: Any = None, graph_safe: bool = False) -> None:
        torch.set_rng_state(state)

    random._get_cuda_rng_state = get_state
    random._set_cuda_rng_state = set_state


@functools.cache
def install() -> None:
    """Call before the first import of `megatron.core`. Idempotent; nothing to do where CUDA is available."""
    if torch.cuda.is_available():
        return
    # torch.compile as a decorator at import time would ask for a C++ compiler at the first call.
    eager = _replace(torch, "compile", lambda f=None, **_: f if f is not None else (lambda g: g))
    with eager, warnings.catch_warnings():
        warnings.simplefilter(
            "ignore"
        )  # "Transformer Engine and Apex are not installed": known here
        for name in _MODULES:
            importlib.import_module(name)
    proxy = _TorchOnCpu()
    for name, module in list(sys.modules.items()):
        if name.startswith("megatron.core") and getattr(module, "torch", None) is torch:
            vars(module)["torch"] = proxy
    _patch_type_comparisons()
    _patch_moves_to_cuda()
    _patch_rng()
