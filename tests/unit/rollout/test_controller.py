import asyncio

import pytest
from fakes.rollout_engine import FakeRolloutEngine
from fakes.verifier import FakeVerifier

from megatron_ar3po.algorithm.history import outcomes_of
from megatron_ar3po.config.rollout import RolloutConfig
from megatron_ar3po.config.servers import ServersConfig
from megatron_ar3po.interfaces import RolloutEngineError
from megatron_ar3po.rollout.controller import RolloutController
from megatron_ar3po.rollout.draws import response_seed
from megatron_ar3po.rollout.lessons import Lessons
from megatron_ar3po.types import Prompt, SamplingParams, StepPrompt
from megatron_ar3po.usage import Retries


def make_prompts(count: int) -> list[StepPrompt]:
    return [
        StepPrompt(
            position=i,
            prompt=Prompt(
                prompt_id=f"{i:032x}", token_ids=(1, 2 + i), ground_truth=str(i), text=f"p{i}"
            ),
        )
        for i in range(count)
    ]


def make_controller(
    engine, verifier, *, num_clients=1, servers: ServersConfig | None = None, **options
) -> RolloutController:
    """Looks at its router, where it has one, every 10 ms."""
    config = RolloutConfig(**{"num_stages": 2, "responses_per_stage": 2, **options})
    return RolloutController(
        engine,
        verifier,
        config,
        servers or ServersConfig(),
        run_seed=7,
        stop_token_ids=(3,),
        max_context_tokens=1024,
        vocab_size=64,
        num_clients=num_clients,
        look_every_s=0.01,
    )


def test_unsolved_prompt_enters_the_next_stage_and_solved_prompt_retires():
    # prompt 0 is solved in stage 1, prompt 1 in stage 2, prompt 2 never
    def is_correct(prompt, response):
        position = int(prompt.ground_truth)
        return position == 0 or (position == 1 and response.stage == 2 and response.index == 1)

    engine = FakeRolloutEngine()
    groups = (
        make_controller(engine, FakeVerifier(is_correct))
        .collect(make_prompts(3), step=1, policy_version=0)
        .groups
    )
    assert [len(g.responses) for g in groups] == [2, 4, 4]
    assert [g.is_solved for g in groups] == [True, True, False]
    assert [g.num_stages for g in groups] == [1, 2, 2]
    assert len(engine.requests) == 10


def test_a_stage_is_decided_on_the_responses_that_are_graded():
    """Two stages of two; the verifier fails for the first of each. Prompt 0: the other is right, it retires. Prompt 1:
    the other is wrong, it enters the second stage. Prompt 2: the verifier fails for all, nothing is known of it."""

    def fails(prompt, response):
        return response.index == 0 or prompt.ground_truth == "2"

    verifier = FakeVerifier(lambda prompt, response: prompt.ground_truth == "0", fails=fails)
    controller = make_controller(FakeRolloutEngine(), verifier)
    groups = controller.collect(make_prompts(3), step=1, policy_version=0).groups
    assert [len(g.responses) for g in groups] == [1, 2, 0]
    assert [len(g.errored) for g in groups] == [1, 2, 4]
    assert [g.num_stages for g in groups] == [1, 2, 2]
    assert [g.stop_reason for g in groups] == ["solved", "stages_done", "stages_done"]
    history = controller.history
    history.learn(1, outcomes_of(groups))
    assert [history.is_known(f"{i:032x}") for i in range(3)] == [True, True, False]
    assert history.beta(f"{1:032x}") == (1, 3)  # two wrong, and one of each from the prior


def test_a_balanced_prompt_goes_on_after_a_success_until_a_response_is_wrong():
    """Three stages of two. Prompt 0 is right in every one, prompt 1 in the first alone, prompt 2 in the second alone;
    prompt 3 has one of each at once. Failures of the verifier are neither: prompt 4 goes on for want of a verdict."""

    def is_correct(prompt, response):
        position = int(prompt.ground_truth)
        by_stage = {0: {1, 2, 3}, 1: {1}, 2: {2}}
        return response.stage in by_stage.get(position, ()) or (
            position == 3 and not response.index
        )

    verifier = FakeVerifier(
        is_correct, fails=lambda prompt, response: prompt.ground_truth == "4" and response.index
    )
    controller = make_controller(FakeRolloutEngine(), verifier, stage_rule="balance", num_stages=3)
    groups = controller.collect(make_prompts(5), step=1, policy_version=0).groups
    assert [len(g.responses) for g in groups] == [6, 4, 4, 2, 3]
    assert [g.stop_reason for g in groups] == [*["solved"] * 4, "stages_done"]


