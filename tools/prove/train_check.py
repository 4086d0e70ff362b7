"""One whole `ar3po train`: servers, rollouts, rewards, updates, publishes, a checkpoint."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from tiny_sum_task import CHARACTERS

from megatron_ar3po.observability.memory_log import read_memory_log
from prove.actors import make_model
from prove.findings import Finding
from prove.order_check import judge_order
from prove.server_checks import LARGEST_MEAN
from prove.stand import Stand

TOOLS = Path(__file__).resolve().parents[1]
NUM_STEPS = 3


def train_three_steps(stand: Stand) -> Finding:
    """It ends with code 0; in each step something was trained, and the log-probs of servers and actor agree."""
    run = stand.folder / "run"
    log = stand.folder / "train.log"
    command = [sys.executable, "-m", "megatron_ar3po.train", *write_config(stand, run)]
    environment = os.environ | {
        "PYTHONPATH": os.pathsep.join([str(TOOLS.parent), str(TOOLS), *sys.path[1:]]),
        "PYTHONUNBUFFERED": "1",
    }
    with log.open("wb") as output:
        code = subprocess.run(
            command,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
            env=environment,
            check=False,
        ).returncode
    text = log.read_text(encoding="utf-8", errors="replace")
    print(text)  # into the log of the check
    if code:
        return Finding(f"ended with code {code}", problem=text.strip().rpartition("\n")[2])
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    trained = judge_steps([row for row in rows if "actor/grad_norm" in row])
    order = judge_order(
        [
            (line["phase"], line["holder"], frozenset(line["holds"]))
            for line in read_memory_log(run / "logs")
        ]
    )
    return Finding(
        f"{trained.figure}; memory: {order.figure}",
        {**trained.facts, **order.facts},
        trained.problem or order.problem,
    )


def judge_steps(rows: list[dict[str, Any]]) -> Finding:
    """`rows`: of metrics.jsonl."""
    norms = [float(row["actor/grad_norm"]) for row in rows]
    apart = [float(row["mismatch/logprob_abs_mean"]) for row in rows]
    problem = ""
    if len(norms) != NUM_STEPS:
        problem = f"{len(norms)} of {NUM_STEPS} steps trained something"
    elif not all(0 < norm < float("inf") for norm in norms):
        problem = "a gradient is zero or not finite"
    elif not all(mean <= LARGEST_MEAN for mean in apart):
        problem = f"log-probs of servers and actor are more than {LARGEST_MEAN} apart in the mean"
    shown = [", ".join(f"{value:.2g}" for value in values) for values in (norms, apart)]
    return Finding(
        f"{len(norms)} steps, gradient norms {shown[0]}; servers' log-probs {shown[1]} from the actor's",
        {"grad_norms": norms, "apart": apart, "last_step": rows[-1] if rows else {}},
        problem,
    )


def write_config(stand: Stand, run: Path) -> list[str]:
    """The words of the command: an empty file, since one is asked for, and options."""
    file, prompts = stand.folder / "config.yaml", stand.folder / "prompts.jsonl"
    file.write_text("{}\n", encoding="utf-8")
    lines = [
        json.dumps({"prompt": f"{a}+{b}xxxx=", "answer": str(a + b)}) for a, b in digit_pairs()
    ]
    prompts.write_text("\n".join(lines) + "\n", encoding="utf-8")
    model = make_model(stand, replace(stand.part, vocab=len(CHARACTERS)))
    add_tokenizer(model)
    options = {
        "run.name": "prove",
        "run.dir": run,
        "run.num_steps": NUM_STEPS,
        "run.progress": "plain",
        "model.path": model,
        "model.dtype": stand.dtype,
        "data.path": prompts,
        "data.max_prompt_tokens": 8,
        "rewards.verifier": "prove.parity_grader:make_grader",
        "rewards.truncated": "grade",
        "rollout.prompts_per_step": 8,
        "rollout.max_response_tokens": 16,
        "actor.learning_rate": "1e-5",
        "actor.recompute": "full",
        "weight_sync.verify": "true",
    }
    if not stand.on_gpu:
        options["servers.max_total_tokens"] = 8192
    return [str(file), *(f"{name}={value}" for name, value in options.items())]


def digit_pairs() -> list[tuple[int, int]]:
    return [(a, b) for a in range(10) for b in range(10)]


def add_tokenizer(model: Path) -> None:
    """One token a character, and the stop token for who samples."""
    from make_tiny_model import PAD_ID, STOP_ID, character_tokenizer
    from transformers import GenerationConfig

    character_tokenizer().save_pretrained(model)
    GenerationConfig(do_sample=True, eos_token_id=STOP_ID, pad_token_id=PAD_ID).save_pretrained(
        model
    )
