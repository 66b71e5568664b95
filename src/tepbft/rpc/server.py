"""uvicorn inside the node's own event loop, on a socket that is bound already."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from starlette.types import ASGIApp

KEEP_ALIVE_S = 30
SHUTDOWN_S = 3


class _Server(uvicorn.Server):
    """uvicorn without hands on the process's signals, which belong to the node."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class HttpServer:
    """Serves one application. `limit` bounds connections; one more is answered 503."""

    def __init__(self, app: ASGIApp, sock: socket.socket, *, limit: int) -> None:
        self._sock = sock
        self._server = _Server(
            uvicorn.Config(
                app,
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                ws="none",
                http="h11",
                limit_concurrency=limit,
                timeout_keep_alive=KEEP_ALIVE_S,
                timeout_graceful_shutdown=SHUTDOWN_S,
            )
        )
        self._task: asyncio.Task[None] | None = None

    @property
    def port(self) -> int:
        """The port it serves."""
        return int(self._sock.getsockname()[1])

    def start(self) -> None:
        """Begin to serve."""
        self._task = asyncio.get_running_loop().create_task(self._server.serve(sockets=[self._sock]))

    async def close(self) -> None:
        """Let requests at hand finish, for a moment."""
        if self._task is None:
            return
        self._server.should_exit = True
        done, _ = await asyncio.wait([self._task], timeout=SHUTDOWN_S + 2)
        if not done:
            self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)
