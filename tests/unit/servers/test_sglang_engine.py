"""The client against a scripted HTTP server in the same event loop. What a real SGLang answers: tests/e2e."""

import asyncio
import json
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
from aiohttp import web

from megatron_ar3po.config.servers import ServersConfig
from megatron_ar3po.interfaces import RolloutEngineError
from megatron_ar3po.servers.sglang_engine import SglangEngine
from megatron_ar3po.servers.usage import retries_of, usage_of
from megatron_ar3po.types import GenerationRequest, SamplingParams, ScoringRequest
from megatron_ar3po.usage import Retries, ServerUsage

Reply = web.StreamResponse | float  # a float: say nothing for so many seconds


def good(body: dict[str, Any], **changes: Any) -> dict[str, Any]:
    ids = [5, 6, 2]
    answer = {
        "output_ids": ids,
        "meta_info": {
            "id": body["rid"],
            "finish_reason": {"type": "stop", "matched": 2},
            "prompt_tokens": len(body["input_ids"]),
            "completion_tokens": 3,
            "cached_tokens": 1,
            "weight_version": "4",
            "weight_versions": [{"version": "4", "start": 0, "end": 3}],
            "output_token_logprobs": [[-0.1 * i, ids[i], None] for i in range(3)],
        },
    }
    answer["meta_info"].update(changes.pop("meta", {}))
    answer.update(changes)
    return answer


