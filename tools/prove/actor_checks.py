"""What the actor computes: packed attention, recompute, memory that leaves and comes back, a checkpoint that is taken
up. Each compares the actor with itself on another way to the same result, so that no reference is needed."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch

from megatron_ar3po.actor.megatron_actor import MegatronActor
from megatron_ar3po.types import TrainingSample
from megatron_ar3po.update_stats import UpdateStats
from prove.actors import (
    distance,
    make_actor,
    make_batch,
    make_samples,
    one_process,
    weights_of,
)
from prove.findings import Finding
from prove.readings import device_bytes_in_use
from prove.stand import Stand

GIB = 1024**3


def packed_as_alone(stand: Stand) -> Finding:
    """Log-probs of packed sequences are those of each sequence alone. Beside it stands what a leak would make of them:
    the log-probs of the same responses when each sequence goes on from the one before."""
    shape = stand.part
    samples = make_samples(stand, shape.vocab, seed=0)
    with one_process():
        actor = make_actor(stand, shape)
        packed = response_logprobs(actor, samples)
        alone = np.concatenate([response_logprobs(actor, [sample]) for sample in samples])
        leaked = response_logprobs(actor, glue(samples))
    first = samples[0].num_response_tokens  # which has none before it in the pack
    return judge_packed(packed, alone, leaked, first)


def judge_packed(packed: np.ndarray, alone: np.ndarray, leaked: np.ndarray, first: int) -> Finding:
    """Log-probs [response tokens] of three ways. A leak touches none of the `first` tokens."""
    found = np.abs(packed - alone)
    leak = float(np.abs(leaked - alone)[first:].mean())
    tolerance = leak / 10
    problem = ""
    if not all(np.isfinite(logprobs).all() for logprobs in (packed, alone, leaked)):
        problem = "log-probs are not finite"
    elif leak < 0.05:
        problem = "a leak would not show"
    elif found[first:].mean() > tolerance:
        problem = f"more than a tenth of what a leak between sequences makes ({leak:.2g})"
    return Finding(
        f"mean difference {found.mean():.2g}, largest {found.max():.2g}; a leak makes {leak:.2g}",
        {"mean": float(found.mean()), "max": float(found.max()), "mean_of_a_leak": leak},
        problem,
    )


def glue(samples: Sequence[TrainingSample]) -> list[TrainingSample]:
    """The responses of `samples`, each behind all that stood before it in the pack: what attention without bounds
    would see."""
    glued, before = [], ()
    for sample in samples:
        prompt = before + sample.prompt_token_ids
        glued.append(replace(sample, prompt_token_ids=prompt))
        before = prompt + tuple(sample.response_token_ids.tolist())
    return glued


def response_logprobs(actor: MegatronActor, samples: Sequence[TrainingSample]) -> np.ndarray:
    """[response tokens], in the order of `samples`."""
    (micro_batch,) = actor.compute_logprobs(make_batch(samples)).micro_batches
    assert micro_batch.old_logprobs is not None
    return micro_batch.old_logprobs[micro_batch.loss_mask > 0].float().cpu().numpy()


def full_recompute(stand: Stand) -> Finding:
    """Three updates with full recompute: finite, and their gradients and losses are those without."""
    shape = stand.part
    with one_process():
        found: dict[str, list[UpdateStats]] = {}
        moved = 0.0
        for recompute in ("full", "none"):
            actor = make_actor(stand, shape, recompute=recompute)
            before = weights_of(actor)
            found[recompute] = [update(stand, actor, seed) for seed in range(3)]
            moved = distance(weights_of(actor), before) if recompute == "full" else moved
            del actor
    return judge_recompute(found, moved)


def judge_recompute(found: Mapping[str, Sequence[UpdateStats]], moved: float) -> Finding:
    """`found`: the updates with recompute "full" and "none". `moved`: how far those of "full" moved the weights."""
    norms = {name: [one.grad_norm for one in stats] for name, stats in found.items()}
    apart = max(abs(a / b - 1) for a, b in zip(norms["full"], norms["none"], strict=True))
    problem = ""
    if not all(math.isfinite(n) and n > 0 for n in norms["full"]):
        problem = "a gradient is zero or not finite"
    elif any(one.was_skipped for one in found["full"]):
        problem = "an update was skipped"
    elif moved == 0:
        problem = "the weights did not change"
    elif not apart <= 0.05:
        problem = "with and without recompute the gradients differ by more than 5 %"
    shown = ", ".join(f"{norm:.3g}" for norm in norms["full"])
    return Finding(
        f"gradient norms {shown}; at most {apart:.1e} from those without recompute; weights moved by {moved:.2g}",
        {"grad_norms": norms, "apart": apart, "moved": moved},
        problem,
    )


def update(stand: Stand, actor: MegatronActor, seed: int) -> UpdateStats:
    """One, on two micro-batches."""
    samples = make_samples(stand, actor.policy.shape.vocab_size, seed)
    batch = actor.compute_logprobs(make_batch(samples, num_micro_batches=2))
    return actor.update(batch.mini_batches[0])


def away_and_back(stand: Stand) -> Finding:
    """What is offloaded comes back as it was, and the next update is that of a run which never was offloaded. Beside a
    GPU the driver says how much was freed."""
    shape = stand.part
    with one_process():
        actor = make_actor(stand, shape)
        update(stand, actor, seed=0)
        before, state = weights_of(actor), optimizer_state(actor)
        full = device_bytes_in_use(stand.device)
        held = bytes_of(actor)
        actor.offload()
        parked = device_bytes_in_use(stand.device)
        while_away = weights_of(actor)  # a revived server asks for them
        actor.offload(keep_weights=True)
        published = weights_of(actor)
        actor.onload()
        back, state_back = weights_of(actor), optimizer_state(actor)
        update(stand, actor, seed=1)
        after = weights_of(actor)
        del actor
        other = make_actor(stand, shape)
        update(stand, other, seed=0)
        update(stand, other, seed=1)
        expected = weights_of(other)
    changed = [
        what
        for what, is_same in {
            "the weights while away": same(while_away, before),
            "the weights as published": same(published, before),
            "the weights": same(back, before),
            "the optimizer's state": same(state_back, state),
        }.items()
        if not is_same
    ]
    apart = distance(after, expected) / distance(expected, before)
    freed = None if full is None or parked is None else full - parked
    return judge_offload(changed, apart, held, freed)


def judge_offload(changed: Sequence[str], apart: float, held: int, freed: int | None) -> Finding:
    """`changed`: what came back otherwise. `apart`: of the update after, in lengths of an update. Bytes that the actor
    held, and that the driver says were freed (None: there is no driver)."""
    facts: dict[str, Any] = {"apart": apart, "held_gib": held / GIB}
    figure = f"{held / GIB:.2f} GiB away and back, the update after is {apart:.1e} from one without"
    problem = f"{', '.join(changed)} came back changed" if changed else ""
    if not problem and not apart <= 0.02:
        problem = "the update after is another one"
    if freed is not None:
        facts["freed_gib"] = freed / GIB
        figure += f"; the driver says {freed / GIB:.2f} GiB freed"
        if not problem and freed < 0.95 * held:
            problem = "less than 95 % of what was held was freed"
    return Finding(figure, facts, problem)


def bytes_of(actor: MegatronActor) -> int:
    """Weights, gradients, and the optimizer's tensors that are no view of the weights."""
    tensors = [buffer.param_data for buffer in _buffers(actor)]
    tensors += [buffer.grad_data for buffer in _buffers(actor)]
    tensors += optimizer_state(actor, copied=False).values()
    storages = {
        x.untyped_storage().data_ptr(): x.untyped_storage().nbytes()
        for x in tensors
        if x is not None
    }
    return sum(storages.values())


