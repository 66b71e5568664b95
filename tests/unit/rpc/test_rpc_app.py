"""The HTTP port, through ASGI and once through a socket."""

from __future__ import annotations

import asyncio
import base64
import itertools
import json
from collections.abc import AsyncIterator
from types import SimpleNamespace
from typing import Any

import httpx
import msgspec
import pytest

from tepbft.core.block import NORMAL, Block, Header, Receipt, Request, encode_body
from tepbft.core.certificates import CheckpointCertificate, CommitCertificate, Vote
from tepbft.core.configuration import Genesis, Member, Parameters, decode_genesis
from tepbft.core.events import Busy, ClientRequests, Effects, Event, Reply
from tepbft.core.receipt_tree import receipts_root
from tepbft.node.status import NodeStatus
from tepbft.rpc import app as app_module
from tepbft.rpc.app import create_app
from tepbft.rpc.endpoints import DECLINED, ENDPOINTS, MAX_BODY_BYTES
from tepbft.rpc.openapi import openapi
from tepbft.rpc.server import HttpServer
from tepbft.runtime.bridge import Bridge
from tepbft.runtime.inbox import Inbox
from tepbft.runtime.metrics import Metrics
from tepbft.runtime.transport import bind
from tepbft.runtime.view import NodeView
from tepbft.storage.port import StoredBlock
from tepbft.types import ConnectionId
from tepbft.wire import encode

CLIENT = b"\x0c" * 16
PATH = f"{CLIENT.hex()}/1/7"
RECEIPT = Receipt(CLIENT, 1, 7, b"d" * 32, 0, b"done")
MEMBERS = tuple(
    Member(n, bytes([n]) * 16, b"k", b"n", b"o", bytes([n]) * 32, "127.0.0.1", 1, 2, 3) for n in range(3)
)
GENESIS = Genesis("tep", "kv", "none", 1, b"n" * 16, MEMBERS, (), Parameters())


def stored(height: int) -> StoredBlock:
    """A final block with one request."""
    body = encode_body([Request(CLIENT, 1, 7, b"op", b"")])
    block = Block(0, height, NORMAL, 5, 1, body)
    certificate = CommitCertificate(0, 0, height, block.digest(GENESIS.chain_id), (Vote(0, 1, b"s"),))
    zero = bytes(32)
    header = Header(height, 5, certificate.digest, zero, zero, receipts_root([RECEIPT]), zero, zero)
    return StoredBlock(block, certificate, header, encode([RECEIPT]))


class FakeStore:
    """Blocks 1 to 5, the last one stable if `stable`."""

    def __init__(self) -> None:
        self.stable = True

    def block(self, height: int) -> StoredBlock | None:
        return stored(height) if 1 <= height <= 5 else None

    def stable_at_or_above(self, height: int) -> tuple[CheckpointCertificate, Header] | None:
        header = stored(height).header
        assert header is not None
        if not self.stable:
            return None
        return CheckpointCertificate(0, height, header.digest(), (Vote(0, 1, b"s"),)), header

    def configurations(self) -> list[bytes]:
        return []

    def link(self, number: int) -> bytes | None:
        return None


class World:
    """A view on fakes; `answer` says what the node does with a request."""

    def __init__(self) -> None:
        self.inbox = Inbox(1 << 20)
        numbers = itertools.count(1)
        self.bridge = Bridge(self.inbox, lambda: ConnectionId(next(numbers)), 4)
        self.store = FakeStore()
        self.outcomes = {(CLIENT, 1, 7): (3, RECEIPT)}
        self.answer: Any = lambda event: Effects(replies=[Reply(event.connection, 3, [RECEIPT])])
        self.phase, self.heals = "active", True
        node = SimpleNamespace(
            configuration=GENESIS.configuration(), find_outcome=lambda *key: self.outcomes.get(key)
        )
        self.core = SimpleNamespace(node=node, store=self.store)
        self.metrics = Metrics()
        self.view = NodeView(GENESIS, self, self.bridge, self.metrics, timeout_ms=200)  # type: ignore[arg-type]
        self.inbox.wake = lambda: asyncio.get_running_loop().call_soon(self.turn) and None

    def turn(self) -> None:
        """What the shell does, as far as it matters here."""
        for _, event in self.inbox.take(100):
            self.handle(event)

    def handle(self, event: Event) -> None:
        if not isinstance(event, ClientRequests):
            return
        effects = self.answer(event)
        for reply in effects.replies:
            self.bridge.reply(reply)
        for busy in effects.busy:
            self.bridge.busy(busy)

    def status(self) -> NodeStatus:
        return NodeStatus(
            0, GENESIS.chain_id.hex(), "tep", self.phase, 0, 0, 3, 1, 2, 0, 5, 5, "00", "00", 0, 0, 0,
            self.heals, "works; any 1 nodes may fail", [], {}, "6 workers",
        )  # fmt: skip


