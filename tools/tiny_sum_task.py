"""The running-sum task of `examples/tiny_sum`: sums modulo 10, with misconceptions to unlearn.

    prompt    3+8+4xx=       operands 3 8 4, filled up with x to 7 characters
    response  1;5            the running sums modulo 10 after the second, third, ... operand
    reward    1 if the last number is the sum modulo 10 (here 5), else 0

The first policy is taught by a teacher with misconceptions. A misconception belongs to a pair
(running sum, operand): with probability `error_rate` the teacher writes (sum + shift) instead of
the sum, the shift fixed for the pair, and goes on from what it wrote. Most pairs are clean, some
are shaky, and some are wrong nearly always, so the policy starts with a persistent hard core:
prompts whose most likely answer is wrong. Plain sampling noise would not do: it is sharpened away
within a few updates, and no prompt would stay unsolved long enough for a second stage or a loan to
matter.

How often the teacher is right on a prompt has a closed form (`pass_rate`), and prompts are chosen
by it: a third core, a third mixed, a third easy, in training and held-out prompts alike, with no
sequence of operands in both.
"""

from __future__ import annotations

import random
from collections.abc import Collection, Iterator
from dataclasses import dataclass

MODULUS = 10
MAX_OPERANDS = 4
PROMPT_TOKENS = 2 * MAX_OPERANDS
MAX_RESPONSE_TOKENS = 2 * (MAX_OPERANDS - 1)  # digits, semicolons and the stop token

PAD, STOP, UNKNOWN = "_", "$", "?"
CHARACTERS = PAD + STOP + UNKNOWN + "0123456789+-*/=;x"  # a token's id is its place

Operands = tuple[int, ...]

# (name, share of the prompts, lowest and highest pass rate of the teacher)
DIFFICULTIES = (("core", 0.52, 0.0, 0.1), ("mixed", 0.24, 0.25, 0.75), ("easy", 0.24, 0.9, 1.0))


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


def draw_operands(rng: random.Random) -> Operands:
    return tuple(rng.randrange(MODULUS) for _ in range(rng.randint(2, MAX_OPERANDS)))


@dataclass(frozen=True, slots=True)
class Teacher:
    """What the first policy imitates: per (running sum, operand) how often it errs and by how
    much."""

    error_rate: tuple[tuple[float, ...], ...]
    shift: tuple[tuple[int, ...], ...]

    @classmethod
    def with_misconceptions(cls, seed: int, num_wrong: int = 16, num_shaky: int = 24) -> Teacher:
        rng = random.Random(f"teacher {seed}")
        wrong = [rng.choice((0.94, 0.96, 0.98)) for _ in range(num_wrong)]
        shaky = [rng.uniform(0.25, 0.65) for _ in range(num_shaky)]
        rates = wrong + shaky + [0.01] * (MODULUS**2 - num_wrong - num_shaky)
        rng.shuffle(rates)
        shifts = [rng.randrange(1, MODULUS) for _ in rates]
        return cls(error_rate=_square(rates), shift=_square(shifts))

    def respond(self, operands: Operands, rng: random.Random) -> Operands:
        """Running sums, with the teacher's errors."""
        written, running = [], operands[0]
        for operand in operands[1:]:
            errs = rng.random() < self.error_rate[running][operand]
            running = (running + operand + errs * self.shift[running][operand]) % MODULUS
            written.append(running)
        return tuple(written)

    def pass_rate(self, operands: Operands) -> float:
        """Probability that the last number is right: errors may cancel out."""
        at = [float(digit == operands[0]) for digit in range(MODULUS)]
        for operand in operands[1:]:
            after = [0.0] * MODULUS
            for running, probability in enumerate(at):
                right, error_rate = (running + operand) % MODULUS, self.error_rate[running][operand]
                after[right] += probability * (1 - error_rate)
                after[(right + self.shift[running][operand]) % MODULUS] += probability * error_rate
            at = after
        return at[sum(operands) % MODULUS]


def choose_prompts(
    teacher: Teacher, num_prompts: int, seed: str, avoid: Collection[Operands] = ()
) -> dict[Operands, str]:
    """{operands: difficulty}: each difficulty gets a third, no sequence twice and none of
    `avoid`."""
    rng = random.Random(f"prompts {seed}")
    room = {name: round(share * num_prompts) for name, share, _, _ in DIFFICULTIES}
    room["easy"] += num_prompts - sum(room.values())
    chosen: dict[Operands, str] = {}
    while any(room.values()):
        operands = draw_operands(rng)
        name = difficulty(teacher.pass_rate(operands))
        if name and room[name] and operands not in chosen and operands not in avoid:
            chosen[operands] = name
            room[name] -= 1
    return chosen


def difficulty(pass_rate: float) -> str | None:
    return next((name for name, _, low, high in DIFFICULTIES if low <= pass_rate <= high), None)


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


def _square(values: list) -> tuple[tuple, ...]:
    return tuple(tuple(values[row * MODULUS : (row + 1) * MODULUS]) for row in range(MODULUS))
