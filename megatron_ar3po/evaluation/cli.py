"""`ar3po evaluate SUBJECT`: a policy on benchmarks, sampled by real servers, graded by the verifier of each.

SUBJECT is a run's folder (its newest checkpoint, or the Hugging Face folder it exported, with the run's own settings),
a Hugging Face folder, or the address of a server that runs (SGLang, or any with OpenAI's API). Otherwise the servers of
one node do the work, from one process; nothing is trained.

    ar3po evaluate runs/mine                                         the run's own held-out prompts and suites
    ar3po evaluate runs/mine --suite examples/math_suite.yaml --against models/Qwen2.5-7B
    ar3po evaluate models/Qwen2.5-7B --data data/math500.jsonl --samples 4 --config examples/.../config.yaml
    ar3po evaluate http://127.0.0.1:8000 --suite examples/math_suite.yaml model.path=models/Qwen2.5-7B

Answers are kept by what they are answers to, so that the same command again generates none. Seeds depend on `run.seed`,
prompt and sample alone, so two policies of one seed are compared on the same noise, and a run's exported policy gets
here what its last evaluation had got.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import sys
import time
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from megatron_ar3po.algorithm.verdict_checks import VerifierFailedError
from megatron_ar3po.config.paths import expand_home, parse_path
from megatron_ar3po.config.schema import Config
from megatron_ar3po.config.suite import SuiteSet, one_set, read_suite, suite_sets
from megatron_ar3po.distributed.launched_ranks import drop_leftover_ranks
from megatron_ar3po.evaluation.figures import SetAnswers, difference_of, figures_of
from megatron_ar3po.evaluation.report import draw_figure, print_result, write_files
from megatron_ar3po.evaluation.subjects import Subject, find_subject, is_url
from megatron_ar3po.interfaces import RolloutEngineError
from megatron_ar3po.platform.host_limits import check_open_files
from megatron_ar3po.run.folder_format import CONFIG_FILE

if TYPE_CHECKING:
    from megatron_ar3po.evaluation.sampling import Answering

_STORE = Path("runs/evaluated_items")


def add_evaluate_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser(
        "evaluate",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("policy", type=parse_subject, metavar="RUN|FOLDER|URL")
    parser.add_argument("overrides", nargs="*", metavar="key=value")
    parser.add_argument(
        "--suite",
        type=parse_path,
        action="append",
        default=[],
        help="YAML of several benchmarks; more than once for more [the run's]",
    )
    parser.add_argument("--data", default="", help="JSONL of prompts [the run's evaluation.path]")
    parser.add_argument("--samples", type=int, help="per prompt [evaluation.samples_per_prompt]")
    parser.add_argument(
        "--against",
        type=parse_subject,
        metavar="RUN|FOLDER|URL",
        help="a second policy, on the same prompts with the same settings: the difference, paired",
    )
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
        "--served-model", default="", help="of a URL: the model's name there [its first]"
    )
    parser.add_argument(
        "--weights", default="", help="of a URL: what it serves, so that its answers can be reused"
    )
    parser.add_argument(
        "--store", type=parse_path, default=_STORE, help="answers kept for reuse [%(default)s]"
    )
    parser.add_argument(
        "--out", type=parse_path, help="result.json, figure, answers, logs [runs/evaluate_NAME]"
    )
    parser.add_argument("--json", action="store_true", help="the result as one JSON object")
    parser.set_defaults(command=evaluate_command)


def parse_subject(text: str) -> str:
    """An argparse type."""
    return text if is_url(text) else str(parse_path(text))


def evaluate_command(arguments: argparse.Namespace) -> int:
    subject = find_subject(
        arguments.policy,
        checkpoint=arguments.checkpoint,
        files=arguments.config,
        words=arguments.overrides,
    )
    sets = choose_sets(subject.config, arguments)
    other = None if arguments.against is None else find_other(arguments, subject)
    out = arguments.out or Path("runs") / f"evaluate_{_name_of_file(subject.name)}"
    if (out / CONFIG_FILE).is_file():
        raise ValueError(f"--out {out} is a run, whose ledger would go; name another folder.")
    drop_leftover_ranks(os.environ, is_alone=True)
    check_open_files(subject.config.servers.max_concurrent_requests)
    started = time.monotonic()
    try:
        answers = answer_sets(subject, sets, arguments, out)
        result: dict[str, Any] = {"policy": subject.name, "sets": _figures(answers)}
        if other is not None:
            theirs = answer_sets(other, sets, arguments, out / "against")
            result["against"] = compare(other, answers, theirs)
    # An engine's message ends with what the server said, a verifier's with its first reason.
    except (RolloutEngineError, VerifierFailedError) as error:
        print(f"ar3po: error: {error}", file=sys.stderr)
        return 1
    result["seconds"] = round(time.monotonic() - started, 1)
    write_files(out, result, answers)
    if other is not None:
        write_files(out, result, theirs, "responses_against")
    draw_figure(result, out / "figure.png")
    if arguments.json:
        print(json.dumps(result))
    else:
        print_result(result, out)
    return 0


def find_other(arguments: argparse.Namespace, subject: Subject) -> Subject:
    """Of --against. Prompts are rendered on the subject's own day. Raises ValueError where one name would stand for
    the weights of two servers: the answers of the first would be taken for the second's."""
    if arguments.weights and subject.url and is_url(arguments.against):
        raise ValueError(
            f"--weights {arguments.weights} says what one server serves, and --against names a second one; evaluate "
            "each by itself first, or leave --weights out."
        )
    words = [*arguments.overrides]
    if is_url(arguments.against) and not any(w.startswith("model.path=") for w in words):
        words.append(f"model.path={subject.hf_folder}")
    other = find_subject(arguments.against, files=arguments.config, words=words)
    return replace(other, rendered_at=subject.rendered_at)


