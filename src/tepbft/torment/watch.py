"""Asking nodes how they are, many times a second, without a connection per question."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from types import TracebackType
from typing import TypeVar

import httpx
import msgspec
from msgspec import Struct

from tepbft.cli.cluster import MAX_STATUS_BYTES, http_address
from tepbft.core.configuration import Member, replacement_gap
from tepbft.node.status import NodeStatus
from tepbft.types import NodeId

TIMEOUT_S = 3.0
T = TypeVar("T")


class _Member(Struct):
    node: int
    replaced_at: int
    replacements: int


class _Configuration(Struct):
    number: int
    members: list[_Member]


class Watch:
    """The statuses of all nodes; an async context manager."""

    def __init__(self, members: Sequence[Member]) -> None:
        self._members = members
        self._decoder = msgspec.json.Decoder(NodeStatus)
        self._configuration = msgspec.json.Decoder(_Configuration)
        self._http = httpx.AsyncClient(timeout=TIMEOUT_S, trust_env=False, verify=False)

    async def __aenter__(self) -> Watch:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._http.aclose()

    async def status(self, node: NodeId) -> NodeStatus | None:
        """What a node says of itself; None if it does not answer, or not sensibly."""
        found = await self._get(node, "/v1/status", self._decoder)
        return found if found is not None and found.node == node else None

    async def admissible_at(self, node: NodeId, min_gap: int) -> tuple[int, list[int]] | None:
        """By the word of one node: the number of its configuration, and per member the height from
        which a component that lost its state may be replaced (A8.3). None if it does not answer."""
        found = await self._get(node, "/v1/configuration", self._configuration)
        if found is None or [member.node for member in found.members] != [m.node for m in self._members]:
            return None
        heights = []
        for member, now in zip(self._members, found.members, strict=True):
            current = msgspec.structs.replace(member, replacements=now.replacements)
            heights.append(now.replaced_at + replacement_gap(current, min_gap))
        return found.number, heights

    async def _get(self, node: NodeId, path: str, decoder: msgspec.json.Decoder[T]) -> T | None:
        try:
            answer = await self._http.get(http_address(self._members[node]) + path)
            if answer.status_code != 200 or len(answer.content) > MAX_STATUS_BYTES:
                return None
            return decoder.decode(answer.content)
        except (httpx.HTTPError, OSError, msgspec.ValidationError, msgspec.DecodeError):
            return None

    async def statuses(self) -> list[NodeStatus | None]:
        """Of all nodes, in order."""
        return list(await asyncio.gather(*(self.status(member.node) for member in self._members)))
