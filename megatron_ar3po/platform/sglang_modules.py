"""Single modules of SGLang, without its package: `import sglang` imports most of it, for five seconds of a processor
that a starting server wants too, and whoever hands tensors to a server needs the names of one small file.
"""

from __future__ import annotations

import contextlib
import importlib.machinery
import importlib.util
import sys
from collections.abc import Iterator
from types import ModuleType

_PACKAGE = "sglang"


@contextlib.contextmanager
def sglang_without_its_package() -> Iterator[None]:
    """Inside, `import sglang` is no more than the folder in which its modules lie; what was imported of it is forgotten
    at the end. To be used where such names are imported and where they are pickled, which imports them again. Does
    nothing where SGLang has been imported whole."""
    if _PACKAGE in sys.modules:
        yield
        return
    spec = importlib.util.find_spec(_PACKAGE)
    assert spec is not None and spec.submodule_search_locations, "SGLang is not installed"
    folder = ModuleType(_PACKAGE)
    folder.__path__ = list(spec.submodule_search_locations)
    folder.__spec__ = importlib.machinery.ModuleSpec(_PACKAGE, None, is_package=True)
    sys.modules[_PACKAGE] = folder
    try:
        yield
    finally:
        for name in [n for n in sys.modules if n == _PACKAGE or n.startswith(f"{_PACKAGE}.")]:
            del sys.modules[name]