@dataclass
class ScriptedServer:
    """Answers the n-th request to /generate by `script(n, body)`; also plays the process behind it."""

    script: Callable[[int, dict[str, Any]], Any]
    name: str = "dp0.s0"
    url: str = ""
    num_restarts: int = 0
    healthy: bool = True
    running: bool = True
    bodies: list[dict[str, Any]] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)

    def is_running(self) -> bool:
        return self.running

    def log_tail(self) -> str:
        return "Last lines of server.log: out of memory"

    async def listen(self) -> web.AppRunner:
        app = web.Application()
        app.router.add_post("/generate", self.generate)
        app.router.add_post("/abort_request", self.abort)
        app.router.add_get("/health_generate", self.health)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        return runner

    async def generate(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        answer = self.script(len(self.bodies), body)
        if isinstance(answer, float):
            await asyncio.sleep(answer)
            answer = good(body)
        if isinstance(answer, web.StreamResponse):
            return answer
        if isinstance(answer, str):
            return web.Response(text=answer)
        return web.json_response(answer)

    async def abort(self, request: web.Request) -> web.Response:
        self.aborted.append((await request.json())["rid"])
        return web.Response()

    async def health(self, request: web.Request) -> web.Response:
        return web.Response(status=200 if self.healthy else 503)


def ask(
    server: ScriptedServer,
    *,
    count=1,
    spacing_s=0.0,
    on_server_lost=None,
    beside=(),
    score=(),
    is_deterministic=False,
    **options,
) -> list[Any]:
    """`count` requests at once through a fresh engine; results or errors, and the engine's usage at the end. `beside`:
    servers that get none of them. With `score` an answer of these tokens is to be scored instead."""
    defaults = {"requests": "single", "max_retries": 2, "request_timeout_s": 5.0}
    config = ServersConfig(**{**defaults, **options})

    async def main() -> list[Any]:
        runners = [await one.listen() for one in (server, *beside)]
        engine = SglangEngine(
            [*beside, server],  # the last of two, and of three, is the one for this prompt
            config,
            vocab_size=64,
            is_deterministic=is_deterministic,
            on_server_lost=on_server_lost,
        )
        requests = [
            GenerationRequest(
                request_id=f"r{i}",
                prompt_token_ids=(1, 2, 3),
                sampling=SamplingParams(max_response_tokens=8, stop_token_ids=(2,)),
                seed=11 + i,
            )
            for i in range(count)
        ]

        async def send(index: int):
            await asyncio.sleep(index * spacing_s)
            if score:
                asked = ScoringRequest(
                    request_id=f"r{index}", prompt_token_ids=(1, 2, 3), response_token_ids=score
                )
                return await engine.score(asked)
            return await engine.generate(requests[index])

        results = await asyncio.gather(*map(send, range(count)), return_exceptions=True)
        await engine.close()
        for runner in runners:
            await runner.cleanup()
        return [*results, engine.usage]

    return asyncio.run(main())


def test_answer_is_token_in_token_out():
    server = ScriptedServer(lambda n, body: good(body))
    generation, usage = ask(server, is_deterministic=True)
    assert generation.token_ids.tolist() == [5, 6, 2]
    np.testing.assert_allclose(generation.logprobs, [0.0, -0.1, -0.2], rtol=1e-6)
    assert (generation.finish_reason, generation.policy_version) == ("stop", 4)
    assert (generation.server, generation.num_cached_tokens) == ("dp0.s0", 1)
    assert server.bodies[0] == {
        "rid": "r0/try1/",
        "input_ids": [1, 2, 3],
        "sampling_params": {
            "temperature": 1.0,
            "top_p": 1.0,
            "max_new_tokens": 8,
            "stop_token_ids": [2],
            "sampling_seed": 11,
        },
        "return_logprob": True,
    }
    assert usage == {
        ("dp0.s0", 0): ServerUsage(
            requests=1, prompt_tokens=3, cached_prompt_tokens=1, generated_tokens=3
        )
    }


def test_no_seed_is_sent_to_a_server_that_would_ignore_it():
    server = ScriptedServer(lambda n, body: good(body))
    ask(server)
    assert "sampling_seed" not in server.bodies[0]["sampling_params"]


MALFORMED = {
    "not json": lambda body: '{"output_ids": [5, 6',
    "no meta_info": lambda body: json.dumps({"output_ids": [5]}),
    "a list": lambda body: "[1]",
    "a short list of log-probs": lambda body: good(
        body, meta={"output_token_logprobs": [[-0.1, 5, None]]}
    ),
    "log-probs of other tokens": lambda body: good(body, output_ids=[5, 7, 2]),
    "an id outside the vocabulary": lambda body: good(
        body, output_ids=[64], meta={"output_token_logprobs": [[-0.1, 64, None]]}
    ),
    "a log-prob that is no number": lambda body: good(
        body, output_ids=[5], meta={"output_token_logprobs": [[None, 5, None]]}
    ),
    "an answer to another request": lambda body: good(body, meta={"id": "s1.p0.1.0/try1/"}),
    "an unknown finish reason": lambda body: good(body, meta={"finish_reason": {"type": "tired"}}),
    "no tokens": lambda body: good(body, output_ids=[], meta={"output_token_logprobs": []}),
    "an HTTP error": lambda body: web.Response(status=503, text="busy"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_a_broken_answer_is_drawn_again(case):
    server = ScriptedServer(lambda n, body: MALFORMED[case](body) if n == 1 else good(body))
    generation, _ = ask(server)
    assert generation.token_ids.tolist() == [5, 6, 2]
    assert [b["rid"] for b in server.bodies] == ["r0/try1/", "r0/try2/"]


def test_answers_that_stay_broken_end_with_the_servers_log_tail():
    server = ScriptedServer(lambda n, body: "nonsense")
    error, usage = ask(server, max_retries=1)
    assert isinstance(error, RolloutEngineError)
    assert "in 2 tries (servers.max_retries=1)" in str(error) and "out of memory" in str(error)
    assert usage == {
        ("dp0.s0", 0): ServerUsage(lost_requests=2, lost_prompt_tokens=6, lost_generated_tokens=16)
    }


def test_a_thrown_away_answer_counts_as_work_of_the_server():
    server = ScriptedServer(
        lambda n, body: good(body, output_ids=[5, 7, 2]) if n == 1 else good(body)
    )
    generation, usage = ask(server)
    assert generation.retries == Retries(unusable=1, unusable_tokens=3)
    assert usage[("dp0.s0", 0)] == ServerUsage(
        requests=2,
        prompt_tokens=6,
        cached_prompt_tokens=2,
        generated_tokens=6,
        unused_requests=1,
        unused_generated_tokens=3,
    )


def test_a_request_that_takes_too_long_is_aborted_and_drawn_again():
    server = ScriptedServer(lambda n, body: 5.0 if n == 1 else good(body))
    generation, usage = ask(server, request_timeout_s=0.3)
    assert generation.token_ids.tolist() == [5, 6, 2]
    assert server.aborted == ["r0/try1/"]
    assert usage[("dp0.s0", 0)].lost_requests == 1


def test_a_dead_server_is_handed_over_once_however_many_requests_it_took_along():
    calls = []

    def script(n, body):
        if server.num_restarts == 0:
            server.running = False
            return web.Response(status=500, text="scheduler died")
        return good(body)

    def restart(lost):
        calls.append(lost.name)
        lost.num_restarts += 1
        lost.running = True

    server = ScriptedServer(script)
    *generations, usage = ask(server, count=8, on_server_lost=restart)
    assert calls == ["dp0.s0"]
    assert [g.token_ids.tolist() for g in generations] == [[5, 6, 2]] * 8
    assert len({body["rid"] for body in server.bodies}) == len(server.bodies)
    assert usage[("dp0.s0", 0)].lost_requests == 8
    assert usage[("dp0.s0", 1)].requests == 8


def test_requests_wait_while_their_server_is_being_restarted():
    """The second request comes while the restart for the first is under way: it is sent once, to the new process."""

    def restart(lost):
        time.sleep(0.3)
        lost.num_restarts += 1
        lost.running = True

    def script(n, body):
        if server.num_restarts == 0:
            server.running = False
            return web.Response(status=500)
        return good(body)

    server = ScriptedServer(script)
    _, late, usage = ask(server, count=2, spacing_s=0.1, on_server_lost=restart)
    assert late.policy_version == 4
    assert [body["rid"] for body in server.bodies].count("r1/try1/") == 1
    assert "r1/try2/" not in {body["rid"] for body in server.bodies}
    assert usage[("dp0.s0", 0)].lost_requests == 1


def test_a_server_that_hangs_counts_as_lost():
    def restart(lost):
        lost.num_restarts += 1
        lost.healthy = True

    server = ScriptedServer(
        lambda n, body: 5.0 if server.num_restarts == 0 else good(body), healthy=False
    )
    generation, _ = ask(server, request_timeout_s=0.3, on_server_lost=restart)
    assert server.num_restarts == 1 and generation.policy_version == 4


def test_a_server_that_hangs_is_restarted_long_before_its_requests_give_up():
    """It takes requests and answers none; the watch asks every quarter of the 0.4 s whether it still generates. A
    restart ends the old process, and with it the connections of what waits: here the script hangs up."""
    hung_up = asyncio.Event()

    def restart(lost):
        lost.num_restarts += 1
        lost.healthy = True
        loop.call_soon_threadsafe(hung_up.set)

    class Hanging(ScriptedServer):
        async def generate(self, request):
            nonlocal loop
            loop = asyncio.get_running_loop()
            if self.num_restarts:
                return await super().generate(request)
            await hung_up.wait()
            assert request.transport is not None
            request.transport.close()
            return web.Response()

    loop: Any = None
    server = Hanging(lambda n, body: good(body), healthy=False)
    started = time.monotonic()
    *generations, usage = ask(
        server, count=4, request_timeout_s=60.0, hang_timeout_s=0.4, on_server_lost=restart
    )
    assert [g.policy_version for g in generations] == [4] * 4
    assert server.num_restarts == 1 and time.monotonic() - started < 10
    assert usage[("dp0.s0", 0)].lost_requests == 4 and usage[("dp0.s0", 1)].requests == 4


def test_a_slow_server_that_still_generates_is_left_alone():
    server = ScriptedServer(lambda n, body: 1.0)
    (generation, _) = ask(
        server,
        hang_timeout_s=0.2,
        request_timeout_s=30.0,
        on_server_lost=lambda lost: pytest.fail("it was well"),
    )
    assert generation.policy_version == 4 and server.num_restarts == 0


def test_an_idle_server_that_dies_is_restarted_while_the_others_work():
    """The watch finds it; no request of its own had to be lost for that."""
    dead = ScriptedServer(lambda n, body: good(body), name="dp0.s1", running=False)
    restarted = []

    def restart(lost):
        restarted.append(lost.name)
        lost.num_restarts, lost.running = 1, True

    server = ScriptedServer(lambda n, body: 0.5)
    ask(server, beside=[dead], hang_timeout_s=0.2, on_server_lost=restart)
    assert restarted == ["dp0.s1"]


def test_two_lost_servers_are_revived_one_after_the_other():
    """All ranks of a replica take part in a revival: two at a time would mix up their words."""
    at_work, most = [], []

    def restart(lost):
        at_work.append(lost.name)
        most.append(len(at_work))
        time.sleep(0.1)
        at_work.remove(lost.name)
        lost.num_restarts, lost.running = 1, True

    dead = [
        ScriptedServer(lambda n, body: good(body), name=f"dp0.s{i}", running=False) for i in (1, 2)
    ]
    server = ScriptedServer(lambda n, body: 0.5)
    ask(server, beside=dead, hang_timeout_s=0.2, on_server_lost=restart)
    assert most == [1, 1]


def test_without_a_way_to_restart_a_lost_server_ends_the_run():
    server = ScriptedServer(lambda n, body: web.Response(status=500), running=False)
    error, _ = ask(server)
    assert isinstance(error, RolloutEngineError)
    assert "dp0.s0 was lost" in str(error) and "out of memory" in str(error)


def test_a_refused_request_is_not_tried_again():
    server = ScriptedServer(lambda n, body: web.Response(status=400, text="too long"))
    error, _ = ask(server)
    assert isinstance(error, RolloutEngineError) and "too long" in str(error)
    assert len(server.bodies) == 1


@pytest.mark.parametrize(
    ("said", "option"),
    [
        (
            "Input length (9 tokens) exceeds the maximum allowed length (5 tokens).",
            "data.max_prompt_tokens",
        ),
        ("temperature must be a non-negative finite number, got -1.", "rollout.temperature"),
        ("top_p must be in (0, 1], got 2.", "evaluation.top_p"),
        (
            "Requested token count exceeds the model's maximum context length",
            "rollout.max_response_tokens",
        ),
    ],
)
def test_a_refusal_names_the_option_that_it_comes_from(said, option):
    text = json.dumps({"error": {"message": said}})
    server = ScriptedServer(lambda n, body: web.Response(status=400, text=text))
    error, _ = ask(server)
    assert said.rstrip(".") in str(error) and option in str(error)
    assert "HTTP 400" in str(error) and "temperature=" in str(error)


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({"weight_version": "default", "weight_versions": None}, "never given the run's weights"),
        (
            {"weight_versions": [{"version": "3"}, {"version": "4"}]},
            r"changed while a response was sampled \(versions \['3', '4'\]\)",
        ),
    ],
)
def test_weights_of_unknown_or_mixed_version_end_the_run(meta, message):
    server = ScriptedServer(lambda n, body: good(body, meta=meta))
    error, _ = ask(server)
    with pytest.raises(RolloutEngineError, match=message):
        raise error
    assert len(server.bodies) == 1


def test_an_answer_cut_short_by_the_server_ends_the_run():
    meta = {"finish_reason": {"type": "length", "length": 3}}
    server = ScriptedServer(lambda n, body: good(body, meta=meta))
    error, _ = ask(server)
    with pytest.raises(
        RolloutEngineError, match=r"after 3 of rollout\.max_response_tokens=8 tokens"
    ):
        raise error


def test_an_aborted_request_comes_back_as_aborted():
    meta = {"finish_reason": {"type": "abort", "message": "x"}, "output_token_logprobs": []}
    server = ScriptedServer(lambda n, body: good(body, output_ids=[], meta=meta))
    generation, _ = ask(server)
    assert generation.finish_reason == "abort" and len(generation.token_ids) == 0


def test_an_abort_names_the_try_that_runs_and_no_id_begins_another():
    """SGLang aborts by the beginning of an id: r1 must not take r10 along."""
    server = ScriptedServer(lambda n, body: good(body))
    ask(server, count=11)
    rids = [body["rid"] for body in server.bodies]
    assert not [(a, b) for a in rids for b in rids if a != b and b.startswith(a)]


@pytest.mark.parametrize(("counted", "was_begun"), [({}, True), ({"prompt_tokens": None}, False)])
def test_an_aborted_response_says_whether_it_had_begun(counted, was_begun):
    """A request that was aborted in the queue comes back without a count of its prompt."""
    meta = {"finish_reason": {"type": "abort"}, "output_token_logprobs": [], **counted}

    def answer(n, body):
        whole = good(body, output_ids=[], meta=meta)
        known = whole["meta_info"].items()
        return {**whole, "meta_info": {name: value for name, value in known if value is not None}}

    generation, _ = ask(ScriptedServer(answer))
    assert generation.was_begun == was_begun


def test_what_a_request_had_before_it_went_back_into_the_queue_is_not_counted_on_one_side_alone():
    """SGLang takes a running request back when its KV cache is full. Aborted while it waits, it comes back with the 3
    tokens it had streamed and without a count of its prompt, and is counted nowhere: it has no tokens for us either."""
    meta = {"finish_reason": {"type": "abort"}}

    def answer(n, body):
        whole = good(body, meta=meta)
        del whole["meta_info"]["prompt_tokens"]
        return whole

    generation, _ = ask(ScriptedServer(answer))
    assert not generation.was_begun
    assert (len(generation.token_ids), len(generation.logprobs)) == (0, 0)


def test_an_abort_in_the_servers_queue_is_no_work_of_the_server():
    """SGLang counts such a request nowhere; one that ran is counted with what it had."""
    aborted = {"finish_reason": {"type": "abort", "message": "x"}, "completion_tokens": 0}
    assert usage_of(aborted) == ServerUsage(queue_aborts=1)
    ran = {**aborted, "prompt_tokens": 3, "cached_tokens": 2, "completion_tokens": 5}
    assert usage_of(ran) == ServerUsage(
        requests=1,
        prompt_tokens=3,
        cached_prompt_tokens=2,
        generated_tokens=5,
        aborted_requests=1,
        aborted_generated_tokens=5,
    )


def test_samples_of_one_prompt_go_to_one_server():
    servers = [ScriptedServer(lambda n, body: good(body), name=f"s{i}") for i in range(4)]
    engine = SglangEngine(servers, ServersConfig(), vocab_size=64, is_deterministic=False)
    prompts = [(i, i + 1) for i in range(400)]
    chosen = [engine._server_of(p).server.name for p in prompts]
    assert chosen == [engine._server_of(p).server.name for p in prompts]
    assert all(chosen.count(f"s{i}") > 60 for i in range(4))  # 100 each, give or take four sigma


def make_scored(body: dict[str, Any], **changes: Any) -> dict[str, Any]:
    """SGLang's answer when it only reads: an entry for the prompt's last token, then one for each of the answer's."""
    entries = [[None, 3, None], [-0.5, 7, None], [-1.5, 8, None]]
    meta = {
        "finish_reason": {"type": "length", "length": 0},
        "completion_tokens": 0,
        "weight_versions": [{"version": "4", "start": 0, "end": 0}],
        "input_token_logprobs": entries,
        **changes.pop("meta", {}),
    }
    return good(body, **{"output_ids": [], "meta": meta, **changes})


def test_an_answer_that_exists_is_scored_without_sampling_a_token():
    server = ScriptedServer(lambda n, body: make_scored(body))
    scoring, usage = ask(server, score=(7, 8))
    assert scoring.logprobs.tolist() == [-0.5, -1.5]
    assert (scoring.policy_version, scoring.server, scoring.num_cached_tokens) == (4, "dp0.s0", 1)
    assert server.bodies == [
        {
            "rid": "r0/try1/",
            "return_logprob": True,
            "input_ids": [1, 2, 3, 7, 8],
            "sampling_params": {"max_new_tokens": 0},
            "logprob_start_len": 2,
        }
    ]
    assert usage[("dp0.s0", 0)] == ServerUsage(requests=1, prompt_tokens=5, cached_prompt_tokens=1)


@pytest.mark.parametrize(
    "changes",
    [
        {"output_ids": [5]},
        {"meta": {"input_token_logprobs": [[None, 3, None], [-0.5, 7, None]]}},
        {"meta": {"input_token_logprobs": [[None, 3, None], [-0.5, 7, None], [-1, 9, None]]}},
        {"meta": {"input_token_logprobs": [[None, 3, None], [-0.5, 7, None], [None, 8, None]]}},
        {"meta": {"finish_reason": {"type": "abort"}}},
    ],
    ids=["a token was sampled", "one missing", "another token", "no number", "aborted"],
)
def test_a_score_that_is_not_of_the_asked_tokens_is_asked_again(changes):
    server = ScriptedServer(lambda n, body: make_scored(body, **(changes if n == 1 else {})))
    scoring, usage = ask(server, score=(7, 8))
    assert scoring.logprobs.tolist() == [-0.5, -1.5]
    seen = usage[("dp0.s0", 0)]
    assert (seen.requests, seen.unused_requests + seen.aborted_requests) == (2, 1)
    assert scoring.retries == retries_of(seen) and scoring.retries.requests == 1


def test_the_last_token_of_the_vocabulary_is_scored_although_sglang_calls_it_0():
    entries = [[None, 3, None], [-0.5, 0, None]]
    server = ScriptedServer(
        lambda n, body: make_scored(body, meta={"input_token_logprobs": entries})
    )
    scoring, _ = ask(server, score=(63,))
    assert scoring.logprobs.tolist() == [-0.5]
