"""Asking nodes how they are, many times a second, without a connection per question."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import TracebackType

import httpx
import msgspec

from tepbft.cli.cluster import MAX_STATUS_BYTES, http_address
from tepbft.core.configuration import Member
from tepbft.node.status import NodeStatus
from tepbft.types import NodeId

TIMEOUT_S = 3.0


class Watch:
    """The statuses of all nodes; an async context manager."""

    def __init__(self, members: Sequence[Member]) -> None:
        self._members = members
        self._decoder = msgspec.json.Decoder(NodeStatus)
        self._http = httpx.AsyncClient(timeout=TIMEOUT_S, trust_env=False)

    async def __aenter__(self) -> Watch:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def status(self, node: NodeId) -> NodeStatus | None:
        """What a node says of itself; None if it does not answer, or not sensibly."""
        member = self._members[node]
        try:
            answer = await self._http.get(http_address(member) + "/v1/status")
            if answer.status_code != 200 or len(answer.content) > MAX_STATUS_BYTES:
                return None
            found = self._decoder.decode(answer.content)
        except (httpx.HTTPError, OSError, msgspec.ValidationError, msgspec.DecodeError):
            return None
        return found if found.node == member.node else None

    async def statuses(self) -> list[NodeStatus | None]:
        """Of all nodes, in order."""
        return list(await asyncio.gather(*(self.status(member.node) for member in self._members)))
