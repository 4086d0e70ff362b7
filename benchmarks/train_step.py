"""What the actor costs beside a bare Megatron-Core loop on the same micro-batches, as ratios of one run.

    python benchmarks/train_step.py [--size tiny|medium|all] [--rounds N]

The bare loop is the same GPTModel, schedule, DDP and distributed optimizer with Megatron's own output layer over all
tokens, its cross entropy, and nothing else: no chunks, no metrics, no agreement over ranks. Rounds alternate, so that
a busy machine slows both alike; a ratio is the median over rounds.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

from megatron_ar3po.actor.megatron_actor import MegatronActor
from megatron_ar3po.config.actor import ActorConfig
from megatron_ar3po.config.model import ModelConfig
from megatron_ar3po.config.schema import Config
from megatron_ar3po.distributed.collectives import start_process_group
from megatron_ar3po.distributed.layout import ParallelLayout
from megatron_ar3po.platform.torchvision_schemas import ensure_torchvision_schemas
from megatron_ar3po.types import MicroBatch, MiniBatch, TrainingBatch


@dataclass(frozen=True)
class Size:
    hidden: int
    layers: int
    ffn: int
    vocab: int
    sequences: int
    tokens: int  # of one sequence, the mean
    micro_batches: int
    target: float  # the ratio we hold ourselves to


SIZES = {
    "tiny": Size(128, 2, 352, 20, sequences=90, tokens=14, micro_batches=1, target=1.2),
    "medium": Size(512, 6, 1408, 8192, sequences=24, tokens=90, micro_batches=2, target=1.05),
}


def write_model(size: Size, folder: Path) -> int:
    ensure_torchvision_schemas()
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        hidden_size=size.hidden,
        num_hidden_layers=size.layers,
        intermediate_size=size.ffn,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=size.vocab,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    torch.manual_seed(0)
    model = Qwen2ForCausalLM(config)
    model.save_pretrained(folder)
    return sum(p.numel() for p in model.parameters())


def batch_of(size: Size) -> TrainingBatch:
    generator = torch.Generator().manual_seed(0)
    spread = size.tokens // 4
    lengths = torch.randint(
        size.tokens - spread, size.tokens + spread + 1, (size.sequences,), generator=generator
    ).tolist()
    responses = sum(n - n // 3 for n in lengths)
    step = -(-size.sequences // size.micro_batches)
    micro = tuple(
        pack(lengths[i : i + step], size.vocab, responses, generator)
        for i in range(0, size.sequences, step)
    )
    mini = MiniBatch(micro_batches=micro, num_units=responses, num_sequences=size.sequences)
    return TrainingBatch(mini_batches=(mini,), num_samples=size.sequences, num_tokens=sum(lengths))


def pack(
    lengths: Sequence[int], vocab: int, responses: int, generator: torch.Generator
) -> MicroBatch:
    """The first third of each sequence is its prompt."""
    total = sum(lengths)
    tokens = torch.randint(0, vocab, (total,), generator=generator)
    masks = []
    for n in lengths:
        positions = torch.arange(n)
        masks.append(((positions >= n // 3 - 1) & (positions < n - 1)).float())
    mask = torch.cat(masks)
    nothing = torch.zeros(total, dtype=torch.bool)
    return MicroBatch(
        token_ids=tokens,
        position_ids=torch.cat([torch.arange(n) for n in lengths]),
        cu_seqlens=torch.tensor([0, *lengths]).cumsum(0).int(),
        sequence_ids=torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)),
        target_ids=torch.where(mask > 0, tokens.roll(-1), 0),
        loss_mask=mask,
        advantages=torch.randn(total, generator=generator) * mask,
        weights=mask / responses,
        behaviour_logprobs=-2.0 * mask,
        is_reused=nothing,
        uses_behaviour_logprobs=nothing,
    )


def bare_loop(actor: MegatronActor, micro_batches: Sequence[MicroBatch]) -> Callable[[], None]:
    """Megatron's own parts on a model of their own."""
    from megatron.core.distributed import finalize_model_grads
    from megatron.core.models.gpt import GPTModel
    from megatron.core.pipeline_parallel import get_forward_backward_func
    from megatron.core.tensor_parallel import vocab_parallel_cross_entropy

    from megatron_ar3po.actor.hf_import import load_hf_weights
    from megatron_ar3po.actor.model import PolicyModel, build_model
    from megatron_ar3po.actor.optimizer import Optimizer, wrap_for_training

    config = actor.config
    policy = build_model(actor.policy.shape, actor.layout, config.actor, torch.float32)
    load_hf_weights(policy, Path(config.model.path))
    model = wrap_for_training(policy, config.actor)
    optimizer = Optimizer(model, config.actor, total_steps=100).inner
    policy.config.finalize_model_grads_func = lambda m, _tokens, **k: finalize_model_grads(
        m, None, **k
    )
    # GPTModel's own end: the output layer over all tokens.
    PolicyWithLogits = type(
        "PolicyWithLogits", (PolicyModel,), {"_postprocess": GPTModel._postprocess}
    )
    policy.__class__ = PolicyWithLogits

    def step(batches: Any, stage: Any) -> tuple[torch.Tensor, Any]:
        mb: MicroBatch = next(batches)
        logits = stage(
            mb.token_ids[None],
            mb.position_ids[None],
            None,
            packed_seq_params=policy.packing(mb.cu_seqlens),
        )

        def loss(logits: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, dict[str, Any]]:
            # Megatron's cross entropy writes into what it is given.
            nll = vocab_parallel_cross_entropy(
                logits.transpose(0, 1).float().clone(), mb.target_ids[:, None]
            )
            total = (nll[:, 0] * mb.advantages * mb.weights).sum()
            return total, torch.zeros((), dtype=torch.int), {}

        return logits, loss

    def update() -> None:
        model.zero_grad_buffer()
        optimizer.zero_grad()
        get_forward_backward_func()(
            forward_step_func=step,
            data_iterator=iter(micro_batches),
            model=[model],
            num_microbatches=len(micro_batches),
            seq_length=max(mb.num_tokens for mb in micro_batches),
            micro_batch_size=1,
        )
        optimizer.step()

    return update


