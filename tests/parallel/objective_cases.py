"""The whole objective through the real parts: groups -> samples -> batch -> Megatron -> loss, gradient, weights.

The reference is transformers, one sequence at a time, with the aggregations written out as nested means. What it does
not exercise: the servers that sample, and ratios other than 1 (those stand in tests/unit/algorithm).
"""

from __future__ import annotations

import dataclasses
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from actor_harness import (
    OF_2,
    Cut,
    assert_weights_equal,
    checkpoint,
    export_tensors,
    make_actor,
)
from torch_reference import (
    ADAM_EPS,
    CLIP_GRAD,
    LEARNING_RATE,
    PROMPT,
    WEIGHT_DECAY,
    reference_logprobs,
)
from torchrun_cases import Cases

CASES = Cases()
AGGREGATIONS = ("token_mean", "seq_mean_token_mean", "seq_mean_token_sum", "prompt_mean")
KL_COEF = 0.5

# Rewards of four prompts; the third borrows, the fourth teaches nothing.
GROUPS = ((1, 0, 0, 0), (1, 1, 0, 1, 0, 0), (0, 0, 0), (1, 1))


@dataclasses.dataclass(frozen=True)
class Options:
    aggregation: str = "token_mean"
    option: str = "detach"
    kl_in: str = "none"
    max_tokens: int = 4096

    @property
    def algorithm(self) -> dict[str, Any]:
        kl = {} if self.kl_in == "none" else {"kl_coef": KL_COEF, "kl_in": self.kl_in}
        return {"loss_aggregation": self.aggregation, "kl_estimator": "k1", **kl}


def groups_of(step: int, rewards_of: Sequence[Sequence[int]] = GROUPS) -> list[Any]:
    """Unequal groups of unequal responses; tokens are random. In those of `GROUPS` one without a success borrows."""
    from megatron_ar3po.algorithm.response_reuse import with_borrowed
    from megatron_ar3po.types import Prompt, Response, ResponseGroup, ScoredResponse, Verdict

    generator = np.random.default_rng(step)

    def make_scored(prompt_id: str, name: str, reward: float, of_step: int) -> Any:
        length = int(generator.integers(1, 20))
        return ScoredResponse(
            response=Response(
                response_id=name,
                prompt_id=prompt_id,
                token_ids=generator.integers(0, 300, length).astype(np.int32),
                logprobs=np.full(length, -5.0, np.float32),
                finish_reason="stop",
                policy_version=0,
                step=of_step,
                stage=1,
                index=0,
            ),
            verdict=Verdict(reward=reward, status="correct" if reward else "incorrect"),
        )

    groups = []
    for position, rewards in enumerate(rewards_of):
        name = f"p{position}"
        prompt = Prompt(
            prompt_id=name,
            token_ids=tuple(generator.integers(0, 300, PROMPT).tolist()),
            ground_truth="",
        )
        responses = [make_scored(name, f"{name}.{i}", r, step) for i, r in enumerate(rewards)]
        group = ResponseGroup(position=position, prompt=prompt, responses=tuple(responses))
        if rewards_of is GROUPS and not any(rewards):
            lent = make_scored(name, f"{name}.lent", 1.0, step - 1)
            group = with_borrowed(group, lent, seed=0, step=step)
        groups.append(group)
    return groups


# ------------------------------------------------------------------------- plain transformers


@dataclasses.dataclass
class Row:
    position: int
    tokens: torch.Tensor
    reward: float
    is_detached: bool
    advantage: float = 0.0
    penalty: float = 0.0


def rows_of(groups: Sequence[Any], option: str) -> list[Row]:
    return [
        Row(
            group.position,
            torch.tensor([*group.prompt.token_ids, *s.response.token_ids.tolist()]),
            s.reward,
            s.origin == "reused" and option == "detach",
        )
        for group in groups
        for s in group.responses
    ]


def weight_of(row: Row, trained: Sequence[Row], aggregation: str) -> float:
    def length(r: Row) -> int:
        return len(r.tokens) - PROMPT

    tokens_of: dict[int, int] = defaultdict(int)
    for r in trained:
        tokens_of[r.position] += length(r)
    return {
        "token_mean": 1 / sum(map(length, trained)),
        "seq_mean_token_mean": 1 / len(trained) / length(row),
        "seq_mean_token_sum": 1 / len(trained),
        "prompt_mean": 1 / len(tokens_of) / tokens_of[row.position],
    }[aggregation]


