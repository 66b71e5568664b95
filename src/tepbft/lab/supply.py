"""Signed requests, ready to send: made before the clock starts where signing costs as much as verifying.

A pool that runs dry signs as it goes and says so: then the clients' signing shares the cores with
the replicas, and belongs into the limit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator

from tepbft.client.credentials import Credentials
from tepbft.core.block import Request, encode_request, request_digest
from tepbft.core.configuration import Genesis
from tepbft.lab.workload import operations


class Supply:
    """The requests of one client in the order of their numbers, encoded as they stand in a Submit."""

    def __init__(
        self,
        genesis: Genesis,
        credentials: Credentials,
        session: int,
        app: str,
        payload: int,
        seed: str,
        bundle: int = 1,
    ) -> None:
        self.client = credentials.client
        self.session = session
        self.signed_live = 0
        """Requests that were not signed in advance."""
        self._chain_id = genesis.chain_id
        self._sign = credentials.signer(genesis).sign
        self._operations: Iterator[bytes] = operations(app, payload, seed, bundle)
        self._ready: deque[bytes] = deque()
        self._made = 0
        self.taken = 0
        """Numbers given out: the last one that `take` returned."""

    def prepare(self, count: int) -> None:
        """Sign `count` more requests now."""
        self._ready.extend(self._make() for _ in range(count))

    def take(self) -> tuple[int, bytes]:
        """The next number and its encoded request."""
        self.taken += 1
        if self._ready:
            return self.taken, self._ready.popleft()
        self.signed_live += 1
        return self.taken, self._make()

    def _make(self) -> bytes:
        self._made += 1
        operation = next(self._operations)
        digest = request_digest(self._chain_id, self.client, self.session, self._made, operation)
        return encode_request(Request(self.client, self.session, self._made, operation, self._sign(digest)))
