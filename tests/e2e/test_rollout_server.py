"""The rollout room on a real SGLang server with a tiny random model. Training is not exercised here."""

from __future__ import annotations

import http.server
import json
import os
import signal
import subprocess
import sys
import textwrap
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import psutil
import pytest
from fakes.tiny_model import MAX_CONTEXT_TOKENS, STOP_TOKEN_ID, VOCAB_SIZE, write_tiny_model
from fakes.verifier import FakeVerifier

from megatron_ar3po.colocation import ACTOR_PARTS, TakingTurns
from megatron_ar3po.config.rollout import RolloutConfig
from megatron_ar3po.config.servers import ServersConfig
from megatron_ar3po.http_client import request
from megatron_ar3po.interfaces import RolloutEngineError
from megatron_ar3po.platform.sglang_launch import shared_memory_files
from megatron_ar3po.rollout.controller import RolloutController
from megatron_ar3po.rollout.ledger import Ledger, check_balance
from megatron_ar3po.rollout.server_scorer import ServerScorer
from megatron_ar3po.servers.arguments import server_argument_names
from megatron_ar3po.servers.control import ServerControl
from megatron_ar3po.servers.counters import read_counters, server_books
from megatron_ar3po.servers.placement import ServerPlacement
from megatron_ar3po.servers.sglang_engine import SglangEngine
from megatron_ar3po.servers.sglang_server import SglangServer
from megatron_ar3po.types import CollectedStep, Prompt, SamplingParams, ScoringRequest, StepPrompt

ROLLOUT = {"num_stages": 2, "responses_per_stage": 4, "max_response_tokens": 12}
SERVERS = {"start_timeout_s": 200.0, "request_timeout_s": 60.0, "max_concurrent_requests": 32}


@pytest.fixture(scope="module")
def model(tmp_path_factory) -> Path:
    return write_tiny_model(tmp_path_factory.mktemp("model"))


@dataclass
class Trainer:
    """A process that starts a server, forks a worker, prints the server's process group and the worker's pid."""

    process: subprocess.Popen[str]
    temporary: Path


@pytest.fixture(scope="module")
def doomed_trainer(model, tmp_path_factory) -> Iterator[Trainer]:
    temporary = tmp_path_factory.mktemp("trainer")
    script = f"""
        import os, sys, time
        sys.path.insert(0, {str(Path(__file__).parents[1])!r})
        from pathlib import Path
        from e2e.test_rollout_server import make_server
        server = make_server(Path({str(model)!r}), Path({str(temporary)!r}))
        server.start()
        server.wait_ready()
        worker = os.fork()
        if worker == 0:
            time.sleep(600)
        print(server.process_group, worker, flush=True)
        time.sleep(600)
    """
    process = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(script)],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "TMPDIR": str(temporary)},
    )
    yield Trainer(process, temporary)
    process.kill()
    process.wait(10)


@pytest.fixture(scope="module")
def server(model, doomed_trainer, tmp_path_factory) -> Iterator[SglangServer]:
    """The other server starts meanwhile, for the last test of this file."""
    server = make_server(model, tmp_path_factory.mktemp("logs"))
    server.start()
    try:
        server.wait_ready()
        set_version(server, 0)
        yield server
    finally:
        server.stop()


def make_server(model: Path, logs: Path, **options) -> SglangServer:
    return SglangServer(
        ServersConfig(**{**SERVERS, **options}),
        ServerPlacement(name="dp0.s0"),
        model_path=str(model),
        dtype="float32",
        is_deterministic=True,
        log_dir=logs,
    )


def set_version(server: SglangServer, version: int) -> None:
    """As a publish does, without weights."""
    body = {"new_version": str(version), "abort_all_requests": False}
    url = server.url + "/update_weight_version"
    assert request("POST", url, json=body, timeout_s=30).status == 200


