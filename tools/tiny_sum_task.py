"""The running-sum task of `examples/tiny_sum`, harder of `examples/tiny_sum_core`, and wider of
`examples/tiny_sum_wide`: sums modulo 10, with misconceptions to unlearn.

    prompt    3+8+4xx=       operands 3 8 4, filled up with x to 7 characters
    response  1;5            the running sums modulo 10 after the second, third, ... operand
    reward    1 if the last number is the sum modulo 10 (here 5), else 0

The first policy is taught by a teacher with misconceptions. A misconception belongs to a pair
(running sum, operand): with probability `error_rate` the teacher writes (sum + shift) instead of
the sum, the shift fixed for the pair, and goes on from what it wrote. Most pairs are clean, some
are shaky, and some are wrong nearly always, so the policy starts with a persistent hard core:
prompts whose most likely answer is wrong. In the wide task a misconception belongs to a pair after
one operand (operand before, running sum, operand), a thousand of them, so that thousands of prompts
share little with each other. Plain sampling noise would not do: it is sharpened away
within a few updates, and no prompt would stay unsolved long enough for a second stage or a loan to
matter.

How often the teacher is right on a prompt has a closed form (`pass_rate`), and prompts are chosen
by it: shares of core, mixed and easy ones (`Task.difficulties`), in training and held-out prompts
alike, with no sequence of operands in both.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

MODULUS = 10
MAX_OPERANDS = 4
PROMPT_TOKENS = 2 * MAX_OPERANDS
MAX_RESPONSE_TOKENS = 2 * (MAX_OPERANDS - 1)  # digits, semicolons and the stop token

PAD, STOP, UNKNOWN = "_", "$", "?"
CHARACTERS = PAD + STOP + UNKNOWN + "0123456789+-*/=;x"  # a token's id is its place

Operands = tuple[int, ...]


class Difficulty(NamedTuple):
    name: str
    share: float  # of the prompts
    low: float  # pass rates of the teacher
    high: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Task:
    """Which misconceptions there are, and which prompts are asked."""

    num_train: int
    num_wrong: int  # pairs that are taught wrong nearly always
    wrong_rates: tuple[float, ...]  # drawn for each of them
    num_shaky: int  # pairs that are taught wrong now and then
    difficulties: tuple[Difficulty, ...]
    num_operands: tuple[int, int] = (2, MAX_OPERANDS)  # least and most
    sees_previous: bool = False  # misconceptions depend on the operand before, too
    num_steps: int = 900  # of teaching


TASKS = {
    "tiny_sum": Task(
        num_train=300,
        num_wrong=16,
        wrong_rates=(0.94, 0.96, 0.98),
        num_shaky=24,
        difficulties=(
            Difficulty("core", 0.52, 0.0, 0.1),
            Difficulty("mixed", 0.24, 0.25, 0.75),
            Difficulty("easy", 0.24, 0.9, 1.0),
        ),
    ),
    # More pairs are wrong, more firmly, and fewer prompts come round more often.
    "tiny_sum_core": Task(
        num_train=120,
        num_wrong=30,
        wrong_rates=(0.97, 0.98, 0.99),
        num_shaky=20,
        difficulties=(
            Difficulty("core", 0.6, 0.0, 0.06),
            Difficulty("mixed", 0.2, 0.25, 0.75),
            Difficulty("easy", 0.2, 0.9, 1.0),
        ),
    ),
    # Many prompts that share little: each comes round two or three times in 6,000 responses.
    "tiny_sum_wide": Task(
        num_train=2400,
        num_wrong=200,
        wrong_rates=(0.94, 0.96, 0.98),
        num_shaky=100,
        difficulties=(
            Difficulty("core", 0.4, 0.0, 0.1),
            Difficulty("mixed", 0.3, 0.25, 0.75),
            Difficulty("easy", 0.3, 0.9, 1.0),
        ),
        num_operands=(MAX_OPERANDS, MAX_OPERANDS),
        sees_previous=True,
        num_steps=6000,
    ),
}
TINY_SUM = TASKS["tiny_sum"]


def prompt_text(operands: Operands) -> str:
    """
    >>> prompt_text((3, 8, 4))
    '3+8+4xx='
    """
    return "+".join(map(str, operands)).ljust(PROMPT_TOKENS - 1, "x") + "="


def response_text(running_sums: Operands) -> str:
    return ";".join(map(str, running_sums))


def answer(operands: Operands) -> str:
    return str(sum(operands) % MODULUS)


def draw_operands(rng: random.Random, task: Task = TINY_SUM) -> Operands:
    return tuple(rng.randrange(MODULUS) for _ in range(rng.randint(*task.num_operands)))


@dataclass(frozen=True, slots=True)
class Teacher:
    """What the first policy imitates: per (running sum, operand) how often it errs and by how
    much. With a hundred rows instead of ten, row 10 p + s is of running sum s after operand p."""

    error_rate: tuple[tuple[float, ...], ...]
    shift: tuple[tuple[int, ...], ...]

    @classmethod
    def with_misconceptions(cls, seed: int, task: Task = TINY_SUM) -> Teacher:
        rng = random.Random(f"teacher {seed}")
        wrong = [rng.choice(task.wrong_rates) for _ in range(task.num_wrong)]
        shaky = [rng.uniform(0.25, 0.65) for _ in range(task.num_shaky)]
        # The first addition comes after its own running sum: a pair that every tenth prompt shares.
        shared = range(0, MODULUS**2, MODULUS + 1) if task.sees_previous else ()
        size = MODULUS**3 - MODULUS * len(shared) if task.sees_previous else MODULUS**2
        rates = wrong + shaky + [0.01] * (size - task.num_wrong - task.num_shaky)
        rng.shuffle(rates)
        for row in shared:
            rates[row * MODULUS : row * MODULUS] = [0.01] * MODULUS
        shifts = [rng.randrange(1, MODULUS) for _ in rates]
        return cls(error_rate=_rows(rates), shift=_rows(shifts))

    def row(self, previous: int, running: int) -> int:
        return previous * MODULUS + running if len(self.error_rate) > MODULUS else running

    def respond(self, operands: Operands, rng: random.Random) -> Operands:
        """Running sums, with the teacher's errors."""
        written, running = [], operands[0]
        for previous, operand in pairwise(operands):
            row = self.row(previous, running)
            errs = rng.random() < self.error_rate[row][operand]
            running = (running + operand + errs * self.shift[row][operand]) % MODULUS
            written.append(running)
        return tuple(written)

    def pass_rate(self, operands: Operands) -> float:
        """Probability that the last number is right: errors may cancel out."""
        at = [float(digit == operands[0]) for digit in range(MODULUS)]
        for previous, operand in pairwise(operands):
            after = [0.0] * MODULUS
            for running, probability in enumerate(at):
                row = self.row(previous, running)
                right, error_rate = (running + operand) % MODULUS, self.error_rate[row][operand]
                after[right] += probability * (1 - error_rate)
                after[(right + self.shift[row][operand]) % MODULUS] += probability * error_rate
            at = after
        return at[sum(operands) % MODULUS]


