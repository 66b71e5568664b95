"""One table of routes: the application and the OpenAPI document are both made from it.

An endpoint says what it takes and what it may answer; its handler gets checked values
and returns an `Answer`, or raises `HttpError`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from tepbft.client.receipt_file import receipt_to_json
from tepbft.core.configuration import Genesis, encode_genesis
from tepbft.node.status import NodeStatus
from tepbft.rpc.schemas import (
    BlockList,
    BlockView,
    ClientHex,
    ConfigurationView,
    ErrorBody,
    Health,
    Height,
    Number,
    Pending,
    ReceiptView,
    SubmitBody,
    block_view,
    configuration_view,
    receipt_view,
)
from tepbft.runtime.bridge import Declined, Executed
from tepbft.runtime.view import NodeView
from tepbft.wire import NoProof

MAX_BODY_BYTES = 512 << 10
MAX_LISTED_BLOCKS = 64
JSON, TEXT = "application/json", "text/plain; version=0.0.4; charset=utf-8"
_LATER = {"Retry-After": "1"}


class HttpError(Exception):
    """An answer that is not a success: status code, and what a person needs to know."""

    def __init__(
        self, status: int, thing: str, reason: str, remedy: str, headers: dict[str, str] | None = None
    ) -> None:
        super().__init__(f"{thing}: {reason}")
        self.status = status
        self.thing = thing
        self.reason = reason
        self.remedy = remedy
        self.headers = headers or {}


@dataclass(frozen=True)
class Answer:
    """A successful answer; `content` is a value to encode as JSON, or ready bytes."""

    content: Any
    status: int = 200
    media_type: str = JSON


@dataclass(frozen=True)
class Parameter:
    """A value in the path or in the query."""

    name: str
    where: Literal["path", "query"]
    type: Any
    description: str
    default: Any = None


@dataclass(frozen=True)
class Endpoint:
    """One route. `answers`: status -> (type of the body or None, description)."""

    method: Literal["GET", "POST"]
    path: str
    name: str
    summary: str
    handler: Callable[[NodeView, dict[str, Any]], Awaitable[Answer]]
    answers: dict[int, tuple[Any, str]]
    parameters: tuple[Parameter, ...] = ()
    body: Any = None
    media_type: str = JSON
    errors: tuple[int, ...] = field(default=(400,))


ERROR_TEXTS = {
    400: "The input is malformed.",
    401: "The client is not registered, or did not sign this request.",
    404: "There is no such thing, or this node does not know of it.",
    408: "The body did not arrive in time.",
    409: "Not possible now: it contradicts the client's session, or nothing proves it yet.",
    413: "The body or the operation is too large.",
    429: "The node is busy; come again after Retry-After seconds.",
    503: "The node does not take part, and will not without help.",
}

# Codes of `core.events.Busy`: status, reason, remedy.
DECLINED: dict[str, tuple[int, str, str]] = {
    "busy": (429, "this node has too many requests at hand", "Send it again later."),
    "unknown_client": (401, "this client is not registered in the genesis", "Use a registered client."),
    "bad_signature": (401, "the authenticator is not this client's", "Sign the digest of this very request."),
    "too_large": (413, "the operation is too large", "Send less at once."),
    "conflict": (409, "another request was executed under that number", "Take the next number."),
    "stale": (409, "the client has begun a newer session", "Use the newest session."),
    "out_of_window": (
        409,
        "its number is too far above the oldest one without an outcome",
        "Finish earlier requests of the session first.",
    ),
}


def _key(values: dict[str, Any]) -> tuple[bytes, int, int]:
    return bytes.fromhex(values["client"]), values["session"], values["seq"]


async def submit(view: NodeView, values: dict[str, Any]) -> Answer:
    """POST /v1/requests."""
    body: SubmitBody = values["body"]
    timeout_s = min(values["timeout_ms"] or view.timeout_ms, view.timeout_ms) / 1000
    answer = await view.submit(body.request(), timeout_s)
    if isinstance(answer, Declined):
        status, reason, remedy = DECLINED.get(
            answer.code, (400, f"it was not admitted ({answer.code})", "Check it.")
        )
        headers = _LATER if status == 429 else None
        raise HttpError(status, f"request {body.seq} of client {body.client}", reason, remedy, headers)
    if answer is None:
        return Answer(Pending("pending", f"not executed here within {timeout_s:g} s"), 202)
    assert isinstance(answer, Executed)
    receipt = receipt_view(answer.height, answer.receipt)
    if values["wait"] == "executed":
        return Answer(receipt)
    reason = f"no stable checkpoint above it within {timeout_s:g} s"
    if await view.wait_stable(answer.height, timeout_s):
        proof = view.prove(*_key({"client": body.client, "session": body.session, "seq": body.seq}))
        if not isinstance(proof, NoProof):
            raw = msgspec.Raw(receipt_to_json(proof))
            return Answer(msgspec.structs.replace(receipt, proof=raw))
        reason = proof.reason
    return Answer(Pending("executed", reason, receipt), 202)


async def get_block(view: NodeView, values: dict[str, Any]) -> Answer:
    """GET /v1/blocks/{height}."""
    height = values["height"]
    stored = view.store.block(height)
    if stored is None:
        raise HttpError(
            404,
            f"block {height}",
            "this node's ledger does not have it",
            "Its range is from the last state transfer to the executed height in /v1/status.",
        )
    try:
        return Answer(block_view(stored, whole=True))
    except LookupError as error:
        raise HttpError(404, f"block {height}", str(error), "Ask another node.") from None


async def list_blocks(view: NodeView, values: dict[str, Any]) -> Answer:
    """GET /v1/blocks."""
    height: int = values["from"]
    blocks: list[BlockView] = []
    while len(blocks) < values["limit"]:
        stored = view.store.block(height)
        if stored is None:
            return Answer(BlockList(blocks, None))
        blocks.append(block_view(stored, whole=False))
        height += 1
    return Answer(BlockList(blocks, height))


async def get_outcome(view: NodeView, values: dict[str, Any]) -> Answer:
    """GET /v1/requests/{client}/{session}/{seq}."""
    found = view.find_outcome(*_key(values))
    if found is None:
        raise HttpError(
            404,
            f"request {values['seq']} of client {values['client']}",
            "this node knows no outcome: not executed, or of an older session",
            "Ask again later, or look in the blocks.",
        )
    return Answer(receipt_view(*found))


async def get_receipt(view: NodeView, values: dict[str, Any]) -> Answer:
    """GET /v1/receipts/{client}/{session}/{seq}."""
    proof = view.prove(*_key(values))
    if isinstance(proof, NoProof):
        thing = f"receipt of request {values['seq']} of client {values['client']}"
        if view.find_outcome(*_key(values)) is None:
            raise HttpError(404, thing, proof.reason, "Ask again once it was executed.")
        raise HttpError(409, thing, proof.reason, "Ask again shortly, or ask another node.", _LATER)
    return Answer(receipt_to_json(proof))


async def get_status(view: NodeView, values: dict[str, Any]) -> Answer:
    """GET /v1/status."""
    return Answer(view.status())


async def get_genesis(view: NodeView, values: dict[str, Any]) -> Answer:
    """GET /v1/genesis."""
    return Answer(encode_genesis(view.genesis))


async def get_configuration(view: NodeView, values: dict[str, Any]) -> Answer:
    """GET /v1/configuration."""
    return Answer(configuration_view(view.configuration()))


async def get_health(view: NodeView, values: dict[str, Any]) -> Answer:
    """GET /health."""
    status = view.status()
    healthy = status.phase == "active" or status.heals
    return Answer(Health(healthy, status.phase, status.verdict), 200 if healthy else 503)


async def get_metrics(view: NodeView, values: dict[str, Any]) -> Answer:
    """GET /metrics."""
    return Answer(view.metrics(), media_type=TEXT)


_REQUEST_PATH = (
    Parameter("client", "path", ClientHex, "The client's identity."),
    Parameter("session", "path", Number, "The client's session."),
    Parameter("seq", "path", Number, "The request's number in the session."),
)

ENDPOINTS: tuple[Endpoint, ...] = (
    Endpoint(
        "POST",
        "/v1/requests",
        "submitRequest",
        "Submit a signed request and wait for its outcome on this node.",
        submit,
        {200: (ReceiptView, "It was executed."), 202: (Pending, "Not finished within the time.")},
        (
            Parameter(
                "wait",
                "query",
                Literal["executed", "stable"],
                "Wait until it is executed, or until a receipt proves it.",
                "executed",
            ),
            Parameter(
                "timeout_ms",
                "query",
                Annotated[int, Meta(ge=0, le=3_600_000)],
                "How long to wait; 0 for the node's own limit, which is also the upper end.",
                0,
            ),
        ),
        body=SubmitBody,
        errors=(400, 401, 408, 409, 413, 429),
    ),
    Endpoint(
        "GET",
        "/v1/requests/{client}/{session}/{seq}",
        "getOutcome",
        "The outcome of a request, as this node executed it.",
        get_outcome,
        {200: (ReceiptView, "Its outcome.")},
        _REQUEST_PATH,
        errors=(400, 404),
    ),
    Endpoint(
        "GET",
        "/v1/receipts/{client}/{session}/{seq}",
        "getReceipt",
        "A receipt file that verifies offline, from the genesis alone.",
        get_receipt,
        {200: (dict[str, Any], "The receipt file.")},
        _REQUEST_PATH,
        errors=(400, 404, 409),
    ),
    Endpoint(
        "GET",
        "/v1/blocks",
        "listBlocks",
        "Consecutive blocks, without their contents.",
        list_blocks,
        {200: (BlockList, "The blocks.")},
        (
            Parameter("from", "query", Height, "The first height.", 1),
            Parameter(
                "limit",
                "query",
                Annotated[int, Meta(ge=1, le=MAX_LISTED_BLOCKS)],
                "How many at most.",
                20,
            ),
        ),
    ),
    Endpoint(
        "GET",
        "/v1/blocks/{height}",
        "getBlock",
        "A block with its requests and receipts.",
        get_block,
        {200: (BlockView, "The block.")},
        (Parameter("height", "path", Height, "Its height."),),
        errors=(400, 404),
    ),
    Endpoint(
        "GET", "/v1/status", "getStatus", "What the node says of itself.", get_status,
        {200: (NodeStatus, "Its status.")},
    ),
    Endpoint(
        "GET", "/v1/genesis", "getGenesis", "The file that defines the chain.", get_genesis,
        {200: (Genesis, "The genesis.")},
    ),
    Endpoint(
        "GET", "/v1/configuration", "getConfiguration", "The current member table.", get_configuration,
        {200: (ConfigurationView, "The configuration.")},
    ),
    Endpoint(
        "GET", "/health", "getHealth", "Whether the node takes part, or will again without help.", get_health,
        {200: (Health, "It does."), 503: (Health, "It does not.")},
    ),
    Endpoint(
        "GET", "/metrics", "getMetrics", "Prometheus metrics.", get_metrics,
        {200: (str, "The text exposition format.")}, media_type=TEXT,
    ),
)  # fmt: skip

__all__ = ["ENDPOINTS", "ERROR_TEXTS", "Answer", "Endpoint", "ErrorBody", "HttpError", "Parameter"]
