"""`python -m megatron_ar3po.train CONFIG [key=value ...]`, the same as `ar3po train`; under torchrun for more ranks.

The front door: reads the config, wires the parts (the one place that names concrete classes), runs, and ends what it
started. It is also the outermost frame: what nobody below could mend becomes one sentence and an exit code here.
"""

from __future__ import annotations

import argparse
import logging
import os
import signal
import sys
import traceback
import warnings
from collections.abc import Sequence
from contextlib import ExitStack
from datetime import datetime
from typing import Any

from megatron_ar3po.algorithm.verdict_checks import VerifierFailedError
from megatron_ar3po.config.command_line import parse_with_late_words, split_files
from megatron_ar3po.config.load import load_config, to_yaml
from megatron_ar3po.config.paths import parse_path
from megatron_ar3po.config.schema import Config
from megatron_ar3po.config.validate import warnings_of
from megatron_ar3po.disk_faults import (
    CheckpointNotWrittenError,
    describe_disk_fault,
    silence_threads_that_end_of_one,
)
from megatron_ar3po.distributed.launched_ranks import drop_leftover_ranks, read_rank
from megatron_ar3po.distributed.layout import ParallelLayout
from megatron_ar3po.distributed.peer_error import PeerError, notes_of
from megatron_ar3po.folder_owner import FolderOwner
from megatron_ar3po.interfaces import RolloutEngineError, WeightPublishError
from megatron_ar3po.platform.determinism import prepare_environment
from megatron_ar3po.platform.garbage import hold_collections, keep_what_is_here
from megatron_ar3po.platform.process_environment import prepare_process
from megatron_ar3po.platform.process_guard import die_with_parent
from megatron_ar3po.run.folder_format import CONFIG_FILE, check_format
from megatron_ar3po.run.stop_request import StopRequest
from megatron_ar3po.wiring.layout_checks import layout_of_job

logger = logging.getLogger(__name__)

_HELP = """\
Train a policy with AR3PO, GRPO or DAPO.

CONFIG is one YAML file or several, later ones winning; then any option as section.option=value (ar3po options
says what there is).

  ar3po train examples/tiny_sum/config.yaml
  ar3po train examples/tiny_sum/config.yaml algorithm.name=grpo run.name=my_grpo
  ar3po train examples/tiny_sum/config.yaml run.name=my_run run.resume=true
  torchrun --nproc-per-node 4 -m megatron_ar3po.train CONFIG \\
      actor.tensor_parallel_size=2 actor.pipeline_parallel_size=2
"""


class RunFaultError(RuntimeError):
    """The run has stopped and saved, since more steps would not have mended it; the message is one sentence."""


def add_train_parser(subparsers: Any) -> None:
    parser = subparsers.add_parser("train")
    add_train_arguments(parser)
    parser.set_defaults(command=train_command)


def add_train_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = _HELP
    parser.formatter_class = argparse.RawDescriptionHelpFormatter
    parser.add_argument(
        "config", nargs="+", metavar="CONFIG", help="YAML files, then key=value words"
    )
    parser.add_argument(
        "--dry-run",
        action="store_true",
        help="print the resolved config, the parallel layout and the batch arithmetic; start nothing",
    )
    parser.add_argument(
        "--no-data",
        action="store_true",
        help="with --dry-run: leave the prompts unread, which takes a tokenizer and seconds",
    )
    parser.add_argument(
        "--world-size",
        type=int,
        default=0,
        help="ranks to assume in a dry run (default: one replica)",
    )
    parser.add_argument(
        "--show-prompts",
        type=int,
        default=0,
        metavar="N",
        help="with --dry-run: the first N prompts as the policy will read them, special tokens visible",
    )


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m megatron_ar3po.train")
    add_train_arguments(parser)
    try:
        prepare_process()
    except ValueError as error:
        return _fail(2, error)
    return train_command(parse_with_late_words(parser, argv))


def train_command(arguments: argparse.Namespace) -> int:
    """The exit code: 0 done or stopped and saved, 1 failed, 2 something the user can mend, 128 + N ended at once by
    signal N (130 Ctrl-C, 143 SIGTERM)."""
    if (
        os.getcwd() not in sys.path
    ):  # a user's own functions by import path, also from the `ar3po` script
        sys.path.append(os.getcwd())
    try:
        _check_dry_run_words(arguments)
        config = read_arguments(arguments.config)
        if arguments.dry_run:
            # The prompts need the tokenizer only, and are shown also where the run would be refused.
            print(describe_prompts(config, arguments.show_prompts), end="", flush=True)
            world_size = arguments.world_size or config.actor.replica_size
            print(describe(config, world_size, reads_data=not arguments.no_data))
            return 0
        run(config)
        return 0
    except (ValueError, CheckpointNotWrittenError) as error:
        # A user can mend it: the message is the help page.
        return _fail(2, error)
    except BrokenPipeError:  # of `--dry-run | head`: the command line knows whether anybody reads
        raise
    except (
        RolloutEngineError,
        WeightPublishError,
        VerifierFailedError,
        PeerError,
        RunFaultError,
        ConnectionError,
    ) as error:
        return _fail(1, error)
    except KeyboardInterrupt as interrupt:  # of a StopRequest, with the signal's name, or Python's
        name = str(interrupt) or "SIGINT"
        return _fail(
            128 + signal.Signals[name],
            f"ended by {name}; what was saved before stays, run.resume=true goes on from it",
        )
    except (
        Exception
    ) as error:  # the outermost frame: everything else is a bug, and its traceback is what helps
        if said := describe_disk_fault(error):  # but for a full disk
            return _fail(2, said, cause=error)
        traceback.print_exc()
        return _fail(1, f"{type(error).__name__}: {error}", cause=error)


