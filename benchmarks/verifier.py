"""The verifier beside four others: agreement, false accepts, processor time, on cases that others labelled.

    python benchmarks/verifier.py --data FOLDER --anchors VENV/bin/python [--max-responses 600]

FOLDER/verifier holds pairs.jsonl, pairs_free_text.jsonl ({"gold", "pred", "expected"}) and responses.jsonl ({"gold",
"response", "expected"}). The others live in an environment of their own, never in the project's:

    python3.11 -m venv VENV
    VENV/bin/pip install math-verify==0.9.0 regex word2number
    VENV/bin/pip install --no-deps evalscope==0.17.1 verl==0.9.1

math-verify 0.9.0 wraps both sides in a box; Qwen2.5-Math's grader comes in evalscope 0.17.1; DAPO's scorer in verl
0.9.1; latex2sympy2 1.9.1 (equal parses, or simplify(a - b) == 0) runs in this environment, whose antlr it wants. Each
runs in one process, which is handed all rows of a set at once and grades them one after another, as a worker does with
the answers of a step; it waits for nothing between two of them. An item that takes 10 s ends the process and counts as
refused; another process grades the rows behind it. Times are processor time of one core (not wall time: other work on
the machine does not count). The first item, which imports and warms up, is graded twice and timed the second time;
every other one is graded once, so what a grader remembers of equal rows is not measured.
"""

from __future__ import annotations

import argparse
import json
import mmap
import os
import re
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

LIMIT_S = 10.0
START_LIMIT_S = 120.0
ANSWER = struct.Struct("<dB")  # seconds, and one of the states below; 0: not there yet
READY, ACCEPTED, REFUSED = 1, 2, 3
SETS = {
    "pairs": "pairs.jsonl",
    "free text": "pairs_free_text.jsonl",
    "responses": "responses.jsonl",
}
Question = tuple[str, str, bool]  # text, gold, is a whole response
Judge = Callable[[str, str, bool], bool]  # (text, gold, is a whole response) -> accepted


class Graded(NamedTuple):
    seconds: float
    accepted: bool


# --- the graders; each import happens in the process that serves it


def ours() -> Judge:
    from megatron_ar3po.rewards.math import symbolic
    from megatron_ar3po.rewards.math.grader import GradingOptions, grade_math

    symbolic.preload()  # as a worker does
    answer = GradingOptions(is_answer=True)
    return lambda text, gold, whole: (
        grade_math(text, gold, None if whole else answer).status == "correct"
    )


def math_verify() -> Judge:
    from math_verify import ExprExtractionConfig, LatexExtractionConfig, parse, verify  # pyright: ignore[reportMissingImports]

    config = [LatexExtractionConfig(boxed_match_priority=0), ExprExtractionConfig()]

    def box(text: str) -> str:
        return text if re.search(r"\$|\\boxed|\\\(|\\\[", text) else rf"\boxed{{{text}}}"

    def judge(text: str, gold: str, whole: bool) -> bool:
        answer = parse(text if whole else box(text), extraction_config=config)
        return bool(verify(parse(box(gold), extraction_config=config), answer))

    return judge


def qwen() -> Judge:
    import importlib.util

    package = importlib.util.find_spec("evalscope")
    assert package is not None and package.origin is not None
    path = (
        Path(package.origin).parent / "metrics" / "math_parser.py"
    )  # its package imports far more
    spec = importlib.util.spec_from_file_location("qwen_grader", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)

    def judge(text: str, gold: str, whole: bool) -> bool:
        answer = module.extract_answer(text) if whole else text
        return bool(
            module.math_equal(module.strip_answer_string(answer), module.strip_answer_string(gold))
        )

    return judge