def _buffers(actor: MegatronActor) -> Sequence[Any]:
    return cast(Any, actor.model).buffers  # Megatron's own, a list


def optimizer_state(actor: MegatronActor, *, copied: bool = True) -> dict[str, torch.Tensor]:
    """Main weights and moments, in the order of the parameter groups."""
    actor.optimizer_offload.wait()
    found: dict[str, torch.Tensor] = {}
    for i, one in enumerate(actor.optimizer.inner.chained_optimizers):
        for j, group in enumerate(one.optimizer.param_groups):
            for k, tensor in enumerate(group["params"]):
                found[f"{i}.{j}.{k}"] = tensor.data
                for key, value in one.optimizer.state.get(tensor, {}).items():
                    if isinstance(value, torch.Tensor):
                        found[f"{i}.{j}.{k}.{key}"] = value
    return {name: x.detach().cpu().clone() for name, x in found.items()} if copied else found


def same(a: dict[str, torch.Tensor], b: dict[str, torch.Tensor]) -> bool:
    """Bit for bit."""
    return a.keys() == b.keys() and all(torch.equal(a[name], b[name]) for name in a)


def save_and_resume(stand: Stand) -> Finding:
    """A checkpoint before the first update and one after it: each is loaded by a new actor, which holds what was saved,
    and whose next update is that of the run that went on."""
    shape = stand.part
    with one_process():
        actor = make_actor(stand, shape)
        folders, weights, states = [], [weights_of(actor)], [optimizer_state(actor)]
        for seed in range(2):
            folders.append(save(actor, stand.folder / f"checkpoint_{seed}"))
            update(stand, actor, seed)
            weights.append(weights_of(actor))
            states.append(optimizer_state(actor))
        del actor
        problems, apart = [], []
        for seed, folder in enumerate(folders):
            resumed = make_actor(stand, shape)
            if seed == 0:  # something else than what is loaded
                update(stand, resumed, seed=7)
            resumed.load(folder)
            if not same(weights_of(resumed), weights[seed]):
                problems.append(f"the weights of checkpoint {seed} are not those that were saved")
            if seed and not same(optimizer_state(resumed), states[seed]):
                problems.append(f"the optimizer's state of checkpoint {seed} is not what was saved")
            update(stand, resumed, seed)
            moved = distance(weights[seed + 1], weights[seed])
            apart.append(distance(weights_of(resumed), weights[seed + 1]) / moved)
            del resumed
    if not problems and not all(one <= 0.02 for one in apart):
        problems.append("the update after a resume is another one")
    return Finding(
        f"updates after a resume are {apart[0]:.1e} (saved before the first) and {apart[1]:.1e} (after it) from the "
        "run that went on",
        {"apart": apart, "bytes": [bytes_in(folder) for folder in folders]},
        "; ".join(problems),
    )


def save(actor: MegatronActor, folder: Path) -> Path:
    folder.mkdir(parents=True)
    pending = actor.save(folder)
    pending.finish()
    return folder


def bytes_in(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())
