"""The port of client authentication: one interface, several schemes."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tepbft.core.block import Request


class RequestVerifier(Protocol):
    """Checks who sent a request. Holds the registered clients of one chain."""

    def known(self, client: bytes) -> bool:
        """True for a registered client."""
        ...

    def verify(self, digests: Sequence[bytes], requests: Sequence[Request]) -> list[int]:
        """Indices of the requests whose authenticator is not their client's over their digest
        (unknown clients included); empty if all are good. Batches, so that a scheme may
        verify many at once or in native threads. The answer does not depend on how it is found."""
        ...


class RequestSigner(Protocol):
    """The client's side of a scheme."""

    def sign(self, digest: bytes) -> bytes:
        """Authenticator over a request digest (32 bytes)."""
        ...
