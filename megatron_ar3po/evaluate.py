"""`ar3po evaluate RUN|FOLDER`: a policy on a benchmark file, sampled by real servers, graded by the run's verifier.

RUN is a run's folder: its newest checkpoint, or the Hugging Face folder it exported, with the run's own settings.
FOLDER is a Hugging Face folder. The servers of one node do the work, from one process; nothing is trained.

    ar3po evaluate runs/mine                                         the run's own held-out prompts
    ar3po evaluate models/Qwen2.5-7B --data data/math500.jsonl --samples 4 --config examples/.../config.yaml

Seeds depend on `run.seed`, prompt and sample alone, so two policies of one seed are compared on the same noise, and a
run's exported policy gets here what its last evaluation had got.
"""

from __future__ import annotations

import argparse
import json
import logging
import os
import shutil
import sys
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.table import Table

from megatron_ar3po.algorithm.verdict_checks import VerifierFailedError
from megatron_ar3po.config.load import load_config
from megatron_ar3po.config.paths import expand_home, parse_path
from megatron_ar3po.config.schema import Config
from megatron_ar3po.distributed.launched_ranks import drop_leftover_ranks
from megatron_ar3po.interfaces import RolloutEngineError
from megatron_ar3po.observability.accuracy import accuracy
from megatron_ar3po.observability.source_metrics import accuracy_by_source
from megatron_ar3po.platform.host_limits import check_open_files
from megatron_ar3po.response_json import readable_json
from megatron_ar3po.run.checkpoint_folder import CheckpointFolder
from megatron_ar3po.run.facts import read_rendered_at
from megatron_ar3po.run.folder_format import CONFIG_FILE, check_format
from megatron_ar3po.run.manifest import find_damage

if TYPE_CHECKING:
    from megatron_ar3po.wiring.benchmark_sampling import Sampled

logger = logging.getLogger(__name__)

_FIELDS = ("status", "extracted", "tokens", "finish_reason")  # of a response in responses.jsonl


@dataclass(frozen=True, kw_only=True)
class Policy:
    """What is evaluated: a Hugging Face folder, or a checkpoint that must become one first."""

    config: Config  # of the run it comes from, or the given one
    hf_folder: Path
    checkpoint: Path | None = None
    rendered_at: datetime = field(default_factory=datetime.now)  # a chat template takes it for now

    @property
    def name(self) -> str:
        return str(self.checkpoint or self.hf_folder)


def add_evaluate_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("policy", type=parse_path, metavar="RUN|FOLDER")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument("--data", default="", help="JSONL of prompts [the run's evaluation.path]")
    parser.add_argument("--samples", type=int, help="per prompt [evaluation.samples_per_prompt]")
    parser.add_argument(
        "--config",
        action="append",
        default=[],
        help="YAML of settings, for a FOLDER that is no run",
    )
    parser.add_argument(
        "--checkpoint", default="", metavar="step_00100", help="of a RUN [its newest]"
    )
    parser.add_argument(
        "--server-tp", type=int, help="GPUs of one server [actor.tensor_parallel_size]"
    )
    parser.add_argument(
        "--out", type=parse_path, help="result.json, responses.jsonl, logs [runs/evaluate_NAME]"
    )
    parser.add_argument("--json", action="store_true", help="the result as one JSON object")
    parser.set_defaults(command=evaluate_command)


def evaluate_command(arguments: argparse.Namespace) -> int:
    policy = find_policy(arguments)
    out = arguments.out or Path("runs") / f"evaluate_{policy.name.strip('/').replace('/', '_')}"
    config = settings(policy, arguments, out)
    drop_leftover_ranks(os.environ, is_alone=True)
    check_open_files(config.servers.max_concurrent_requests)
    started = time.monotonic()
    from megatron_ar3po.wiring.benchmark_sampling import sample_benchmark  # heavy imports

    try:
        with ExitStack() as stack:
            server_tp = arguments.server_tp or config.actor.tensor_parallel_size
            sampled = sample_benchmark(
                config,
                server_tp,
                stack,
                policy.rendered_at,
                lambda: find_weights(policy, out, stack),
            )
    # An engine's message ends with what the server said, a verifier's with its first reason.
    except (RolloutEngineError, VerifierFailedError) as error:
        print(f"ar3po: error: {error}", file=sys.stderr)
        return 1
    result = {"policy": policy.name, "data": config.data.path} | facts(config, sampled)
    result["seconds"] = round(time.monotonic() - started, 1)
    write(out, result, sampled)
    if arguments.json:
        print(json.dumps(result))
    else:
        print_result(result, out)
    return 0


def find_policy(arguments: argparse.Namespace) -> Policy:
    folder, words = arguments.policy, arguments.overrides
    if (folder / "config.json").is_file():
        return Policy(config=load_config(arguments.config, words), hf_folder=folder)
    settings = folder / CONFIG_FILE
    if not settings.is_file():
        raise ValueError(
            f"{folder} is neither a run (no {CONFIG_FILE}) nor a Hugging Face folder (no config.json); name one."
        )
    check_format(folder)
    config = load_config([settings, *arguments.config], words)
    rendered_at = read_rendered_at(folder)
    if (folder / "hf" / "config.json").is_file() and not arguments.checkpoint:
        return Policy(config=config, hf_folder=folder / "hf", rendered_at=rendered_at)
    checkpoints = CheckpointFolder(folder / "checkpoints", keep_last=1)
    named = checkpoints.path / arguments.checkpoint if arguments.checkpoint else None
    checkpoint = named or checkpoints.newest()
    if checkpoint is None or not (checkpoint / "model").is_dir():
        there = ", ".join(path.name for path in checkpoints.checkpoints())
        raise ValueError(
            f"{folder} has no checkpoint {arguments.checkpoint or 'yet'}; it has {there or 'none'}: name one of them "
            "by --checkpoint."
        )
    if damage := find_damage(checkpoint):
        raise ValueError(f"{damage}; name another checkpoint by --checkpoint.")
    return Policy(
        config=config,
        hf_folder=Path(config.model.path),
        checkpoint=checkpoint / "model",
        rendered_at=rendered_at,
    )