class PlainTrainer:
    def __init__(self, model: Any, frozen: Any, options: Options) -> None:
        self.model, self.frozen, self.options = model, frozen, options
        self.named = dict(model.named_parameters())
        decayed = [p for p in self.named.values() if p.ndim > 1]
        others = [p for p in self.named.values() if p.ndim == 1]
        self.optimizer = torch.optim.AdamW(
            [
                {"params": decayed, "weight_decay": WEIGHT_DECAY},
                {"params": others, "weight_decay": 0.0},
            ],
            lr=LEARNING_RATE,
            betas=(0.9, 0.95),
            eps=ADAM_EPS,
        )

    @torch.no_grad()
    def kl(self, row: Row) -> float:
        """k1, summed over the response."""
        now = reference_logprobs(self.model, row.tokens)
        return float((now - reference_logprobs(self.frozen, row.tokens)).sum())

    def give_advantages(self, rows: Sequence[Row]) -> list[Row]:
        """(R' - mean) / (std + 1e-6) in each group whose rewards differ; the rows that train."""
        trained = []
        for position in range(len(GROUPS)):
            own = [r for r in rows if r.position == position]
            if len({r.reward for r in own}) == 1:
                continue
            for r in own:
                is_penalised = self.options.kl_in == "reward" and not r.is_detached
                r.penalty = KL_COEF * self.kl(r) if is_penalised else 0.0
            values = np.array([r.reward - r.penalty for r in own])
            for r, a in zip(own, (values - values.mean()) / (values.std() + 1e-6), strict=True):
                r.advantage = float(a)
            trained += [r for r in own if not r.is_detached]
        return trained

    def update(self, groups: Sequence[Any]) -> tuple[float, float]:
        trained = self.give_advantages(rows_of(groups, self.options.option))
        self.optimizer.zero_grad()
        loss = torch.zeros(())
        for row in trained:
            logprobs = reference_logprobs(self.model, row.tokens)
            of_row = -(row.advantage * (logprobs - logprobs.detach()).exp()).sum()
            if self.options.kl_in == "loss":
                before = reference_logprobs(self.frozen, row.tokens).detach()
                of_row = of_row + KL_COEF * (logprobs - before).sum()
            loss = loss + weight_of(row, trained, self.options.aggregation) * of_row
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(self.named.values(), CLIP_GRAD).item()
        self.optimizer.step()
        return loss.item(), norm


# ------------------------------------------------------------------------------ the real parts


def update_actor(actor: Any, groups: Sequence[Any], options: Options) -> Any:
    """What the trainer does with the groups of this replica."""
    from megatron_ar3po.config.actor import ActorConfig
    from megatron_ar3po.config.reuse import ReuseConfig
    from megatron_ar3po.config.schema import Config
    from megatron_ar3po.distributed.collectives import Ranks
    from megatron_ar3po.policy_update import PolicyUpdate

    layout = actor.layout
    config = Config(
        algorithm=actor.config.algorithm,
        reuse=ReuseConfig(option=options.option),  # type: ignore[arg-type]
        actor=ActorConfig(max_tokens_per_microbatch=options.max_tokens),
    )
    update = PolicyUpdate(actor, Ranks(layout, 60), config)
    mine = [g for g in groups if g.position % layout.data_parallel_size == layout.dp_rank]
    (stats,) = update.run(update.build_batch(update.make_samples(mine), mine), mine).stats
    return stats


def matches(cut: Cut, options: Options) -> None:
    folder, model = checkpoint("qwen2", False)
    _, frozen = checkpoint("qwen2", False)
    plain = PlainTrainer(model, frozen, options)
    actor = make_actor(folder, cut, **options.algorithm)
    for step in (1, 2):  # in the second the policy has left the reference
        loss, norm = plain.update(groups_of(step))
        stats = update_actor(actor, groups_of(step), options)
        assert abs(stats.loss - loss) <= 1e-5 * max(1, abs(loss)), (step, stats.loss, loss)
        assert abs(stats.grad_norm - norm) <= 1e-4 * norm, (step, stats.grad_norm, norm)
    weights = {n: p.detach() for n, p in plain.named.items()}
    assert_weights_equal(actor, weights, 1e-5)
    has_borrowed_rows = "reuse/ratio_mean" in stats.token_records
    assert has_borrowed_rows == (options.option != "detach"), "a detached row was counted"