@pytest.fixture
def make_controller(server):
    made: list[RolloutController] = []

    def make(verifier=None, on_server_lost=None, servers=(), **options) -> RolloutController:
        servers_config = ServersConfig(**{**SERVERS, **dict(servers)})
        engine = SglangEngine(
            [server],
            servers_config,
            vocab_size=VOCAB_SIZE,
            is_deterministic=True,
            on_server_lost=on_server_lost,
        )
        made.append(
            RolloutController(
                engine,
                verifier or FakeVerifier(),
                RolloutConfig(**{**ROLLOUT, **options}),
                servers_config,
                run_seed=3,
                stop_token_ids=(STOP_TOKEN_ID,),
                max_context_tokens=MAX_CONTEXT_TOKENS,
                vocab_size=VOCAB_SIZE,
            )
        )
        return made[-1]

    yield make
    for controller in made:
        controller.close()


def make_prompts(count: int, *, length: int = 8, seed: int = 0) -> list[StepPrompt]:
    draw = np.random.default_rng(seed)
    return [
        StepPrompt(
            position=i,
            prompt=Prompt(
                prompt_id=f"{i:032x}",
                token_ids=tuple(draw.integers(3, VOCAB_SIZE, length).tolist()),
                ground_truth="",
            ),
        )
        for i in range(count)
    ]


def a_third_is_correct(prompt, response) -> bool:
    return int(response.token_ids[0]) % 6 == 0


def test_the_names_of_server_options_are_sglangs_own(server):
    """The check of servers.sglang reads SGLang's source; here its running server says what it knows."""
    info = request("GET", server.url + "/server_info", timeout_s=30).json()
    names = set(server_argument_names())
    assert {"model_path", "tp_size", "mem_fraction_static", "disable_radix_cache"} <= names & set(
        info
    )
    assert len(names & set(info)) > 400


def test_the_server_tells_the_size_of_its_kv_cache(server):
    assert server.kv_tokens() == ServersConfig().max_total_tokens


def test_the_server_imported_no_model_but_those_it_may_serve_and_no_megatron(server):
    log = server.log_path.read_text(encoding="utf-8")
    assert "type=Qwen2ForCausalLM" in log
    # What SGLang and Megatron say where all models and Megatron are imported.
    assert "Ignore import error when loading sglang.srt.models" not in log
    assert "Megatron" not in log


def test_every_response_is_whole_and_the_books_balance(server, make_controller, tmp_path):
    before = read_counters(server.url)
    controller = make_controller(FakeVerifier(a_third_is_correct))
    groups = controller.collect(make_prompts(16), step=1, policy_version=0).groups
    responses = [r.response for g in groups for r in g.responses]
    assert {len(g.responses) for g in groups} == {4, 8}
    for response in responses:
        assert 1 <= response.num_tokens <= 12 and len(response.logprobs) == response.num_tokens
        assert (response.token_ids[-1] == STOP_TOKEN_ID) == (response.finish_reason == "stop")
        assert (response.finish_reason == "length") <= (response.num_tokens == 12)
        assert response.logprobs.min() > -12 and response.logprobs.max() <= 0
        assert (response.policy_version, response.server) == (0, "dp0.s0")
    after = read_counters(server.url)
    assert after.requests - before.requests == len(responses)
    assert after.generated_tokens - before.generated_tokens == sum(r.num_tokens for r in responses)
    assert after.prompt_tokens - before.prompt_tokens == 8 * len(responses)
    # a prompt's second stage finds its prefix in the cache; the responses of one stage are read at once
    assert all(r.num_cached_tokens == 7 for r in responses if r.stage == 2)


