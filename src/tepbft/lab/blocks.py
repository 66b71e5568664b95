"""Believing nodes block by block: f+1 of them that send the same bytes about a block (A-43, I-14).

Outcomes of a connection are grouped per block and identical from all correct nodes but for the view,
which stands in front. So comparing bytes is enough, and a block is decoded once, not n times.
"""

from __future__ import annotations

from collections import OrderedDict

from tepbft.errors import PeerFault
from tepbft.wire import Outcome, client_codec

REMEMBERED = 4096
"""Blocks whose answers are remembered; a straggler's copy of an older one counts for nothing."""
_OUTCOME = bytes([0x94, 3])
_WIDTH = {0xCC: 2, 0xCD: 3, 0xCE: 5, 0xCF: 9}


def split_view(data: bytes) -> tuple[int, bytes] | None:
    """(view, everything behind it) of an encoded Outcome; None if it is another message."""
    if data[:2] != _OUTCOME or len(data) < 4:
        return None
    first = data[2]
    if first < 0x80:
        return first, data[3:]
    width = _WIDTH.get(first)
    if width is None:
        return None
    return int.from_bytes(data[3 : 2 + width], "big"), data[2 + width :]


class BlockMatcher:
    """What nodes said of blocks; tells each block once, when enough of them agree."""

    def __init__(self, needed: int) -> None:
        self._needed = needed
        self._claims: OrderedDict[bytes, set[int]] = OrderedDict()

    def add(self, node: int, data: bytes) -> Outcome | None:
        """The block's outcomes if `node` is the one that makes them believed; PeerFault if f+1 nodes
        agree on something that is no outcome."""
        parts = split_view(data)
        if parts is None:
            return None
        claims = self._claims
        voters = claims.get(parts[1])
        if voters is None:
            voters = claims[parts[1]] = set()
            if len(claims) > REMEMBERED:
                claims.popitem(last=False)
        if node in voters:
            return None
        voters.add(node)
        if len(voters) != self._needed:
            return None
        message = client_codec.decode(data)
        if not isinstance(message, Outcome):
            raise PeerFault("unexpected_message", type(message).__name__)
        return message
