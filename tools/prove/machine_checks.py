"""What the machine has, which kernels a step really runs, and how fast it is."""

from __future__ import annotations

import importlib
import platform
import re
import statistics
import subprocess
import time
from dataclasses import replace
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from torch.cuda import nccl

from megatron_ar3po.actor.forward_step import run_schedule
from megatron_ar3po.actor.model import Kernels
from megatron_ar3po.config.actor import ActorConfig
from megatron_ar3po.config.model import ModelConfig
from megatron_ar3po.config.schema import Config
from megatron_ar3po.distributed.layout import ParallelLayout
from megatron_ar3po.model_shape import read_policy_shape
from megatron_ar3po.reporting.memory_estimate import MemoryEstimate, estimate_memory
from prove.actor_checks import GIB
from prove.actors import make_actor, make_batch, make_model, make_samples, model_config, one_process
from prove.findings import Finding
from prove.readings import judge_attention, kernels_of
from prove.stand import WHOLE, Shape, Stand

PACKAGES = ("torch", "triton", "transformers", "megatron-core", "transformer-engine", "apex")
PACKAGES += ("flash-attn", "sglang", "torch-memory-saver")
REQUIREMENTS = Path(__file__).resolve().parents[2] / "requirements"
# Dense bf16 TFLOP/s, from the data sheets.
PEAK_TFLOPS = {"A100": 312.0, "H100": 989.0, "H200": 989.0, "B200": 2250.0}
DATA_SHEET_GIB = 79.0  # of a GPU, where there is none to ask


def versions_and_kernels(stand: Stand) -> Finding:
    """What is installed, and that what is found can be imported."""
    found = {name: version_of(name) for name in PACKAGES}
    facts: dict[str, Any] = {"python": platform.python_version(), **found}
    device = "no GPU"
    if stand.on_gpu:
        device = torch.cuda.get_device_name()
        facts |= {
            "device": device,
            "driver": driver_version(),
            "cuda": torch.version.cuda,
            "cudnn": torch.backends.cudnn.version(),
            "nccl": ".".join(map(str, nccl.version())),
            "capability": ".".join(map(str, torch.cuda.get_device_capability())),
        }
    kernels = facts["kernels"] = Kernels.detect().describe()
    problems = broken_imports() if stand.on_gpu else []
    wanted = read_pin("megatron-core")
    if wanted and found["megatron-core"] != wanted:
        problems.append(
            f"megatron-core is {found['megatron-core']}, requirements/base.txt has {wanted}"
        )
    there = ", ".join(f"{name} {version}" for name, version in found.items() if version)
    return Finding(f"{device}; {there}; {kernels}", facts, "; ".join(problems))


def version_of(package: str) -> str:
    """Empty: it is not installed. A package that was carried without its metadata has no number."""
    for name in (package, *(f"{package}-{cuda}" for cuda in ("cu12", "cu13"))):
        try:
            return metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    module = {"megatron-core": "megatron.core"}.get(package, package.replace("-", "_"))
    try:
        return str(importlib.import_module(module).__version__)
    except (ImportError, AttributeError):
        return ""


def read_pin(package: str) -> str:
    """Of requirements/base.txt; empty where the repository is not at hand."""
    path = REQUIREMENTS / "base.txt"
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    found = re.search(rf"^{re.escape(package)}==(\S+)$", text, re.MULTILINE)
    return found.group(1) if found else ""


def broken_imports() -> list[str]:
    """Of what is installed and compiled against a torch and a CUDA."""
    problems = []
    for module in ("transformer_engine.pytorch", "flash_attn", "fused_weight_gradient_mlp_cuda"):
        if find_spec(module.partition(".")[0]) is None:
            continue
        try:
            importlib.import_module(module)
        except Exception as error:  # an extension of another torch raises whatever it likes
            problems.append(f"{module} is installed and cannot be imported: {error}")
    return problems


