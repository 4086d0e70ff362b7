"""The answers of one policy to several sets: those that are kept already, and those that it is asked for now."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

from megatron_ar3po.algorithm.verdict_checks import check_error_share
from megatron_ar3po.config.suite import SuiteSet
from megatron_ar3po.evaluation.figures import SetAnswers
from megatron_ar3po.evaluation.items import Item, ItemStore, item_of
from megatron_ar3po.evaluation.remote import ask_server
from megatron_ar3po.evaluation.subjects import (
    Subject,
    find_weights,
    identify_weights,
    with_policy_of,
)
from megatron_ar3po.rollout.draws import Draw
from megatron_ar3po.types import Prompt, ScoredResponse
from megatron_ar3po.wiring.benchmark_sampling import Benchmark, read_benchmark, sample_benchmark

Seen = Callable[[Draw, Item], None]


@dataclass(frozen=True, kw_only=True)
class Answering:
    """`server_tp`: of servers that are started. `served_model`, `named_weights`: of one that runs."""

    subject: Subject
    sets: Sequence[SuiteSet]
    out: Path
    store: Path
    server_tp: int
    served_model: str = ""
    named_weights: str = ""

    def answer(self, stack: ExitStack) -> list[SetAnswers]:
        """Servers start where an answer is missing. Raises ValueError for prompts that cannot be evaluated on, and
        VerifierFailedError where the verifier fails for too many of all answers, kept or new."""
        config = with_policy_of(self.subject.config, self.subject, self.out)
        benchmark = read_benchmark(config, self.sets, self.subject.rendered_at)
        weights = identify_weights(self.subject, config.model.dtype, self.named_weights)
        store = ItemStore(self.store, weights)
        stack.callback(store.close)
        draws = benchmark.draws
        kept = [[store.find(draw) for draw in of_set] for of_set in draws]
        found: dict[str, Item] = {}

        def see(draw: Draw, item: Item) -> None:
            store.keep(draw, item)
            found[draw.response_id] = item

        missing = [
            [draw for draw, item in zip(of_set, items, strict=True) if item is None]
            for of_set, items in zip(draws, kept, strict=True)
        ]
        if any(missing):
            with ExitStack() as servers:  # they end before another policy's start
                self._sample(benchmark, missing, servers, see)
        answers = [
            _put_together(own, benchmark.sets[number].asked.prompts, of_set, kept[number], found)
            for number, (own, of_set) in enumerate(zip(self.sets, draws, strict=True))
        ]
        check_error_share(
            [item for of_set in answers for items in of_set.items for item in items],
            max_error_frac=self.subject.config.rewards.max_error_frac,
            of="this evaluation",
        )
        return answers

    def _sample(
        self,
        benchmark: Benchmark,
        missing: Sequence[Sequence[Draw]],
        stack: ExitStack,
        see: Seen,
    ) -> None:
        if self.subject.url:
            ask_server(
                self.subject.url,
                self.served_model,
                benchmark.tokenizer.decode,
                self.sets,
                missing,
                see,
            )
            return

        def see_response(draw: Draw, scored: ScoredResponse) -> None:
            text = benchmark.tokenizer.decode(scored.response.token_ids.tolist())
            see(draw, item_of(scored, text))

        sample_benchmark(
            benchmark,
            missing,
            self.server_tp,
            stack,
            lambda: find_weights(self.subject, self.out, stack),
            see_response,
        )


def _put_together(
    own: SuiteSet,
    prompts: Sequence[Prompt],
    draws: Sequence[Draw],
    kept: Sequence[Item | None],
    found: dict[str, Item],
) -> SetAnswers:
    items = iter(
        found[draw.response_id] if item is None else item
        for draw, item in zip(draws, kept, strict=True)
    )
    samples = own.config.evaluation.samples_per_prompt
    return SetAnswers(
        name=own.name,
        config=own.config,
        prompts=prompts,
        items=[list(islice(items, samples)) for _ in prompts],
        reused=sum(item is not None for item in kept),
    )
