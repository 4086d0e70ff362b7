"""How often what DAPO and AR3PO really spend lies in the interval that a GRPO run predicts.

    python benchmarks/counterfactual_cost.py [--draws N] [--first N] [--steps N]

The untrained policy of examples/tiny_sum on a real SGLang server, sampled by the real controller, samplers, verifier
and ledger, without updates: a run at learning rate 0. Each draw shuffles the prompts anew and samples three runs of so
many steps of 16 prompts under seeds of their own: GRPO(8), from whose ledger `ar3po cost` predicts the other two;
DAPO(8); AR3PO(2x4). Exits with 1 where fewer intervals hold than a binomial of 95% lets expect once in 1,000 times.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import sys
import tempfile
import time
from contextlib import ExitStack
from datetime import datetime
from pathlib import Path

from megatron_ar3po.algorithm.counterfactual_cost import chance_of_fewer
from megatron_ar3po.config.load import load_config, to_yaml
from megatron_ar3po.config.schema import Config
from megatron_ar3po.distributed.collectives import Ranks
from megatron_ar3po.distributed.layout import ParallelLayout
from megatron_ar3po.platform.process_environment import prepare_process
from megatron_ar3po.reporting.cost import parse_plan, report_cost
from megatron_ar3po.reporting.cost_prediction import Prediction
from megatron_ar3po.run.folder_format import CONFIG_FILE, write_format
from megatron_ar3po.run.state import StartingPoint
from megatron_ar3po.servers.counters import read_counters
from megatron_ar3po.servers.placement import ServerPlacement
from megatron_ar3po.servers.sglang_server import SglangServer
from megatron_ar3po.wiring.prompts_and_verifier import load_prompts_and_verifier, make_prompt_source
from megatron_ar3po.wiring.sampling import build_rollout, build_sampler
from megatron_ar3po.wiring.servers import make_server, server_control

ROOT = Path(__file__).parents[1]
CONFIDENCE, RARE = 0.95, 0.001
RUNS = {"grpo": [], "dapo": [], "ar3po": ["reuse.enabled=false"]}
PLANS = [parse_plan(word) for word in ("dapo:8", "ar3po:2x4")]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--draws", type=int, default=40)
    parser.add_argument("--first", type=int, default=0, help="number of the first draw")
    parser.add_argument("--steps", type=int, default=8)
    arguments = parser.parse_args()
    os.chdir(ROOT)  # the example names its files from here
    prepare_process()
    started = time.monotonic()
    print(f"load average {os.getloadavg()[0]:.0f}")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        server = start_server(read_config(folder / "server", "grpo", seed=0), stack)
        draws = [
            draw_once(folder / f"draw{number}", number, arguments.steps, server)
            for number in range(arguments.first, arguments.first + arguments.draws)
        ]
    print(f"{len(draws)} draws of {arguments.steps} steps in {time.monotonic() - started:.0f} s")
    return max(judge(name, [draw[name] for draw in draws]) for name in draws[0])


def read_config(run: Path, algorithm: str, *, seed: int, prompts: Path | None = None) -> Config:
    words = [f"run.dir={run}", f"run.seed={seed}", "run.deterministic=false", "evaluation.path=''"]
    words += [f"algorithm.name={algorithm}", "data.shuffle=false", *RUNS[algorithm]]
    words += [f"data.path={prompts}"] if prompts else []
    return load_config([ROOT / "examples/tiny_sum/config.yaml"], words)


def start_server(config: Config, stack: ExitStack) -> SglangServer:
    server = make_server(config, ServerPlacement(name="bench.s0"), config.run.path / "logs")
    server.start()
    stack.callback(server.stop)
    server.wait_ready()
    server_control(config, [server]).set_weight_version(0)
    return server


def draw_once(
    folder: Path, number: int, num_steps: int, server: SglangServer
) -> dict[str, tuple[Prediction, int]]:
    """Of each plan: what was predicted, and what it really spent."""
    folder.mkdir()
    lines = Path(read_config(folder, "grpo", seed=0).data.path).read_text("utf-8").splitlines()
    random.Random(number).shuffle(lines)
    prompts = folder / "prompts.jsonl"
    prompts.write_text("\n".join(lines) + "\n", "utf-8")
    runs = {}
    for index, algorithm in enumerate(RUNS):
        seed = 3 * number + index
        config = read_config(folder / algorithm, algorithm, seed=seed, prompts=prompts)
        sample(config, num_steps, server)
        runs[algorithm] = config.run.path
    predictions = report_cost(runs["grpo"], PLANS).predictions
    spent = [report_cost(runs[plan.algorithm], PLANS).spent.responses for plan in PLANS]
    found = {p.plan: (p, real) for p, real in zip(predictions, spent, strict=True)}
    shown = (f"{name} {describe(*pair)}" for name, pair in found.items())
    print(f"draw {number}: {', '.join(shown)}", flush=True)
    return found


def describe(predicted: Prediction, spent: int) -> str:
    low, high = predicted.interval
    return f"{spent} in {low:.0f} to {high:.0f} ({predicted.low:.0f})"


def sample(config: Config, num_steps: int, server: SglangServer) -> None:
    """A run without an actor: its ledger, and what `ar3po cost` reads beside it."""
    config.run.path.mkdir(parents=True)
    (config.run.path / "ledger").mkdir()
    write_format(config.run.path)
    (config.run.path / CONFIG_FILE).write_text(to_yaml(config), "utf-8")
    ranks = Ranks(ParallelLayout(), config.run.collective_timeout_s)
    server.counters_before = read_counters(server.url)
    with ExitStack() as stack:
        inputs = load_prompts_and_verifier(config, ranks, stack, datetime.now())
        source = make_prompt_source(config, inputs)
        start = StartingPoint()
        rollout = build_rollout(config, ranks, stack, inputs, [server], None, start)
        sampler = build_sampler(config, ranks, source, rollout, frozenset())
        for step in range(1, num_steps + 1):
            source.start_step()
            sampler.collect(step=step, policy_version=0)


def judge(name: str, pairs: list[tuple[Prediction, int]]) -> int:
    """The exit code."""
    held = sum(p.interval.low <= spent <= p.interval.high for p, spent in pairs)
    widths = statistics.mean((p.interval.high - p.interval.low) / 2 / p.low for p, _ in pairs)
    errors = [p.low / spent - 1 for p, spent in pairs]
    at_least = next(n for n in range(len(pairs) + 1) if is_expected(n, len(pairs)))
    print(
        f"{name}: {held} of {len(pairs)} in their 95% intervals (a binomial: {at_least} or more but for {RARE:.1%}); "
        f"half an interval is {widths:.1%} of the estimate, the estimate off by {statistics.mean(errors):+.1%} on the "
        f"mean"
    )
    return int(held < at_least)


def is_expected(num_held: int, num_draws: int) -> bool:
    return chance_of_fewer(num_held + 1, num_draws, CONFIDENCE) > RARE


if __name__ == "__main__":
    sys.exit(main())