def test_a_group_carries_what_was_known_before_its_step():
    controller = make_controller(FakeRolloutEngine(), FakeVerifier())
    lessons = Lessons(controller.history)
    for step in (1, 2):
        collected = controller.collect(make_prompts(1), step=step, policy_version=0)
        lessons.note(collected)
        lessons.learn(step)
        assert collected.groups[0].record.last_step == step - 1


def test_continuous_stages_do_not_wait_for_the_slowest_prompt():
    """Prompt 0's stage-1 answers come after 0.2 s. Prompt 1, unsolved, must be in stage 2 before that."""
    engine = FakeRolloutEngine(
        delay_s=lambda r: 0.2 if r.prompt_token_ids[1] == 2 and ".1." in r.request_id else 0.0
    )
    make_controller(engine, FakeVerifier()).collect(make_prompts(2), step=1, policy_version=0)
    assert engine.finished.index("s1.p1.2.1") < engine.finished.index("s1.p0.1.0")


def test_barrier_waits_for_all_prompts_of_a_stage():
    engine = FakeRolloutEngine(
        delay_s=lambda r: 0.1 if r.prompt_token_ids[1] == 2 and ".1." in r.request_id else 0.0
    )
    controller = make_controller(engine, FakeVerifier(), stage_scheduling="barrier")
    controller.collect(make_prompts(2), step=1, policy_version=0)
    stages = [int(name.split(".")[2]) for name in engine.finished]
    assert stages == [1, 1, 1, 1, 2, 2, 2, 2]


def test_barrier_and_continuous_give_the_same_groups():
    def collect(scheduling):
        engine = FakeRolloutEngine(delay_s=lambda r: (r.seed % 7) / 1000)
        verifier = FakeVerifier(lambda prompt, response: response.token_ids[0] % 3 == 0)
        groups = (
            make_controller(engine, verifier, stage_scheduling=scheduling)
            .collect(make_prompts(20), step=4, policy_version=0)
            .groups
        )
        return [
            [(r.response.response_id, r.response.token_ids.tolist(), r.reward) for r in g.responses]
            for g in groups
        ]

    continuous = collect("continuous")
    assert continuous == collect("barrier")
    assert {len(group) for group in continuous} == {2, 4}  # both ways out were taken


def test_groups_and_responses_come_in_order_whatever_the_order_of_arrival():
    engine = FakeRolloutEngine(delay_s=lambda r: (r.seed % 11) / 1000)
    groups = (
        make_controller(engine, FakeVerifier())
        .collect(list(reversed(make_prompts(5))), step=1, policy_version=0)
        .groups
    )
    assert [g.position for g in groups] == [0, 1, 2, 3, 4]
    for group in groups:
        stages_and_indices = [(r.response.stage, r.response.index) for r in group.responses]
        assert stages_and_indices == [(1, 0), (1, 1), (2, 0), (2, 1)]


def test_every_response_has_its_own_id_and_seed():
    engine = FakeRolloutEngine()
    groups = (
        make_controller(engine, FakeVerifier())
        .collect(make_prompts(8), step=1, policy_version=0)
        .groups
    )
    responses = [r.response for g in groups for r in g.responses]
    assert len({r.response_id for r in responses}) == 32
    assert len({r.seed for r in responses}) == 32
    assert sorted(engine.finished) == sorted(r.response_id for r in responses)