def driver_version() -> str:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=60, check=False)
    except (FileNotFoundError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.partition("\n")[0].strip()


def fused_attention(stand: Stand) -> Finding:
    """Forward and backward of the decoder over a packed micro-batch: its attention is a fused kernel, and no other."""
    shape = stand.part
    with one_process():
        actor = make_actor(stand, shape)
        batch = make_batch(make_samples(stand, shape.vocab, seed=0))

        def decode() -> None:
            run_schedule(
                actor.model,
                batch.micro_batches,
                lambda hidden, _: (hidden.float().sum(), None),
                forward_only=False,
            )

        decode()  # what is compiled at the first call is no part of it
        kernels = kernels_of(decode, stand.device)
    fused, unfused = judge_attention(kernels)
    times = sum(kernels[name] for name in fused)
    problem = ""
    if unfused:
        problem = f"attention also runs as {', '.join(unfused)}"
    elif not fused:
        problem = "no kernel of fused attention ran"
    elif times < 2 * shape.layers:
        problem = f"{times} calls are too few for {shape.layers} layers there and back"
    shown = ", ".join(name.partition("<")[0][-60:] for name in fused[:2]) or "none"
    return Finding(
        f"head_dim {shape.hidden // shape.heads}: {times} calls of {shown}",
        {"fused": {n: kernels[n] for n in fused}, "unfused": {n: kernels[n] for n in unfused}},
        problem,
    )


def memory_plan(stand: Stand) -> Finding:
    """What `ar3po plan` says of the 1.5B model on this device, or without a GPU on one of the data sheet's size."""
    gib = torch.cuda.mem_get_info()[1] / GIB if stand.on_gpu else DATA_SHEET_GIB
    model_config(WHOLE, "bfloat16").save_pretrained(stand.folder)
    estimate = estimate_one_gpu(stand.folder, gib, tokens=8192)
    phases = {phase.phase: phase.total_bytes / GIB for phase in estimate.phases}
    over = [phase.phase for phase in estimate.over(int(gib * GIB))]
    shown = ", ".join(f"{name} {held:.1f}" for name, held in phases.items())
    return Finding(
        f"GiB of {gib:.0f}: {shown}; KV cache of {estimate.kv_tokens:,} tokens",
        {**phases, "kv_tokens": estimate.kv_tokens},
        f"too much for {', '.join(over)}" if over else "",
    )


def estimate_one_gpu(model: Path, gpu_gib: float, *, tokens: int) -> MemoryEstimate:
    """Of one GPU that trains in bf16 on micro-batches of `tokens`."""
    config = Config(
        model=ModelConfig(path=str(model), dtype="bfloat16"),
        actor=ActorConfig(max_tokens_per_microbatch=tokens),
    )
    return estimate_memory(
        config,
        read_policy_shape(config.model.path),
        ParallelLayout(),
        gpus_per_node=1,
        gpu_bytes=int(gpu_gib * GIB),
    )


def train_step(stand: Stand) -> Finding:
    """Tokens a second of an update of the 1.5B model, and beside a GPU its utilisation and peak memory, with what
    `ar3po plan` had said of it."""
    stand = replace(stand, lengths=(4096,) * 4) if stand.on_gpu else stand
    speed = measure_train_step(stand, stand.whole, rounds=5 if stand.on_gpu else 1)
    figure = f"{speed['tokens_per_s']:,.0f} tokens a second"
    if stand.on_gpu:
        if peak := peak_tflops(torch.cuda.get_device_name()):
            speed["mfu"] = speed["tflops"] / peak
            figure += f", {speed['tflops']:.0f} TFLOP/s, {speed['mfu']:.1%} of {peak:.0f}"
        figure += f"; peak {speed['peak_gib']:.1f} GiB, the plan has {speed['planned_gib']:.1f}"
    return Finding(figure, speed)


def measure_train_step(stand: Stand, shape: Shape, *, rounds: int) -> dict[str, float]:
    """A step: one update, a micro-batch for each two sequences. FLOPs are 6 per parameter and token, and for causal
    attention 6 * layers * hidden * length per token; recompute is not counted."""
    with one_process():
        model = make_model(stand, shape)
        actor = make_actor(stand, shape)
        samples = make_samples(stand, shape.vocab, seed=0)
        batch = make_batch(samples, num_micro_batches=len(samples) // 2)
        (mini,) = actor.compute_logprobs(batch).mini_batches

        def step() -> float:
            started = time.perf_counter()
            actor.update(mini)
            if stand.on_gpu:
                torch.cuda.synchronize()
            return time.perf_counter() - started

        step()
        if stand.on_gpu:
            torch.cuda.empty_cache()
            torch.cuda.reset_peak_memory_stats()
        took = statistics.median(step() for _ in range(rounds))
        parameters = sum(p.numel() for p in actor.policy.parameters())
    tokens, squares = sum(stand.lengths), sum(n * n for n in stand.lengths)
    flops = 6.0 * parameters * tokens + 6.0 * shape.layers * shape.hidden * squares
    found = {
        "tokens_per_s": tokens / took,
        "seconds": took,
        "parameters": float(parameters),
        "tflops": flops / took / 1e12,
    }
    if stand.on_gpu:
        estimate = estimate_one_gpu(model, DATA_SHEET_GIB, tokens=2 * max(stand.lengths))
        train = next(phase for phase in estimate.phases if phase.phase == "train")
        found["peak_gib"] = torch.cuda.max_memory_reserved() / GIB
        found["planned_gib"] = train.total_bytes / GIB
    return found


def peak_tflops(device: str) -> float:
    """0 of a device that is not known here."""
    return next((tflops for name, tflops in PEAK_TFLOPS.items() if name in device), 0.0)
