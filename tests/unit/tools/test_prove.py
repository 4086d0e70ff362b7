"""The checks of tools/prove_gpu.py, on the CPU: that they pass where all is well, that their judgement knows what is
not, and that the program goes on whatever a check does. What needs a device is run by tests/gpu and by the program."""

from __future__ import annotations

import json
import os
import subprocess
import venv
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from harness.bare_site import INSTALLED, link_packages, with_dependencies
from prove.findings import Finding, Row, as_json, as_markdown, as_text, row_of
from prove.readings import judge_attention
from prove.running import run_checks
from prove.stand import FOUR_LAYERS, WHOLE, Stand, tiny_stand
from prove.table import CHECKS, Check
from prove.train_check import judge_steps

from megatron_ar3po.update_stats import UpdateStats

ROOT = Path(__file__).resolve().parents[3]
NOTHING_LACKS = {"torch": "", "megatron": "", "gpu": "no GPU", "sglang": ""}


@pytest.fixture(scope="module")
def models(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("models")


@pytest.fixture(params=["float32", "bfloat16"])
def stand(request, tmp_path, models) -> Stand:
    return tiny_stand(tmp_path, models=models, dtype=request.param)


def test_packed_sequences_are_what_they_are_alone(stand):
    from prove.actor_checks import packed_as_alone

    finding = packed_as_alone(stand)
    assert finding.problem == ""
    assert finding.facts["max"] <= {"float32": 1e-5, "bfloat16": 0.05}[stand.dtype]
    assert finding.facts["mean_of_a_leak"] > 0.3


def test_full_recompute_is_the_same_update(stand):
    from prove.actor_checks import full_recompute

    finding = full_recompute(stand)
    assert finding.problem == ""
    assert finding.facts["apart"] == 0.0 and finding.facts["moved"] > 0


def test_an_update_after_an_offload_is_that_of_a_run_without(stand):
    from prove.actor_checks import away_and_back

    finding = away_and_back(stand)
    assert finding.problem == ""
    assert finding.facts["apart"] == 0.0
    assert "freed_gib" not in finding.facts  # a CPU has no driver to ask


def test_a_run_is_taken_up_from_before_its_first_update_and_from_after_it(stand):
    from prove.actor_checks import save_and_resume

    finding = save_and_resume(stand)
    assert finding.problem == ""
    assert finding.facts["apart"] == [0.0, 0.0]


def test_actor_and_server_take_memory_in_turns(stand):
    from prove.order_check import order_of_allocations

    finding = order_of_allocations(stand)
    assert finding.problem == ""
    assert finding.facts["notes"][:4] == [
        ["start", "server", ["gate"]],
        ["start", "actor", ["gradients", "optimizer", "weights"]],
        ["start", "actor", []],
        ["start", "server", ["kv_cache", "weights"]],
    ]


def test_attention_on_a_cpu_is_torchs_fused_one(stand):
    from prove.machine_checks import fused_attention

    finding = fused_attention(stand)
    assert finding.problem == ""
    assert finding.facts["unfused"] == {}


def test_a_train_step_is_measured(stand):
    from prove.machine_checks import measure_train_step

    found = measure_train_step(stand, stand.part, rounds=1)
    tokens, squares = 129, 2939  # of (9, 23, 14, 6, 17, 12, 40, 8), and of their squares
    flops = 6 * found["parameters"] * tokens + 6 * 2 * 64 * squares
    assert found["tflops"] * found["seconds"] == pytest.approx(flops / 1e12)
    assert found["tokens_per_s"] * found["seconds"] == pytest.approx(tokens)


def test_the_plan_of_one_gpu_is_that_of_the_whole_model(tmp_path, models):
    from prove.machine_checks import memory_plan

    finding = memory_plan(tiny_stand(tmp_path, models=models))
    assert finding.problem == ""
    # 1.54 billion parameters: 2 bytes of weights, 4 of gradients, 12 of optimizer are 25.9 GiB, and activations
    assert 26 < finding.facts["train"] < 60


def test_the_shapes_are_those_of_a_model_of_1_5_billion_at_head_dim_128():
    assert WHOLE.num_parameters == pytest.approx(1.54e9, rel=0.01)
    for shape in (WHOLE, FOUR_LAYERS):
        assert shape.hidden // shape.heads == 128


@pytest.mark.parametrize(
    ("packed", "alone", "leaked", "problem"),
    [
        ([-2.0, -2.001], [-2.0, -2.0], [-2.0, -1.5], ""),
        ([-2.0, -1.5], [-2.0, -2.0], [-2.0, -1.5], "more than a tenth of what a leak"),
        ([-2.0, -2.0], [-2.0, -2.0], [-2.0, -2.001], "a leak would not show"),
        ([-2.0, np.nan], [-2.0, -2.0], [-2.0, -1.5], "not finite"),
        ([-2.0, -2.0], [-2.0, np.nan], [-2.0, -1.5], "not finite"),
    ],
)
def test_log_probs_that_a_leak_would_make_are_found(packed, alone, leaked, problem):
    from prove.actor_checks import judge_packed

    finding = judge_packed(np.array(packed), np.array(alone), np.array(leaked), first=1)
    assert problem in finding.problem and bool(problem) == bool(finding.problem)


def stats(grad_norm: float, *, was_skipped: bool = False) -> UpdateStats:
    return UpdateStats(
        loss=0.0,
        grad_norm=grad_norm,
        learning_rate=1e-3,
        was_skipped=was_skipped,
        token_records={},
    )


@pytest.mark.parametrize(
    ("full", "none", "moved", "problem"),
    [
        (stats(2.0), stats(2.01), 1.0, ""),
        (stats(2.0), stats(3.0), 1.0, "more than 5 %"),
        (stats(2.0), stats(2.0), 0.0, "did not change"),
        (stats(0.0), stats(2.0), 1.0, "zero or not finite"),
        (stats(2.0), stats(float("nan")), 1.0, "more than 5 %"),
        (stats(2.0, was_skipped=True), stats(2.0), 1.0, "skipped"),
    ],
)
def test_an_update_with_recompute_that_is_another_one_is_found(full, none, moved, problem):
    from prove.actor_checks import judge_recompute

    finding = judge_recompute({"full": [full], "none": [none]}, moved)
    assert problem in finding.problem and bool(problem) == bool(finding.problem)


@pytest.mark.parametrize(
    ("changed", "apart", "freed", "problem"),
    [
        ([], 0.001, 1000, ""),
        ([], 0.001, None, ""),
        (["the weights"], 0.001, 1000, "the weights came back changed"),
        ([], 0.9, 1000, "another one"),  # an optimizer that trains a copy leaves the weights alone
        ([], float("nan"), 1000, "another one"),
        ([], 0.001, 900, "less than 95 %"),
    ],
)
def test_an_offload_that_changes_or_frees_too_little_is_found(changed, apart, freed, problem):
    from prove.actor_checks import judge_offload

    finding = judge_offload(changed, apart, 1000, freed)
    assert problem in finding.problem and bool(problem) == bool(finding.problem)


@pytest.mark.parametrize(
    ("names", "fused", "unfused"),
    [
        (["void flash_fwd_kernel<Flash_fwd_kernel_traits<128, ...>>"], 1, 0),
        (["cudnn_generated_fort_native_sdpa_sm90_flash_fprop_wgmma_f16_knob_7"], 1, 0),
        (["fmha_cutlassF_bf16_aligned_64x128_rf_sm80"], 1, 0),
        (["void at::native::(anonymous namespace)::cunn_SoftMaxForward<...>", "gemm"], 0, 1),
        (["aten::scaled_dot_product_attention", "gemm"], 0, 0),
        (["void scaled_upper_triang_masked_softmax_warp_forward<...>"], 0, 1),
        (["aten::_scaled_dot_product_attention_math", "aten::_softmax"], 0, 2),
    ],
)
def test_kernels_of_attention_are_known_by_their_names(names, fused, unfused):
    found = judge_attention(dict.fromkeys(names, 1))
    assert tuple(map(len, found)) == (fused, unfused)


WHOLE_ACTOR = frozenset({"weights", "gradients", "optimizer"})
SERVER = frozenset({"weights", "kv_cache"})
NONE, WEIGHTS = frozenset[str](), frozenset({"weights"})
STARTED = [
    ("start", "server", frozenset({"gate"})),
    ("start", "actor", WHOLE_ACTOR),
    ("start", "actor", NONE),
    ("start", "server", SERVER),
    ("start", "server", NONE),
    ("sync", "actor", WEIGHTS),
    ("sync", "server", WEIGHTS),
    ("rollout", "actor", NONE),
    ("rollout", "server", SERVER),
    ("train", "server", NONE),
    ("train", "actor", WHOLE_ACTOR),
]


@pytest.mark.parametrize(
    ("notes", "problem"),
    [
        (STARTED, ""),
        (STARTED[:2] + STARTED[3:4], "phase start, change 3: server starts beside an actor"),
        (STARTED[:9] + STARTED[10:], "change 10: a KV cache lies beside gradients"),
        (STARTED[:6], r"change 6: servers hold [] and the actor ['weights']"),
        (STARTED[:9], "only the phases start, sync, rollout were entered"),
        ([], "only the phases none were entered"),
    ],
)
def test_memory_that_is_taken_before_it_is_let_go_is_found(notes, problem):
    from prove.order_check import judge_order

    finding = judge_order(notes)
    assert problem in finding.problem and bool(problem) == bool(finding.problem)


def steps(*grad_norms: float, apart: float = 0.01) -> list[dict[str, float]]:
    return [
        {"step": n, "actor/grad_norm": norm, "mismatch/logprob_abs_mean": apart}
        for n, norm in enumerate(grad_norms, start=1)
    ]


@pytest.mark.parametrize(
    ("rows", "problem"),
    [
        (steps(1.0, 2.0, 3.0), ""),
        (steps(1.0, 2.0), "2 of 3 steps"),
        (steps(1.0, 0.0, 3.0), "zero or not finite"),
        (steps(1.0, 2.0, 3.0, apart=0.5), "apart in the mean"),
        (steps(1.0, 2.0, 3.0, apart=float("nan")), "apart in the mean"),
        ([], "0 of 3 steps"),
    ],
)
def test_a_training_run_that_trains_nothing_or_other_weights_is_found(rows, problem):
    finding = judge_steps(rows)
    assert problem in finding.problem and bool(problem) == bool(finding.problem)


def test_a_row_with_a_problem_has_failed_and_says_what_it_found():
    found = Finding("3 tokens", {"tokens": 3}, "too few")
    row = row_of("kv_cache", "is there room?", found, 1.25)
    assert (row.status, row.figure) == ("fail", "3 tokens; too few")
    assert row_of("kv_cache", "", replace(found, problem=""), 1.0).status == "pass"


def test_the_table_is_text_markdown_and_json():
    rows = [Row("plan", "a | b?", "pass", "26 GiB", 1.4, {"train": 26})]
    about = {"machine": "no GPU", "date": "2026-11-29"}
    assert as_text(rows).split() == ["plan", "pass", "1", "s", "26", "GiB"]
    assert "| `plan` | a \\| b? | pass | 26 GiB | 1 |" in as_markdown(rows, about).splitlines()
    assert "| machine | no GPU |" in as_markdown(rows, about).splitlines()
    assert json.loads(json.dumps(as_json(rows, about)))["checks"][0]["facts"] == {"train": 26}


MISBEHAVING = """
import os, time
from prove.findings import Finding

def well(stand): return Finding(f"on {stand.device}", {"n": 1})
def wrong(stand): return Finding("3 tokens", problem="too few")
def raising(stand): raise RuntimeError("CUDA error: an illegal memory access")
def dying(stand): print("a segmentation fault", flush=True); os._exit(7)
def hanging(stand): time.sleep(600)
"""


def test_the_program_goes_on_after_whatever_a_check_does(tmp_path, monkeypatch):
    (tmp_path / "misbehaving.py").write_text(MISBEHAVING)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}")
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")  # beside the module above
    names = ["raising", "dying", "hanging", "wrong", "well"]
    checks = [Check(name, f"{name}?", f"misbehaving:{name}", 20.0) for name in names]
    checks[2] = replace(checks[2], limit_s=1.0)
    checks.append(Check("device", "", "misbehaving:well", 20.0, needs=("gpu", "sglang")))
    checks.append(Check("whole", "", "misbehaving:well", 20.0, is_whole_anywhere=True))
    found = run_checks(checks, NOTHING_LACKS, work=tmp_path, logs=tmp_path / "logs", total_s=600.0)
    rows = {row.name: row for row in found}
    assert list(rows) == [*names, "device", "whole"]
    assert {name: row.status for name, row in rows.items()} == {
        **dict.fromkeys(names[:4], "fail"),
        "well": "pass",
        "device": "not available",
        "whole": "pass",
    }
    assert "an illegal memory access" in rows["raising"].figure
    assert "code 7 and no result; a segmentation fault" in rows["dying"].figure
    assert "not done within 1 s" in rows["hanging"].figure
    assert rows["well"].figure == "tiny, on the CPU: on cpu"
    assert rows["whole"].figure == "on cpu"
    assert rows["device"].figure == "no GPU"
    assert [p.name for p in tmp_path.iterdir() if p.is_dir()] == ["logs"]  # no files are left