@pytest.fixture
def world() -> World:
    return World()


@pytest.fixture
async def http(world: World) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(create_app(world.view), raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://node") as client:
        yield client


def body(**more: Any) -> dict[str, Any]:
    found = {"client": CLIENT.hex(), "session": 1, "seq": 7, "op": "b3A=", "auth": ""}
    return {**found, **more}


def error_of(answer: httpx.Response) -> dict[str, str]:
    """The error in an answer, whose form is checked."""
    assert answer.headers["content-type"] == "application/json"
    found: dict[str, str] = answer.json()["error"]
    assert set(found) == {"thing", "reason", "remedy"}
    assert all(found.values())
    assert "Traceback" not in answer.text and ".py" not in answer.text
    return found


async def test_a_request_is_answered_with_its_outcome(world: World, http: httpx.AsyncClient) -> None:
    seen: list[Event] = []
    plain = world.answer
    world.answer = lambda event: (seen.append(event), plain(event))[1]
    answer = await http.post("/v1/requests", json=body(auth=base64.b64encode(b"sig").decode()))
    assert answer.status_code == 200
    assert answer.json() == {
        "height": 3,
        "client": CLIENT.hex(),
        "session": 1,
        "seq": 7,
        "request_digest": (b"d" * 32).hex(),
        "status": "ok",
        "result": base64.b64encode(b"done").decode(),
    }
    (event,) = seen
    assert isinstance(event, ClientRequests)
    assert list(event.requests) == [Request(CLIENT, 1, 7, b"op", b"sig")]


async def test_waiting_for_a_proof(world: World, http: httpx.AsyncClient) -> None:
    world.bridge.stable(5)
    answer = await http.post("/v1/requests?wait=stable", json=body())
    assert answer.status_code == 200
    assert answer.json()["proof"] == (await http.get(f"/v1/receipts/{PATH}")).json()
    assert answer.json()["proof"]["format"] == "tepbft-receipt-1"


async def test_not_finished_in_time(world: World, http: httpx.AsyncClient) -> None:
    answer = await http.post("/v1/requests?wait=stable", json=body())
    assert (answer.status_code, answer.json()["state"]) == (202, "executed")
    assert answer.json()["receipt"]["height"] == 3
    world.answer = lambda event: Effects()
    answer = await http.post("/v1/requests?timeout_ms=20", json=body())
    assert (answer.status_code, answer.json()["state"]) == (202, "pending")
    assert "0.02 s" in answer.json()["reason"]
    assert world.bridge.waiting == 0


@pytest.mark.parametrize("code", [*DECLINED, "something_new"])
async def test_what_the_node_does_not_take_up(world: World, http: httpx.AsyncClient, code: str) -> None:
    world.answer = lambda event: Effects(busy=[Busy(event.connection, [(CLIENT, 1, 7, code)])])
    answer = await http.post("/v1/requests", json=body())
    assert answer.status_code == DECLINED.get(code, (400,))[0]
    error_of(answer)
    assert ("retry-after" in answer.headers) == (answer.status_code == 429)


async def test_too_many_waiters_are_told_to_come_again(world: World, http: httpx.AsyncClient) -> None:
    world.answer = lambda event: Effects()
    waiting = [asyncio.create_task(http.post("/v1/requests", json=body())) for _ in range(4)]
    while world.bridge.waiting < 4:  # noqa: ASYNC110
        await asyncio.sleep(0)
    answer = await http.post("/v1/requests", json=body())
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "1")
    assert [answer.status_code for answer in await asyncio.gather(*waiting)] == [202] * 4