def test_seeds_depend_on_run_prompt_step_and_place_alone():
    assert response_seed(7, "ab", 1, 0, 1, 0) == response_seed(7, "ab", 1, 0, 1, 0)
    others = [(8, "ab", 1, 0, 1, 0), (7, "ac", 1, 0, 1, 0), (7, "ab", 2, 0, 1, 0)]
    assert len({response_seed(*o) for o in [*others, (7, "ab", 1, 0, 1, 0)]}) == 4
    assert all(0 <= response_seed(0, i) < 2**31 for i in range(1000))


def test_a_prompt_that_comes_again_in_a_later_step_is_answered_with_other_noise():
    """Same prompts at the same positions: no seed of step 1 is one of step 2, and step 1 done again has its own."""
    engine = FakeRolloutEngine()
    controller = make_controller(engine, FakeVerifier())
    for step in (1, 2, 1):
        controller.collect(make_prompts(2), step=step, policy_version=0)
    seeds = [request.seed for request in engine.requests]
    first, second, again = (set(seeds[i : i + 8]) for i in (0, 8, 16))
    assert len(first) == len(second) == 8
    assert not first & second and first == again


def test_verification_overlaps_with_sampling():
    """The first verdict is there while the slow answer is still being sampled."""
    engine = FakeRolloutEngine(delay_s=lambda r: 0.1 if r.request_id == "s1.p1.1.1" else 0.0)
    verifier = FakeVerifier(lambda prompt, response: True)
    make_controller(engine, verifier).collect(make_prompts(2), step=1, policy_version=0)
    assert verifier.verified[-1] == "s1.p1.1.1"
    assert len(verifier.verified) == 4


def test_no_more_requests_are_in_flight_than_allowed():
    engine = FakeRolloutEngine(delay_s=lambda r: 0.002)
    servers = ServersConfig(max_concurrent_requests=3, servers_per_replica=2)
    controller = make_controller(engine, FakeVerifier(), servers=servers)
    controller.collect(make_prompts(10), step=1, policy_version=0)
    assert engine.max_running == 6


@pytest.mark.parametrize(("others_running", "most"), [(0, 4), (1, 3), (2, 2), (5, 2)])
def test_behind_a_router_waiting_prompts_use_the_room_that_others_leave(others_running, most):
    """Two replicas of two slots each: with an idle neighbour four requests run, and with a busy one our own two."""
    engine = FakeRolloutEngine(delay_s=lambda r: 0.1, others_running=others_running)
    servers = ServersConfig(max_concurrent_requests=2)
    controller = make_controller(
        engine, FakeVerifier(lambda p, r: True), num_clients=2, servers=servers
    )
    controller.collect(make_prompts(8), step=1, policy_version=0)
    controller.close()
    assert engine.max_running == most


def test_first_stages_go_first_when_slots_are_scarce():
    """One slot, all wrong: prompt 0's verdict is in while prompt 1 is sampled, yet prompt 2 begins first."""
    engine = FakeRolloutEngine(delay_s=lambda r: 0.005)
    servers = ServersConfig(max_concurrent_requests=1)
    controller = make_controller(engine, FakeVerifier(), servers=servers, responses_per_stage=1)
    controller.collect(make_prompts(3), step=1, policy_version=0)
    assert [name[3:] for name in engine.finished] == [
        "p0.1.0",
        "p1.1.0",
        "p2.1.0",
        "p0.2.0",
        "p1.2.0",
        "p2.2.0",
    ]


def test_stale_weights_are_refused():
    engine = FakeRolloutEngine(policy_version=3)
    controller = make_controller(engine, FakeVerifier())
    with pytest.raises(RolloutEngineError, match="policy version 3, the trainer is at 4"):
        controller.collect(make_prompts(1), step=1, policy_version=4)


def test_aborted_answer_is_drawn_again_and_never_graded():
    aborted_once = {"s1.p0.1.1"}
    engine = FakeRolloutEngine(
        finish_reason=lambda r: "abort" if r.request_id in aborted_once else "stop"
    )
    verifier = FakeVerifier(lambda prompt, response: True)
    groups = (
        make_controller(engine, verifier).collect(make_prompts(1), step=1, policy_version=0).groups
    )
    assert [r.response.response_id for r in groups[0].responses] == ["s1.p0.1.0", "s1.p0.1.1"]
    assert all(r.response.finish_reason == "stop" for r in groups[0].responses)
    assert sorted(verifier.verified) == ["s1.p0.1.0", "s1.p0.1.1"]
    assert "s1.p0.1.1.again1" in engine.finished
    assert [r.response.retries for r in groups[0].responses] == [
        Retries(),
        Retries(aborted=1, aborted_tokens=2),
    ]
    assert [r.response.num_generated for r in groups[0].responses] == [1, 2]
    assert [r.response.num_generated_tokens for r in groups[0].responses] == [2, 4]