@CASES.add(1, aggregation=AGGREGATIONS, max_tokens=(24, 4096))
def one_rank_agrees_with_nested_means(aggregation: str, max_tokens: int) -> None:
    """Each sequence a micro-batch of its own, and all in one."""
    matches(Cut(), Options(aggregation=aggregation, max_tokens=max_tokens))


@CASES.add(2, aggregation=AGGREGATIONS, cut=(Cut(),))
@CASES.add(2, aggregation=("prompt_mean",), cut=OF_2[:2])
@CASES.add(4, aggregation=("seq_mean_token_mean",), cut=(Cut(tp=2), Cut()))
def layouts_agree_with_nested_means(aggregation: str, cut: Cut) -> None:
    matches(cut, Options(aggregation=aggregation, max_tokens=48))


@CASES.add(1, option=("recompute",), kl_in=("none", "loss", "reward"))
@CASES.add(2, option=("detach",), kl_in=("loss", "reward"), cut=(Cut(),))
@CASES.add(2, option=("recompute",), kl_in=("reward",), cut=OF_2[:2])
def loans_and_the_kl_agree_with_plain_transformers(
    option: str, kl_in: str, cut: Cut | None = None
) -> None:
    matches(cut or Cut(), Options(option=option, kl_in=kl_in, max_tokens=48))


def report_of(actor: Any, groups: Sequence[Any], max_tokens: int, *, always_pass: bool) -> Any:
    """One step. `always_pass`: whatever a mini-batch asks for, its old log-probs come from a pass."""
    from megatron_ar3po.config.actor import ActorConfig
    from megatron_ar3po.config.schema import Config
    from megatron_ar3po.distributed.collectives import Ranks
    from megatron_ar3po.policy_update import PolicyUpdate

    layout = actor.layout
    config = Config(
        algorithm=actor.config.algorithm,
        actor=ActorConfig(max_tokens_per_microbatch=max_tokens),
    )
    update = PolicyUpdate(actor, Ranks(layout, 60), config)
    mine = [g for g in groups if g.position % layout.data_parallel_size == layout.dp_rank]
    batch = update.build_batch(update.make_samples(mine), mine)
    if always_pass:
        batch = batch._with_each(lambda mb: dataclasses.replace(mb, old_logprobs_from="pass"))
    return update.run(batch, mine)


@CASES.add(1, policy_loss=("ppo", "gspo"), num_mini_batches=(1, 3))
@CASES.add(2, pairwise=True, policy_loss=("ppo", "cispo"), num_mini_batches=(1, 3), cut=OF_2)
@CASES.add(4, policy_loss=("ppo",), num_mini_batches=(3,), cut=(Cut(tp=2, pp=2), Cut(pp=2)))
def an_update_that_gives_its_own_old_log_probs_is_one_with_a_pass_before_it(
    policy_loss: str, num_mini_batches: int, cut: Cut | None = None
) -> None:
    """Loss, gradient norm, metrics, what is told of the loan, and the weights after two steps. One group in each of
    three mini-batches, or all in one; corrected for a mismatch, held to a reference, with an entropy bonus."""
    folder, _ = checkpoint("qwen2", False)
    options = {
        "policy_loss": policy_loss,
        "num_mini_batches": num_mini_batches,
        "importance_sampling": "token",
        "kl_coef": 0.1,
        "entropy_coef": 0.01,
    }
    reports, weights = [], []
    for always_pass in (False, True):
        actor = make_actor(folder, cut or Cut(), **options)
        reports.append(
            [report_of(actor, groups_of(s), 48, always_pass=always_pass) for s in (1, 2)]
        )
        weights.append(export_tensors(actor))
    for own, passed in zip(*reports, strict=True):
        assert len(own.stats) == len(passed.stats) == num_mini_batches
        first, *later = (mini.old_logprobs_from for mini in own.batch.mini_batches)
        assert (first, set(later)) == ("update", {"pass"} if later else set())
        for one, other in zip(own.stats, passed.stats, strict=True):
            assert abs(one.loss - other.loss) <= 1e-6, (one.loss, other.loss)
            assert abs(one.grad_norm - other.grad_norm) <= 1e-6 * max(1, other.grad_norm)
            assert one.token_records.keys() == other.token_records.keys()
            for name, record in other.token_records.items():
                assert abs(one.token_records[name].value - record.value) <= 1e-5, name
        assert own.stats[0].token_records["actor/ratio_mean"].value == 1
        (drift,), (expected,) = (
            [loan.drift for loan in report.loans if loan.drift is not None]
            for report in (own, passed)
        )
        assert abs(drift - expected) <= 1e-5, (drift, expected)
        assert own.records["reuse/logprob_drift_mean"].value == drift
    for name, tensor in weights[0].items():
        assert (tensor - weights[1][name]).abs().max() <= 1e-6, name


