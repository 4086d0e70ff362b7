"""A Transformer Engine of names and shapes alone, so that Megatron's own wrappers and layer specs for it can be built
where there is no GPU: which parameters a layer has, what they are called and how tensor parallelism cuts them are
Transformer Engine 2's own (`te.pytorch.Linear`, `LayerNormLinear`, `RMSNorm`). Nothing computes.

`install()` goes before the first import of `megatron.core`, in a process of its own.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import sys
import types
from collections.abc import Sequence
from typing import Any

import torch

VERSION = "2.11.0"
# What Megatron-Core 0.16.1 cannot do without; further modules it takes or leaves.
_PARTS = ("", ".distributed", ".fp8", ".ops", ".router", ".tensor")
MODULES = ("", ".common", ".common.recipe", *(f".pytorch{part}" for part in _PARTS))


class Linear(torch.nn.Module):
    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        tp_size: int = 1,
        bias: bool = True,
        parallel_mode: str | None = None,
        params_dtype: torch.dtype | None = None,
        **_: Any,
    ) -> None:
        super().__init__()
        self.parallel_mode = parallel_mode
        if parallel_mode == "column":
            out_features //= tp_size
        elif parallel_mode == "row":
            in_features //= tp_size
        self.weight = torch.nn.Parameter(torch.empty(out_features, in_features, dtype=params_dtype))
        if bias:
            self.bias = torch.nn.Parameter(torch.empty(out_features, dtype=params_dtype))


class LayerNormLinear(Linear):
    """The norm's weight lies in the linear layer behind it."""

    def __init__(
        self,
        in_features: int,
        out_features: int,
        *,
        normalization: str = "LayerNorm",
        params_dtype: torch.dtype | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(in_features, out_features, params_dtype=params_dtype, **kwargs)
        self.layer_norm_weight = torch.nn.Parameter(torch.empty(in_features, dtype=params_dtype))
        if normalization == "LayerNorm":
            self.layer_norm_bias = torch.nn.Parameter(torch.empty(in_features, dtype=params_dtype))


class RMSNorm(torch.nn.Module):
    def __init__(
        self, hidden_size: int, *, params_dtype: torch.dtype | None = None, **_: Any
    ) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.empty(hidden_size, dtype=params_dtype))


class DotProductAttention(torch.nn.Module):
    """No parameters."""

    def __init__(self, *_: Any, **__: Any) -> None:
        super().__init__()


class _Module(types.ModuleType):
    """Whatever else Megatron imports by name is an empty class."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        found = type(name, (), {})
        setattr(self, name, found)
        return found


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: Any = None
    ) -> importlib.machinery.ModuleSpec | None:
        package, _, rest = fullname.partition("transformer_engine")
        if package or rest not in MODULES:
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec: importlib.machinery.ModuleSpec) -> types.ModuleType:
        return _Module(spec.name)

    def exec_module(self, module: types.ModuleType) -> None:
        module.__version__ = VERSION  # type: ignore[attr-defined]
        if module.__name__ == "transformer_engine.pytorch":
            for part in (Linear, LayerNormLinear, RMSNorm, DotProductAttention):
                setattr(module, part.__name__, part)


def install() -> None:
    sys.meta_path.insert(0, _Finder())
    for name in MODULES:
        importlib.import_module("transformer_engine" + name)
