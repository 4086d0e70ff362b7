"""The whole of examples/tiny_sum at other layouts: the same task, the same accuracy. About ten minutes a run."""

import pytest

pytestmark = pytest.mark.chaos

LAYOUTS = {
    "TP=2": ["actor.tensor_parallel_size=2"],
    "PP=2": ["actor.pipeline_parallel_size=2"],
    "DP=2": [],
}
TIME_LIMIT_S = 1800


@pytest.fixture(scope="module")
def one_rank(module_runs):
    run = module_runs("observability.tensorboard=false", short=False)
    return run.wait(TIME_LIMIT_S).require_success()


def test_one_rank_learns_the_task(one_rank):
    first, last = one_rank.metrics[0], one_rank.metrics[-1]
    assert first["eval/pass_at_1"] < 0.60
    assert last["eval/pass_at_1"] >= 0.85
    assert last["rollout/responses_total"] <= 20_000
    assert last["reuse/borrowed_groups_total"] >= 30


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS.keys())
def test_a_full_run_at_another_layout_ends_within_002_of_one_rank(one_rank, start_run, layout):
    run = start_run("observability.tensorboard=false", *layout, ranks=2, short=False)
    run.wait(TIME_LIMIT_S).require_success()
    ours, theirs = (r.metrics[-1]["eval/pass_at_1"] for r in (run, one_rank))
    assert abs(ours - theirs) <= 0.02
