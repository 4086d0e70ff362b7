"""Lets transformers and SGLang be imported where a CUDA-built torchvision lies beside a CPU build of torch: somebody
or some package has installed it (requirements/ installs none there, see `torchvision_stand_in`).

The published torchvision wheel is a CUDA build. Its extension does not load beside a CPU torch, and importing
torchvision then fails with "operator torchvision::nms does not exist", and transformers and SGLang with it. Declaring
the operators' schemas first is enough: nothing here calls them.

Call `ensure_torchvision_schemas()` before the first import of transformers, torchvision or sglang, in every process
(spawned children too). It does nothing where torch and torchvision fit together.
"""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@functools.cache
def _declared_schemas() -> torch.library.Library | None:
    if importlib.util.find_spec("torch") is None:  # of a process that does without
        return None
    import torch

    # Kept alive by the cache: a Library takes its operators with it when it is collected.
    if torch.version.cuda is not None or not _is_cuda_build_of_torchvision():
        return None
    if hasattr(torch.ops.torchvision, "nms"):
        return None
    library = torch.library.Library("torchvision", "FRAGMENT")
    for name in ("nms", "qnms"):
        library.define(f"{name}(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")
    return library


def _is_cuda_build_of_torchvision() -> bool:
    """Read from the package's version file: importing the package is what fails."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or not spec.submodule_search_locations:
        return False
    version_file = Path(spec.submodule_search_locations[0]) / "version.py"
    return version_file.is_file() and "+cu" in version_file.read_text(encoding="utf-8")


def ensure_torchvision_schemas() -> None:
    """Idempotent; costs nothing after the first call."""
    _declared_schemas()
