"""The client behind a scripted router in the same event loop. The real one: tests/e2e/test_rollout_faults.py."""

import asyncio
import time
from typing import Any

from aiohttp import web
from unit.servers.test_sglang_engine import ScriptedServer, good

from megatron_ar3po.config.servers import ServersConfig
from megatron_ar3po.interfaces import RolloutEngineError
from megatron_ar3po.servers.routed_engine import RoutedEngine
from megatron_ar3po.types import GenerationRequest, SamplingParams
from megatron_ar3po.usage import NOBODY


class ScriptedRouter(ScriptedServer):
    """Hangs until it is restarted: it takes connections and answers nothing."""

    hangs = True

    async def generate(self, request: web.Request) -> web.StreamResponse:
        while self.hangs:
            await asyncio.sleep(0.05)
        if "try1" in (await request.json())["rid"]:
            assert request.transport is not None
            request.transport.close()  # a restart ends the old process, and with it what waits there
        return await super().generate(request)

    async def workers(self, request: web.Request) -> web.Response:
        while self.hangs:
            await asyncio.sleep(0.05)
        return web.json_response({"workers": []})


def through(
    router: ScriptedRouter, *, on_router_lost, router_back_s=180.0, **options
) -> tuple[Any, RoutedEngine]:
    """One request's answer or error, and the engine, which gives the router 0.2 s."""
    config = ServersConfig(**{"hang_timeout_s": 0.4, "request_timeout_s": 30.0, **options})
    server = ScriptedServer(lambda n, body: good(body))

    async def main() -> tuple[Any, RoutedEngine]:
        app = web.Application()
        app.router.add_post("/generate", router.generate)
        app.router.add_get("/workers", router.workers)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        behind = await server.listen()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        engine = RoutedEngine(
            [server],
            config,
            vocab_size=64,
            is_deterministic=False,
            router_url=url,
            all_urls=[server.url],
            on_router_lost=on_router_lost,
            router_timeout_s=0.2,
            router_back_s=router_back_s,
        )
        request = GenerationRequest(
            request_id="r0",
            prompt_token_ids=(1, 2, 3),
            sampling=SamplingParams(max_response_tokens=8, stop_token_ids=(2,)),
            seed=11,
        )
        answer = (await asyncio.gather(engine.generate(request), return_exceptions=True))[0]
        await engine.close()
        router.hangs = False
        await runner.cleanup()
        await behind.cleanup()
        return answer, engine

    return asyncio.run(main())


def test_a_router_that_hangs_is_restarted_and_its_request_costs_no_try():
    """The watch asks the router as well; no retry is allowed here, and none is used up."""
    router = ScriptedRouter(lambda n, body: good(body))
    restarts = []

    def restart() -> None:
        restarts.append(time.monotonic())
        router.hangs = False

    generation, engine = through(router, on_router_lost=restart, max_retries=1)
    assert generation.token_ids.tolist() == [5, 6, 2]
    assert len(restarts) == 1
    assert engine.usage[NOBODY].lost_requests == 1


def test_a_replica_that_did_not_start_the_router_waits_for_it_and_says_whose_it_is():
    router = ScriptedRouter(lambda n, body: good(body))
    error, _ = through(router, on_router_lost=None, router_back_s=0.5, request_timeout_s=1.0)
    assert isinstance(error, RolloutEngineError)
    assert "the first replica did not bring it back" in str(error)
