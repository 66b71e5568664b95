"""The replicated client table: who has had which request executed, and the answer (A9, A-37, A-39).

One entry per client holds its session, `low` (everything up to it is decided) and
a bitmap of the decided numbers in (low, low+W]. The answers are kept for numbers in
(low-W, low+W]. All of it is state like the application's: tentative with its block,
installed with it, part of snapshots, and changed at execution only (A-40).

State keys: `c` + client holds (session, low, bitmap bytes); `c` + client + slot holds
an answer (session, seq, height, request digest, status, result), slot = seq mod 2W,
two bytes big-endian. 2W consecutive numbers never share a slot, so a block writes one
small record per request instead of the whole entry. Records of a retired session
stay until overwritten and are not answers any more.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta

from tepbft.core.block import CONFLICT, DUPLICATE, OUT_OF_WINDOW, STALE, Receipt
from tepbft.errors import ContractBroken
from tepbft.execution.overlay import Overlay
from tepbft.types import U8, U64, Digest, Height

EXECUTE = -1
"""`classify`: the request has not been executed yet and may be."""
CACHED_ENTRIES = 1 << 16
"""Entries kept in memory; the rest is read when it is needed."""

_encode = msgspec.msgpack.Encoder().encode
_HeadRecord = tuple[U64, U64, Annotated[bytes, Meta(max_length=128)]]
_AnswerRecord = tuple[U64, U64, U64, Digest, U8, bytes]
_decode_head = msgspec.msgpack.Decoder(_HeadRecord)
_decode_answer = msgspec.msgpack.Decoder(_AnswerRecord)


class _Entry:
    """What must be known of a client to decide on its next request."""

    __slots__ = ("bitmap", "low", "session")

    def __init__(self, session: int, low: int, bitmap: int) -> None:
        self.session = session
        self.low = low
        self.bitmap = bitmap
        """Bit i stands for number low + 1 + i."""


class ClientTable:
    """The table as it stands after the newest executed block, and inside the one being executed."""

    def __init__(self, overlay: Overlay, window: int) -> None:
        self._overlay = overlay
        self._window = window
        self._bitmap_bytes = (window + 7) // 8
        self._entries: dict[bytes, _Entry] = {}
        self._changed: dict[bytes, _Entry] = {}
        self._writes: dict[bytes, bytes | None] = {}

    # --- asking -------------------------------------------------------------------------------

    def classify(self, client: bytes, session: int, seq: int, request_digest: bytes) -> int:
        """EXECUTE, STALE, DUPLICATE, CONFLICT (a duplicate with another content whose answer is still
        known) or OUT_OF_WINDOW. Changes nothing."""
        entry = self._entries.get(client) or self._load(client)
        if session == entry.session:
            offset = seq - entry.low - 1
            if offset < 0 or (offset < self._window and entry.bitmap >> offset & 1):
                found = self.outcome(client, session, seq)
                same = found is None or found[1].request_digest == request_digest
                return DUPLICATE if same else CONFLICT
        elif session < entry.session:
            return STALE
        else:
            offset = seq - 1
            if offset < 0:
                return DUPLICATE
        return EXECUTE if offset < self._window else OUT_OF_WINDOW

    def is_decided(self, client: bytes, session: int, seq: int) -> bool:
        """True if no block can execute that request any more: done, or of a retired session."""
        entry = self._entries.get(client) or self._load(client)
        if session != entry.session:
            return session < entry.session or seq < 1
        offset = seq - entry.low - 1
        return offset < 0 or (offset < self._window and bool(entry.bitmap >> offset & 1))

    def outcome(self, client: bytes, session: int, seq: int) -> tuple[Height, Receipt] | None:
        """The kept answer to a request and the height at which it was executed."""
        entry = self._entries.get(client) or self._load(client)
        if session != entry.session or not entry.low - self._window < seq <= entry.low + self._window:
            return None
        data = self._get(self._answer_key(client, seq))
        if data is None:
            return None
        try:
            of_session, of_seq, height, request_digest, status, result = _decode_answer.decode(data)
        except msgspec.MsgspecError:
            raise ContractBroken(f"unreadable answer of client {client.hex()}") from None
        if (of_session, of_seq) != (session, seq):
            return None
        return height, Receipt(client, session, seq, request_digest, status, result)

    # --- the executor's side ------------------------------------------------------------------

    def record(self, height: Height, receipt: Receipt) -> None:
        """A request that `classify` called EXECUTE was executed (or refused) at `height`."""
        client, session, seq = receipt.client, receipt.session, receipt.seq
        entry = self._entries[client]
        if session > entry.session:
            entry.session, entry.low, entry.bitmap = session, 0, 0
        offset = seq - entry.low - 1
        bitmap = entry.bitmap | 1 << offset
        if bitmap & 1:
            decided = (bitmap ^ (bitmap + 1)).bit_length() - 1  # number of trailing ones
            entry.low += decided
            bitmap >>= decided
        entry.bitmap = bitmap
        self._changed[client] = entry
        self._writes[self._answer_key(client, seq)] = _encode(
            (session, seq, height, receipt.request_digest, receipt.status, receipt.result)
        )

    def skip(self, receipt: Receipt) -> bool:
        """A request was not executed. True if that changed the table: a newer session has begun
        and the old one is retired, whatever became of the request (A-41)."""
        entry = self._entries[receipt.client]
        if receipt.session <= entry.session:
            return False
        entry.session, entry.low, entry.bitmap = receipt.session, 0, 0
        self._changed[receipt.client] = entry
        return True

    def finish_block(self) -> list[tuple[bytes, bytes | None]]:
        """What the block changed, sorted by key; the table is ready for the next block."""
        for client, entry in self._changed.items():
            bitmap = entry.bitmap.to_bytes(self._bitmap_bytes, "little")
            self._writes[b"c" + client] = _encode((entry.session, entry.low, bitmap))
        writes = sorted(self._writes.items())
        self._changed.clear()
        self._writes.clear()
        return writes

    def forget(self) -> None:
        """Drop everything held in memory; entries are read again when they are needed."""
        self._entries.clear()
        self._changed.clear()
        self._writes.clear()

    def _answer_key(self, client: bytes, seq: int) -> bytes:
        return b"c" + client + (seq % (2 * self._window)).to_bytes(2, "big")

    def _get(self, key: bytes) -> bytes | None:
        return self._writes[key] if key in self._writes else self._overlay.get(key)

    def _load(self, client: bytes) -> _Entry:
        if len(self._entries) >= CACHED_ENTRIES:
            self._entries = dict(self._changed)  # what the current block changed is nowhere else yet
        data = self._overlay.get(b"c" + client)
        if data is None:
            entry = _Entry(-1, 0, 0)
        else:
            try:
                session, low, bitmap = _decode_head.decode(data)
            except msgspec.MsgspecError:
                raise ContractBroken(f"unreadable entry of client {client.hex()}") from None
            entry = _Entry(session, low, int.from_bytes(bitmap, "little"))
        self._entries[client] = entry
        return entry