def test_a_response_that_is_always_aborted_ends_the_run():
    engine = FakeRolloutEngine(finish_reason=lambda r: "abort")
    controller = make_controller(engine, FakeVerifier(), servers=ServersConfig(max_retries=1))
    with pytest.raises(RolloutEngineError, match="aborted 2 times"):
        controller.collect(make_prompts(1), step=1, policy_version=0)


def test_an_error_ends_all_other_requests():
    def delay(request):
        if request.request_id == "s1.p0.1.0":
            raise RolloutEngineError("server lost")
        return 30.0

    engine = FakeRolloutEngine(delay_s=delay)
    controller = make_controller(engine, FakeVerifier())
    with pytest.raises(RolloutEngineError, match="server lost"):
        controller.collect(make_prompts(4), step=1, policy_version=0)
    assert (
        engine.num_running <= 1
    )  # the one that raised before its sleep; none of the others sleeps on
    engine.delay_s = lambda request: 0.0
    assert len(controller.collect(make_prompts(1), step=2, policy_version=0).groups) == 1


@pytest.mark.parametrize(
    ("token_ids", "message"),
    [
        ((), "is empty"),
        ((1,) * 800, "has 800 tokens; with rollout.max_response_tokens=256"),
        ((1, 64), "outside the model's vocabulary of 64"),
        ((-1, 5), "outside the model's vocabulary of 64"),
    ],
)
def test_a_prompt_that_does_not_fit_never_reaches_the_server(token_ids, message):
    engine = FakeRolloutEngine()
    prompt = Prompt(prompt_id="ab" * 16, token_ids=token_ids, ground_truth="1", text="what is")
    with pytest.raises(ValueError, match=message) as error:
        make_controller(engine, FakeVerifier()).collect(
            [*make_prompts(3), StepPrompt(position=3, prompt=prompt)], step=1, policy_version=0
        )
    assert "what is" in str(error.value) and prompt.prompt_id[:16] in str(error.value)
    assert engine.requests == []


def test_evaluation_samples_have_no_stages_and_the_same_noise_each_time():
    engine = FakeRolloutEngine()
    controller = make_controller(engine, FakeVerifier(lambda prompt, response: True))
    prompts = [p.prompt for p in make_prompts(3)]
    sampling = SamplingParams(max_response_tokens=4)

    def answers(policy_version, order):
        engine.policy_version = policy_version
        return controller.sample(
            order,
            num_samples=4,
            sampling=sampling,
            seed_key="eval",
            policy_version=policy_version,
        )

    before = answers(0, prompts)
    assert [len(a) for a in before] == [4, 4, 4]
    after = answers(9, prompts[::-1])  # another order, as on another layout
    seeds = [[r.response.seed for r in a] for a in before]
    assert seeds == [[r.response.seed for r in a] for a in after][::-1]
    assert len({s for a in seeds for s in a}) == 12


def test_close_ends_engine_and_verifier_once():
    engine, verifier = FakeRolloutEngine(), FakeVerifier()
    controller = make_controller(engine, verifier)
    controller.close()
    controller.close()
    assert engine.is_closed and verifier.is_closed


def test_ctrl_c_leaves_no_request_behind():
    engine = FakeRolloutEngine(delay_s=lambda r: 30.0)
    controller = make_controller(engine, FakeVerifier())

    def interrupt():
        raise KeyboardInterrupt

    controller._loop.call_later(0.05, interrupt)
    with pytest.raises(KeyboardInterrupt):
        controller.collect(make_prompts(2), step=1, policy_version=0)
    assert engine.num_running == 0
    assert not asyncio.all_tasks(controller._loop)
