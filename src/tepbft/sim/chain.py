"""The agreed chain, as the first correct host that executes a height makes it known.

Everything else is compared with it. It also carries out the operations on a plain
dictionary of its own: what the chain says must be what a key-value store would say.
"""

from __future__ import annotations

from typing import Any

import msgspec

from tepbft.core.block import NORMAL, OK, Block, Header, Receipt, Request, decode_body
from tepbft.core.configuration import Configuration
from tepbft.execution.apps import kv
from tepbft.storage.records import decode_receipts
from tepbft.types import Height

_decode_operation: msgspec.msgpack.Decoder[kv.Operation] = msgspec.msgpack.Decoder(kv.Operation)
_encode = msgspec.msgpack.Encoder().encode


class Entry:
    """One agreed height."""

    __slots__ = ("block", "digest", "header", "receipts", "requests")

    def __init__(
        self, header: Header, block: Block, requests: list[Request], receipts: list[Receipt]
    ) -> None:
        self.header, self.block, self.requests, self.receipts = header, block, requests, receipts
        self.digest = header.digest()


class AgreedChain:
    """Heights, configurations and outcomes, as agreed."""

    def __init__(self, genesis: Configuration) -> None:
        self.entries: dict[Height, Entry] = {}
        self.configurations: dict[int, Configuration] = {genesis.number: genesis}
        self.newest = genesis
        self.outcomes: dict[tuple[bytes, int, int], tuple[Height, Receipt]] = {}
        """(client, session, seq) -> the one outcome that took effect (status OK or REFUSED)."""
        self.model: dict[bytes, bytes] = {}

    @property
    def height(self) -> Height:
        """Highest agreed height."""
        return max(self.entries, default=0)

    def add(self, header: Header, block: Block, receipts: bytes | None) -> Entry:
        """A height is known."""
        requests = decode_body(block.body) if block.kind == NORMAL else []
        entry = Entry(header, block, requests, decode_receipts(receipts or b""))
        self.entries[header.height] = entry
        return entry

    def add_configuration(self, cfg: Configuration) -> bool:
        """A configuration began at a correct host; False if another one has its number."""
        known = self.configurations.setdefault(cfg.number, cfg)
        if cfg.number > self.newest.number:
            self.newest = cfg
        return known == cfg

    def expected(self, operation: bytes) -> bytes | None:
        """What a key-value store answers, having carried it out; None for what it cannot judge."""
        try:
            op: Any = _decode_operation.decode(operation)
        except msgspec.MsgspecError:
            return None
        model = self.model
        if isinstance(op, kv.Put):
            model[op.key] = op.value
            return b""
        if isinstance(op, kv.Get):
            return bytes(_encode(model.get(op.key)))
        if isinstance(op, kv.Delete):
            return bytes(_encode(model.pop(op.key, None) is not None))
        if isinstance(op, kv.CompareAndSwap):
            found = model.get(op.key)
            if found != op.expected:
                return bytes(_encode((False, found)))
            model[op.key] = op.new
            return bytes(_encode((True, found)))
        pairs = sorted((k, v) for k, v in model.items() if k >= op.start and (op.end is None or k < op.end))
        return bytes(_encode((pairs[: op.limit], len(pairs) > op.limit)))

    @staticmethod
    def took_effect(receipt: Receipt) -> bool:
        """True if the application was asked."""
        return receipt.status in (OK, 1)