def _check_dry_run_words(arguments: argparse.Namespace) -> None:
    for name in ("world_size", "show_prompts"):
        if (value := getattr(arguments, name)) < 0:
            raise ValueError(f"--{name.replace('_', '-')} {value} is negative; use 0 or more.")
    if arguments.show_prompts and not arguments.dry_run:
        raise ValueError("--show-prompts shows prompts and trains nothing; add --dry-run.")
    if arguments.no_data and not arguments.dry_run:
        raise ValueError(
            "--no-data leaves the prompts unread, and a run needs them; add --dry-run."
        )
    if arguments.no_data and arguments.show_prompts:
        raise ValueError("--show-prompts needs the prompts that --no-data leaves unread; drop one.")


def _fail(code: int, error: BaseException | str, *, cause: BaseException | None = None) -> int:
    """`cause`: whose notes are told, where `error` is words about it."""
    logger.debug("failed", exc_info=True)
    noted = cause or (error if isinstance(error, BaseException) else None)
    notes = notes_of(noted) if noted is not None else []
    print(" ".join((f"ar3po: error: {error}", *notes)), file=sys.stderr, flush=True)
    return code


def read_arguments(words: Sequence[str]) -> Config:
    files, overrides = split_files(words)
    if not files:
        raise ValueError("no config file given; name one, such as examples/tiny_sum/config.yaml.")
    for file in map(parse_path, files):
        if file.name == CONFIG_FILE:  # of a run, whose other files count too
            check_format(file.parent)
    return load_config(files, overrides)


def describe(config: Config, world_size: int, *, reads_data: bool = True) -> str:
    """What --dry-run prints. Checks all that a run checks before its servers start, the prompts included (unless
    `reads_data` is false), but for the machine and its environment (`wiring/environment_checks.py`), which may be
    another one than that of the run."""
    from megatron_ar3po.observability.waiting import telling
    from megatron_ar3po.wiring.start_checks import check_data, check_start  # slow to import

    layout = layout_of_job(config, world_size=world_size)
    check_start(config, layout)
    resumed = describe_resume(config, layout)
    if reads_data:
        with telling(f"reading and checking the prompts of {config.data.path}", _say):
            check_data(config)
    rollout, algorithm = config.rollout, config.algorithm
    least = rollout.prompts_per_step * rollout.stage_sizes[0]
    most = rollout.prompts_per_step * rollout.max_responses_per_prompt
    if algorithm.dynamic_sampling:
        prompts_per_round = algorithm.prompts_per_round or rollout.prompts_per_step
        most = prompts_per_round * rollout.max_responses_per_prompt * algorithm.max_sampling_rounds
    lines = [
        to_yaml(config),
        f"# layout: {layout.describe()} = {world_size} ranks, {layout.data_parallel_size} replica(s), "
        f"{config.servers.servers_per_replica} server(s) each",
        f"# a step: {rollout.prompts_per_step} prompts, {least} to {most} responses of at most "
        f"{rollout.max_response_tokens} tokens, {algorithm.updates_per_step} optimizer step(s)",
        f"# a run: {config.run.num_steps} steps, {least * config.run.num_steps} to {most * config.run.num_steps} "
        f"responses; files in {config.run.path}",
        *(f"# note: {line}" for line in warnings_of(config)),
        *(f"# {line}" for line in resumed),
    ]
    return "\n".join(lines)


def _say(line: str) -> None:
    print(f"ar3po: {line}", file=sys.stderr, flush=True)


def describe_resume(config: Config, layout: ParallelLayout) -> list[str]:
    """What a resume would change, a line each. Raises ValueError with what it may not."""
    if not config.run.resume:
        return []
    from megatron_ar3po.run.folder import check_run_folder
    from megatron_ar3po.run.resume_comparison import compare_with_run
    from megatron_ar3po.wiring.run_facts import find_facts

    check_run_folder(config)
    found = compare_with_run(config, find_facts(config, layout), datetime.now())
    changed = [f"changed at this resume: {change.describe()}" for change in found.changes]
    return [f"note: {found.note}", *changed] if found.note else changed


