"""The publisher against a server of a few lines that keeps SGLang's rules. tests/e2e does it with the real one."""

from __future__ import annotations

import hashlib
import json
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist
from safetensors.torch import load_file

from megatron_ar3po.config.weight_sync import WeightSyncConfig
from megatron_ar3po.distributed.collectives import Ranks, start_process_group
from megatron_ar3po.distributed.layout import ParallelLayout
from megatron_ar3po.interfaces import WeightPublishError
from megatron_ar3po.records import Max
from megatron_ar3po.weight_sync.publisher import ServerPublisher
from megatron_ar3po.weight_sync.receiver import Receiver
from megatron_ar3po.weight_sync.shared_bucket import import_sglang
from megatron_ar3po.weight_sync.transport import make_transport

ATTENTION = "model.layers.0.self_attn."
WEIGHTS = {
    "model.embed_tokens.weight": torch.arange(20.0).view(5, 4),
    f"{ATTENTION}q_proj.weight": torch.full((4, 4), 1.0),
    f"{ATTENTION}k_proj.weight": torch.full((2, 4), 2.0),
    f"{ATTENTION}v_proj.weight": torch.full((2, 4), 3.0),
    "model.norm.weight": torch.full((4,), 4.0),
}
MakePublisher = Callable[..., ServerPublisher]
BUCKETS = (("model.embed_tokens.weight",), tuple(WEIGHTS)[1:4], ("model.norm.weight",))


class FakeActor:
    """Only what a publish asks of an actor."""

    def __init__(self, buckets: Sequence[Sequence[str]] = BUCKETS) -> None:
        self.buckets = buckets
        self.buckets_taken = 0

    def hf_buckets(
        self, max_bytes: int, *, on_every_rank: bool = False
    ) -> Iterator[Sequence[tuple[str, torch.Tensor]]]:
        for names in self.buckets:
            self.buckets_taken += 1
            yield [(name, WEIGHTS[name]) for name in names]


