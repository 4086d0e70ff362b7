"""One actor and one real server on the same device, and what they say of the same tokens."""

from __future__ import annotations

import itertools
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from megatron_ar3po.config.rollout import RolloutConfig
from megatron_ar3po.config.servers import ServersConfig
from megatron_ar3po.config.weight_sync import WeightSyncConfig
from megatron_ar3po.distributed.collectives import Ranks
from megatron_ar3po.distributed.layout import ParallelLayout
from megatron_ar3po.rollout.controller import RolloutController
from megatron_ar3po.servers.control import ServerControl
from megatron_ar3po.servers.placement import ServerPlacement
from megatron_ar3po.servers.sglang_engine import SglangEngine
from megatron_ar3po.servers.sglang_server import SglangServer
from megatron_ar3po.types import Prompt, Response, TrainingSample, Verdict
from megatron_ar3po.weight_sync.publisher import ServerPublisher
from megatron_ar3po.weight_sync.receiver import Receiver
from megatron_ar3po.weight_sync.transport import Transport, make_transport
from prove.actor_checks import response_logprobs
from prove.actors import make_actor, make_model, one_process
from prove.stand import Shape, Stand

PROMPT_TOKENS, NUM_PROMPTS, NUM_SAMPLES = 8, 8, 4


class NoVerdict:
    version = "none"

    async def verify(self, prompt: Prompt, response: Response) -> Verdict:
        return Verdict(reward=0.0, status="incorrect")

    def close(self) -> None:
        pass


def start_server(stand: Stand, stack: ExitStack, model: Path) -> SglangServer:
    """Ready; it ends with `stack`. It divides the memory that it finds free."""
    server = SglangServer(
        ServersConfig(),
        ServerPlacement(name="prove"),
        model_path=str(model),
        dtype=stand.dtype,
        is_deterministic=False,
        log_dir=stand.folder,
    )
    stack.callback(server.stop)
    server.start()
    server.wait_ready()
    return server


class Served:
    """The actor is built and parked before the server starts, as in a run."""

    def __init__(
        self,
        stand: Stand,
        stack: ExitStack,
        shape: Shape,
        *,
        max_response_tokens: int = 16,
        bucket_bytes: int = 0,
    ) -> None:
        """`bucket_bytes`: of a publish; 0: 512 MiB, or on a CPU few enough for several."""
        stack.enter_context(one_process())
        model = make_model(stand, shape)
        self.vocab = shape.vocab
        self.actor = make_actor(stand, shape)
        self.actor.offload()
        self.server = start_server(stand, stack, model)
        self.control = ServerControl([self.server], timeout_s=300.0)
        self._ranks = Ranks(ParallelLayout(), timeout_s=600.0)
        usual = 512 * 1024**2 if stand.on_gpu else 100_000
        self._config = WeightSyncConfig(bucket_bytes=bucket_bytes or usual)
        self.transport = make_transport(
            self._config,
            self._ranks,
            server_tp=1,
            model_path=model,
            folder=stand.folder / "weight_sync",
        )
        stack.callback(self.transport.close)
        self._controller = RolloutController(
            SglangEngine(
                [self.server], ServersConfig(), vocab_size=self.vocab, is_deterministic=False
            ),
            NoVerdict(),
            RolloutConfig(max_response_tokens=max_response_tokens),
            ServersConfig(),
            run_seed=0,
            stop_token_ids=(1,),
            max_context_tokens=PROMPT_TOKENS + max_response_tokens + 2,  # which SGLang keeps
            vocab_size=self.vocab,
        )
        stack.callback(self._controller.close)
        self._versions = itertools.count(1)
        self.version = 0

    def publish(
        self, *, verify: bool, source: Any = None, transport: Transport | None = None
    ) -> dict[str, float]:
        """The actor's weights, or what `source` makes of them, go to the server; the publisher's figures. Both hold
        memory for weights."""
        self.version = next(self._versions)
        publisher = ServerPublisher(
            actor=source or self.actor,
            ranks=self._ranks,
            servers=lambda: [Receiver(self.server.url)],
            config=replace(self._config, verify=verify),
            transport=transport or self.transport,
        )
        return {name: float(fact.value) for name, fact in publisher.publish(self.version).items()}

    def differences(self) -> np.ndarray:
        """[tokens]: what the server says of responses that it samples now, less what the actor says. The actor's
        weights are on the device."""
        samples = self._sample()
        said = np.concatenate([sample.behaviour_logprobs for sample in samples])
        return said - response_logprobs(self.actor, samples)

    def _sample(self) -> list[TrainingSample]:
        draw = np.random.default_rng(self.version)
        prompts = [
            Prompt(prompt_id=f"{n:032x}", token_ids=tuple(row.tolist()), ground_truth="0")
            for n, row in enumerate(draw.integers(2, self.vocab, (NUM_PROMPTS, PROMPT_TOKENS)))
        ]
        answers = self._controller.sample(
            prompts,
            num_samples=NUM_SAMPLES,
            sampling=self._controller.sampling,
            seed_key=f"prove {self.version}",
            policy_version=self.version,
        )
        return [
            TrainingSample(
                group_position=position,
                prompt_id=prompt.prompt_id,
                response_id=scored.response.response_id,
                prompt_token_ids=prompt.token_ids,
                response_token_ids=scored.response.token_ids,
                behaviour_logprobs=scored.response.logprobs,
                advantage=1.0,
                reward=0.0,
                origin="fresh",
                policy_version=self.version,
            )
            for position, (prompt, group) in enumerate(zip(prompts, answers, strict=True))
            for scored in group
        ]
