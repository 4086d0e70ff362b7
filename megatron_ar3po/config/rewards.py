"""Section `rewards`: how a response is graded."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Annotated, Any, Literal

from megatron_ar3po.config.at_resume import Fixed, Free, Warn
from megatron_ar3po.config.ranges import COUNT_OR_0, FRACTION, SECONDS, Range, check_values
from megatron_ar3po.config.rules import require, require_name_or_path

VERIFIERS = ("math", "last_number")
REWARD = Range(ge=-1e6, le=1e6)


@dataclass(frozen=True, kw_only=True, slots=True)
class RewardsConfig:
    """How a response is graded. docs/verifier.md has the rules of equality."""

    verifier: Fixed[str] = "math"
    """`math` (mathematics in LaTeX or plain text), `last_number` (the last number, exactly), or the import path
    'package.module:factory' of a factory that returns your own grader."""

    by_source: Fixed[dict[str, Any]] = field(default_factory=dict[str, Any])
    """A verifier for each `source` of the prompts, as in `{gsm8k: last_number, math: math, mine: "pkg.mod:factory"}`. A
    mapping in its place has options of its own beside it, as in `{verifier: math, tolerance: 0.01}`; the others are
    those of this section. A source without a verifier is refused when the data is loaded. Empty: `rewards.verifier`
    grades all."""

    timeout_s: Warn[Annotated[float, SECONDS]] = 5.0
    """Seconds of grading for each response. Past them the worker is killed and the response tried once more; a second
    time it is `ungradable`, with the reward of an incorrect response. Ordinary answers take milliseconds."""

    num_workers: Free[Annotated[int, Range(ge=1, le=1024)]] = 1
    """Verifier processes of each replica. Grading runs beside sampling, so one is enough until responses wait for
    their verdicts; the examples for GPUs take 8."""

    truncated: Fixed[Literal["incorrect", "grade"]] = "incorrect"
    """A response without its stop token is `incorrect`, as it never finished, or is graded all the same."""

    correct: Fixed[Annotated[float, REWARD]] = 1.0
    """Reward of a correct response."""

    incorrect: Fixed[Annotated[float, REWARD]] = 0.0
    """Reward of any other response."""

    max_error_frac: Free[Annotated[float, FRACTION]] = 0.5
    """When more than this share of the verdicts of a step, or of an evaluation, are `error` or `ungradable`, the run
    halts: a verifier that cannot say teaches nothing, or that everything is wrong."""

    overlong_penalty_tokens: Fixed[Annotated[int, COUNT_OR_0]] = 0
    """DAPO's soft overlong punishment: over the last so many tokens before `rollout.max_response_tokens` the reward
    falls by 0 to 1. DAPO's paper takes a fifth of the limit. 0: off, as the right length depends on the limit."""

    answer_format: Fixed[Literal["any", "boxed", "answer_line", "hashes", "answer_tag"]] = "any"
    """Where the final answer stands (`math` only): `boxed` in `\\boxed{}`, `answer_line` behind "Answer:", `hashes`
    behind "####", `answer_tag` in `<answer></answer>`, `any` in such a tag, else behind the mark that stands last."""

    strict_format: Fixed[bool] = False
    """Only the mark of `rewards.answer_format` counts, closed and complete (`math` only). Off by default, for a right
    answer in another form is right."""

    answer_fallback: Fixed[bool] = True
    """Without a marked answer the last formula or number of the response counts (`math` only)."""

    format_reward: Fixed[Annotated[float, REWARD]] = 0.0
    """Added to the reward when the answer is marked, right or wrong (`math` only)."""

    tolerance: Fixed[Annotated[float, Range(ge=0, le=1e9)]] = 0.0
    """Numbers that differ by at most this, absolutely, are equal (`math` only). A prompt's own
    (`rewards.tolerance_field`) goes before it. 0: exact."""

    tolerance_field: Fixed[str] = "error"
    """Field of a line that holds its own tolerance, a number above 0 (`math` only); OlympiadBench calls it `error`.
    true and false are no numbers. Empty: no line has one."""

    require_evaluated: Fixed[bool] = False
    """An answer that equals the ground truth but is not worked out, as 17+25 for 42, is incorrect (`math` only). For
    prompts that show what is to be calculated, where a copy of it would pay. Off by default, for in other tasks an
    unusual form of the right answer is right."""

    worker_memory_mb: Warn[Annotated[int, Range(ge=256, le=1 << 20)]] = 1024
    """MiB that a verifier process may use beyond what it has after its start. Past them it is started again and the
    response tried once more; a second time it is `ungradable`. At least 256, which SymPy needs."""

    def __post_init__(self) -> None:
        check_values("rewards", self)
        require_name_or_path("rewards.verifier", self.verifier, VERIFIERS)
        require(
            self.correct > self.incorrect,
            f"rewards.correct={self.correct} must be above rewards.incorrect={self.incorrect}.",
        )
        require(
            not (self.strict_format and self.answer_format == "any"),
            "rewards.strict_format=true needs one rewards.answer_format; "
            "use boxed, answer_line, hashes or answer_tag.",
        )
        for source in self.by_source:
            self.for_source(source)

    def for_source(self, source: str) -> RewardsConfig | None:
        """The section as it is for prompts of `source`, with one verifier; None where `by_source` names none for it.
        Raises ValueError for options that a source cannot have.

        >>> rewards = RewardsConfig(by_source={"sums": "last_number"}, incorrect=-1.0)
        >>> sums = rewards.for_source("sums")
        >>> (sums.verifier, sums.incorrect), rewards.for_source("else")
        (('last_number', -1.0), None)
        """
        if not self.by_source:
            return self
        if source not in self.by_source:
            return None
        own = self.by_source[source]
        own = {"verifier": own} if isinstance(own, str) else own
        name = f"rewards.by_source.{source}"
        require(
            isinstance(own, Mapping),
            f"{name}={own!r} must be the name of a verifier, or a mapping such as "
            "{verifier: math, tolerance: 0.01}.",
        )
        possible = {f.name for f in fields(RewardsConfig)} - {"by_source", "max_error_frac"}
        unknown = sorted(set(map(str, own)) - possible)
        require(
            not unknown,
            f"{name} has no option {', '.join(unknown)}; a source may have its own "
            f"{', '.join(sorted(possible))}.",
        )
        for option, value in own.items():
            is_number = isinstance(getattr(self, option), int | float)
            require(
                not isinstance(value, bool)
                or isinstance(getattr(self, option), bool)
                or not is_number,
                f"{name}.{option}={str(value).lower()}: it must be a number.",
            )
        return _validate_values({**asdict(self), **own, "by_source": {}}, name)

    def of_each_source(self) -> dict[str, RewardsConfig]:
        """By the option that a message names: `rewards.by_source.X` for each, or `rewards`, which grades all.

        >>> list(RewardsConfig().of_each_source()), list(RewardsConfig(by_source={"sums": "math"}).of_each_source())
        (['rewards'], ['rewards.by_source.sums'])
        """
        if not self.by_source:
            return {"rewards": self}
        own = {f"rewards.by_source.{source}": self.for_source(source) for source in self.by_source}
        return {name: config for name, config in own.items() if config is not None}

    def check_lengths(self, max_response_tokens: int, name: str = "rewards") -> None:
        """`name`: the option of this section, for the message. Raises ValueError where the punishment of long responses
        covers the shortest too."""
        require(
            not self.overlong_penalty_tokens or self.overlong_penalty_tokens < max_response_tokens,
            f"{name}.overlong_penalty_tokens={self.overlong_penalty_tokens} needs a longer "
            f"rollout.max_response_tokens (it is {max_response_tokens}); lower the first or raise the second.",
        )

    @property
    def row_fields(self) -> tuple[str, ...]:
        """The fields of a line, beside its answer, that decide how a response to it is graded.

        >>> RewardsConfig().row_fields, RewardsConfig(by_source={"sums": "last_number"}).row_fields
        (('error',), ('error', 'source'))
        """
        tolerances = {own.tolerance_field for own in self.of_each_source().values()} - {""}
        return (*sorted(tolerances), *(["source"] if self.by_source else []))


def _validate_values(values: Mapping[str, Any], name: str) -> RewardsConfig:
    from pydantic import TypeAdapter, ValidationError  # the verifier's workers do without

    try:
        return TypeAdapter(RewardsConfig).validate_python(dict(values))
    except ValidationError as error:
        said = [
            ": ".join([*map(str, e["loc"]), e["msg"].removeprefix("Value error, ")])
            for e in error.errors()
        ]
        raise ValueError(f"{name}: {'; '.join(said)}") from None