def seconds(action: Callable[[], object]) -> float:
    started = time.perf_counter()
    action()
    return time.perf_counter() - started


def measure(size: Size, rounds: int) -> dict[str, float]:
    from megatron.core import parallel_state

    if parallel_state.model_parallel_is_initialized():
        parallel_state.destroy_model_parallel()
    with tempfile.TemporaryDirectory() as folder:
        parameters = write_model(size, Path(folder))
        config = Config(model=ModelConfig(path=folder), actor=ActorConfig(learning_rate=1e-5))
        actor = MegatronActor(config, ParallelLayout())
        batch = batch_of(size)
        logprobs = [seconds(lambda: actor.compute_logprobs(batch)) for _ in range(3)]
        mini = actor.compute_logprobs(batch).mini_batches[0]
        bare = bare_loop(actor, mini.micro_batches)
        bare()
        actor.update(mini)
        times = []
        for round_ in range(rounds):
            pair = {}
            for name in ("bare", "actor") if round_ % 2 else ("actor", "bare"):
                pair[name] = seconds(bare if name == "bare" else lambda: actor.update(mini))
            times.append((pair["bare"], pair["actor"]))
    return {
        "parameters": parameters,
        "tokens": batch.num_tokens,
        "logprobs": min(logprobs),
        "bare": statistics.median(b for b, _ in times),
        "actor": statistics.median(a for _, a in times),
        "ratio": statistics.median(a / b for b, a in times),
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", choices=[*SIZES, "all"], default="all")
    parser.add_argument("--rounds", type=int, default=0, help="0: 20 tiny rounds, 3 medium ones")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    start_process_group(600.0)
    table = Table(
        title="One optimizer step: the actor beside a bare Megatron-Core loop (one thread)"
    )
    for column in ("size", "parameters", "tokens", "log-probs", "bare", "actor", "ratio", "target"):
        table.add_column(column, justify="left" if column == "size" else "right")
    for name, size in SIZES.items():
        if arguments.size not in (name, "all"):
            continue
        found = measure(size, arguments.rounds or {"tiny": 20, "medium": 3}[name])
        table.add_row(
            name,
            f"{found['parameters'] / 1e6:.1f} M",
            f"{found['tokens']:.0f}",
            *(f"{found[key] * 1e3:.0f} ms" for key in ("logprobs", "bare", "actor")),
            f"{found['ratio']:.2f}",
            f"<= {size.target}",
        )
    Console().print(table)


if __name__ == "__main__":
    main()