def test_same_seed_same_tokens_and_logprobs_to_the_bit_alone_and_in_a_batch(make_controller):
    """Alone the prompts are sampled second: their prefixes are cached then."""
    prompts = [p.prompt for p in make_prompts(6)]
    sampling = SamplingParams(max_response_tokens=12, stop_token_ids=(STOP_TOKEN_ID,))

    def answers(controller, some):
        sampled = controller.sample(
            some, num_samples=4, sampling=sampling, seed_key="eval", policy_version=0
        )
        return [[r.response for r in group] for group in sampled]

    together = answers(make_controller(), prompts)
    alone = [
        answers(make_controller(servers={"max_concurrent_requests": 1}), [p])[0] for p in prompts
    ]
    for batch, single in zip(together, alone, strict=True):
        for a, b in zip(batch, single, strict=True):
            assert a.token_ids.tolist() == b.token_ids.tolist()
            assert a.logprobs.tolist() == b.logprobs.tolist()
    assert sum(r.num_cached_tokens for group in alone for r in group) > 0
    first_group = {tuple(r.token_ids.tolist()) for r in together[0]}
    assert len(first_group) == 4  # other seeds, other answers


def test_continuous_and_barrier_give_identical_groups(make_controller):
    def groups(scheduling):
        verifier = FakeVerifier(a_third_is_correct, delay_s=lambda r: (r.seed % 5) / 1000)
        controller = make_controller(verifier, stage_scheduling=scheduling)
        return controller.collect(make_prompts(24), step=2, policy_version=0).groups

    continuous, barrier = groups("continuous"), groups("barrier")
    assert {g.num_stages for g in continuous} == {1, 2}
    for a, b in zip(continuous, barrier, strict=True):
        assert [r.response.response_id for r in a.responses] == [
            r.response.response_id for r in b.responses
        ]
        assert a.rewards.tolist() == b.rewards.tolist()
        for x, y in zip(a.responses, b.responses, strict=True):
            assert x.response.token_ids.tolist() == y.response.token_ids.tolist()
            assert x.response.logprobs.tolist() == y.response.logprobs.tolist()


def test_every_form_of_requests_gives_the_same_groups_and_the_same_books(server, make_controller):
    """One call a response, a stage, or whatever is let out together. The server has counted the same for each."""

    def collect(form):
        before = read_counters(server.url)
        controller = make_controller(FakeVerifier(a_third_is_correct), servers={"requests": form})
        groups = controller.collect(make_prompts(16, seed=8), step=12, policy_version=0).groups
        (usage,) = controller.engine.usage.values()
        grown = read_counters(server.url) - before
        assert (grown.requests, grown.prompt_tokens, grown.generated_tokens) == (
            usage.requests,
            usage.prompt_tokens,
            usage.generated_tokens,
        )
        assert grown.cached_prompt_tokens == usage.cached_prompt_tokens
        assert grown.abort_calls == usage.lost_requests == usage.aborted_requests == 0
        return groups, (usage.requests, usage.prompt_tokens, usage.generated_tokens)

    single, *others = map(collect, ("single", "stage", "step"))
    assert {group.num_stages for group in single[0]} == {1, 2}
    for other in others:
        assert other[1] == single[1]
        for a, b in zip(single[0], other[0], strict=True):
            assert a.rewards.tolist() == b.rewards.tolist()
            for x, y in zip(a.responses, b.responses, strict=True):
                assert x.response.response_id == y.response.response_id
                assert x.response.token_ids.tolist() == y.response.token_ids.tolist()
                assert x.response.logprobs.tolist() == y.response.logprobs.tolist()


def test_what_was_sampled_token_by_token_is_scored_to_the_bit(make_controller):
    """Up to 120 tokens: four blocks of the attention, the last two filled one token at a time."""
    controller = make_controller(max_response_tokens=40, num_stages=1)
    prompts = [*make_prompts(4, length=5), *make_prompts(2, length=80)]
    groups = controller.collect(
        [StepPrompt(position=i, prompt=p.prompt) for i, p in enumerate(prompts)],
        step=1,
        policy_version=0,
    ).groups
    sampled = [(g.prompt, r.response) for g in groups for r in g.responses]
    requests = [
        ScoringRequest(
            request_id=f"score{i}",
            prompt_token_ids=prompt.token_ids,
            response_token_ids=tuple(response.token_ids.tolist()),
        )
        for i, (prompt, response) in enumerate(sampled)
    ]
    scorings = controller.score(requests, policy_version=0)
    for (_, response), scoring in zip(sampled, scorings, strict=True):
        assert scoring.logprobs.tolist() == response.logprobs.tolist()


