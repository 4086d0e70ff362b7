import os
import subprocess
import sys
from pathlib import Path

import torch

from megatron_ar3po.platform import accelerator


def says(code: str, path: str = "") -> str:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([path, os.environ.get("PYTHONPATH", "")])}
    begin = "import sys; from megatron_ar3po.platform import accelerator as a; "
    words = [sys.executable, "-c", begin + code]
    return subprocess.run(words, env=env, timeout=60, capture_output=True, text=True).stdout.strip()


def test_the_answer_is_the_one_of_torch():
    assert accelerator.has_gpu() == torch.cuda.is_available()


def test_without_a_driver_the_answer_needs_no_torch():
    code = "a._has_driver = lambda: False; print(a.has_gpu(), 'torch' in sys.modules)"
    assert says(code) == "False False"


def test_with_a_driver_torch_is_asked(tmp_path: Path):
    (tmp_path / "torch").mkdir()
    (tmp_path / "torch/__init__.py").write_text("from torch import cuda")
    (tmp_path / "torch/cuda.py").write_text("def is_available():\n    return True")
    assert says("a._has_driver = lambda: True; print(a.has_gpu())", str(tmp_path)) == "True"
