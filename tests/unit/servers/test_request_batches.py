"""Several requests in one HTTP call, against a scripted server in the same event loop that streams as SGLang does: for
each request its first token, then the whole response. What the real one does: tests/e2e/test_rollout_server.py."""

import asyncio
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
from aiohttp import web
from unit.servers.test_sglang_engine import good

from megatron_ar3po.config.servers import ServersConfig
from megatron_ar3po.interfaces import RolloutEngineError
from megatron_ar3po.servers.sglang_engine import SglangEngine
from megatron_ar3po.types import Generation, GenerationRequest, SamplingParams, ScoringRequest
from megatron_ar3po.usage import ServerUsage

A, B, C = (f"r{i}/try1" for i in range(3))

Event = dict[str, Any] | str | float | None  # a float: say nothing for so many seconds


def names(body: dict[str, Any]) -> Any:
    """The ids of a call, without what makes each of them unique."""
    rids = body["rid"]
    if isinstance(rids, str):
        return rids.rpartition("/try")[0] + "/try" + rids.rpartition("/try")[2].partition("/")[0]
    return [names({"rid": rid}) for rid in rids]


def one_by_one(call: int, body: dict[str, Any]) -> list[Event]:
    return [good(single) for single in split(body)]


def split(body: dict[str, Any]) -> list[dict[str, Any]]:
    names = ("rid", "input_ids", "sampling_params")
    return [
        dict(zip(names, values, strict=True))
        for values in zip(*(body[name] for name in names), strict=True)
    ]


