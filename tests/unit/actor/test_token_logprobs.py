"""Values and gradients against torch's own log_softmax; one process. tests/parallel covers the vocab-parallel form."""

from __future__ import annotations

import pytest
import torch

from megatron_ar3po.actor.token_logprobs import token_logprobs

TOKENS, HIDDEN, VOCAB = 7, 5, 11


def make_inputs() -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(TOKENS, HIDDEN, generator=generator)
    weight = torch.randn(VOCAB, HIDDEN, generator=generator)
    targets = torch.randint(0, VOCAB, (TOKENS,), generator=generator)
    return hidden.requires_grad_(), weight.requires_grad_(), targets


def plain(
    hidden: torch.Tensor, weight: torch.Tensor, targets: torch.Tensor, temperature: float
) -> tuple[torch.Tensor, torch.Tensor]:
    logp = (hidden @ weight.t() / temperature).log_softmax(-1)
    return logp.gather(-1, targets[:, None])[:, 0], -(logp.exp() * logp).sum(-1)


def test_two_equal_logits_give_log_one_half_and_entropy_log_two() -> None:
    hidden, weight = torch.ones(1, 1), torch.ones(2, 1)
    logprob, entropy = token_logprobs(
        hidden, weight, torch.tensor([1]), temperature=1.0, chunk_tokens=8
    )
    assert logprob.item() == pytest.approx(-0.6931472, abs=1e-6)
    assert entropy.item() == pytest.approx(0.6931472, abs=1e-6)


def test_temperature_divides_the_logits() -> None:
    """Logits 2 and 0 at temperature 2 are 1 and 0: p = e / (e + 1)."""
    weight = torch.tensor([[2.0], [0.0]])
    logprob, _ = token_logprobs(
        torch.ones(1, 1), weight, torch.tensor([0]), temperature=2.0, chunk_tokens=8
    )
    assert logprob.item() == pytest.approx(-0.3132617, abs=1e-6)


@pytest.mark.parametrize("chunk_tokens", [1, 3, 7, 100])
@pytest.mark.parametrize("use", ["logprob", "entropy", "both"])
def test_values_and_gradients_are_those_of_log_softmax(chunk_tokens: int, use: str) -> None:
    hidden, weight, targets = make_inputs()
    wanted = plain(hidden, weight, targets, 0.7)
    got = token_logprobs(hidden, weight, targets, temperature=0.7, chunk_tokens=chunk_tokens)
    coefficient = torch.linspace(-1, 2, TOKENS)

    def loss(pair: tuple[torch.Tensor, torch.Tensor]) -> torch.Tensor:
        total = torch.zeros(())
        if use != "entropy":
            total = total + (coefficient * pair[0]).sum()
        if use != "logprob":
            total = total + (coefficient.flip(0) * pair[1]).sum()
        return total

    for mine, theirs in zip(got, wanted, strict=True):
        torch.testing.assert_close(mine, theirs, atol=5e-6, rtol=1e-6)
    mine = torch.autograd.grad(loss(got), (hidden, weight))
    theirs = torch.autograd.grad(loss(wanted), (hidden, weight))
    for a, b in zip(mine, theirs, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


def test_padding_rows_of_the_weight_get_no_gradient() -> None:
    hidden, weight, targets = make_inputs()
    padded = torch.cat([weight.detach(), torch.ones(5, HIDDEN)]).requires_grad_()
    logprob, _ = token_logprobs(hidden, padded[:VOCAB], targets, temperature=1.0, chunk_tokens=4)
    logprob.sum().backward()
    assert padded.grad is not None
    assert (padded.grad[VOCAB:] == 0).all() and (padded.grad[:VOCAB] != 0).any()


def test_no_tensor_of_all_tokens_by_vocabulary_is_ever_made(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Counts the largest matmul output in forward and backward; does not see torch's internal work space."""
    hidden, weight, targets = make_inputs()
    widest = 0
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            nonlocal widest
            out = function(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor) and out.ndim == 2 and out.size(1) == VOCAB:
                widest = max(widest, out.size(0))
            return out

    with Watch():
        logprob, _ = token_logprobs(hidden, weight, targets, temperature=1.0, chunk_tokens=2)
        logprob.sum().backward()
    # [HIDDEN, VOCAB] is the transposed weight; of logits there are never more than two rows.
    assert widest == HIDDEN


@pytest.mark.parametrize("chunk_tokens", [3, 100])
def test_without_entropy_log_probs_and_gradients_are_the_same(chunk_tokens: int) -> None:
    hidden, weight, targets = make_inputs()
    options = {"temperature": 0.7, "chunk_tokens": chunk_tokens}
    with_it, entropy = token_logprobs(hidden, weight, targets, **options)
    without, nothing = token_logprobs(hidden, weight, targets, with_entropy=False, **options)
    assert nothing is None and entropy is not None and torch.equal(with_it, without)
    for a, b in zip(
        torch.autograd.grad(with_it.sum(), (hidden, weight)),
        torch.autograd.grad(without.sum(), (hidden, weight)),
        strict=True,
    ):
        assert torch.equal(a, b)


def peak_bytes(tokens: int, vocab: int, hidden_size: int, *, chunk: int, entropy: bool) -> int:
    """Of what forward and backward allocate beside their inputs, from torch's own record of allocations."""
    hidden = torch.randn(tokens, hidden_size, requires_grad=True)
    weight = torch.randn(vocab, hidden_size, requires_grad=True)
    targets = torch.randint(0, vocab, (tokens,))
    cpu = torch.profiler.ProfilerActivity.CPU
    with torch.profiler.profile(activities=[cpu], profile_memory=True) as record:
        logprob, value = token_logprobs(
            hidden, weight, targets, temperature=0.8, chunk_tokens=chunk, with_entropy=entropy
        )
        (logprob if value is None else logprob + value).sum().backward()
    results = record.profiler.kineto_results  # type: ignore[union-attr]
    changes = sorted((e.start_ns(), e.nbytes()) for e in results.events() if e.name() == "[memory]")
    held = peak = 0
    for _, change in changes:
        held += change
        peak = max(peak, held)
    return peak


@pytest.mark.parametrize("entropy", [False, True])
def test_peak_memory_is_that_of_one_chunk_however_many_tokens_there_are(entropy: bool) -> None:
    """The bound that docs/performance.md states: C chunk rows of V fp32 logits (2, with a gradient of entropy 3), the
    gradient of the output weight twice, and what grows with the tokens: the gradient of their hidden states, a few
    numbers each. All logits of the longer case would take 67 MB."""
    vocab, width, chunk = 4096, 32, 128
    chunk_bytes, weight_bytes = chunk * vocab * 4, vocab * width * 4
    for tokens in (512, 4096):
        peak = peak_bytes(tokens, vocab, width, chunk=chunk, entropy=entropy)
        per_token = tokens * (width + 16) * 4
        bound = (3 if entropy else 2) * chunk_bytes + 2 * weight_bytes + per_token + 100_000
        assert peak <= bound, f"{tokens} tokens: {peak:,} bytes, bound {bound:,}"
        assert peak >= chunk_bytes