def choose_prompts(
    teacher: Teacher,
    num_prompts: int,
    seed: str,
    avoid: Collection[Operands] = (),
    task: Task = TINY_SUM,
) -> dict[Operands, str]:
    """{operands: difficulty}: each difficulty gets its share, no sequence twice and none of
    `avoid`."""
    rng = random.Random(f"prompts {seed}")
    room = {d.name: round(d.share * num_prompts) for d in task.difficulties}
    room["easy"] += num_prompts - sum(room.values())
    chosen: dict[Operands, str] = {}
    while any(room.values()):
        operands = draw_operands(rng, task)
        name = difficulty(teacher.pass_rate(operands), task)
        if name and room[name] and operands not in chosen and operands not in avoid:
            chosen[operands] = name
            room[name] -= 1
    return chosen


def difficulty(pass_rate: float, task: Task = TINY_SUM) -> str | None:
    return next((d.name for d in task.difficulties if d.low <= pass_rate <= d.high), None)


def records(
    prompts: dict[Operands, str], teacher: Teacher, source: str
) -> Iterator[dict[str, object]]:
    """Lines of a prompt file."""
    for operands, name in prompts.items():
        yield {
            "prompt": prompt_text(operands),
            "answer": answer(operands),
            "source": source,
            "difficulty": name,
            "teacher_pass_rate": round(teacher.pass_rate(operands), 4),
        }


def _rows(values: list) -> tuple[tuple, ...]:
    return tuple(tuple(values[at : at + MODULUS]) for at in range(0, len(values), MODULUS))
