"""Lets SGLang be imported where there is no torchvision: of the published builds none loads beside a CPU torch, so
requirements/ installs none there, and transformers and the models it loads do without.

SGLang 0.5.23 names torchvision's image transforms at module level, for models that see. A dense language model calls
none of them; a call raises and says so.

Call `stand_in_for_torchvision()` before the first import of sglang. It does nothing where torchvision is installed.
"""

from __future__ import annotations

import functools
import importlib.machinery
import importlib.util
import sys
import types
from typing import Any

_MODULES = ("torchvision", "torchvision.transforms", "torchvision.transforms.functional")


class _Absent(types.ModuleType):
    """Any public name of it can be imported; none can be used."""

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"module {self.__name__} has no attribute {name}")
        return _AbsentName(f"{self.__name__}.{name}")


class _AbsentName:
    def __init__(self, name: str) -> None:
        self._name = name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        raise NotImplementedError(
            f"{self._name}: torchvision has no build for this torch; serve a language model that reads text alone."
        )

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"{self._name} has no attribute {name}")
        return _AbsentName(f"{self._name}.{name}")


@functools.cache
def stand_in_for_torchvision() -> None:
    """Idempotent."""
    if importlib.util.find_spec("torchvision") is not None:
        return
    from transformers.utils.import_utils import is_torchvision_available

    is_torchvision_available()  # No, and it keeps its answer: transformers must not take the stand-in for the package.
    for name in _MODULES:
        module = _Absent(name, "Stands in for the package, which has no build for this torch.")
        module.__spec__ = importlib.machinery.ModuleSpec(name, loader=None, is_package=True)
        module.__path__ = []
        sys.modules[name] = module
        parent, _, child = name.rpartition(".")
        if parent:
            setattr(sys.modules[parent], child, module)