def test_a_check_for_which_no_time_is_left_is_not_begun(tmp_path):
    checks = [Check("late", "?", "misbehaving:well", 20.0)]
    (row,) = run_checks(checks, NOTHING_LACKS, work=tmp_path, logs=tmp_path, total_s=5.0)
    assert (row.status, row.figure) == ("not available", "no time is left of 0.0833 minutes")


def test_the_limits_of_all_checks_are_written_down_and_each_function_is_there():
    for check in CHECKS:
        module, _, function = check.function.partition(":")
        path = ROOT / "tools" / Path(*module.split(".")).with_suffix(".py")
        assert f"def {function}(stand: Stand) -> Finding:" in path.read_text()
        assert 0 < check.limit_s <= 300
    page = (ROOT / "docs/gpu.md").read_text()
    assert [c.name for c in CHECKS if f"| `{c.name}` |" not in page] == []


def test_the_program_runs_where_nothing_but_torch_transformers_and_triton_is_installed(tmp_path):
    """In an empty environment with links to these and what they need; Megatron-Core is carried, as docs/gpu.md says."""
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    site = link_packages(tmp_path / "site", with_dependencies(INSTALLED))
    carried = link_packages(tmp_path / "carried", {"megatron-core"})
    command = [str(tmp_path / "venv/bin/python"), "tools/prove_gpu.py"]
    command += ["--out", str(tmp_path / "out")]
    command += ["--only", "versions", "plan", "resume", "cycles"]
    done = subprocess.run(
        command,
        cwd=ROOT,
        env={
            **{k: v for k, v in os.environ.items() if k in ("PATH", "HOME", "OMP_NUM_THREADS")},
            "PYTHONPATH": f"{site}{os.pathsep}{carried}",
            "PYTHONNOUSERSITE": "1",
        },
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    found = json.loads((tmp_path / "out/prove_gpu.json").read_text())
    rows = {row["name"]: row for row in found["checks"]}
    assert {name: row["status"] for name, row in rows.items()} == {
        "versions": "pass",
        "plan": "pass",
        "resume": "pass",
        "cycles": "not available",
    }
    assert rows["versions"]["facts"]["sglang"] == ""
    assert rows["versions"]["facts"]["megatron-core"] == "0.16.1"
    assert rows["cycles"]["figure"] == "no GPU; SGLang is not installed"
    assert found["about"]["machine"] == "no GPU"
    assert "| `resume` |" in (tmp_path / "out/prove_gpu.md").read_text()
