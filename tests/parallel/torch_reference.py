"""The reference of the cases: transformers with torch's AdamW, one sequence at a time.

Neither Megatron nor packing has a part in it."""

from __future__ import annotations

import copy
import dataclasses
from collections.abc import Sequence
from typing import Any

import torch

LEARNING_RATE, WEIGHT_DECAY, CLIP_GRAD, TEMPERATURE = 1e-3, 0.01, 0.5, 0.8
# AdamW turns a gradient of 1e-8, which is rounding, into a whole step. With a larger eps the comparison is about sums.
ADAM_EPS = 1e-5
LENGTHS = (9, 23, 14, 6, 17, 12, 40, 8)  # two packs' worth of unequal sequences
PROMPT = 4
MODELS = ("qwen2", "qwen3", "llama")


def hf_model(architecture: str, tied: bool, seed: int = 0) -> Any:
    import transformers

    sizes = {
        "hidden_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 96,
        "vocab_size": 300,
        "max_position_embeddings": 128,
        "tie_word_embeddings": tied,
        "initializer_range": 0.1,
    }
    llama3 = {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 4.0,
        "low_freq_factor": 1.5,
        "high_freq_factor": 5.0,
        "original_max_position_embeddings": 32,
    }
    plain = {"rope_type": "default", "rope_theta": 10000.0}
    kind, config = {
        "qwen2": lambda: ("Qwen2", transformers.Qwen2Config(rope_parameters=plain, **sizes)),
        "qwen3": lambda: (
            "Qwen3",
            transformers.Qwen3Config(rope_parameters=plain, head_dim=32, **sizes),
        ),
        "llama": lambda: ("Llama", transformers.LlamaConfig(rope_parameters=llama3, **sizes)),
    }[architecture]()
    torch.manual_seed(seed)
    model = getattr(transformers, f"{kind}ForCausalLM")(config)
    with (
        torch.no_grad()
    ):  # transformers starts norms at 1 and biases at 0, which would hide a mix-up
        for name, parameter in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                parameter.add_(torch.randn_like(parameter) * 0.1)
    return model.eval()


@dataclasses.dataclass(frozen=True)
class TokenSequence:
    token_ids: torch.Tensor
    advantage: float


def sequences(seed: int) -> list[TokenSequence]:
    generator = torch.Generator().manual_seed(seed)
    return [
        TokenSequence(
            torch.randint(0, 300, (n,), generator=generator),
            float(torch.randn((), generator=generator)),
        )
        for n in LENGTHS
    ]


def num_response_tokens(seqs: Sequence[TokenSequence]) -> int:
    return sum(len(s.token_ids) - PROMPT for s in seqs)


def reference_logprobs(model: Any, tokens: torch.Tensor) -> torch.Tensor:
    """[response tokens], of the temperature-scaled model."""
    logits = model(tokens[None]).logits[0, PROMPT - 1 : -1] / TEMPERATURE
    return logits.log_softmax(-1).gather(-1, tokens[PROMPT:, None])[:, 0]


@dataclasses.dataclass(frozen=True)
class Reference:
    losses: list[float]
    grad_norms: list[float]
    weights: list[dict[str, torch.Tensor]]  # after each update


def reference_updates(
    model: Any, steps: int, kl_coef: float = 0.0, refresh_after: int = -1
) -> Reference:
    """Policy gradient at ratio 1 (old = current), clipped AdamW, no decay of vectors. The policy after update
    `refresh_after` becomes the reference of the KL."""
    frozen = copy.deepcopy(model)
    named = dict(model.named_parameters())
    matrices = [p for p in named.values() if p.ndim > 1]
    vectors = [p for p in named.values() if p.ndim == 1]
    optimizer = torch.optim.AdamW(
        [
            {"params": matrices, "weight_decay": WEIGHT_DECAY},
            {"params": vectors, "weight_decay": 0.0},
        ],
        lr=LEARNING_RATE,
        betas=(0.9, 0.95),
        eps=ADAM_EPS,
    )
    result = Reference([], [], [])
    for step in range(steps):
        seqs = sequences(step)
        optimizer.zero_grad()
        loss = torch.zeros(())
        for s in seqs:
            logprobs = reference_logprobs(model, s.token_ids)
            loss = loss - (s.advantage * (logprobs - logprobs.detach()).exp()).sum()
            if kl_coef:
                with torch.no_grad():
                    before = reference_logprobs(frozen, s.token_ids)
                difference = before - logprobs
                loss = loss + kl_coef * (difference.exp() - difference - 1).sum()  # k3
        loss = loss / num_response_tokens(seqs)
        loss.backward()
        result.losses.append(loss.item())
        result.grad_norms.append(torch.nn.utils.clip_grad_norm_(named.values(), CLIP_GRAD).item())
        optimizer.step()
        if step == refresh_after:
            frozen = copy.deepcopy(model)
        result.weights.append({n: p.detach().clone() for n, p in named.items()})
    return result