def settings(policy: Policy, arguments: argparse.Namespace, out: Path) -> Config:
    """The policy's config with the benchmark where the training prompts stood."""
    config = policy.config
    data = expand_home(arguments.data) or config.evaluation.path
    if not data:
        raise ValueError("no benchmark: name one by --data FILE, or set evaluation.path=FILE.")
    if not Path(data).is_file():
        raise ValueError(f"--data {data} is no file.")
    if arguments.server_tp is not None and arguments.server_tp < 1:
        raise ValueError(f"--server-tp {arguments.server_tp} must be at least 1.")
    evaluation = config.evaluation
    if arguments.samples is not None:
        evaluation = replace(evaluation, samples_per_prompt=arguments.samples)
    return replace(
        config,
        run=replace(config.run, dir=str(out)),
        model=replace(config.model, path=str(policy.hf_folder)),
        data=replace(config.data, path=data),
        evaluation=replace(evaluation, path=""),
        servers=replace(config.servers, routing="local"),
    )


def find_weights(policy: Policy, out: Path, stack: ExitStack) -> Path:
    """The Hugging Face folder of the policy. A checkpoint becomes one for as long as it is needed;
    tools/convert_checkpoint.py keeps one."""
    if policy.checkpoint is None:
        return policy.hf_folder
    from megatron_ar3po.actor.conversion import to_hf  # slow to import

    target = out / "policy"
    shutil.rmtree(target, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    stack.callback(shutil.rmtree, target, ignore_errors=True)
    to_hf(
        policy.checkpoint,
        target,
        policy.hf_folder,
        file_bytes=1 << 30,
        report=lambda what, done, total: logger.debug("%s %d of %d bytes", what, done, total),
    )
    return target


def facts(config: Config, sampled: Sampled) -> dict[str, Any]:
    answers = sampled.answers
    responses = [scored.response for answer in answers for scored in answer]
    tokens = sum(r.num_tokens for r in responses)
    found = asdict(accuracy(answers))
    return found | {
        "temperature": config.evaluation.temperature,
        "top_p": config.evaluation.top_p,
        "max_response_tokens": config.rollout.max_response_tokens,
        "tokens": tokens,
        "length_tokens": tokens / len(responses),
        "truncated_frac": sum(r.finish_reason == "length" for r in responses) / len(responses),
        "by_source": accuracy_by_source(sampled.prompts, answers),
        "verdicts": dict(Counter(s.verdict.status for a in answers for s in a)),
    }


def write(out: Path, result: dict[str, Any], sampled: Sampled) -> None:
    """The figures, and what was answered, to be read."""
    out.mkdir(parents=True, exist_ok=True)
    (out / "result.json").write_text(json.dumps(result, indent=1) + "\n", "utf-8")
    with (out / "responses.jsonl").open("w", encoding="utf-8") as file:
        for prompt, answer in zip(sampled.prompts, sampled.answers, strict=True):
            row = {
                "prompt": prompt.text,
                "answer": prompt.ground_truth,
                "responses": [
                    readable_json(
                        scored, sampled.decode(scored.response.token_ids.tolist()), _FIELDS
                    )
                    for scored in answer
                ],
            }
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def print_result(result: dict[str, Any], out: Path) -> None:
    table = Table(title=f"{result['policy']} on {result['data']}", show_header=False)
    table.add_column()
    table.add_column(justify="right", overflow="fold")  # a path stays whole
    n = result["samples_per_prompt"]
    table.add_row("prompts x samples", f"{result['prompts']} x {n}")
    error = result["pass_at_1_stderr"]
    table.add_row(f"pass@1 (avg@{n})", f"{result['pass_at_1']:.3f} ± {error:.3f}")
    for k, value in result["pass_at_k"].items():
        if int(k) > 1:
            table.add_row(f"pass@{k}", f"{value:.3f}")
    if set(result["by_source"]) != {""}:
        for source, of_source in result["by_source"].items():
            rate = of_source["pass_at_1"]
            shown = "none" if rate is None else f"{rate:.3f} ± {of_source['pass_at_1_stderr']:.3f}"
            label = f"pass@1 of {source or 'no source'}, {of_source['prompts']} prompts"
            table.add_row(label, shown)
    table.add_row("length, tokens", f"{result['length_tokens']:.0f}")
    table.add_row("truncated", f"{result['truncated_frac']:.1%}")
    for status, count in sorted(result["verdicts"].items()):
        label = "not graded, as the verifier failed" if status == "error" else f"graded {status}"
        table.add_row(label, str(count))
    table.add_row("sampling", f"temperature {result['temperature']:g}, top_p {result['top_p']:g}")
    table.add_row("files", str(out))
    Console().print(table)
