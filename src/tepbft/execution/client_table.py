"""The replicated client table: who has had which request executed, and the answer (A9, A-37, A-39).

One entry per client holds its session, `low` (everything up to it is decided) and
a bitmap of the decided numbers in (low, low+W]. The answers are kept for numbers in
(low-W, low+W]. All of it is state like the application's: tentative with its block,
installed with it, part of snapshots, and changed at execution only (A-40).

State keys: `c` + client holds (session, low, bitmap bytes, turn); `c` + client + slot holds
the answers that one block gave to one client: (session, height, [(seq, request digest,
status, result)]). So a block writes two records per client that it serves, however many
of its requests it holds. Slots are used in turn, slot = turn mod 3W, two bytes big-endian:
a record is overwritten 3W records later. By then nothing in it is an answer any more: the
numbers executed after a kept number s lie in (low at that time, low now + W], and as s is
kept, that is fewer than 3W numbers. What is left of a retired session is no answer either.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from typing import Annotated, NamedTuple, TypeAlias

import msgspec
from msgspec import Meta

from tepbft.core.block import CONFLICT, DUPLICATE, OUT_OF_WINDOW, STALE, Receipt
from tepbft.core.requests import Run
from tepbft.errors import ContractBroken
from tepbft.execution.outcomes import Lane, Outcomes, new_lane, new_outcomes
from tepbft.execution.overlay import Overlay
from tepbft.types import U8, U64, Digest, Height

EXECUTE = -1
"""`classify`: the request has not been executed yet and may be."""
CACHED_ENTRIES = 1 << 16
"""Entries kept in memory; the rest is read when it is needed."""
SLOTS_PER_WINDOW = 3

Answer: TypeAlias = tuple[U64, Digest, U8, bytes]
"""(seq, request digest, status, result)."""
_encode = msgspec.msgpack.Encoder().encode
_HeadRecord = tuple[U64, U64, Annotated[bytes, Meta(max_length=128)], U64]
_AnswersRecord = tuple[U64, U64, list[Answer]]
_decode_head = msgspec.msgpack.Decoder(_HeadRecord)
_decode_answers = msgspec.msgpack.Decoder(_AnswersRecord)


class _Record(NamedTuple):
    """A record of answers: its slot, and the least and the greatest number in it."""

    slot: int
    least: int
    greatest: int


class _Entry:
    """What must be known of a client to decide on its next request."""

    __slots__ = ("bitmap", "low", "records", "session", "turn")

    def __init__(self, session: int, low: int, bitmap: int, turn: int) -> None:
        self.session = session
        self.low = low
        self.bitmap = bitmap
        """Bit i stands for number low + 1 + i."""
        self.turn = turn
        """Answer records written so far."""
        self.records: deque[_Record] | None = None
        """Where this session's answers stand, oldest first; made when one is first asked for, then kept
        up to date."""


class ClientTable:
    """The table as it stands after the newest executed block, and inside the one being executed."""

    def __init__(self, overlay: Overlay, window: int) -> None:
        self._overlay = overlay
        self._window = window
        self._bitmap_bytes = (window + 7) // 8
        self._slots = SLOTS_PER_WINDOW * window
        self._entries: dict[bytes, _Entry] = {}
        self._changed: dict[bytes, _Entry] = {}
        self._outcomes: Outcomes = new_outcomes((), ())
        self._answers: dict[bytes, list[int]] = {}  # indices into them, by client
        self._height: Height = 0
        self._newest_read: tuple[bytes, int, Height, dict[int, Answer]] = (b"", 0, 0, {})
        """A record of answers, and what is in it: session, height, answers by number."""
        self.lanes: dict[bytes, Lane] = {}
        """Clients of the block at hand whose requests come in order; see `Lane`."""

    # --- asking -------------------------------------------------------------------------------

    def classify(self, client: bytes, session: int, seq: int, request_digest: bytes) -> int:
        """EXECUTE, STALE, DUPLICATE, CONFLICT (a duplicate with another content whose answer is still
        known) or OUT_OF_WINDOW. Changes nothing."""
        entry = self._entry(client)
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

    def all_fresh(self, runs: Sequence[Run]) -> bool:
        """True if `classify` would call every one of these EXECUTE, found out at one look for each run. False
        if it takes more than that, too: of an unknown client, or one in a new session."""
        entries, window = self._entries, self._window
        for client, session, first, count in runs:
            entry = entries.get(client)
            if entry is None or entry.session != session:
                return False
            offset = first - entry.low - 1
            if offset < 0 or offset + count > window or entry.bitmap >> offset & (1 << count) - 1:
                return False
        return True

    def is_decided(self, client: bytes, session: int, seq: int) -> bool:
        """True if no block can execute that request any more: done, or of a retired session."""
        entry = self._entry(client)
        if session != entry.session:
            return session < entry.session or seq < 1
        offset = seq - entry.low - 1
        return offset < 0 or (offset < self._window and bool(entry.bitmap >> offset & 1))

    def outcome(self, client: bytes, session: int, seq: int) -> tuple[Height, Receipt] | None:
        """The kept answer to a request and the height at which it was executed."""
        entry = self._entry(client)
        if session != entry.session or not entry.low - self._window < seq <= entry.low + self._window:
            return None
        for index in self._answers.get(client, ()):
            receipt = self._outcomes[index]
            if receipt.seq == seq:
                return self._height, receipt
        if entry.records is None:
            entry.records = self._find_records(client, session)
        for record in reversed(entry.records):
            if record.least <= seq <= record.greatest:
                found = self._look_up(client, session, seq, record.slot)
                if found is not None:
                    return found
        return None

    def _look_up(self, client: bytes, session: int, seq: int, slot: int) -> tuple[Height, Receipt] | None:
        data = self._overlay.get(_answer_key(client, slot))
        if data is None:
            return None
        if data != self._newest_read[0]:  # a client that asks again does so for many requests at once
            of_session, height, answers = _read_answers(client, data)
            self._newest_read = data, of_session, height, {answer[0]: answer for answer in answers}
        _, of_session, height, by_number = self._newest_read
        answer = by_number.get(seq) if of_session == session else None
        return (height, Receipt(client, session, *answer)) if answer is not None else None

    # --- the executor's side ------------------------------------------------------------------

    def begin_block(self, height: Height, outcomes: Outcomes) -> None:
        """What follows belongs to the block at `height`, whose outcomes are these."""
        self._height, self._outcomes = height, outcomes

    def take_up(self, client: bytes, session: int, seq: int) -> list[int] | None:
        """Mark a request as executed, if `classify` would call it EXECUTE: the list that the index of its
        outcome must be appended to. None, and nothing has changed, if it would not."""
        entry = self._entry(client)
        low, bitmap = entry.low, entry.bitmap
        if session != entry.session:
            if session < entry.session:
                return None
            low = bitmap = 0
        offset = seq - low - 1
        if not 0 <= offset < self._window or bitmap >> offset & 1:
            return None
        if session != entry.session:
            self._begin_session(client, entry, session)
        bitmap |= 1 << offset
        if bitmap & 1:
            decided = (bitmap ^ (bitmap + 1)).bit_length() - 1  # number of trailing ones
            entry.low = low + decided
            bitmap >>= decided
        entry.bitmap = bitmap
        answers = self._answers.get(client)
        if answers is None:
            answers = self._answers[client] = []
            self._changed[client] = entry
        if not entry.bitmap:
            self.lanes[client] = new_lane(session, entry.low + 1, answers)
        return answers

    def skip(self, receipt: Receipt) -> bool:
        """A request was not executed. True if that changed the table: a newer session has begun
        and the old one is retired, whatever became of the request (A-41)."""
        entry = self._entry(receipt.client)
        if receipt.session <= entry.session:
            return False
        self._begin_session(receipt.client, entry, receipt.session)
        self._changed[receipt.client] = entry
        return True

    def _begin_session(self, client: bytes, entry: _Entry, session: int) -> None:
        entry.session, entry.low, entry.bitmap = session, 0, 0
        entry.records = deque(maxlen=self._slots)
        self._answers.pop(client, None)  # of the retired session: no answers any more

    def finish_block(self) -> list[tuple[bytes, bytes | None]]:
        """What the block changed; the table is ready for the next block."""
        for client in list(self.lanes):
            self._entry(client)
        writes: list[tuple[bytes, bytes | None]] = []
        size, slots = self._bitmap_bytes, self._slots
        for client, entry in self._changed.items():
            answers = self._answers.get(client)
            if answers:
                slot = entry.turn % slots
                entry.turn += 1
                told = msgspec.Raw(self._outcomes.answers(answers))
                writes.append((_answer_key(client, slot), _encode((entry.session, self._height, told))))
                if entry.records is not None:
                    entry.records.append(_Record(slot, *self._outcomes.span(answers)))
            bitmap = entry.bitmap.to_bytes(size, "little")
            writes.append((b"c" + client, _encode((entry.session, entry.low, bitmap, entry.turn))))
        self._changed.clear()
        self._answers.clear()
        return writes

    def forget(self) -> None:
        """Drop everything held in memory; entries are read again when they are needed."""
        self._entries.clear()
        self._changed.clear()
        self._answers.clear()
        self.lanes.clear()

    # --- answers ------------------------------------------------------------------------------

    def _find_records(self, client: bytes, session: int) -> deque[_Record]:
        """Where the answers of a session stand, from the state itself."""
        found: list[tuple[Height, _Record]] = []
        prefix = b"c" + client
        for key, data in self._overlay.scan(prefix + b"\x00\x00", prefix + b"\xff\xff\xff"):
            of_session, height, answers = _read_answers(client, data)
            if of_session == session and answers:
                numbers = [answer[0] for answer in answers]
                slot = int.from_bytes(key[len(prefix) :], "big")
                found.append((height, _Record(slot, min(numbers), max(numbers))))
        return deque((record for _, record in sorted(found)), maxlen=self._slots)

    def _entry(self, client: bytes) -> _Entry:
        """What is known of a client, all of its block so far included."""
        entry = self._entries.get(client) or self._load(client)
        if self.lanes:
            lane = self.lanes.pop(client, None)
            if lane is not None:
                entry.low = lane.expected - 1
        return entry

    def _load(self, client: bytes) -> _Entry:
        if len(self._entries) >= CACHED_ENTRIES:
            self._entries = dict(self._changed)  # what the current block changed is nowhere else yet
        data = self._overlay.get(b"c" + client)
        if data is None:
            entry = _Entry(-1, 0, 0, 0)
        else:
            try:
                session, low, bitmap, turn = _decode_head.decode(data)
            except msgspec.MsgspecError:
                raise ContractBroken(f"unreadable entry of client {client.hex()}") from None
            entry = _Entry(session, low, int.from_bytes(bitmap, "little"), turn)
        self._entries[client] = entry
        return entry


def _answer_key(client: bytes, slot: int) -> bytes:
    return b"c" + client + slot.to_bytes(2, "big")


def _read_answers(client: bytes, data: bytes) -> tuple[int, Height, list[Answer]]:
    try:
        found: tuple[int, Height, list[Answer]] = _decode_answers.decode(data)
    except msgspec.MsgspecError:
        raise ContractBroken(f"unreadable answers to client {client.hex()}") from None
    return found
