"""Builds the wheel. Versions stand in requirements/*.txt and nowhere else."""

import importlib.util
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
_spec = importlib.util.spec_from_file_location("pins", HERE / "requirements" / "pins.py")
assert _spec is not None and _spec.loader is not None
_pins = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(_pins)

_ON_GPU = [line for line in _pins.requirements("gpu") if line not in _pins.requirements("base")]
_ON_CPU = [line for line in _pins.requirements("cpu") if line not in _pins.requirements("base")]

setup(
    name="megatron_ar3po",
    version="0.2.0.dev0",
    description="RLVR with AR3PO: adaptive rollout and response reuse on Megatron-Core and SGLang",
    long_description=(HERE / "README.md").read_text(encoding="utf-8"),
    long_description_content_type="text/markdown",
    license="Apache-2.0",
    python_requires=">=3.10",
    packages=find_packages(include=["megatron_ar3po", "megatron_ar3po.*"]),
    package_data={"megatron_ar3po": ["py.typed", "reporting/page_files/*"]},
    install_requires=_pins.requirements("base"),
    extras_require={
        "cpu": _ON_CPU,  # SGLang itself goes in with --no-deps: requirements/nodeps.txt
        "gpu": _ON_GPU,  # Transformer Engine is compiled: requirements/gpu_build.txt
        "launch": _pins.requirements("launch"),
        "wandb": _pins.requirements("wandb"),
        "mlflow": _pins.requirements("mlflow"),
        "dev": _pins.requirements("dev"),
    },
    entry_points={
        "console_scripts": ["ar3po = megatron_ar3po.cli:main"],
        # `nemo ar3po train`, where NeMo-Run is installed (the extra "launch")
        "nemo_run.cli": ["ar3po = megatron_ar3po.launch.nemo_commands"],
    },
)