def test_logprobs_are_those_of_the_model_in_transformers(model, make_controller):
    """Sampled one token at a time, in a batch, behind a cached prefix; recomputed there in one forward."""
    import torch
    from transformers import AutoModelForCausalLM

    controller = make_controller(max_response_tokens=40, num_stages=1)
    prompts = [*make_prompts(6, length=5), *make_prompts(2, length=90)]
    groups = controller.collect(
        [StepPrompt(position=i, prompt=p.prompt) for i, p in enumerate(prompts)],
        step=1,
        policy_version=0,
    ).groups
    reference = AutoModelForCausalLM.from_pretrained(model, dtype="float32")
    for group in groups:
        for scored in group.responses:
            ids = [*group.prompt.token_ids, *scored.response.token_ids.tolist()]
            with torch.no_grad():
                logprobs = reference(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
            expected = logprobs.gather(1, torch.tensor(ids[1:])[:, None])[:, 0]
            first = len(group.prompt.token_ids) - 1
            np.testing.assert_allclose(
                scored.response.logprobs, expected[first:].numpy(), atol=2e-5
            )


def test_stored_answers_are_scored_as_transformers_scores_them_and_the_books_balance(
    server, model, make_controller, tmp_path
):
    """Sampled at temperature 0.7; scores are those of temperature 1. Nothing is sampled for them."""
    import torch
    from transformers import AutoModelForCausalLM

    controller = make_controller(num_stages=1, temperature=0.7)
    groups = controller.collect(make_prompts(3), step=1, policy_version=0).groups
    asked = [(g.prompt, r.response) for g in groups for r in g.responses]
    before = read_counters(server.url)
    ledger = Ledger(tmp_path / "dp00.jsonl")
    scores = ServerScorer(controller, ledger).mean_logprobs(asked, step=1, policy_version=0)
    reference = AutoModelForCausalLM.from_pretrained(model, dtype="float32")
    for (prompt, response), score in zip(asked, scores, strict=True):
        ids = [*prompt.token_ids, *response.token_ids.tolist()]
        with torch.no_grad():
            logprobs = reference(torch.tensor([ids])).logits[0, :-1].log_softmax(-1)
        expected = logprobs.gather(1, torch.tensor(ids[1:])[:, None])[len(prompt.token_ids) - 1 :]
        assert score == pytest.approx(float(expected.mean()), abs=1e-4)
    after = read_counters(server.url)
    assert after.requests - before.requests == len(asked) == 12
    assert after.generated_tokens == before.generated_tokens
    read = sum(len(p.token_ids) + r.num_tokens for p, r in asked)
    assert after.prompt_tokens - before.prompt_tokens == read
    (row,) = map(json.loads, (tmp_path / "dp00.jsonl").read_text().splitlines())
    assert (row["kind"], row["responses"]) == ("scoring", 12)
    assert row["prompt_tokens"] + row["tokens"] == read


def test_an_answer_that_fills_the_context_is_scored_without_its_last_tokens(make_controller):
    prompt = make_prompts(1, length=500)[0].prompt
    asked = ScoringRequest(
        request_id="long", prompt_token_ids=prompt.token_ids, response_token_ids=tuple(range(5, 17))
    )
    (scoring,) = make_controller().score([asked], policy_version=0)
    assert len(scoring.logprobs) == MAX_CONTEXT_TOKENS - 7 - 500


def test_weights_of_another_version_are_refused(make_controller):
    with pytest.raises(RolloutEngineError, match="policy version 0, the trainer is at 1"):
        make_controller().collect(make_prompts(1), step=1, policy_version=1)


def test_prompt_and_answer_may_fill_the_context_to_the_last_token(make_controller):
    """All but the two tokens that the server keeps; one more is refused before it is sent."""
    controller = make_controller(num_stages=1)
    prompts = make_prompts(2, length=MAX_CONTEXT_TOKENS - 14)
    responses = [
        r.response
        for g in controller.collect(prompts, step=1, policy_version=0).groups
        for r in g.responses
    ]
    assert {r.num_tokens for r in responses if r.finish_reason == "length"} == {12}
    with pytest.raises(ValueError, match="exceeds the model's context of 512"):
        controller.collect(
            make_prompts(1, length=MAX_CONTEXT_TOKENS - 13), step=1, policy_version=0
        )


def test_connections_outlive_a_training_phase(make_controller):
    """SGLang closes idle connections after 5 s unless told otherwise; a request sent on one would be lost."""
    controller = make_controller(num_stages=1)
    controller.collect(make_prompts(8), step=6, policy_version=0)
    time.sleep(6)
    controller.collect(make_prompts(8), step=7, policy_version=0)
    assert controller.engine.usage[("dp0.s0", 0)].lost_requests == 0


def test_killed_server_is_restarted_and_only_its_lost_samples_are_drawn_again(
    server, make_controller, tmp_path
):
    """SIGKILL of the whole server in the middle of a step whose first stages are one call. The tokens of lost and kept
    samples are those of an undisturbed step, since seeds do not depend on who was lost. Weights are not re-published
    here: the server starts from the same file."""

    def restart(lost: SglangServer) -> None:
        lost.restart()
        set_version(lost, 0)

    undisturbed = (
        make_controller(max_response_tokens=100)
        .collect(make_prompts(16), step=5, policy_version=0)
        .groups
    )
    verifier = FakeVerifier()
    controller = make_controller(
        verifier, restart, servers={"requests": "step"}, max_response_tokens=100
    )

    def kill_after_a_few_verdicts() -> None:
        while len(verifier.verified) < 5:
            time.sleep(0.01)
        os.killpg(server.process_group, signal.SIGKILL)

    killer = threading.Thread(target=kill_after_a_few_verdicts)
    killer.start()
    groups = controller.collect(make_prompts(16), step=5, policy_version=0).groups
    killer.join(10)

    assert server.num_restarts == 1
    assert sorted(verifier.verified) == sorted(
        r.response.response_id for g in undisturbed for r in g.responses
    )
    for got, expected in zip(groups, undisturbed, strict=True):
        assert [r.response.token_ids.tolist() for r in got.responses] == [
            r.response.token_ids.tolist() for r in expected.responses
        ]
    lost = controller.engine.usage[("dp0.s0", 0)]
    kept = controller.engine.usage[("dp0.s0", 1)]
    assert lost.requests + kept.requests == len(verifier.verified)
    assert lost.requests >= 5 and lost.lost_requests > 0 and kept.lost_requests == 0
    # the new process has served this controller alone: its books balance to the last token
    living = server_books(controller.engine)[-1]
    assert living.theirs is not None and living.restarts == 1
    check_balance(living.server, living.ours, living.theirs)
    ledger = Ledger(tmp_path / "dp00.jsonl", lambda: server_books(controller.engine))
    ledger.record_step(CollectedStep(groups=tuple(groups)), step=5, policy_version=0)
    ledger.reconcile(step=5)


class RecordingProxy:
    """In front of a real server: passes every request on, and writes down its route and tags beside what the actor is
    told. It has what the rollout wants of a server."""

    num_restarts = 0
    is_at_gate = False

    def __init__(self, server: SglangServer) -> None:
        self.name = server.name
        self.calls: list[str] = []
        self.held = ACTOR_PARTS
        proxy = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                tags = json.loads(body or b"{}").get("tags") if "memory" in self.path else None
                proxy.calls.append(" ".join([self.path.partition("?")[0], *(tags or [])]))
                sent = request(
                    self.command,
                    server.url + self.path,
                    json=json.loads(body or b"null"),
                    timeout_s=60,
                )
                self.send_response(sent.status)
                self.send_header("Content-Length", str(len(sent.body)))
                self.end_headers()
                self.wfile.write(sent.body)

            do_GET = do_POST

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._http = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, daemon=True).start()

    def is_running(self) -> bool:
        return True

    def wait_ready(self) -> float:
        return 0.0

    def restart_behind_gate(self) -> None:
        raise AssertionError("it lives")

    def open_gate(self) -> None:
        raise AssertionError("it has none")

    def log_tail(self) -> str:
        return ""

    def offload(self, *, keep_weights: bool = False) -> None:
        self.calls.append("actor offload, weights stay" if keep_weights else "actor offload")

    def onload(self, *, gradients: bool = True) -> None:
        self.calls.append("actor onload")

    def close(self) -> None:
        self._http.shutdown()
        self._http.server_close()


