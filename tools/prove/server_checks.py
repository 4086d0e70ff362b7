"""What actor and server do to each other: memory in turns, weights, log-probs, the room for a KV cache."""

from __future__ import annotations

import time
from contextlib import ExitStack
from typing import Any

import numpy as np

from prove.actor_checks import GIB, update
from prove.actors import make_model
from prove.findings import Finding
from prove.readings import device_bytes_in_use
from prove.served import Served, start_server
from prove.stand import Stand

SERVER_PARTS = ("kv_cache", "weights")
NUM_CYCLES = 5
# Mean difference of a log-prob between actor and server in bf16, of a model whose logits spread by about 0.8. Two
# kernels that round differently leave a hundredth of it at most; other weights make about all of it.
LARGEST_MEAN = 0.03
GROWTH_GIB = 0.25


def five_cycles(stand: Stand) -> Finding:
    """Sleep, an update, wake, a publish that is verified, samples; five times. After each the server samples with the
    actor's new weights, and asleep it leaves no more behind than the first time."""
    with ExitStack() as stack:
        served = Served(stand, stack, stand.part)
        awake = device_bytes_in_use(stand.device)
        asleep, means = [], []
        for cycle in range(NUM_CYCLES):
            served.control.sleep(SERVER_PARTS)
            if (left := device_bytes_in_use(stand.device)) is not None:
                asleep.append(left / GIB)
            served.actor.onload()
            update(stand, served.actor, seed=cycle)
            served.actor.offload(keep_weights=True)
            served.control.wake(["weights"])
            served.publish(verify=True)
            served.control.wake(["kv_cache"])
            means.append(float(np.abs(served.differences()).mean()))
            served.actor.offload()
    facts: dict[str, Any] = {"mean_differences": means}
    figure = f"{NUM_CYCLES} cycles, log-probs at most {max(means):.2g} from the actor's in the mean"
    problem = ""
    if not max(means) <= LARGEST_MEAN:  # not a number is too large as well
        problem = f"more than {LARGEST_MEAN}: the server does not sample with the actor's weights"
    if awake is not None:
        facts |= {"awake_gib": awake / GIB, "asleep_gib": asleep}
        shown = ", ".join(f"{left:.2f}" for left in asleep)
        figure += (
            f"; GiB in use awake {awake / GIB:.1f}, asleep {shown} (beside it the parked actor)"
        )
        if not problem and asleep[-1] > asleep[0] + GROWTH_GIB:
            problem = f"what is left asleep grows by more than {GROWTH_GIB} GiB"
        elif not problem and asleep[0] > awake / GIB / 2:
            problem = "asleep the server keeps more than half"
    return Finding(figure, facts, problem)


def mismatch(stand: Stand) -> Finding:
    """Log-probs of the server and of the actor, for tokens that the server sampled, with the whole model."""
    with ExitStack() as stack:
        served = Served(stand, stack, stand.whole, max_response_tokens=64)
        served.actor.offload(keep_weights=True)
        served.publish(verify=True)
        apart = served.differences()
    mean = float(np.abs(apart).mean())
    k3 = float((np.exp(-apart) - 1 + apart).mean())
    return Finding(
        f"{apart.size} tokens: mean {mean:.2g}, largest {np.abs(apart).max():.2g}, KL (k3) {k3:.2g}",
        {"tokens": apart.size, "mean": mean, "max": float(np.abs(apart).max()), "k3": k3},
        "" if mean <= LARGEST_MEAN else f"the mean is above {LARGEST_MEAN}",
    )


def kv_tokens(stand: Stand) -> Finding:
    """The KV cache of a server that starts alone, and of one that starts beside a parked actor."""
    model = make_model(stand, stand.whole)
    with ExitStack() as stack:
        alone = start_server(stand, stack, model).kv_tokens()
    with ExitStack() as stack:
        beside = Served(stand, stack, stand.whole).server.kv_tokens()
    return Finding(
        f"{alone:,} tokens alone, {beside:,} beside the parked actor ({beside / alone:.1%})",
        {"alone": alone, "beside": beside},
        "" if beside >= 0.97 * alone else "a parked actor takes more than 3 % of it",
    )


def publish_speed(stand: Stand) -> Finding:
    """Bytes a second of a publish of the whole model, the best of three, without verification."""
    with ExitStack() as stack:
        served = Served(stand, stack, stand.whole)
        served.actor.offload(keep_weights=True)
        served.publish(verify=True)
        rounds = []
        for _ in range(3):
            started = time.perf_counter()
            figures = served.publish(verify=False)
            rounds.append(time.perf_counter() - started)
    num_bytes = figures["weight_sync/bytes"]
    return Finding(
        f"{num_bytes / 1e9:.2f} GB in {min(rounds):.2f} s: {num_bytes / min(rounds) / 1e9:.1f} GB/s",
        {"bytes": num_bytes, "seconds": rounds, "num_buckets": figures["weight_sync/num_buckets"]},
    )