class FakeServer(ThreadingHTTPServer):
    """Holds tensors under HF names; answers with a checksum of each as SGLang would name it."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.calls: list[str] = []
        self.held: dict[str, torch.Tensor] = {}
        self.version = "default"
        self.refuses = ""
        self.refuses_once = ""
        self.hangs_at = ""
        self.always_states = ""  # this version, whatever it was given
        self.spoils = ""  # the tensor of this name, as it arrives
        self.versions_on_the_way: list[str] = []
        self.folders: list[str] = []
        self.has_session = False
        self.released = threading.Event()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def answer(self, route: str, body: dict[str, Any]) -> dict[str, Any]:
        if route == "/update_weights_from_tensor":
            self.versions_on_the_way.append(body["weight_version"])
            self._load(body["serialized_named_tensors"][0])
            if self.spoils in self.held:
                self.held[self.spoils][1, 2] += 1e-3
        if route == "/update_weights_from_disk":
            self.versions_on_the_way.append(body["weight_version"])
            for file in sorted(Path(body["model_path"]).glob("*.safetensors")):
                self.held |= load_file(file)
            self.folders.append(body["model_path"])
        if route == "/update_weight_version":
            self.version = body["new_version"]
        if route == "/model_info":
            return {"weight_version": self.always_states or self.version}
        if route == "/weights_checker":
            return {"ranks": [{"checksums": self.checksums()}]}
        return {"success": True}

    def break_session_rule(self, route: str) -> bool:
        """One session at a time, and none is ended twice."""
        if route in ("/begin_weight_update", "/end_weight_update"):
            was_open, self.has_session = self.has_session, route == "/begin_weight_update"
            return was_open == self.has_session
        return False

    def _load(self, payload: str) -> None:
        from sglang.srt.utils import MultiprocessingSerializer

        content = MultiprocessingSerializer.deserialize(payload)
        for part in content["metadata"]:
            flat = content["flattened_tensor"][part.start_idx : part.end_idx]
            self.held[part.name] = flat.view(part.dtype).view(part.shape).clone()

    def checksums(self) -> dict[str, str]:
        qkv = [self.held.get(f"{ATTENTION}{x}_proj.weight", torch.zeros(1, 4)) for x in "qkv"]
        embedding = self.held.get("model.embed_tokens.weight", torch.zeros(5, 4))
        tensors = {
            "model.embed_tokens.weight": torch.cat([embedding, torch.zeros(59, 4)]),  # 64 rows
            f"{ATTENTION}qkv_proj.weight": torch.cat(qkv),
            "model.norm.weight": self.held.get("model.norm.weight", torch.zeros(4)),
        }
        return {n: hashlib.sha256(x.numpy().tobytes()).hexdigest()[:16] for n, x in tensors.items()}


class Handler(BaseHTTPRequestHandler):
    server: FakeServer

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        self._answer(json.loads(self.rfile.read(length) or b"null") or {})

    def do_GET(self) -> None:
        self._answer({})

    def _answer(self, body: dict[str, Any]) -> None:
        route = self.path.partition("?")[0]
        self.server.calls.append(route)
        if route == self.server.hangs_at:
            self.server.released.wait(20)
        is_refused = route in (self.server.refuses, self.server.refuses_once)
        if route == self.server.refuses_once:
            self.server.refuses_once = ""
        status = 400 if is_refused or self.server.break_session_rule(route) else 200
        text = "no such weight" if status == 400 else json.dumps(self.server.answer(route, body))
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, *_: object) -> None: ...


@pytest.fixture(scope="module")
def ranks() -> Iterator[Ranks]:
    import_sglang(with_checksums=True)  # the server of these tests unpickles as SGLang does
    is_mine = not dist.is_initialized()
    if is_mine:
        start_process_group(30.0)
    yield Ranks(ParallelLayout(), 30.0)
    if is_mine:
        dist.destroy_process_group()


@pytest.fixture
def server() -> Iterator[FakeServer]:
    server = FakeServer()
    thread = threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    yield server
    server.released.set()
    server.shutdown()
    server.server_close()
    thread.join(10)


@pytest.fixture
def publisher(ranks: Ranks, tmp_path: Path) -> Iterator[MakePublisher]:
    made: list[ServerPublisher] = []
    model = tmp_path / "model"
    model.mkdir()
    (model / "config.json").write_text("{}")

    def make(
        *servers: FakeServer, actor: FakeActor | None = None, **options: Any
    ) -> ServerPublisher:
        config = WeightSyncConfig(**options)
        made.append(
            ServerPublisher(
                actor=actor or FakeActor(),  # type: ignore[arg-type]
                ranks=ranks,
                servers=lambda: [Receiver(server.url) for server in servers],
                config=config,
                transport=make_transport(
                    config, ranks, server_tp=1, model_path=model, folder=tmp_path / "sync"
                ),
            )
        )
        return made[-1]

    yield make
    for one in made:
        one.close()


def test_the_calls_come_in_the_order_that_the_server_wants(
    publisher: MakePublisher, server: FakeServer
) -> None:
    publisher(server).publish(7)
    assert server.calls == [
        "/pause_generation",
        "/flush_cache",
        "/begin_weight_update",
        "/update_weights_from_tensor",
        "/update_weights_from_tensor",
        "/update_weights_from_tensor",
        "/end_weight_update",
        "/flush_cache",
        "/update_weight_version",
        "/model_info",
        "/continue_generation",
    ]


def test_every_tensor_arrives_bit_for_bit_and_is_counted(
    publisher: MakePublisher, server: FakeServer
) -> None:
    metrics = publisher(server).publish(7)
    assert server.held.keys() == WEIGHTS.keys()
    assert all(torch.equal(server.held[name], WEIGHTS[name]) for name in WEIGHTS)
    assert metrics["weight_sync/num_buckets"] == Max(3)
    assert metrics["weight_sync/bytes"] == Max(4 * (20 + 16 + 8 + 8 + 4))


def test_all_servers_of_a_replica_get_the_weights(
    publisher: MakePublisher, server: FakeServer
) -> None:
    second = FakeServer()
    thread = threading.Thread(target=second.serve_forever, args=(0.01,), daemon=True)
    thread.start()
    publisher(server, second).publish(1)
    second.shutdown()
    second.server_close()
    assert server.held.keys() == second.held.keys() == WEIGHTS.keys()
    assert server.version == second.version == "1"


def test_a_revived_server_gets_the_version_that_was_last_published(
    publisher: MakePublisher, server: FakeServer
) -> None:
    one = publisher(server)
    one.publish(3)
    server.held.clear()
    server.version = "default"
    one.republish(server.url)
    assert server.held.keys() == WEIGHTS.keys() and server.version == "3"


def test_no_answer_can_carry_a_version_while_buckets_are_missing(
    publisher: MakePublisher, server: FakeServer
) -> None:
    publisher(server).publish(7)
    assert server.versions_on_the_way == ["unfinished-7"] * 3 and server.version == "7"


def test_a_refused_bucket_names_server_call_and_reason_and_leaves_it_paused(
    publisher: MakePublisher, server: FakeServer
) -> None:
    server.refuses = "/update_weights_from_tensor"
    actor = FakeActor()
    with pytest.raises(WeightPublishError) as caught:
        publisher(server, actor=actor).publish(7)
    message = str(caught.value)
    assert server.url in message and "status 400: no such weight" in message
    assert "/continue_generation" not in server.calls
    assert actor.buckets_taken == 6  # the export is collective: it ran to its end, in both tries


@pytest.mark.parametrize("route", ["/update_weights_from_tensor", "/end_weight_update"])
def test_what_a_server_refuses_once_is_published_anew(
    publisher: MakePublisher, server: FakeServer, caplog: pytest.LogCaptureFixture, route: str
) -> None:
    """The session of the first try is ended first: SGLang refuses a second one."""
    server.refuses_once = route
    publisher(server).publish(7)
    assert server.held.keys() == WEIGHTS.keys() and server.version == "7"
    assert server.calls.count("/begin_weight_update") == 2 and not server.has_session
    assert server.calls[-1] == "/continue_generation"
    assert "version 7 is published once more" in caplog.text and route in caplog.text


def test_what_fails_here_once_is_published_anew(
    publisher: MakePublisher, server: FakeServer
) -> None:
    """Shared memory or a file that was gone when a trainer that had stood still went on."""
    one = publisher(server)
    send, failures = one._transport.send, ["No such file or directory"]

    def send_once_in_vain(*arguments: Any) -> None:
        if failures:
            raise FileNotFoundError(failures.pop())
        send(*arguments)

    one._transport.send = send_once_in_vain  # type: ignore[method-assign]
    one.publish(7)
    assert server.held.keys() == WEIGHTS.keys() and server.version == "7"


def test_weights_that_arrived_wrong_are_not_sent_again(
    publisher: MakePublisher, server: FakeServer
) -> None:
    server.spoils = f"{ATTENTION}k_proj.weight"
    with pytest.raises(WeightPublishError, match=r"qkv_proj\.weight differs"):
        publisher(server, verify=True).publish(7)
    assert server.calls.count("/begin_weight_update") == 1


def test_a_time_limit_that_passed_while_the_trainer_stood_still_says_nothing_of_the_server(
    server: FakeServer,
) -> None:
    """A call with 3 s is on its way when its process is stopped for 8 s: it may pass. Without the stop it hangs."""
    server.hangs_at = "/flush_cache"
    call = (
        "import sys\n"
        "from megatron_ar3po.weight_sync.server_calls import ServerCalls\n"
        "print('ready', flush=True)\n"
        "try: ServerCalls(['x'], policy_version=7, timeout_s=3).post(sys.argv[1], '/flush_cache')\n"
        "except Exception as error: print(type(error).__name__, error)\n"
    )

    def outcome(stop_s: float) -> str:
        process = subprocess.Popen(
            [sys.executable, "-c", call, server.url], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        while "/flush_cache" not in server.calls:
            time.sleep(0.01)
        if stop_s:
            process.send_signal(signal.SIGSTOP)
            time.sleep(stop_s)
            process.send_signal(signal.SIGCONT)
        out, _ = process.communicate(timeout=30)
        server.calls.clear()
        return out

    assert outcome(8.0).startswith("PassingPublishError this process stood still for about ")
    assert outcome(0.0).startswith("WeightPublishError")


def test_a_server_that_stops_answering_is_given_up_in_time(
    publisher: MakePublisher, server: FakeServer
) -> None:
    server.hangs_at = "/end_weight_update"
    with pytest.raises(
        WeightPublishError, match=r"/end_weight_update within weight_sync\.timeout_s=0\.5"
    ):
        publisher(server, timeout_s=0.5).publish(7)


def test_a_server_that_is_gone_is_named(publisher: MakePublisher) -> None:
    server = FakeServer()
    server.server_close()
    with pytest.raises(WeightPublishError, match=rf"{server.url} was lost at /pause_generation"):
        publisher(server).publish(7)


def test_a_server_that_states_another_version_is_not_trusted(
    publisher: MakePublisher, server: FakeServer
) -> None:
    server.always_states = "6"
    with pytest.raises(WeightPublishError, match="says weight_version='6' instead of '7'"):
        publisher(server).publish(7)


def test_verification_accepts_what_arrived_whole(
    publisher: MakePublisher, server: FakeServer
) -> None:
    publisher(server, verify=True).publish(7)
    assert "/weights_checker" in server.calls and server.calls[-1] == "/continue_generation"


def test_verification_names_a_corrupted_tensor(
    publisher: MakePublisher, server: FakeServer
) -> None:
    server.spoils = f"{ATTENTION}k_proj.weight"
    with pytest.raises(WeightPublishError, match=r"1 tensors: .*qkv_proj\.weight differs"):
        publisher(server, verify=True).publish(7)


def test_verification_names_a_tensor_that_was_never_sent(
    publisher: MakePublisher, server: FakeServer
) -> None:
    actor = FakeActor(buckets=BUCKETS[:-1])
    with pytest.raises(WeightPublishError, match=r"model\.norm\.weight was never sent"):
        publisher(server, actor=actor, verify=True).publish(7)


def test_no_shared_memory_is_left_behind(publisher: MakePublisher, server: FakeServer) -> None:
    before = set(Path("/dev/shm").glob("torch_*"))
    one = publisher(server)
    for version in range(3):
        one.publish(version)
    assert len(set(Path("/dev/shm").glob("torch_*")) - before) == 2  # kept between publishes
    one.close()
    assert set(Path("/dev/shm").glob("torch_*")) <= before


# --- from disk


def test_from_disk_there_is_no_session_and_the_version_comes_last(
    publisher: MakePublisher, server: FakeServer
) -> None:
    publisher(server, transport="disk").publish(7)
    assert server.calls == [
        "/pause_generation",
        "/flush_cache",
        "/update_weights_from_disk",
        "/flush_cache",
        "/update_weight_version",
        "/model_info",
        "/continue_generation",
    ]
    assert server.versions_on_the_way == ["unfinished-7"] and server.version == "7"
    assert all(torch.equal(server.held[name], WEIGHTS[name]) for name in WEIGHTS)


def test_from_disk_only_the_newest_folder_is_kept_and_none_after_the_run(
    publisher: MakePublisher, server: FakeServer, tmp_path: Path
) -> None:
    one = publisher(server, transport="disk", verify=True)
    for version in (1, 2, 3):
        one.publish(version)
    assert [Path(folder).name for folder in server.folders] == [
        "version-1",
        "version-2",
        "version-3",
    ]
    assert [path.name for path in (tmp_path / "sync").iterdir()] == ["version-3"]
    assert {p.name for p in (tmp_path / "sync" / "version-3").iterdir()} == {
        "config.json",
        "model.safetensors.index.json",
        *(f"model-{n:05d}.safetensors" for n in (1, 2, 3)),
    }
    one.close()
    assert list((tmp_path / "sync").iterdir()) == []


def test_a_refused_folder_leaves_the_one_before_for_the_server_to_go_back_to(
    publisher: MakePublisher, server: FakeServer, tmp_path: Path
) -> None:
    one = publisher(server, transport="disk")
    one.publish(1)
    server.refuses = "/update_weights_from_disk"
    with pytest.raises(WeightPublishError, match="refused /update_weights_from_disk of version 2"):
        one.publish(2)
    assert (tmp_path / "sync" / "version-1").is_dir() and server.version == "1"


def test_a_folder_that_cannot_be_written_is_an_error_of_the_publish(
    publisher: MakePublisher, server: FakeServer, tmp_path: Path
) -> None:
    (tmp_path / "sync").write_text("a file where the folder should be")
    with pytest.raises(WeightPublishError, match=r"NotADirectoryError.*sync"):
        publisher(server, transport="disk").publish(1)
    assert "/continue_generation" not in server.calls