def test_sleep_and_wake_reach_the_server_in_the_order_of_the_phases(server):
    """Rollout, training, publish, rollout through a proxy that records. Without a GPU the server takes the calls and
    has no memory to give back; which bytes are freed where is not seen here."""
    proxy = RecordingProxy(server)
    servers = ServersConfig(**SERVERS)
    controller = RolloutController(
        SglangEngine([proxy], servers, vocab_size=VOCAB_SIZE, is_deterministic=True),
        FakeVerifier(),
        RolloutConfig(**{**ROLLOUT, "responses_per_stage": 1, "num_stages": 1}),
        servers,
        run_seed=3,
        stop_token_ids=(STOP_TOKEN_ID,),
        max_context_tokens=MAX_CONTEXT_TOKENS,
        vocab_size=VOCAB_SIZE,
    )
    control = ServerControl([proxy], timeout_s=60)
    phases = TakingTurns(control, lambda task: task())
    try:
        phases.enter_start_phase()
        phases.admit_servers(proxy)  # type: ignore[arg-type]
        phases.enter_rollout_phase()
        controller.collect(make_prompts(1), step=1, policy_version=0)
        phases.enter_train_phase()
        proxy.calls.append("-- training")
        phases.enter_sync_phase()
        control.set_weight_version(0)
        phases.enter_rollout_phase()
        controller.collect(make_prompts(1), step=2, policy_version=0)
    finally:
        controller.close()
        proxy.close()
    assert proxy.calls == [
        *("/flush_cache", "/release_memory_occupation kv_cache weights"),
        *("actor offload", "actor offload", "/resume_memory_occupation kv_cache weights"),
        *("/generate", "/flush_cache"),
        *("/flush_cache", "/release_memory_occupation kv_cache weights", "actor onload"),
        "-- training",
        *("/flush_cache", "actor offload, weights stay", "/resume_memory_occupation weights"),
        "/update_weight_version",
        *("actor offload", "/resume_memory_occupation kv_cache", "/generate"),
    ]


def test_nothing_is_left_when_the_trainer_is_killed(doomed_trainer):
    """SIGKILL leaves the trainer no chance to stop its server; a forked worker of the trainer lives on meanwhile."""
    assert doomed_trainer.process.stdout is not None
    group, worker = map(int, doomed_trainer.process.stdout.readline().split())
    assert len(processes_of(group)) >= 3  # launcher, scheduler, detokenizer
    shared = shared_memory_files(group)
    assert shared and list(doomed_trainer.temporary.glob("ar3po_server_*"))
    doomed_trainer.process.kill()
    deadline = time.monotonic() + 20
    while processes_of(group) and time.monotonic() < deadline:
        time.sleep(0.1)
    os.kill(worker, signal.SIGKILL)
    assert processes_of(group) == []
    assert not any(path.exists() for path in shared)
    assert list(doomed_trainer.temporary.glob("ar3po_server_*")) == []


def processes_of(group: int) -> list[str]:
    found = []
    for process in psutil.process_iter(["name", "status"]):
        try:
            if os.getpgid(process.pid) == group and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process.name())
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found
