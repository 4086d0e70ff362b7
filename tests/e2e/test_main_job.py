"""The main job on real parts: what a run writes, that a resume changes nothing, that layouts and algorithms share one
path. Full-length runs are in tests/chaos; how well the example learns is what `make train` shows."""

import json
import os
import re
import shutil
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from harness.mlflow_server import serve_mlflow
from harness.publish_stage import Stage
from harness.sink_readers import numbers_in_file, read_mlflow, read_tensorboard, read_wandb
from harness.trainer_runs import ROOT, TIME_LIMIT_S

from megatron_ar3po.observability.declared_metrics import SECTIONS
from megatron_ar3po.observability.metric_declarations import find_declaration
from megatron_ar3po.observability.step_events import read_events
from megatron_ar3po.platform.torchvision_schemas import ensure_torchvision_schemas
from megatron_ar3po.reporting.chrome_trace import make_trace
from megatron_ar3po.reporting.cost import report_cost
from megatron_ar3po.rollout.ledger_file import stream_ledger
from megatron_ar3po.sampling_cost import cost_of
from megatron_ar3po.servers.control import ServerControl

STEP_METRICS = {
    "rollout/responses_per_prompt",
    "rollout/responses_generated",
    "rollout/tokens_generated",
    "rollout/responses_total",
    "rollout/stage_1/active_prompts",
    "rollout/solved_frac",
    "reuse/borrowed_frac",
    "reward/mean",
    "group/no_signal_frac",
    "response/length_tokens",
    "response/truncated_frac",
    "actor/loss",
    "actor/ratio_mean",
    "actor/clip_frac",
    "actor/entropy",
    "actor/grad_norm",
    "actor/approx_kl",
    "mismatch/logprob_abs_mean",
    "time/rollout_s",
    "time/train_s",
    "time/publish_s",
    "memory/peak_bytes",
}


def without_clocks(row: dict) -> dict:
    """What a run must repeat: all but seconds, memory, and the store's file, which a rollback does not shrink."""
    clocks = ("time/", "memory/", "weight_sync/", "reuse/store_bytes")
    return {k: v for k, v in row.items() if not k.startswith(clocks)}


def without_spending(row: dict) -> dict:
    """What it has cost stays spent when steps are done again."""
    totals = ("rollout/responses_total", "rollout/tokens_total", "rollout/cost/re")
    return {k: v for k, v in row.items() if not k.startswith(totals)}


def largest_mismatches(run) -> list[float]:
    """One figure for each step that trained; a step without signal has none."""
    name = "mismatch/logprob_abs_max"
    return [row[name] for row in run.metrics if name in row]


@pytest.fixture(scope="module")
def mlflow_uri(tmp_path_factory):
    with serve_mlflow(tmp_path_factory.mktemp("mlflow")) as uri:
        yield uri


@pytest.fixture(scope="module")
def suite(tmp_path_factory, tiny_task) -> Path:
    """Three sets of the held-out prompts: greedy, sampled, and short answers without a verdict of their own."""
    held_out = tiny_task / "heldout.jsonl"
    sets = {
        "greedy": {"path": str(held_out), "max_prompts": 12, "samples": 1, "temperature": 0.0},
        "sampled": {"path": str(held_out), "max_prompts": 6, "samples": 4, "temperature": 0.8},
        "cut": {"path": str(held_out), "max_prompts": 4, "samples": 1, "max_response_tokens": 2},
    }
    path = tmp_path_factory.mktemp("suite") / "suite.yaml"
    path.write_text(yaml.safe_dump({"sets": sets}))
    return path


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory, module_runs, mlflow_uri, suite):
    """Six steps in one go: the run the other tests compare with."""
    folder = tmp_path_factory.mktemp("main_job") / "whole"
    run = module_runs(
        f"run.dir={folder}",
        "run.name=main_job",
        "run.num_steps=6",
        "checkpoint.every_steps=3",
        "debug.dump_steps=[2]",
        "debug.profile_steps=[3]",
        "weight_sync.verify=true",
        "observability.tensorboard=true",
        "observability.wandb=offline",
        f"observability.mlflow={mlflow_uri}",
        f"evaluation.suites=[{suite}]",
    )
    return run.wait().require_success()


def run_command(*words: object) -> dict:
    done = subprocess.run(
        [sys.executable, "-m", "megatron_ar3po.cli", *map(str, words), "--json"],
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=TIME_LIMIT_S,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout)