def dapo() -> Judge:
    import importlib.util

    package = importlib.util.find_spec("verl")
    assert package is not None and package.submodule_search_locations
    path = (
        Path(next(iter(package.submodule_search_locations)))
        / "utils"
        / "reward_score"
        / "math_dapo.py"
    )
    spec = importlib.util.spec_from_file_location("math_dapo", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return lambda text, gold, whole: bool(
        module.compute_score(text if whole else f"Answer: {text}", gold)["acc"]
    )


def plain_latex2sympy2() -> Judge:
    import contextlib
    import io

    with contextlib.redirect_stdout(io.StringIO()):
        from latex2sympy2 import latex2sympy
        from sympy import simplify

    def judge(text: str, gold: str, whole: bool) -> bool:
        answer = (re.findall(r"\\boxed\{(.*)\}", text) or [text])[-1] if whole else text
        if answer == gold:
            return True
        with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
            try:
                a: Any = latex2sympy(answer)
                b: Any = latex2sympy(gold)
                return bool(a == b or simplify(a - b) == 0)
            except Exception:  # it raises whatever it likes at what it cannot read
                return False

    return judge


GRADERS: dict[str, Callable[[], Judge]] = {
    "ours": ours,
    "math-verify": math_verify,
    "qwen": qwen,
    "latex2sympy2": plain_latex2sympy2,
    "dapo": dapo,
}


def serve(name: str, questions_path: str, answers_path: str) -> None:
    """Grade a list of [text, gold, is a whole response]; the answers go to a file that lies in memory, so that nothing
    is waited for, and no system call made, between two of them."""
    judge = GRADERS[name]()
    questions = json.loads(Path(questions_path).read_text(encoding="utf-8"))

    def answer(text: str, gold: str, whole: bool) -> tuple[float, int]:
        started = time.process_time()
        try:
            accepted = judge(text, gold, whole)
        except Exception:  # a crash of a grader is a refusal
            accepted = False
        return time.process_time() - started, ACCEPTED if accepted else REFUSED

    answer(*questions[0])
    with _map_file(Path(answers_path)) as answers:
        ANSWER.pack_into(answers, 0, 0.0, READY)
        for number, question in enumerate(questions, 1):
            ANSWER.pack_into(answers, number * ANSWER.size, *answer(*question))


# --- the measurement


def ask_all(name: str, python: str, questions: list[Question]) -> Iterator[Graded | None]:
    """The answer to each question, None where the grader took too long or died."""
    left = questions
    while left:
        answers = _ask_one_process(name, python, left)
        yield from answers
        left = left[len(answers) :]


def _ask_one_process(name: str, python: str, questions: list[Question]) -> list[Graded | None]:
    """The answers of one process; the last one is None when the process was ended over it."""
    with tempfile.TemporaryDirectory() as folder:
        files = Path(folder, "questions.json"), Path(folder, "answers")
        files[0].write_text(json.dumps(questions), encoding="utf-8")
        files[1].write_bytes(bytes(ANSWER.size * (len(questions) + 1)))
        command = [python, __file__, "--serve", name, *map(str, files)]
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            with _map_file(files[1]) as answers:
                return _await_answers(process, answers, f"{name} does not start in {python}")
        finally:
            process.kill()
            process.wait()


def _await_answers(
    process: subprocess.Popen[bytes], answers: mmap.mmap, complaint: str
) -> list[Graded | None]:
    size = len(answers) // ANSWER.size
    done, since = 0, time.monotonic()
    while done < size:
        ended = process.poll() is not None
        written = done
        while written < size and answers[(written + 1) * ANSWER.size - 1]:
            written += 1
        if written > done:
            done, since = written, time.monotonic()
        elif ended or time.monotonic() - since > (LIMIT_S if done else START_LIMIT_S):
            break
        time.sleep(0.05)
    if not done:
        raise RuntimeError(f"{complaint}; see the top of {__file__}.")
    graded: list[Graded | None] = [
        Graded(seconds, state == ACCEPTED)
        for seconds, state in ANSWER.iter_unpack(answers[ANSWER.size : done * ANSWER.size])
    ]
    return graded if done == size else [*graded, None]


def _map_file(path: Path) -> mmap.mmap:
    with path.open("r+b") as file:
        return mmap.mmap(file.fileno(), 0)


def measure(name: str, python: str, rows: list[dict[str, Any]]) -> dict[str, float]:
    questions = [
        (row["response"] if "response" in row else row["pred"], row["gold"], "response" in row)
        for row in rows
    ]
    times, wrong_accepts, wrong_refusals, killed = [], 0, 0, 0
    for row, answer in zip(rows, ask_all(name, python, questions), strict=True):
        killed += answer is None
        accepted = answer is not None and answer.accepted
        times.append(LIMIT_S if answer is None else answer.seconds)
        wrong_accepts += accepted and not row["expected"]
        wrong_refusals += not accepted and row["expected"]
    return {
        "rows": len(rows),
        "agree": 100 * (1 - (wrong_accepts + wrong_refusals) / len(rows)),
        "accepts": wrong_accepts,
        "refusals": wrong_refusals,
        "killed": killed,
        "median_us": statistics.median(times) * 1e6,
        "p99_us": statistics.quantiles(times, n=100)[98] * 1e6,
        "per_s": len(times) / sum(times),
    }


def pool_overhead_us(rows: list[dict[str, Any]], num_items: int = 20_000) -> float:
    """Processor time of this process and of the worker beyond the grading itself, for one item of a full queue."""
    from megatron_ar3po.rewards.pool import PoolSettings, VerifierPool

    pairs = [(row["response"], row["gold"]) for row in rows]
    pairs = (pairs * (num_items // len(pairs) + 1))[:num_items]
    with VerifierPool(PoolSettings()) as pool:
        pool.wait_until_ready()
        pool.grade_all(pairs[:1000])
        started = time.process_time() + _process_seconds(
            pool.worker_pids[0], os.sysconf("SC_CLK_TCK")
        )
        pool.grade_all(pairs)
        ended = time.process_time() + _process_seconds(
            pool.worker_pids[0], os.sysconf("SC_CLK_TCK")
        )
    from megatron_ar3po.rewards.math.grader import grade_math

    grading = time.process_time()
    for text, gold in pairs:
        grade_math(text, gold)
    grading = time.process_time() - grading
    return (ended - started - grading) / num_items * 1e6


def _process_seconds(pid: int, ticks: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / ticks


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--serve", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--anchors", help="the Python of the environment with the other graders")
    parser.add_argument(
        "--max-responses", type=int, default=600, help="an even sample of the responses; 0: all"
    )
    parser.add_argument("--graders", nargs="*", default=list(GRADERS), choices=list(GRADERS))
    args = parser.parse_args()
    if args.serve:
        serve(*args.serve)
        return
    if args.data is None:
        print("no --data, the folder that holds verifier/pairs.jsonl: nothing is measured")
        return
    for title, name in SETS.items():
        lines = (args.data / "verifier" / name).read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line) for line in lines]
        if title == "responses" and 0 < args.max_responses < len(rows):
            rows = rows[:: -(-len(rows) // args.max_responses)]
        print(
            f"\n{title}: {len(rows)} rows, {sum(row['expected'] for row in rows)} of them correct\n"
        )
        print(
            "| grader | agree % | false accepts | false refusals | killed | median µs | p99 µs | items/s |"
        )
        print("|---|---|---|---|---|---|---|---|")
        for grader in args.graders:
            python = sys.executable if grader in ("ours", "latex2sympy2") else args.anchors
            if python is None:
                continue
            m = measure(grader, python, rows)
            print(
                f"| {grader} | {m['agree']:.1f} | {m['accepts']:.0f} | {m['refusals']:.0f} | {m['killed']:.0f} "
                f"| {m['median_us']:.0f} | {m['p99_us']:.0f} | {m['per_s']:.0f} |",
                flush=True,
            )
        if title == "responses":
            print(f"\npool overhead: {pool_overhead_us(rows):.0f} µs of processor time per item")


if __name__ == "__main__":
    main()
