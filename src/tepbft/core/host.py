"""What a protocol room asks of the node around it.

The room decides order; the host knows requests, execution and replies. The calls
are synchronous and pure in the sans-IO sense: whatever must reach a disk or a
socket goes into the step's `Effects`.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from tepbft.core.block import Block, Header
from tepbft.core.certificates import CheckpointCertificate
from tepbft.core.configuration import Configuration
from tepbft.wire import ConfigLink


class Host(Protocol):
    """The node, as its consensus room sees it."""

    def check_block(self, block: Block, digest: bytes) -> None:
        """P8: static validity of a block's contents. PeerFault if it can never be valid."""
        ...

    def timely(self, block: Block) -> bool:
        """False while the block's timestamp is implausibly far ahead: the vote waits (A3.1)."""
        ...

    def accepted(self, block: Block, digest: bytes) -> None:
        """A proposal was accepted: its requests are pending from now on."""
        ...

    def execute(self, block: Block, digest: bytes, following: Configuration | None) -> Header:
        """Execute the next block (tentatively); `following` is the configuration after a CONFIG block."""
        ...

    def stable(self, header: Header, certificate: CheckpointCertificate) -> None:
        """An executed height is stable: install its state, release replies that waited for it."""
        ...

    def rollback(self) -> Header:
        """This replica diverged: forget tentative state; the header at the installed height."""
        ...

    def transferred(
        self, header: Header, certificate: CheckpointCertificate, chunks: Sequence[bytes]
    ) -> None:
        """A verified snapshot takes the place of the state."""
        ...

    def view_entered(self, in_flight: Sequence[bytes]) -> None:
        """A view became active; of what was in flight only the blocks with these digests go on."""
        ...

    def configured(self, cfg: Configuration) -> None:
        """A new configuration began; nothing is in flight."""
        ...

    def dropped(self, digest: bytes) -> None:
        """The block with this digest is of no further use: forget what was decoded of it."""
        ...

    def oldest_pending_ms(self) -> int | None:
        """When the oldest pending request was first seen; None if there is none."""
        ...

    def link_offer(self, since: int) -> tuple[ConfigLink, ...]:
        """ConfigLinks from configuration `since` to the current one; empty if there are none."""
        ...
