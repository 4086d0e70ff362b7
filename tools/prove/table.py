"""The checks, in the order in which they run. What a check needs is looked up before its process starts."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Check:
    """`function`: "module:function", `Stand -> Finding`. `limit_s`: on a GPU. `needs`: "gpu",
    "sglang"; without a GPU a check that does not need one runs in its tiny form, and its row says so, unless it
    `is_whole_anywhere`."""

    name: str
    question: str
    function: str
    limit_s: float
    needs: tuple[str, ...] = ()
    is_whole_anywhere: bool = False


SERVED = ("gpu", "sglang")
CHECKS = (
    Check(
        "versions",
        "what is installed, and which kernels are in use?",
        "prove.machine_checks:versions_and_kernels",
        60,
        is_whole_anywhere=True,
    ),
    Check(
        "plan",
        "what does `ar3po plan` say of 1.5B here?",
        "prove.machine_checks:memory_plan",
        60,
        is_whole_anywhere=True,
    ),
    Check(
        "order",
        "do actor and server take memory in turns, from the start of a run on?",
        "prove.order_check:order_of_allocations",
        120,
    ),
    Check(
        "attention",
        "is attention fused, packed and at head_dim 128?",
        "prove.machine_checks:fused_attention",
        120,
    ),
    Check(
        "packed",
        "is a packed sequence what it is alone, in bf16?",
        "prove.actor_checks:packed_as_alone",
        120,
    ),
    Check(
        "recompute",
        "do three updates with full recompute change the weights as without?",
        "prove.actor_checks:full_recompute",
        120,
    ),
    Check(
        "offload",
        "does what is offloaded free the device, and come back as it was?",
        "prove.actor_checks:away_and_back",
        120,
    ),
    Check(
        "resume",
        "is a run that was saved, before its first update and after it, taken up as it was?",
        "prove.actor_checks:save_and_resume",
        180,
    ),
    Check("train_step", "how fast is an update of 1.5B?", "prove.machine_checks:train_step", 180),
    Check(
        "cycles",
        "do server and actor take turns: sleep, train, wake, publish, sample, five times?",
        "prove.server_checks:five_cycles",
        240,
        SERVED,
    ),
    Check(
        "mismatch",
        "how far are the log-probs of actor and server apart, at 1.5B?",
        "prove.server_checks:mismatch",
        180,
        SERVED,
    ),
    Check(
        "kv_cache",
        "does a parked actor leave the server its KV cache?",
        "prove.server_checks:kv_tokens",
        240,
        SERVED,
    ),
    Check(
        "publish",
        "how fast is a publish of 1.5B?",
        "prove.server_checks:publish_speed",
        180,
        SERVED,
    ),
    Check(
        "train",
        "does a whole `ar3po train` of three steps end well?",
        "prove.train_check:train_three_steps",
        300,
        SERVED,
    ),
)