@dataclass
class BatchServer:
    """Answers a call for many by the events of `script(n, body)`, whose end is a hang-up where it is None; a call for
    one as ever. Also plays the process behind it."""

    script: Callable[[int, dict[str, Any]], Sequence[Event] | web.Response] = one_by_one
    name: str = "dp0.s0"
    url: str = ""
    num_restarts: int = 0
    running: bool = True
    bodies: list[dict[str, Any]] = field(default_factory=list)
    aborted: list[str] = field(default_factory=list)
    disconnects: int = 0

    def is_running(self) -> bool:
        return self.running

    def log_tail(self) -> str:
        return ""

    async def listen(self) -> web.AppRunner:
        app = web.Application()
        app.router.add_post("/generate", self.generate)
        app.router.add_post("/abort_request", self.abort)
        app.router.add_get("/health_generate", self.health)
        runner = web.AppRunner(app, shutdown_timeout=0.1, handler_cancellation=True)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        return runner

    async def generate(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        if isinstance(body["rid"], str):
            if body["input_ids"] == [60]:
                return web.Response(status=400, text="the token 60 is not to my taste")
            return web.json_response(good(body))
        events = self.script(len(self.bodies), body)
        if isinstance(events, web.Response):
            return events
        response = web.StreamResponse(
            headers={"x-ar3po-server": f"{self.name}/{self.num_restarts}"}
        )
        await response.prepare(request)
        for single in split(body):
            first = good(single, output_ids=[5], meta={"finish_reason": None})
            await self.write(response, json.dumps(first))
        try:
            for event in events:
                if isinstance(event, float):
                    await asyncio.sleep(event)
                elif event is None:
                    assert request.transport is not None
                    request.transport.close()
                    return response
                else:
                    await self.write(
                        response, event if isinstance(event, str) else json.dumps(event)
                    )
        except asyncio.CancelledError:
            self.disconnects += 1
            raise
        await self.write(response, "[DONE]")
        return response

    async def write(self, response: web.StreamResponse, data: str) -> None:
        """In two pieces, as the network may cut it."""
        whole = f"data: {data}\n\n".encode()
        await response.write(whole[: len(whole) // 2])
        await response.write(whole[len(whole) // 2 :])

    async def abort(self, request: web.Request) -> web.Response:
        self.aborted.append((await request.json())["rid"])
        return web.Response()

    async def health(self, request: web.Request) -> web.Response:
        return web.Response()


def make_request(index: int, *, prompt: tuple[int, ...] = (1, 2, 3)) -> GenerationRequest:
    return GenerationRequest(
        request_id=f"r{index}",
        prompt_token_ids=prompt,
        sampling=SamplingParams(max_response_tokens=8, stop_token_ids=(2,)),
        seed=11 + index,
    )


def run(
    server: BatchServer,
    work: Callable[[SglangEngine], Any],
    *,
    on_server_lost: Callable[[Any], None] | None = None,
    **options: Any,
) -> tuple[Any, dict[Any, ServerUsage]]:
    """What `work` makes of an engine with this server, and the engine's usage."""
    config = ServersConfig(**{"requests": "step", "request_timeout_s": 5.0, **options})

    async def main() -> Any:
        runner = await server.listen()
        engine = SglangEngine(
            [server],
            config,
            vocab_size=64,
            is_deterministic=True,
            on_server_lost=on_server_lost,
        )
        result = await work(engine)
        await engine.close()
        await runner.cleanup()
        return result, engine.usage

    return asyncio.run(main())


def generate_all(*requests: GenerationRequest) -> Callable[[SglangEngine], Any]:
    async def work(engine: SglangEngine) -> list[Any]:
        return await asyncio.gather(*map(engine.generate, requests), return_exceptions=True)

    return work


def test_requests_of_one_moment_are_one_call_and_each_keeps_its_seed_and_id():
    server = BatchServer(lambda n, body: one_by_one(n, body)[::-1])
    generations, usage = run(server, generate_all(make_request(0), make_request(1, prompt=(4,))))
    (body,) = server.bodies
    assert names(body) == ["r0/try1", "r1/try1"] and body["input_ids"] == [[1, 2, 3], [4]]
    assert body["stream"] is True and body["return_logprob"] is True
    shared = {"temperature": 1.0, "top_p": 1.0, "max_new_tokens": 8, "stop_token_ids": [2]}
    assert body["sampling_params"] == [
        {**shared, "sampling_seed": 11, "stream_interval": 8},
        {**shared, "sampling_seed": 12, "stream_interval": 8},
    ]
    assert [g.token_ids.tolist() for g in generations] == [[5, 6, 2]] * 2
    assert usage == {
        ("dp0.s0", 0): ServerUsage(
            requests=2, prompt_tokens=3 + 1, cached_prompt_tokens=2, generated_tokens=6
        )
    }


@pytest.mark.parametrize(
    ("form", "calls"),
    [
        ("single", [A, B, C]),
        ("stage", [[A, C], B]),
        ("step", [[A, B, C]]),
    ],
)
def test_what_travels_together_is_nothing_a_prompts_stage_or_all(form, calls):
    server = BatchServer()
    requests = [make_request(0), make_request(1, prompt=(4,)), make_request(2)]
    generations, _ = run(server, generate_all(*requests), requests=form)
    assert all(isinstance(generation, Generation) for generation in generations)
    assert sorted(map(names, server.bodies), key=str) == sorted(calls, key=str)


def test_a_response_is_handed_over_before_the_others_are_there():
    server = BatchServer(
        lambda n, body: [good(split(body)[1]), 0.5, good(split(body)[0])],
    )
    finished = []

    async def work(engine):
        async def one(index):
            await engine.generate(make_request(index))
            finished.append((index, len(finished)))

        tasks = [asyncio.ensure_future(one(0)), asyncio.ensure_future(one(1))]
        await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        early = list(finished)
        await asyncio.gather(*tasks)
        return early

    early, _ = run(server, work)
    assert early == [(1, 0)] and finished == [(1, 0), (0, 1)]


def test_what_is_lost_with_its_server_is_drawn_again_and_what_was_answered_is_not():
    """The server dies when two of four have their response; the others go to the next process, in one call again, and
    the account of the dead one has them as lost."""

    def script(n, body):
        if server.num_restarts:
            return one_by_one(n, body)
        server.running = False
        return [*one_by_one(n, body)[:2], None]

    def restart(lost):
        lost.num_restarts, lost.running = 1, True

    server = BatchServer(script)
    generations, usage = run(
        server, generate_all(*map(make_request, range(4))), on_server_lost=restart
    )
    assert [g.token_ids.tolist() for g in generations] == [[5, 6, 2]] * 4
    assert [names(body) for body in server.bodies] == [
        [f"r{i}/try1" for i in range(4)],
        ["r2/try2", "r3/try2"],
    ]
    assert (usage[("dp0.s0", 0)].requests, usage[("dp0.s0", 0)].lost_requests) == (2, 2)
    assert (usage[("dp0.s0", 1)].requests, usage[("dp0.s0", 1)].lost_requests) == (2, 0)


def test_one_broken_response_is_drawn_again_alone():
    """A wrong token: the other three are kept."""

    def script(n, body):
        events = one_by_one(n, body)
        events[1] = good(split(body)[1], output_ids=[5, 7, 2])
        return events

    server = BatchServer(script)
    generations, usage = run(server, generate_all(*map(make_request, range(4))))
    assert [g.token_ids.tolist() for g in generations] == [[5, 6, 2]] * 4
    assert [names(body) for body in server.bodies[1:]] == ["r1/try2"]
    assert [g.retries.unusable for g in generations] == [0, 1, 0, 0]
    assert usage[("dp0.s0", 0)].unused_requests == 1


@pytest.mark.parametrize("event", ["nonsense", "[]", '{"meta_info": {"id": "r9/try1/"}}', None])
def test_a_response_that_nobody_can_read_or_that_never_comes_is_lost(event):
    """Whose it is cannot be told; who is left without one is asked for again."""
    server = BatchServer(lambda n, body: [good(split(body)[0]), *([event] if event else [])])
    generations, usage = run(server, generate_all(make_request(0), make_request(1)))
    assert [g.token_ids.tolist() for g in generations] == [[5, 6, 2]] * 2
    assert [names(body) for body in server.bodies[1:]] == ["r1/try2"]
    assert usage[("dp0.s0", 0)].lost_requests == 1


@pytest.mark.parametrize("is_streamed", [True, False])
def test_a_call_that_is_refused_as_a_whole_is_sent_again_one_by_one(is_streamed):
    """The error names the request that is at fault, and the other has its response."""
    text = json.dumps({"error": {"message": "one of them is not to my taste", "code": 400}})

    def script(n, body):
        return [text] if is_streamed else web.Response(status=400, text=text)

    server = BatchServer(script)
    (good_one, refused), _ = run(
        server, generate_all(make_request(0), make_request(1, prompt=(60,)))
    )
    assert good_one.token_ids.tolist() == [5, 6, 2]
    assert isinstance(refused, RolloutEngineError)
    assert "refuses request r1/try1/" in str(refused)
    assert "(HTTP 400): the token 60 is not to my taste" in str(refused)
    assert len(server.bodies) == 3


@pytest.mark.parametrize(("status", "is_refused"), [(400, True), (503, False)])
def test_what_the_server_says_of_one_request_is_of_that_one_alone(status, is_refused):
    said = {"type": "abort", "message": "no room", "status_code": status}

    def script(n, body):
        return [good(split(body)[0], meta={"finish_reason": said}), good(split(body)[1])]

    server = BatchServer(script)
    (first, second), _ = run(server, generate_all(make_request(0), make_request(1)))
    assert second.token_ids.tolist() == [5, 6, 2]
    assert isinstance(first, RolloutEngineError) == is_refused
    assert [names(body) for body in server.bodies[1:]] == ([] if is_refused else ["r0/try2"])


def test_the_time_limit_aborts_what_is_late_and_not_what_was_there():
    server = BatchServer(lambda n, body: [good(split(body)[0]), 5.0])
    generations, usage = run(
        server, generate_all(*map(make_request, range(3))), request_timeout_s=0.4, max_retries=0
    )
    assert isinstance(generations[0], Generation)
    assert all("request_timeout_s=0.4" in str(error) for error in generations[1:])
    assert sorted(names({"rid": rid}) for rid in server.aborted) == ["r1/try1", "r2/try1"]
    assert (usage[("dp0.s0", 0)].requests, usage[("dp0.s0", 0)].lost_requests) == (1, 2)


def test_one_of_a_batch_is_aborted_by_its_own_id():
    aborted = {"finish_reason": {"type": "abort", "message": "x"}}

    def script(n, body):
        return [good(split(body)[0]), 0.4, good(split(body)[1], meta=aborted)]

    async def work(engine):
        both = asyncio.gather(engine.generate(make_request(0)), engine.generate(make_request(1)))
        await asyncio.sleep(0.2)
        await engine.abort("r0")  # it has its response
        await engine.abort("r1")
        return await both

    server = BatchServer(script)
    generations, _ = run(server, work)
    assert [names({"rid": rid}) for rid in server.aborted] == ["r1/try1"]
    assert [g.finish_reason for g in generations] == ["stop", "abort"]


@pytest.mark.parametrize("num_left", [0, 1])
def test_a_call_is_cut_off_when_nobody_waits_for_it_any_more(num_left):
    server = BatchServer(lambda n, body: [0.5, *one_by_one(n, body)])

    async def work(engine):
        tasks = [asyncio.ensure_future(engine.generate(make_request(i))) for i in range(3)]
        await asyncio.sleep(0.2)
        for task in tasks[num_left:]:
            task.cancel()
        results = await asyncio.gather(*tasks, return_exceptions=True)
        await asyncio.sleep(0.1)
        left = [result for result in results if isinstance(result, Generation)]
        return len(left), server.disconnects

    seen, usage = run(server, work)
    assert seen == (num_left, 0 if num_left else 1)
    assert usage[("dp0.s0", 0)].lost_requests == 3 - num_left


def test_what_is_given_up_before_it_was_sent_is_not_sent():
    async def work(engine):
        task = asyncio.ensure_future(engine.generate(make_request(0)))
        asyncio.get_running_loop().call_soon(task.cancel)  # after its first turn
        await asyncio.gather(task, return_exceptions=True)
        return await engine.generate(make_request(1))

    server = BatchServer()
    generation, _ = run(server, work)
    assert generation.token_ids.tolist() == [5, 6, 2]
    assert [names(body) for body in server.bodies] == ["r1/try1"]


def test_scored_responses_travel_alone():
    async def work(engine):
        asked = ScoringRequest(
            request_id="r0", prompt_token_ids=(1, 2, 3), response_token_ids=(7, 8)
        )
        await asyncio.gather(engine.score(asked), engine.score(asked), return_exceptions=True)

    server = BatchServer()
    run(server, work, max_retries=0)
    assert [names(body) for body in server.bodies] == ["r0/try1"] * 2


def test_a_call_has_a_bounded_size():
    """Three prompts of 50,000 tokens: no more than 131,072 of them in one call."""
    prompts = [(i, *([3] * 49_999)) for i in range(3)]
    server = BatchServer()
    run(server, generate_all(*(make_request(i, prompt=p) for i, p in enumerate(prompts))))
    lengths = [
        [len(ids) for ids in body["input_ids"]] if isinstance(body["rid"], list) else 1
        for body in server.bodies
    ]
    assert sorted(lengths, key=str) == [1, [50_000, 50_000]]


def test_no_id_is_used_twice():
    """The same request again, from this client and from another: SGLang still knows the ids of a call for two seconds
    after its end, and aborts what it finds under them."""
    server, requests = BatchServer(), [make_request(0), make_request(1)]

    async def twice(engine):
        await generate_all(*requests)(engine)
        return await generate_all(*requests)(engine)

    run(server, twice)
    run(server, generate_all(*requests))
    assert len({rid for body in server.bodies for rid in body["rid"]}) == 6
