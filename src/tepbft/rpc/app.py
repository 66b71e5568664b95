"""The HTTP port as an ASGI application. Every answer, errors included, is JSON (but for the metrics)."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import msgspec
import structlog
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from tepbft.rpc.endpoints import ENDPOINTS, JSON, MAX_BODY_BYTES, Answer, Endpoint, HttpError, Parameter
from tepbft.rpc.openapi import DOCUMENT_PATH, openapi
from tepbft.rpc.schemas import ErrorBody, ErrorText
from tepbft.runtime.view import NodeView

BODY_TIMEOUT_S = 10.0
log = structlog.get_logger("tepbft.http")


def package_version() -> str:
    """Version of this program."""
    try:
        return version("tepbft")
    except PackageNotFoundError:
        return "0"


def create_app(view: NodeView) -> Starlette:
    """The application for one node."""
    document = msgspec.json.encode(openapi(package_version()))

    async def get_document(request: Request) -> Response:
        return Response(document, media_type=JSON)

    routes = [
        Route(endpoint.path, _serve(view, endpoint), methods=[endpoint.method]) for endpoint in ENDPOINTS
    ]
    routes.append(Route(DOCUMENT_PATH, get_document, methods=["GET"]))
    return Starlette(
        routes=routes, exception_handlers={HTTPException: _http_exception, Exception: _unexpected}
    )


def _serve(view: NodeView, endpoint: Endpoint) -> Callable[[Request], Awaitable[Response]]:
    """The handler of one endpoint: checks what comes in, encodes what goes out."""

    async def handle(request: Request) -> Response:
        try:
            values = _parameters(endpoint, request)
            if endpoint.body is not None:
                values["body"] = _decode(endpoint.body, await _read_body(request))
            answer = await endpoint.handler(view, values)
        except HttpError as error:
            return _error(error)
        except ClientDisconnect:
            return Response(status_code=400)
        return _answer(answer)

    return handle


def _answer(answer: Answer) -> Response:
    content = answer.content if isinstance(answer.content, bytes) else msgspec.json.encode(answer.content)
    return Response(content, answer.status, media_type=answer.media_type)


def _error(error: HttpError) -> Response:
    body = ErrorBody(ErrorText(error.thing, error.reason, error.remedy))
    return Response(msgspec.json.encode(body), error.status, error.headers, media_type=JSON)


def _parameters(endpoint: Endpoint, request: Request) -> dict[str, Any]:
    values: dict[str, Any] = {}
    known = {parameter.name for parameter in endpoint.parameters if parameter.where == "query"}
    for name in request.query_params:
        if name not in known:
            allowed = f"It takes: {', '.join(sorted(known))}." if known else "It takes none."
            raise HttpError(
                400, f"parameter {name[:64]!r}", f"{endpoint.path} has no such parameter", allowed
            )
    for parameter in endpoint.parameters:
        source = request.path_params if parameter.where == "path" else request.query_params
        text = source.get(parameter.name)
        values[parameter.name] = parameter.default if text is None else _convert(parameter, text)
    return values


def _convert(parameter: Parameter, text: str) -> Any:
    try:
        return msgspec.convert(text, parameter.type, strict=False)
    except msgspec.ValidationError as error:
        reason = str(error)[:200]
        raise HttpError(400, f"parameter {parameter.name!r}", reason, parameter.description) from None


async def _read_body(request: Request) -> bytes:
    """The whole body. HttpError: 413 above the limit (before reading, where announced), 408 if slow."""
    too_large = HttpError(413, "body", f"it has more than {MAX_BODY_BYTES} bytes", "Send less at once.")
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced[:20]) > MAX_BODY_BYTES:
        raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_TIMEOUT_S):
            async for chunk in request.stream():
                body += chunk
                if len(body) > MAX_BODY_BYTES:
                    raise too_large
    except TimeoutError:
        raise HttpError(
            408, "body", f"it did not arrive within {BODY_TIMEOUT_S:g} s", "Send it at once."
        ) from None
    return bytes(body)


def _decode(kind: Any, body: bytes) -> Any:
    try:
        return msgspec.json.decode(body, type=kind)
    except (msgspec.DecodeError, msgspec.ValidationError, UnicodeDecodeError, RecursionError) as error:
        text = str(error)[:200]
        status = 413 if "length <=" in text else 400
        raise HttpError(status, "body", text, f"See {kind.__name__} in {DOCUMENT_PATH}.") from None


async def _http_exception(request: Request, error: Exception) -> Response:
    status = error.status_code if isinstance(error, HTTPException) else 400
    headers = dict(error.headers or {}) if isinstance(error, HTTPException) else {}
    reason = {404: "there is no such path", 405: "the path does not take this method"}.get(
        status, "it was refused"
    )
    thing = f"{request.method} {request.url.path}"[:200]
    return _error(HttpError(status, thing, reason, f"See {DOCUMENT_PATH}.", headers))


async def _unexpected(request: Request, error: Exception) -> Response:
    """Log it; tell the other side nothing of our insides."""
    log.error("http_failed", path=request.url.path[:200], error=type(error).__name__, exc_info=error)
    thing = f"{request.method} {request.url.path}"[:200]
    return _error(HttpError(500, thing, "this node failed to answer", "Its log says why; ask another node."))
