"""One real server and one real actor, to publish from one to the other and compare what both say. Under torchrun the
actor is cut over its ranks (TP), and the server has as many.

Before a publish the server's weights can be poisoned, so that a tensor which is not sent cannot go unnoticed by having
been right before.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor

from megatron_ar3po.config.load import load_config
from megatron_ar3po.config.weight_sync import WeightSyncConfig
from megatron_ar3po.data.batch_builder import pack
from megatron_ar3po.distributed.collectives import Ranks, start_process_group
from megatron_ar3po.distributed.layout import ParallelLayout
from megatron_ar3po.rollout.controller import RolloutController
from megatron_ar3po.servers.placement import ServerPlacement
from megatron_ar3po.servers.sglang_engine import SglangEngine
from megatron_ar3po.servers.sglang_server import SglangServer
from megatron_ar3po.types import MiniBatch, Prompt, Response, TrainingBatch, TrainingSample, Verdict
from megatron_ar3po.weight_sync.publisher import ServerPublisher
from megatron_ar3po.weight_sync.receiver import Receiver
from megatron_ar3po.weight_sync.server_calls import ServerCalls
from megatron_ar3po.weight_sync.transport import Transport, make_transport

TRANSPORTS = ("tensor", "distributed", "disk")


class NoVerdict:
    version = "none"

    async def verify(self, prompt: Prompt, response: Response) -> Verdict:
        return Verdict(reward=0.0, status="incorrect")

    def close(self) -> None:
        pass


class Poison:
    """Sends other weights than the actor's: random ones for everything, or all but one tensor."""

    def __init__(
        self, actor: Any, change: Callable[[str, Tensor], tuple[str, Tensor] | None]
    ) -> None:
        self._actor, self._change = actor, change

    def hf_buckets(
        self, max_bytes: int, *, on_every_rank: bool = False
    ) -> Iterator[Sequence[tuple[str, Tensor]]]:
        for bucket in self._actor.hf_buckets(max_bytes, on_every_rank=on_every_rank):
            yield [kept for named in bucket if (kept := self._change(*named)) is not None]


class SpoilingTransport:
    """A transport that changes one element of one tensor behind the checksum's back: between what was read off and what
    is sent. `by`: how much is added to it, more than its dtype rounds away."""

    def __init__(
        self, inner: Transport, name: str, element: tuple[int, ...], *, by: float = 1e-3
    ) -> None:
        self._inner, self._name, self._element, self._by = inner, name, element, by
        self.needs_session = inner.needs_session
        self.open, self.finish, self.release = inner.open, inner.finish, inner.release
        self.forget, self.close = inner.forget, inner.close
        self.begin = inner.begin

    def send(
        self, calls: ServerCalls, tensors: Sequence[tuple[str, Tensor]], weight_version: str
    ) -> None:
        self._inner.send(calls, self._spoilt(tensors), weight_version)

    def assist(self, tensors: Sequence[tuple[str, Tensor]], *, is_leader: bool) -> None:
        self._inner.assist(self._spoilt(tensors), is_leader=is_leader)

    def _spoilt(self, tensors: Sequence[tuple[str, Tensor]]) -> list[tuple[str, Tensor]]:
        return [(name, self._spoil(x) if name == self._name else x) for name, x in tensors]

    def _spoil(self, tensor: Tensor) -> Tensor:
        spoilt = tensor.clone()
        spoilt[self._element] += self._by
        return spoilt


class BreakingTransport(SpoilingTransport):
    """A transport whose second bucket fails once, as shared memory that is gone would."""

    def __init__(self, inner: Transport) -> None:
        super().__init__(inner, "", ())
        self.num_sent = 0

    def send(
        self, calls: ServerCalls, tensors: Sequence[tuple[str, Tensor]], weight_version: str
    ) -> None:
        self.num_sent += 1
        if self.num_sent == 2:
            raise FileNotFoundError(2, "No such file or directory")
        self._inner.send(calls, tensors, weight_version)


