"""Requests on their way: what a session remembers of each, and how many go into one frame."""

from __future__ import annotations

from tepbft.client.matching import Matcher
from tepbft.core.block import Request

SUBMIT_BYTES = 4 << 20
SUBMIT_REQUESTS = 4096


class Pending:
    """One outstanding request."""

    __slots__ = (
        "asked_node",
        "attempts",
        "busy_at_ms",
        "busy_nodes",
        "busy_rounds",
        "claims",
        "digest",
        "refusals",
        "request",
        "retry_at_ms",
        "submitted_ms",
    )

    def __init__(self, request: Request, digest: bytes, submitted_ms: float) -> None:
        self.request = request
        self.digest = digest
        self.submitted_ms = submitted_ms
        self.attempts = 0
        self.retry_at_ms = 0.0
        self.busy_at_ms = 0.0
        self.busy_nodes: list[int] = []
        self.busy_rounds = 0
        self.asked_node: int | None = None
        self.claims = Matcher()
        self.refusals: dict[int, str] = {}


def split(requests: list[Request]) -> list[list[Request]]:
    """Parts that fit a frame, whatever the operations are."""
    parts: list[list[Request]] = [[]]
    size = 0
    for request in requests:
        size += len(request.op) + len(request.auth) + 64
        if parts[-1] and (size > SUBMIT_BYTES or len(parts[-1]) >= SUBMIT_REQUESTS):
            parts.append([])
            size = len(request.op) + len(request.auth) + 64
        parts[-1].append(request)
    return parts