# Rewards of seven prompts, with their (correct, wrong, pooled pass rate) before the step. The fifth is known to be
# solved, and its response, with an advantage of 0.015, leaves.
VISITED = (
    ((1,), (1.0, 2.0, 0.5)),
    ((0,), (1.0, 2.0, 0.5)),
    ((1, 0), (0.0, 0.0, 0.5)),
    ((0,), (0.0, 0.0, 0.9)),
    ((1,), (70.0, 0.0, 0.5)),
    ((1, 1, 0), (0.5, 0.25, 0.4)),
    ((0, 0), (0.0, 3.0, 0.4)),
)
SLOW = {"learning_rate": 1.0, "adam_eps": 1.0, "weight_decay": 0.0, "clip_grad": 1e6}


def visited_groups() -> list[Any]:
    from megatron_ar3po.prompt_record import PromptRecord

    groups = groups_of(1, tuple(rewards for rewards, _ in VISITED))
    return [
        dataclasses.replace(
            group, record=PromptRecord(correct=correct, wrong=wrong, pooled_mean=pooled)
        )
        for group, (_, (correct, wrong, pooled)) in zip(groups, VISITED, strict=True)
    ]


def loop_over_responses(model: Any, groups: Sequence[Any], denominator: str) -> float:
    """Backward through plain transformers, response by response; the loss."""
    pk, c, least = 0.5, 0.05, 0.02
    trained, lengths = [], []
    for group, (rewards, (correct, wrong, pooled)) in zip(groups, VISITED, strict=True):
        for j, scored in enumerate(group.responses):
            others = [r for i, r in enumerate(rewards) if i != j]
            mean = (correct + pk * pooled + sum(others)) / (correct + wrong + pk + len(others))
            advantage = (rewards[j] - mean) / (mean * (1 - mean) + c) ** 0.5
            tokens = torch.tensor([*group.prompt.token_ids, *scored.response.token_ids.tolist()])
            lengths.append(len(tokens) - PROMPT)
            if abs(advantage) > least:
                trained.append((tokens, advantage))
    assert len(trained) == len(lengths) - 1, "the fifth leaves"
    kept = sum(len(tokens) - PROMPT for tokens, _ in trained)
    units = sum(lengths) if denominator == "all" else kept
    loss = torch.zeros(())
    for tokens, advantage in trained:
        logprobs = reference_logprobs(model, tokens)
        loss = loss - (advantage * (logprobs - logprobs.detach()).exp()).sum() / units
    loss.backward()
    return loss.item()


@CASES.add(1, denominator=("kept", "all"), max_tokens=(24, 4096))
@CASES.add(2, 3, denominator=("kept", "all"), max_tokens=(24, 96))
def history_advantages_give_the_gradient_of_a_plain_loop(denominator: str, max_tokens: int) -> None:
    """To 1e-5, as the loss is, at every data-parallel size and packing. The first step of Adam with rate 1 and eps 1
    takes a weight by g / (|g| + 1), so the weights tell the gradient."""
    folder, model = checkpoint("qwen2", False)
    groups = visited_groups()
    actor = make_actor(
        folder, Cut(), advantage="history", denominator=denominator, actor=dict(SLOW)
    )
    before = export_tensors(actor)
    loss = loop_over_responses(model, groups, denominator)
    stats = update_actor(actor, groups, Options(max_tokens=max_tokens))
    assert abs(stats.loss - loss) <= 5e-6, (stats.loss, loss)
    after = export_tensors(actor)
    for name, parameter in model.named_parameters():
        taken = (before[name] - after[name]).double()
        gradient = taken / (1 - taken.abs())
        worst = (gradient - parameter.grad).abs().max().item()
        assert worst <= 1e-5, (name, worst, parameter.grad.abs().max().item())


if __name__ == "__main__":
    CASES.run(Path(sys.argv[1]), sys.argv[2:])