def describe_prompts(config: Config, num: int) -> str:
    """The first `num` prompts of data.path, each line of them a comment, as of the run that would go on here."""
    if num <= 0:
        return ""
    from megatron_ar3po.run.facts import read_rendered_at
    from megatron_ar3po.wiring.prompts_and_verifier import show_prompts

    rendered_at = read_rendered_at(config.run.path) if config.run.resume else datetime.now()
    shown = show_prompts(config, rendered_at, num)
    return "".join(f"# {line}\n" for prompt in shown for line in prompt.split("\n"))


def run(config: Config) -> None:
    """Trains (or replays, see debug.mode); returns when the run is done or has stopped and saved."""
    if leftover := drop_leftover_ranks(os.environ):
        print(f"ar3po: {leftover}", file=sys.stderr)
    hold_collections()
    rank, world_size = read_rank(os.environ)  # as torchrun or srun says
    if "TORCHELASTIC_RUN_ID" in os.environ:  # torchrun that is killed cannot end its ranks
        die_with_parent()
    stop = StopRequest(max_seconds=config.run.max_seconds)
    stop.install()
    silence_threads_that_end_of_one()
    layout = layout_of_job(config, rank=rank, world_size=world_size)
    from megatron_ar3po.wiring.environment_checks import check_environment
    from megatron_ar3po.wiring.start_checks import check_start  # slow to import

    here = os.environ.get("LOCAL_WORLD_SIZE")
    check_start(config, layout, ranks_per_node=int(here) if here else None)
    check_environment(config)
    if config.run.deterministic:
        prepare_environment()
    with ExitStack() as stack:
        owner = None
        if rank == 0 and config.debug.mode != "train_only":
            owner = FolderOwner.claim(config.run.path)
            stack.callback(owner.release)
        if rank == 0:  # what follows imports, and takes its time
            when, what = datetime.now().strftime("%H:%M:%S"), f"{config.run.num_steps} steps"
            told = f"{when} {config.run.name}: {what}, in {config.run.path}"
            print(told, file=sys.stderr, flush=True)
        _run_as_owner(config, layout, stop, stack, owner)


def _run_as_owner(
    config: Config,
    layout: ParallelLayout,
    stop: StopRequest,
    stack: ExitStack,
    owner: FolderOwner | None,
) -> None:
    """`owner`: of the run's folder, on rank 0. It was claimed before these imports, which take seconds."""
    from megatron_ar3po.wiring.servers import begin_server

    begun = begin_server(config, layout, stack)  # its imports take longest
    from megatron_ar3po.distributed.collectives import (
        Ranks,
        end_process_group,
        start_process_group,
    )
    from megatron_ar3po.observability.run_summary import print_summary, summarize
    from megatron_ar3po.rollout.ledger_file import rows_of_run
    from megatron_ar3po.sampling_cost import cost_of
    from megatron_ar3po.wiring.run import train

    # "Apex is not installed" and deprecations inside the libraries: nothing a user of this program can act on. What is
    # in use is said once, in the actor's own log line.
    warnings.filterwarnings("ignore", module=r"(megatron|torch)\.")
    # A single rank that samples starts one beside its model: until then it needs no torch.
    if layout.world_size > 1 or config.debug.mode == "train_only":
        start_process_group(config.run.collective_timeout_s)
        stack.callback(end_process_group)
    ranks = Ranks(layout, config.run.collective_timeout_s)
    if config.debug.mode == "train_only":
        from megatron_ar3po.wiring.replay import replay

        keep_what_is_here()
        replay(config, ranks, stack)
        return
    try:
        state = train(config, ranks, stack, stop, owner, begun)
    except Exception as error:  # while this rank still writes: whoever does not is named with it
        ranks.watch.name_missing(error)
        raise
    if ranks.is_first:
        cost = cost_of(rows_of_run(config.run.path / "ledger"))
        print_summary(summarize(config.run.path, cost))
        if state.step >= config.run.num_steps and not stop.fault:
            print(_describe_next(config))
    if stop.fault:
        raise RunFaultError(f"{stop.fault} Saved after step {state.step}.")
    if ranks.is_first and state.step < config.run.num_steps:
        print(
            f"stopped after step {state.step} of {config.run.num_steps} ({stop.reason}); the same command with "
            "run.resume=true goes on."
        )


def _describe_next(config: Config) -> str:
    from megatron_ar3po.observability.next_steps import describe_next
    from megatron_ar3po.wiring.parts import checkpoint_folder

    return describe_next(
        config.run.path,
        has_checkpoint=checkpoint_folder(config).newest() is not None,
        has_held_out=bool(config.evaluation.path),
    )


if __name__ == "__main__":
    sys.exit(main())