def choose_sets(config: Config, arguments: argparse.Namespace) -> list[SuiteSet]:
    """What the command names, or else what the run is evaluated on while it trains. Raises ValueError where there is
    nothing."""
    if arguments.server_tp is not None and arguments.server_tp < 1:
        raise ValueError(f"--server-tp {arguments.server_tp} must be at least 1.")
    data = expand_home(arguments.data)
    if data and not Path(data).is_file():
        raise ValueError(f"--data {data} is no file.")
    if arguments.samples is not None:
        evaluation = replace(config.evaluation, samples_per_prompt=arguments.samples)
        config = replace(config, evaluation=evaluation)
    found = [s for file in arguments.suite for s in read_suite(file, config)]
    if arguments.samples is not None:
        found = [_with_samples(one, arguments.samples) for one in found]
    if data:
        found += one_set(_name_of_file(Path(data).stem), data, config)
    if not found:
        found = _sets_of_run(config)
    names = [one.name for one in found]
    if len(set(names)) < len(names):
        raise ValueError(f"the sets {names} must each have a name of their own; rename one.")
    return found


def _sets_of_run(config: Config) -> list[SuiteSet]:
    held_out = config.evaluation.path
    if held_out and not Path(held_out).is_file():
        raise ValueError(f"evaluation.path={held_out} is no file; mend it, or name one by --data.")
    found = [*(one_set("heldout", held_out, config) if held_out else []), *suite_sets(config)]
    if not found:
        raise ValueError(
            "no benchmark: name one by --data FILE or --suite FILE, or set evaluation.path=FILE."
        )
    return found


def _with_samples(one: SuiteSet, samples: int) -> SuiteSet:
    evaluation = replace(one.config.evaluation, samples_per_prompt=samples)
    return replace(one, config=replace(one.config, evaluation=evaluation))


def answer_sets(
    subject: Subject, sets: list[SuiteSet], arguments: argparse.Namespace, out: Path
) -> list[SetAnswers]:
    from megatron_ar3po.evaluation.sampling import Answering  # heavy imports

    answering: Answering = Answering(
        subject=subject,
        sets=sets,
        out=out,
        store=arguments.store,
        server_tp=arguments.server_tp or subject.config.actor.tensor_parallel_size,
        served_model=arguments.served_model,
        named_weights=arguments.weights,
    )
    with ExitStack() as stack:
        return answering.answer(stack)


def compare(other: Subject, mine: list[SetAnswers], theirs: list[SetAnswers]) -> dict[str, Any]:
    return {
        "policy": other.name,
        "sets": _figures(theirs),
        "differences": {
            one.name: difference_of(one, two) for one, two in zip(mine, theirs, strict=True)
        },
    }


def _figures(answers: list[SetAnswers]) -> dict[str, Any]:
    return {of_set.name: figures_of(of_set) for of_set in answers}


def _name_of_file(text: str) -> str:
    """
    >>> _name_of_file("runs/mine/checkpoints/step_00010/model"), _name_of_file("http://a:1")
    ('runs_mine_checkpoints_step_00010_model', 'http_a_1')
    """
    return re.sub(r"[^A-Za-z0-9.-]+", "_", text).strip("_.") or "set"
