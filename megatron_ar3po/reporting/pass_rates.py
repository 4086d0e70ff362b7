"""How often prompts are solved, before a run: the pass rates that `ar3po plan` reckons responses, tokens and time from.

    0.25                   every prompt is solved with this chance
    beta:0.4,0.6           one Beta distribution
    beta:0.7*0.3,2+0.3*5,1 a mixture of them, by weight
    FILE                   JSONL with a pass rate in a field of each line, or with `responses` and `correct`; or what
                           `ar3po history RUN --json` printed
    RUN                    the ledger of an earlier run, which knows lengths too

Always over the whole distribution, never its mean: (1 - p)^4 of half the prompts at 0 and half at 1 is 1/2, and 1/16 of
their mean.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from megatron_ar3po.algorithm.counterfactual_cost import (
    Stages,
    estimate_all_correct,
    estimate_unsolved,
)
from megatron_ar3po.reporting.planned_responses import read_pass_rates as read_rates_of_file
from megatron_ar3po.reporting.planned_responses import rows_of

Array = np.ndarray[Any, Any]


_DRAWS, _SAMPLE = 200_000, 2000


class PassRates(Protocol):
    @property
    def described(self) -> str:
        """For the head of the table."""
        ...

    @property
    def mean_tokens(self) -> float | None:
        """Of a response, where it is known."""
        ...

    def expect_unsolved(self, num_responses: int) -> float:
        """The chance that none of so many responses is correct: E[(1 - p)^n]."""
        ...

    def expect_all_correct(self, num_responses: int) -> float:
        """E[p^n]."""
        ...

    def draw(self, count: int) -> Array:
        """Pass rates of so many prompts; the same ones at every call."""
        ...

    def sample(self) -> Sequence[float]:
        """Those that stand for all: each that there is, or many that are evenly spread."""
        ...


@dataclass(frozen=True, slots=True)
class Beta:
    weight: float
    a: float
    b: float

    def raise_to(self, first: float, other: float, power: int) -> float:
        """E[x^power] of Beta(first, other): the product of (first + i) / (first + other + i)."""
        return math.prod((first + i) / (first + other + i) for i in range(power))


@dataclass(frozen=True, slots=True)
class BetaMixture:
    """
    >>> BetaMixture("", (Beta(1.0, 1.0, 1.0),)).expect_unsolved(4)  # of a uniform p: 1 / 5
    0.2
    """

    described: str
    parts: tuple[Beta, ...]
    mean_tokens: float | None = None

    def expect_unsolved(self, num_responses: int) -> float:
        return sum(p.weight * p.raise_to(p.b, p.a, num_responses) for p in self.parts)

    def expect_all_correct(self, num_responses: int) -> float:
        return sum(p.weight * p.raise_to(p.a, p.b, num_responses) for p in self.parts)

    def draw(self, count: int) -> Array:
        rng = np.random.default_rng(0)
        sizes = [max(1, round(part.weight * _DRAWS)) for part in self.parts]
        drawn = [rng.beta(p.a, p.b, size) for p, size in zip(self.parts, sizes, strict=True)]
        return _spread(np.concatenate(drawn), count)

    def sample(self) -> Sequence[float]:
        return self.draw(_SAMPLE).tolist()


def _spread(rates: Array, count: int) -> Array:
    """The rates in the middle of `count` equal shares of them, in random order."""
    middles = (np.arange(count) + 0.5) / count
    chosen = np.quantile(rates, middles, method="inverted_cdf")
    return np.random.default_rng(0).permutation(chosen)


@dataclass(frozen=True, slots=True)
class Listed:
    """
    >>> Listed("", (0.0, 1.0)).expect_unsolved(4)
    0.5
    """

    described: str
    rates: tuple[float, ...]
    mean_tokens: float | None = None

    def expect_unsolved(self, num_responses: int) -> float:
        return sum((1 - p) ** num_responses for p in self.rates) / len(self.rates)

    def expect_all_correct(self, num_responses: int) -> float:
        return sum(p**num_responses for p in self.rates) / len(self.rates)

    def draw(self, count: int) -> Array:
        return _spread(np.array(self.rates), count)

    def sample(self) -> Sequence[float]:
        return self.rates


@dataclass(frozen=True, slots=True)
class Observed:
    """Counted responses of prompts. Chances are estimated without bias as far as the responses of a prompt suffice
    (`algorithm.counterfactual_cost`), and beyond lie in the middle of their bounds.

    >>> Observed("", (((8, 3),),)).expect_unsolved(4)  # 5 of 8 wrong: C(5, 4) / C(8, 4)
    0.07142857142857142
    """

    described: str
    visits: tuple[Stages, ...]
    mean_tokens: float | None = None

    def expect_unsolved(self, num_responses: int) -> float:
        return self._mean_of(lambda stages: estimate_unsolved(stages, num_responses))

    def expect_all_correct(self, num_responses: int) -> float:
        return self._mean_of(lambda stages: estimate_all_correct(stages, num_responses))

    def _mean_of(self, estimate: Callable[[Stages], tuple[float, float]]) -> float:
        return sum(sum(estimate(stages)) / 2 for stages in self.visits) / len(self.visits)

    def draw(self, count: int) -> Array:
        return _spread(np.array(self.sample()), count)

    def sample(self) -> Sequence[float]:
        """The shares that were correct, which says too much of prompts whose sampling ended at a correct response."""
        return [
            sum(correct for _, correct in stages) / sum(graded for graded, _ in stages)
            for stages in self.visits
        ]


def read_pass_rates(words: str | None, field: str = "pass_rate") -> PassRates | None:
    """None for no words. Raises ValueError with what would be understood."""
    if not words:
        return None
    if words.startswith("beta:"):
        return read_betas(words)
    if Path(words).is_dir():
        return _read_run(Path(words))
    try:
        rate = float(words)
    except ValueError:
        return _read_file(Path(words), field)
    if not 0 <= rate <= 1:
        raise ValueError(f"--pass-rates {words} is no pass rate from 0 to 1; {_FORMS}")
    return Listed(f"a pass rate of {rate:g}", (rate,))


_FORMS = (
    "use a number such as 0.25, beta:0.4,0.6, beta:0.7*0.3,2+0.3*5,1, a JSONL file with a pass rate or with responses "
    "and correct on each line, or the folder of an earlier run."
)


def read_betas(words: str) -> BetaMixture:
    try:
        parts = [_read_beta(part) for part in words.removeprefix("beta:").split("+")]
    except ValueError:
        raise ValueError(f"--pass-rates {words} is no mixture of Betas; {_FORMS}") from None
    total = sum(part.weight for part in parts)
    if not all(part.a > 0 and part.b > 0 and part.weight > 0 for part in parts):
        raise ValueError(
            f"--pass-rates {words}: parameters and weights of a Beta must be above 0; {_FORMS}"
        )
    return BetaMixture(words, tuple(Beta(p.weight / total, p.a, p.b) for p in parts))


def _read_beta(words: str) -> Beta:
    weight, star, rest = words.rpartition("*")
    a, b = rest.split(",")
    return Beta(float(weight) if star else 1.0, float(a), float(b))


def _read_file(file: Path, field: str) -> PassRates:
    if not file.is_file():
        raise ValueError(f"--pass-rates {file} is no file, no number and no beta:A,B; {_FORMS}")
    rows = list(rows_of(file))
    if rows and all(_has_counts(row) and field not in row for _, row in rows):
        visits = tuple(_check_counts(row, f"{file}, line {number}") for number, row in rows)
        return Observed(f"the counts of {len(visits):,} prompts of {file}", visits)
    rates = read_rates_of_file(file, field)
    return Listed(f"{len(rates):,} pass rates of {file}", tuple(rates))


def _has_counts(row: Any) -> bool:
    return isinstance(row, dict) and {"responses", "correct"} <= row.keys()


def _check_counts(row: dict[str, Any], where: str) -> Stages:
    responses, correct = row["responses"], row["correct"]
    are_counts = isinstance(responses, int) and isinstance(correct, int)
    if not (are_counts and 0 <= correct <= responses and responses > 0):
        raise ValueError(f"{where}: {correct!r} correct of {responses!r} responses cannot be.")
    return ((responses, correct),)


def _read_run(run: Path) -> Observed:
    from megatron_ar3po.config.load import load_config
    from megatron_ar3po.reporting.visits import explain_untold, gather_visits
    from megatron_ar3po.rollout.ledger_file import rows_of_run
    from megatron_ar3po.run.folder_format import CONFIG_FILE

    if not (run / CONFIG_FILE).is_file() or not (run / "ledger").is_dir():
        raise ValueError(
            f"--pass-rates {run} is no run's folder: it lacks {CONFIG_FILE} or ledger/."
        )
    rollout = load_config([run / CONFIG_FILE], []).rollout
    if untold := explain_untold(rollout):
        raise ValueError(
            f"--pass-rates {run} was sampled with {untold}, so that its pass rates are not known; name another run, or "
            "a file."
        )
    visits = gather_visits(rows_of_run(run / "ledger"), rollout.stage_sizes)
    if not len(visits):
        raise ValueError(f"--pass-rates {run}: its ledger holds no prompt with a verdict.")
    return Observed(
        f"the {len(visits)} prompts of {run}",
        tuple(visits.outcomes[kind] for kind in visits.kinds),
        mean_tokens=sum(visits.tokens) / len(visits),
    )