class Stage:
    """One real server, one real actor, and publishers between them, one for each transport. Server and controller are
    those of rank 0."""

    def __init__(
        self, stack: ExitStack, model: str, folder: Path, *, bucket_bytes: int, vocab_size: int
    ) -> None:
        rank, tp = start_process_group(60.0)
        stack.callback(dist.destroy_process_group)
        config = load_config(
            [],
            [
                f"model.path={model}",
                f"actor.tensor_parallel_size={tp}",
                "rollout.max_response_tokens=6",
                f"weight_sync.bucket_bytes={bucket_bytes}",
                "actor.max_tokens_per_microbatch=4096",
            ],
        )
        self.vocab_size = vocab_size
        server = SglangServer(
            config.servers,
            ServerPlacement(name="publish", tensor_parallel_size=tp),
            model_path=model,
            dtype="float32",
            is_deterministic=False,
            log_dir=folder,
        )
        if rank == 0:
            server.start()
            stack.callback(server.stop)
        from megatron_ar3po.actor.megatron_actor import MegatronActor

        self.config, self.server = config, server
        self.ranks = Ranks(
            ParallelLayout(world_size=tp, rank=rank, tensor_parallel_size=tp), timeout_s=300
        )
        self.actor = MegatronActor(config, self.ranks.layout)
        self.ranks.run_on_first(server.wait_ready)
        self.controller = RolloutController(
            SglangEngine([server], config.servers, vocab_size=vocab_size, is_deterministic=False),
            NoVerdict(),
            config.rollout,
            config.servers,
            run_seed=0,
            stop_token_ids=(1,),
            max_context_tokens=64,
            vocab_size=vocab_size,
        )
        stack.callback(self.controller.close)
        self.versions = itertools.count(1)

        self.transports = {
            name: make_transport(
                WeightSyncConfig(transport=name),
                self.ranks,
                server_tp=tp,
                model_path=Path(model),
                folder=folder / "sync",
            )
            for name in TRANSPORTS
        }
        for transport in self.transports.values():
            stack.callback(transport.close)

    def publish(
        self, source: Any, transport: str | Transport = "tensor", *, verify: bool = False
    ) -> int:
        """The new version. `transport`: one of its own by name, or another."""
        version, tp = next(self.versions), self.ranks.layout.world_size
        publisher = ServerPublisher(
            actor=source,
            ranks=self.ranks,
            servers=lambda: [Receiver(self.server.url, tuple(range(tp)))],
            server_tp=tp,
            config=replace(self.config.weight_sync, verify=verify),
            transport=self.transports[transport] if isinstance(transport, str) else transport,
        )
        facts = publisher.publish(version)
        assert facts["weight_sync/num_buckets"].value > 1
        return version

    def poison(self) -> None:
        generator = torch.Generator().manual_seed(1)
        self.publish(
            Poison(
                self.actor,
                lambda name, t: (name, torch.randn(t.shape, generator=generator).to(t.dtype)),
            )
        )

    def largest_difference(self, policy_version: int) -> float:
        """max |server log-prob - actor log-prob| over the tokens of 32 responses the server samples now. Collective."""
        samples = self.ranks.run_on_first(lambda: self._sample(policy_version))
        mini = MiniBatch(
            micro_batches=(pack(samples, [1.0] * len(samples)),), num_units=1, num_sequences=1
        )
        batch = TrainingBatch(mini_batches=(mini,), num_samples=len(samples), num_tokens=0)
        (micro_batch,) = self.actor.compute_logprobs(batch).micro_batches
        assert micro_batch.old_logprobs is not None
        difference = (micro_batch.old_logprobs - micro_batch.behaviour_logprobs).abs()
        return float((difference * micro_batch.loss_mask).max())

    def sample_logprobs(self, policy_version: int) -> tuple[list[TrainingSample], list[np.ndarray]]:
        """Responses that the server samples now, with its log-probs; and the actor's of each."""
        samples = self._sample(policy_version)
        found = []
        for sample in samples:
            mini = MiniBatch(micro_batches=(pack([sample], [1.0]),), num_units=1, num_sequences=1)
            batch = TrainingBatch(mini_batches=(mini,), num_samples=1, num_tokens=0)
            (micro_batch,) = self.actor.compute_logprobs(batch).micro_batches
            assert micro_batch.old_logprobs is not None
            found.append(micro_batch.old_logprobs[micro_batch.loss_mask > 0].numpy())
        return samples, found

    def _sample(self, policy_version: int) -> list[TrainingSample]:
        prompts = [
            Prompt(prompt_id=f"{n:032x}", token_ids=tuple(int(d) for d in row), ground_truth="0")
            for n, row in enumerate(np.random.default_rng(3).integers(3, self.vocab_size, (8, 8)))
        ]
        answers = self.controller.sample(
            prompts,
            num_samples=4,
            sampling=self.controller.sampling,
            seed_key="publish",
            policy_version=policy_version,
        )
        return [
            TrainingSample(
                group_position=p,
                prompt_id=prompt.prompt_id,
                response_id=scored.response.response_id,
                prompt_token_ids=prompt.token_ids,
                response_token_ids=scored.response.token_ids,
                behaviour_logprobs=scored.response.logprobs,
                advantage=1.0,
                reward=0.0,
                origin="fresh",
                policy_version=policy_version,
            )
            for p, (prompt, group) in enumerate(zip(prompts, answers, strict=True))
            for scored in group
        ]