@pytest.mark.parametrize(
    ("content", "status"),
    [
        (b"", 400),
        (b"{", 400),
        (b"[]", 400),
        (b"\xff\xfe", 400),
        (b"[" * 100_000, 400),
        (json.dumps(body(client="zz")).encode(), 400),
        (json.dumps(body(client=CLIENT.hex().upper())).encode(), 400),
        (json.dumps(body(seq=-1)).encode(), 400),
        (json.dumps(body(seq=2**63)).encode(), 400),
        (json.dumps(body(op="!!")).encode(), 400),
        (json.dumps(body(extra=1)).encode(), 400),
        (json.dumps({"client": CLIENT.hex()}).encode(), 400),
        (json.dumps(body(op=base64.b64encode(bytes((1 << 18) + 1)).decode())).encode(), 413),
        (b" " * (MAX_BODY_BYTES + 1), 413),
    ],
)
async def test_bad_bodies(http: httpx.AsyncClient, content: bytes, status: int) -> None:
    answer = await http.post("/v1/requests", content=content)
    assert answer.status_code == status
    error_of(answer)


async def test_a_body_without_announced_length_is_bounded_too(http: httpx.AsyncClient) -> None:
    async def endless() -> AsyncIterator[bytes]:
        while True:
            yield b" " * 65536

    answer = await http.post("/v1/requests", content=endless())
    assert answer.status_code == 413
    error_of(answer)


async def test_a_body_that_does_not_arrive(
    world: World, http: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(app_module, "BODY_TIMEOUT_S", 0.02)
    sent: list[dict[str, Any]] = []
    scope = {
        "type": "http", "method": "POST", "path": "/v1/requests", "query_string": b"", "headers": [],
        "http_version": "1.1", "scheme": "http", "server": ("n", 80), "client": ("c", 1),
    }  # fmt: skip

    async def receive() -> dict[str, Any]:
        await asyncio.sleep(60)
        return {}

    async def send(message: Any) -> None:
        sent.append(message)

    await create_app(world.view)(scope, receive, send)
    assert sent[0]["status"] == 408


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("GET", "/v1/blocks/6", 404),
        ("GET", "/v1/blocks/x", 400),
        ("GET", "/v1/blocks/-1", 400),
        ("GET", "/v1/blocks/99999999999999999999", 400),
        ("GET", "/v1/blocks?limit=0", 400),
        ("GET", "/v1/blocks?limit=65", 400),
        ("GET", "/v1/blocks?form=1", 400),
        ("GET", "/v1/status?x=1", 400),
        ("GET", f"/v1/requests/{CLIENT.hex()}/1/8", 404),
        ("GET", "/v1/requests/zz/1/8", 400),
        ("GET", f"/v1/receipts/{CLIENT.hex()}/2/7", 404),
        ("GET", "/v1/nothing", 404),
        ("GET", "/", 404),
        ("DELETE", "/v1/status", 405),
        ("GET", "/v1/requests", 405),
        ("POST", "/v1/requests?wait=never", 400),
        ("POST", "/v1/requests?timeout_ms=a", 400),
    ],
)
async def test_bad_paths_and_parameters(http: httpx.AsyncClient, method: str, path: str, status: int) -> None:
    answer = await http.request(method, path, json=body() if method == "POST" else None)
    assert answer.status_code == status
    error_of(answer)


async def test_a_failure_inside_says_nothing_of_the_inside(world: World, http: httpx.AsyncClient) -> None:
    def broken(height: int) -> None:
        raise RuntimeError("/secret/path.py")

    world.store.block = broken  # type: ignore[method-assign, assignment]
    answer = await http.get("/v1/blocks/1")
    assert answer.status_code == 500
    error_of(answer)
    assert "secret" not in answer.text


async def test_blocks(http: httpx.AsyncClient) -> None:
    listed = (await http.get("/v1/blocks?from=2&limit=2")).json()
    assert [block["height"] for block in listed["blocks"]] == [2, 3]
    assert listed["next"] == 4
    assert (await http.get("/v1/blocks?from=4")).json()["next"] is None
    one = (await http.get("/v1/blocks/2")).json()
    assert one["requests"] == [{"client": CLIENT.hex(), "session": 1, "seq": 7, "op": "b3A="}]
    assert one["receipts"][0]["status"] == "ok"
    assert "requests" not in listed["blocks"][0]
    assert one["header"]["digest"] == stored(2).header.digest().hex()  # type: ignore[union-attr]