@pytest.fixture(scope="module")
def exported(whole_run, tmp_path_factory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "hf"
    assert run_command("export", whole_run.folder, "--out", out)["step"] == 6
    return out


@pytest.fixture(scope="module")
def evaluated(whole_run, tmp_path_factory) -> tuple[Path, dict]:
    """`ar3po evaluate RUN`: the newest checkpoint, converted, in a server of its own."""
    out = tmp_path_factory.mktemp("evaluated")
    store = out / "items"
    return out, run_command("evaluate", whole_run.folder, "--out", out, "--store", store)


def test_evaluating_a_run_repeats_its_last_evaluation(whole_run, evaluated):
    """The held-out prompts and each set get the very same figures."""
    out, result = evaluated
    assert result["policy"].endswith("checkpoints/step_00006/model")
    found, last = result["sets"]["heldout"], whole_run.metrics[6]
    assert (found["prompts"], found["samples_per_prompt"]) == (16, 2)
    assert found["pass_at_1"] == last["eval/pass_at_1"]
    assert found["tokens"] == last["eval/tokens"]
    for name in ("greedy", "sampled", "cut"):
        found = result["sets"][name]
        assert found["pass_at_1"] == pytest.approx(last[f"eval/set/{name}/pass_at_1"])
        assert found["tokens"] == last[f"eval/set/{name}/tokens"]
    maj = result["sets"]["sampled"]["maj_at_k"]["4"]
    assert maj == pytest.approx(last["eval/set/sampled/maj_at_4"])
    assert json.loads((out / "result.json").read_text()) == result
    rows = [json.loads(line) for line in (out / "responses.jsonl").read_text().splitlines()]
    held_out = [row for row in rows if row["set"] == "heldout"]
    correct = sum(r["status"] == "correct" for row in held_out for r in row["responses"])
    assert correct / 32 == result["sets"]["heldout"]["pass_at_1"]
    assert (out / "figure.png").stat().st_size > 1000
    assert not (out / "policy").exists()


def test_the_same_evaluation_again_generates_nothing(whole_run, evaluated, tmp_path):
    """No server is started for it. More samples of each prompt are asked for beside those that are there."""
    out, first = evaluated
    again = run_command("evaluate", whole_run.folder, "--out", tmp_path, "--store", out / "items")
    assert {name: found["generated"] for name, found in again["sets"].items()} == {
        "heldout": 0,
        "greedy": 0,
        "sampled": 0,
        "cut": 0,
    }
    assert not (tmp_path / "logs").exists()
    for name, found in first["sets"].items():
        counts = {"generated": 0, "reused": found["generated"]}
        assert again["sets"][name] == found | counts


def test_suites_are_sampled_on_the_runs_own_servers_and_are_cost_of_evaluation(whole_run):
    """12 + 6 x 4 + 4 responses beside the 32 of the held-out prompts: before the first step and after the last one. The
    ledger, held against the servers' counters, has them all, and training none of them."""
    rows = [json.loads(line) for line in (whole_run.folder / "ledger/dp00.jsonl").open()]
    evaluations = [row for row in rows if row["kind"] == "evaluation"]
    assert [(row["step"], row["responses"]) for row in evaluations] == [(0, 72), (6, 72)]
    for row, metrics in zip(evaluations, (whole_run.metrics[0], whole_run.metrics[6]), strict=True):
        names = ("eval", "eval/set/greedy", "eval/set/sampled", "eval/set/cut")
        assert row["response_tokens"] == sum(metrics[f"{name}/tokens"] for name in names)
        assert sum(metrics[f"{name}/responses"] for name in names) == 72
    generated = sum(row["rollout/responses_generated"] for row in whole_run.metrics[1:])
    assert whole_run.metrics[6]["rollout/responses_total"] == generated
    logs = [path.name for path in (whole_run.folder / "logs").glob("*.log")]
    assert len(logs) == 1, logs


def load_in_transformers(folder: Path):
    ensure_torchvision_schemas()
    from transformers import AutoModelForCausalLM, AutoTokenizer

    model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    return model.eval(), AutoTokenizer.from_pretrained(folder)


def test_the_figures_are_those_of_a_plain_loop_in_transformers(evaluated, exported, tiny_task):
    """Greedy answers, one prompt at a time, on what `ar3po export` wrote; right is the same last number."""
    out, result = evaluated
    model, tokenizer = load_in_transformers(exported)
    prompts = [json.loads(line) for line in (tiny_task / "heldout.jsonl").open()][:12]
    texts = []
    for prompt in prompts:
        asked = tokenizer(prompt["prompt"], return_tensors="pt").input_ids
        limit = result["sets"]["greedy"]["max_response_tokens"]
        answer = model.generate(asked, do_sample=False, max_new_tokens=limit, top_p=None)
        texts.append(tokenizer.decode(answer[0, asked.shape[1] :], skip_special_tokens=True))
    rows = [json.loads(line) for line in (out / "responses.jsonl").read_text().splitlines()]
    greedy = [row for row in rows if row["set"] == "greedy"]
    assert [row["answer"] for row in greedy] == [prompt["answer"] for prompt in prompts]
    special = tokenizer.eos_token
    assert [row["responses"][0]["text"].removesuffix(special) for row in greedy] == texts
    last_numbers = [(re.findall(r"\d+", text) or [""])[-1] for text in texts]
    right = [a == prompt["answer"] for a, prompt in zip(last_numbers, prompts, strict=True)]
    assert sum(right) / 12 == pytest.approx(result["sets"]["greedy"]["pass_at_1"])


@pytest.fixture(scope="module")
def stage(exported, tmp_path_factory):
    """A server and an actor, each with the exported folder."""
    with ExitStack() as stack:
        folder = tmp_path_factory.mktemp("stage")
        made = Stage(stack, str(exported), folder, bucket_bytes=200_000, vocab_size=20)
        ServerControl([made.server], timeout_s=60).set_weight_version(0)
        yield made


def test_an_exported_policy_is_the_same_in_transformers_the_server_and_the_actor(stage, exported):
    model, _ = load_in_transformers(exported)
    samples, of_actor = stage.sample_logprobs(0)
    largest = 0.0
    for sample, actor in zip(samples, of_actor, strict=True):
        prompt, response = sample.prompt_token_ids, sample.response_token_ids.tolist()
        with torch.no_grad():
            logits = model(torch.tensor([[*prompt, *response]])).logits[0, len(prompt) - 1 : -1]
        found = logits.log_softmax(-1)[range(len(response)), response].numpy()
        for other in (sample.behaviour_logprobs, actor):
            largest = max(largest, float(np.abs(found - other).max()))
    assert 0 < largest <= 1e-5


def test_a_server_that_runs_is_evaluated_as_it_is(stage, exported, evaluated, suite, tmp_path):
    """It gets what the run's own server got, where nothing is drawn; and says nothing of its weights, so that its
    answers are kept where the command names them."""
    words = ["evaluate", stage.server.url, "--suite", suite, "--store", tmp_path / "items"]
    words += ["rewards.verifier=last_number", "rollout.max_response_tokens=8", "--samples=1"]
    words += [f"model.path={exported}", "--out", tmp_path / "out"]
    _, of_run = evaluated
    found = run_command(*words)
    for name in ("verdicts", "tokens", "pass_at_1"):
        assert found["sets"]["greedy"][name] == of_run["sets"]["greedy"][name], name
    assert not (tmp_path / "items").exists()
    named = [*words, "--weights=main_job step 6"]
    assert run_command(*named)["sets"]["greedy"]["reused"] == 0
    assert run_command(*named)["sets"]["greedy"]["generated"] == 0


def test_the_model_card_of_an_export_says_what_the_run_measured(whole_run, exported):
    card = (exported / "README.md").read_text()
    before, after = (whole_run.metrics[step]["eval/pass_at_1"] for step in (0, 6))
    assert f"| eval/pass_at_1 | {before:.4f} | {after:.4f} |" in card
    assert "`data.path (prompts)`" in card
    assert json.loads((exported / "generation_config.json").read_text())["temperature"] == 1.0


def test_a_run_writes_what_it_promises(whole_run):
    folder = whole_run.folder
    resolved = yaml.safe_load((folder / "resolved_config.yaml").read_text())
    assert resolved["rollout"]["num_stages"] == 2
    assert [row["step"] for row in whole_run.metrics] == list(range(7))
    assert set(whole_run.metrics[1]) >= STEP_METRICS
    assert whole_run.metrics[0]["eval/pass_at_1"] is not None
    assert whole_run.metrics[6]["eval/pass_at_1"] is not None
    assert sorted(p.name for p in (folder / "checkpoints").iterdir()) == [
        "latest",
        "step_00003",
        "step_00006",
    ]
    assert (folder / "dumps/step_00002.pt").is_file()
    assert (folder / "rollouts.jsonl").read_text().count("\n") >= 6
    assert any((folder / "tensorboard").iterdir())
    assert any((folder / "reuse").glob("*.sqlite"))
    assert json.loads((folder / "DONE").read_text())["step"] == 6
    assert whole_run.processes_left() == []


def test_its_report_opens_in_a_browser_and_has_the_ledgers_totals(whole_run, browser, tmp_path):
    """Servers' counters, ledger, metrics and page: the same two numbers."""
    path = tmp_path / "report.html"
    command = [sys.executable, "-m", "megatron_ar3po.cli", "report", str(whole_run.folder)]
    subprocess.run([*command, "--out", str(path)], cwd=ROOT, check=True, timeout=TIME_LIMIT_S)
    rows = list(stream_ledger(whole_run.folder / "ledger"))
    cost = cost_of(rows)
    *_, server = (row for row in rows if row["kind"] == "server")
    evaluations = [row for row in rows if row["kind"] == "evaluation"]
    before = evaluations[0]  # the last one comes after the last step's counters
    assert server["requests"] == cost.total.responses + before["responses"]
    assert server["generated_tokens"] == cost.total.tokens + before["response_tokens"]
    last = whole_run.metrics[6]
    assert last["rollout/responses_total"] == cost.total.responses
    with browser.open(path) as opened:
        assert opened.page.locator("#findings li").count() == 5
        figures = opened.figures()
        assert len(figures) >= 12
        assert [figure for figure in figures if not opened.marks(figure)] == []
        totals = dict(opened.page.eval_on_selector_all(
            "#totals tr", "all => all.map(row => [...row.children].map(cell => cell.innerText))"
        ))  # fmt: skip
        assert totals["responses generated"] == f"{cost.total.responses:,}"
        assert totals["tokens generated"] == f"{cost.total.tokens:,}"
        assert opened.page.locator("#sample-list .token").count() > 100
        advantages = opened.page.locator("#sample-list .token[title*='advantage 0.']")
        assert advantages.count() > 0
        opened.require_quiet()


def test_its_steps_can_be_traced_and_one_was_profiled(whole_run):
    """Every response that a server generated in a step is a slice of it, for as long as it says, inside its request."""
    for step in (2, 5):
        [rank] = read_events(whole_run.folder / "trace", step)
        trace = make_trace([rank])["traceEvents"]
        groups = {e["args"]["name"]: e["pid"] for e in trace if e["name"] == "process_name"}
        of_group = {
            name: sorted(
                (e["name"], e["ts"], e["dur"]) for e in trace if (e["ph"], e["pid"]) == ("X", pid)
            )
            for name, pid in groups.items()
        }
        assert {name.partition(" of ")[0].partition(" on ")[0] for name in groups} == {
            "rank 0", "prompts", "requests", "verdicts", "server dp0.s0",
        }  # fmt: skip
        served, requests = of_group["server dp0.s0"], of_group["requests of rank 0"]
        training = [one for one in served if one[0].startswith(f"s{step}.p")]
        assert len(training) == whole_run.metrics[step]["rollout/responses_generated"]
        assert [one[0] for one in served] == [one[0] for one in requests]
        assert all(s[2] <= r[2] + 50_000 for s, r in zip(served, requests, strict=True))
        spans = {name for name, _, _ in of_group[f"rank 0 on {rank.host}"]}
        assert {"step", "rollout", "train", "publish", "rollout/ledger"} <= spans
    assert [p.name for p in (whole_run.folder / "profile").iterdir()] == [
        "step_00003.rank0000.json.gz"
    ]


def test_its_ledger_says_what_it_spent_and_what_other_plans_would_have(whole_run):
    report = report_cost(whole_run.folder)
    assert report.spent.responses == whole_run.metrics[6]["rollout/responses_total"]
    own = next(p for p in report.predictions if p.plan == report.own == "AR3PO(2x4)")
    assert own.low == own.high == report.graded.responses


def test_the_table_in_the_readme_names_every_file_of_a_runs_folder(whole_run):
    table = (ROOT / "README.md").read_text().partition("A run writes into")[2].partition("\n\n")[2]
    rows = [line.split("|")[1] for line in table.partition("\n\n")[0].splitlines()]
    named = {name.rstrip("/") for row in rows for name in re.findall(r"`([^`]+)`", row)}
    written = {path.name for path in whole_run.folder.iterdir()}
    assert {"wandb", "tensorboard", "sinks.json", "DONE"} <= written
    assert written - named == set()


def test_it_measures_nothing_that_the_page_of_metrics_does_not_have(whole_run):
    names = {name for row in whole_run.metrics for name in row} - {"step"}
    assert {name for name in names if find_declaration(name, SECTIONS) is None} == set()


def test_it_ends_with_a_short_table_and_says_what_to_look_at_next(whole_run):
    for line in ("pass@1 before", "pass@1 after", "stage 2", "borrowed", "time in rollout"):
        assert line in whole_run.out
    last = whole_run.out.splitlines()[-1]
    assert last.startswith(f"next: ar3po report {whole_run.folder}; ar3po evaluate ")


def test_server_and_actor_agree_about_every_token(whole_run):
    seen = largest_mismatches(whole_run)
    assert len(seen) >= 3
    assert max(seen) <= 1e-4


def test_unsolved_prompts_enter_stage_2_and_solved_ones_do_not(whole_run):
    for row in whole_run.metrics[1:]:
        first, second = (row.get(f"rollout/stage_{s}/active_prompts", 0) for s in (1, 2))
        assert first == 16
        assert row["rollout/responses_generated"] == 4 * (first + second)


@pytest.fixture(scope="module")
def resumed_run(whole_run, module_runs, tmp_path_factory, mlflow_uri, suite):
    """Steps 4 to 6 again from the checkpoint of step 3."""
    folder = tmp_path_factory.mktemp("main_job_again") / "resumed"
    shutil.copytree(whole_run.folder, folder)
    (folder / "checkpoints/latest").write_text("step_00003")
    shutil.rmtree(folder / "checkpoints/step_00006")
    (folder / "DONE").unlink()  # or nothing would be left to do
    run = module_runs(
        f"run.dir={folder}",
        "run.name=main_job",
        "run.num_steps=6",
        "run.resume=true",
        "observability.tensorboard=true",
        "observability.wandb=offline",
        f"observability.mlflow={mlflow_uri}",
        f"evaluation.suites=[{suite}]",
    )
    return run.wait().require_success()


def test_a_resumed_run_goes_on_exactly(whole_run, resumed_run):
    """Same prompts, samples, rewards, losses."""
    assert "(step 3, policy version" in resumed_run.err
    assert [row["step"] for row in resumed_run.metrics] == list(range(7))
    for before, after in zip(whole_run.metrics, resumed_run.metrics, strict=True):
        expected, got = (without_spending(without_clocks(row)) for row in (before, after))
        assert got == pytest.approx(expected, rel=1e-4, abs=1e-5, nan_ok=True)
    for before, after in zip(whole_run.metrics[4:], resumed_run.metrics[4:], strict=True):
        spent, spent_again = (row["rollout/responses_total"] for row in (before, after))
        assert spent_again - after["rollout/cost/redone_responses_total"] == spent


def test_every_place_that_shows_the_metrics_has_the_numbers_of_the_file(
    whole_run, resumed_run, mlflow_uri
):
    """TensorBoard's are 32-bit numbers. W&B and MLflow keep steps 4 to 6 of before the resume too, under the same id:
    what came last counts, and steps 0 to 3 are there once."""
    before, after = numbers_in_file(whole_run.folder), numbers_in_file(resumed_run.folder)
    assert before.keys() == after.keys() == set(range(7))
    assert before[5] != after[5]  # their seconds

    for run, rows in ((whole_run, before), (resumed_run, after)):
        shown = read_tensorboard(run.folder / "tensorboard")
        assert shown.keys() == rows.keys()
        for step, row in rows.items():
            assert shown[step] == pytest.approx(row, rel=1e-6)

    ids, written = read_wandb(whole_run.folder / "wandb")
    assert written == list(before.items())
    ids_again, written_again = read_wandb(resumed_run.folder / "wandb")
    assert written_again == [*before.items(), *((step, after[step]) for step in (4, 5, 6))]
    assert len(ids) == 1 and ids_again == ids

    notes = [json.loads((r.folder / "sinks.json").read_text()) for r in (whole_run, resumed_run)]
    assert notes[0]["MLflow"]["run_id"] == notes[1]["MLflow"]["run_id"]
    held = read_mlflow(mlflow_uri, notes[0]["MLflow"]["run_id"])
    assert held.keys() == before.keys()
    for step, row in before.items():
        assert {name: held[step][name][0] for name in row} == row
    for step, row in after.items():
        assert {name: held[step][name][-1] for name in row} == row
        in_both = before[step].keys() & row.keys()
        assert {len(held[step][name]) for name in in_both} == ({2} if step > 3 else {1})
        assert held[step].keys() == before[step].keys() | row.keys()


@pytest.mark.parametrize(
    ("name", "ranks", "layout"),
    [
        ("dapo", 4, ["actor.tensor_parallel_size=2", "actor.pipeline_parallel_size=2"]),
        ("grpo", 2, []),
    ],
    ids=["dapo at TP=2 x PP=2", "grpo at DP=2"],
)
def test_the_real_loop_runs_at_other_layouts_and_algorithms(start_run, name, ranks, layout):
    run = start_run(
        f"algorithm.name={name}",
        "run.num_steps=2",
        "algorithm.max_sampling_rounds=2",
        "algorithm.num_mini_batches=2",
        *layout,
        ranks=ranks,
    )
    run.wait().require_success()
    rows = run.metrics
    assert [row["step"] for row in rows] == [0, 1, 2]
    assert max(largest_mismatches(run)) <= 1e-4
    assert max(row.get("actor/grad_norm", 0) for row in rows) > 0
    for row in rows[1:]:
        assert "rollout/stage_2/responses" not in row
        assert row["rollout/responses_generated"] == 8 * row["rollout/prompts"]
    if name == "dapo":
        assert rows[1]["rollout/prompts"] >= 16
    else:
        assert [row["rollout/prompts"] for row in rows[1:]] == [16, 16]
    assert rows[0]["eval/prompts"] == rows[2]["eval/prompts"] == 16
    assert run.processes_left() == []


@pytest.fixture(scope="module")
def replayed_at_one_rank(whole_run, module_runs, tmp_path_factory):
    return replay(whole_run, module_runs, tmp_path_factory.mktemp("replay"), 1)


def replay(whole_run, start, folder, ranks: int, *layout: str) -> dict:
    dump = whole_run.folder / "dumps/step_00002.pt"
    run = start(
        f"run.dir={folder}",
        "debug.mode=train_only",
        f"debug.replay_path={dump}",
        "actor.max_tokens_per_microbatch=128",
        *layout,
        ranks=ranks,
    )
    run.wait().require_success()
    return json.loads((folder / "replay.json").read_text())


@pytest.mark.parametrize(
    ("ranks", "layout"),
    [
        (2, []),
        (4, ["actor.tensor_parallel_size=2", "actor.pipeline_parallel_size=2"]),
    ],
    ids=["DP=2", "TP=2 x PP=2"],
)
def test_one_dumped_batch_trains_the_same_at_every_layout(
    whole_run, replayed_at_one_rank, start_run, tmp_path, ranks, layout
):
    one, other = replayed_at_one_rank, replay(whole_run, start_run, tmp_path, ranks, *layout)
    assert len(one["loss"]) == 1
    assert other["loss"] == pytest.approx(one["loss"], abs=1e-4)
    assert other["grad_norm"] == pytest.approx(one["grad_norm"], rel=1e-4)
    assert other["weights_before"] == pytest.approx(one["weights_before"], rel=1e-6)
    assert other["weights_after"] == pytest.approx(one["weights_after"], rel=1e-4)
    assert one["weights_after"] != one["weights_before"]


def test_a_run_killed_before_its_first_checkpoint_starts_anew(start_run, tmp_path):
    """Launch scripts always pass run.resume=true. The store has seen steps that are now done again."""
    words = ["run.num_steps=2", "run.resume=true", f"run.dir={tmp_path / 'run'}"]
    first = start_run(*words, "run.num_steps=1000")
    first.wait_for_step(1)
    first.process.kill()
    first.wait(30)
    again = start_run(*words).wait().require_success()
    assert [row["step"] for row in again.metrics] == [0, 1, 2]