async def test_outcomes_and_receipts(world: World, http: httpx.AsyncClient) -> None:
    assert (await http.get(f"/v1/requests/{PATH}")).json()["height"] == 3
    world.store.stable = False
    answer = await http.get(f"/v1/receipts/{PATH}")
    assert (answer.status_code, answer.headers["retry-after"]) == (409, "1")
    assert "stable" in error_of(answer)["reason"]


async def test_what_the_node_says_of_itself(world: World, http: httpx.AsyncClient) -> None:
    status = msgspec.json.decode((await http.get("/v1/status")).content, type=NodeStatus)
    assert status == world.status()
    assert decode_genesis((await http.get("/v1/genesis")).content) == GENESIS
    cfg = (await http.get("/v1/configuration")).json()
    assert (cfg["n"], cfg["commit_quorum"], len(cfg["members"])) == (3, 2, 3)
    assert cfg["digest"] == GENESIS.configuration().digest().hex()
    assert status.verification == "6 workers"
    assert (
        "verification"
        in (await http.get("/openapi.json")).json()["components"]["schemas"]["NodeStatus"]["properties"]
    )
    assert "tepbft_executed_blocks_total" in (await http.get("/metrics")).text


@pytest.mark.parametrize(
    ("phase", "heals", "status"),
    [
        ("active", True, 200),
        ("view_change", True, 200),
        ("silent", True, 200),
        ("silent", False, 503),
        ("halted", False, 503),
        ("diverged", False, 503),
    ],
)
async def test_health(world: World, http: httpx.AsyncClient, phase: str, heals: bool, status: int) -> None:
    world.phase, world.heals = phase, heals
    answer = await http.get("/health")
    assert answer.status_code == status
    assert answer.json()["verdict"]


# --- the OpenAPI document ---------------------------------------------------------------------


def references(value: Any) -> set[str]:
    """Every $ref in a document."""
    if isinstance(value, dict):
        found = {value["$ref"]} if isinstance(value.get("$ref"), str) else set()
        return found.union(*map(references, value.values()))
    return set().union(*map(references, value)) if isinstance(value, list) else set()


async def test_the_document_lists_every_route_and_nothing_else(world: World, http: httpx.AsyncClient) -> None:
    document = (await http.get("/openapi.json")).json()
    assert document["openapi"].startswith("3.1")
    served = {
        (route.path, method)  # type: ignore[attr-defined]
        for route in create_app(world.view).routes
        for method in route.methods - {"HEAD"}  # type: ignore[attr-defined]
    }
    listed = {(path, method.upper()) for path, item in document["paths"].items() for method in item}
    assert listed == served
    assert len({op["operationId"] for item in document["paths"].values() for op in item.values()}) == len(
        listed
    )


def test_the_document_is_complete() -> None:
    document = openapi("1.0")
    known = {f"#/components/schemas/{name}" for name in document["components"]["schemas"]}
    assert references(document) == known
    for endpoint in ENDPOINTS:
        operation = document["paths"][endpoint.path][endpoint.method.lower()]
        assert set(operation["responses"]) == {str(code) for code in (*endpoint.answers, *endpoint.errors)}
        names = {part.strip("{}") for part in endpoint.path.split("/") if part.startswith("{")}
        assert {p["name"] for p in operation["parameters"] if p["in"] == "path"} == names
        assert all("content" in answer for answer in operation["responses"].values())
    assert document["paths"]["/v1/requests"]["post"]["requestBody"]["required"]


async def test_it_serves_on_a_socket_and_lets_go_of_it(world: World) -> None:
    server = HttpServer(create_app(world.view), bind("127.0.0.1", 0, "HTTP"), limit=16)
    server.start()
    port = server.port
    async with httpx.AsyncClient(base_url=f"http://127.0.0.1:{port}", trust_env=False) as client:
        assert (await client.get("/health")).status_code == 200
        assert (await client.post("/v1/requests", json=body())).status_code == 200
    await server.close()
    bind("127.0.0.1", port, "HTTP").close()
