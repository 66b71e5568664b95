"""Frames, queues and the inbox, without sockets."""

from __future__ import annotations

from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from tepbft.runtime.inbox import ITEM_OVERHEAD_BYTES, TURN_ITEMS, Inbox
from tepbft.runtime.transport import Budget, FrameProtocol, Outgoing
from tepbft.wire import LENGTH, Welcome, encode, frame, tag_of


class Receiver(FrameProtocol):
    """Keeps what arrives."""

    def __init__(self, limit: int = 1 << 20, budget: Budget | None = None, initial: int = 64) -> None:
        super().__init__(limit, budget or Budget(1 << 30), initial)
        self.frames: list[bytes] = []
        self.refusals: list[str] = []
        self.transport = FakeTransport()  # type: ignore[assignment]

    def frames_received(self, frames: list[bytes]) -> None:
        self.frames += frames

    def refused(self, code: str, detail: str) -> None:
        self.refusals.append(code)

    def feed(self, data: bytes) -> None:
        """What a transport does with received bytes."""
        while data and not self.refusals:
            space = self.get_buffer(-1)
            count = min(len(space), len(data))
            assert count, "a protocol must always offer room"
            space[:count] = data[:count]
            data = data[count:]
            self.buffer_updated(count)


class FakeTransport:
    """Counts writes; `full` makes it say stop."""

    def __init__(self) -> None:
        self.writes: list[bytes] = []

    def write(self, data: bytes) -> None:
        self.writes.append(bytes(data))

    def is_closing(self) -> bool:
        return False

    def get_write_buffer_size(self) -> int:
        return 0

    def set_write_buffer_limits(self, high: int) -> None:
        self.high = high


@given(st.lists(st.binary(min_size=1, max_size=700), max_size=12), st.integers(1, 900))
def test_frames_survive_any_fragmentation(frames: list[bytes], piece: int) -> None:
    """I-25: what was framed comes out, however the stream is cut."""
    receiver = Receiver()
    stream = b"".join(frame(data) for data in frames)
    for start in range(0, len(stream), piece):
        receiver.feed(stream[start : start + piece])
    assert receiver.frames == frames
    assert not receiver.refusals


def test_a_long_frame_is_refused_before_its_body_is_read() -> None:
    receiver = Receiver(limit=1000)
    receiver.feed(frame(b"x") + LENGTH.pack(1001))
    assert receiver.refusals == ["oversize"]
    assert len(receiver._buffer) == 64  # nothing was allocated for it


def test_an_empty_frame_is_refused() -> None:
    receiver = Receiver()
    receiver.feed(LENGTH.pack(0))
    assert receiver.refusals == ["empty_frame"]


def test_memory_grows_with_what_arrives_and_within_the_budget() -> None:
    """I-17: an announced length costs nothing; unfinished frames share a bound."""
    budget = Budget(100_000)
    receivers = [Receiver(1 << 20, budget) for _ in range(4)]
    for receiver in receivers:
        receiver.feed(LENGTH.pack(1 << 20))
    assert budget.used == 0
    for receiver in receivers:
        receiver.feed(b"x" * 40_000)
    assert [r.refusals for r in receivers] == [[], ["memory"], ["memory"], ["memory"]]
    assert budget.used <= budget.limit
    for receiver in receivers:
        receiver.connection_lost(None)
    assert budget.used == 0


def test_what_is_queued_is_written_together() -> None:
    outgoing, transport = Outgoing(1 << 20), FakeTransport()
    outgoing.attach(transport)  # type: ignore[arg-type]
    for number in range(100):
        outgoing.put(frame(bytes([number])))
    assert transport.writes == []
    outgoing.flush()
    assert transport.writes == [b"".join(frame(bytes([number])) for number in range(100))]
    assert outgoing.queued_bytes == 0


def test_a_full_queue_drops_the_oldest_and_counts_them() -> None:
    outgoing, transport = Outgoing(1000, 100), FakeTransport()
    frames = [bytes([number]) * 60 for number in range(5)]
    for data in frames:
        outgoing.put(data)
    assert (outgoing.dropped_frames, outgoing.queued_bytes) == (4, 60)  # down: little is kept
    outgoing.attach(transport)  # type: ignore[arg-type]
    outgoing.pause()
    for number in range(40):
        outgoing.put(bytes([100 + number]) * 60)
    assert outgoing.queued_bytes <= 1000
    assert outgoing.dropped_bytes == outgoing.dropped_frames * 60
    outgoing.resume()
    assert b"".join(transport.writes).endswith(bytes([139]) * 60)
    outgoing.detach()
    outgoing.put(b"x" * 5000)
    assert outgoing.queued_bytes == 5000  # one frame always has room


def drain(inbox: Inbox, limit: int) -> list[tuple[str, int]]:
    return [(source.kind, source.name) for source, _ in inbox.take(limit)]


def test_kinds_and_sources_take_turns() -> None:
    """A flood from one client, or from a thousand, does not keep a peer waiting."""
    inbox = Inbox(1 << 20)
    flood = inbox.source("client", 1)
    flood.put(["x"] * 5000, 5000)
    for number in range(2, 40):
        inbox.source("client", number).put(["y"], 1)
    inbox.source("peer", 7).put(["p"] * 3, 3)
    taken = drain(inbox, 3 * TURN_ITEMS)
    assert ("peer", 7) in taken
    assert ("client", 2) in taken
    assert taken.count(("client", 1)) <= 2 * TURN_ITEMS


def test_a_source_over_its_bound_stops_reading_until_it_is_worked_off() -> None:
    inbox = Inbox(10_000)
    calls: list[str] = []
    source = inbox.source("peer", 1, lambda: calls.append("pause"), lambda: calls.append("resume"))
    source.put([b"x" * 4000] * 2, 8000)
    assert calls == []
    source.put([b"x" * 4000], 4000)
    assert calls == ["pause"]
    while inbox:
        inbox.take(1)
    assert calls == ["pause", "resume"]
    assert inbox.bytes_of("peer") == 0


def test_all_clients_together_have_a_bound_too() -> None:
    """I-17: many connections just below their own bound."""
    inbox = Inbox(10_000, kind_bytes=50_000)
    state: dict[int, str] = {}

    def note(number: int, word: str) -> Any:
        return lambda: state.__setitem__(number, word)

    for number in range(8):
        inbox.source("client", number, note(number, "held"), note(number, "free")).put([b""], 9000)
    assert list(state.values()).count("held") >= 2
    assert inbox.bytes_of("client") <= 50_000 + 3 * (9000 + ITEM_OVERHEAD_BYTES)
    while inbox:
        inbox.take(1)
    assert "held" not in state.values()


def test_tiny_items_are_bounded_as_well() -> None:
    inbox = Inbox(10_000)
    held: list[int] = []
    source = inbox.source("client", 1, lambda: held.append(1))
    source.put([b"x"] * 100, 100)
    assert held == [1]


def test_a_closed_source_is_worked_off_or_forgotten() -> None:
    inbox = Inbox(1000)
    peer, client = inbox.source("peer", 1), inbox.source("client", 2)
    peer.put([b"a"], 1)
    client.put([b"b"], 1)
    peer.close(discard=False)
    client.close(discard=True)
    assert drain(inbox, 10) == [("peer", 1)]
    assert not inbox
    assert inbox.bytes_of("client") == 0
    client.put([b"late"], 4)
    assert not inbox


def test_what_is_not_urgent_waits_for_something_that_is() -> None:
    """Late votes do not wake a node; it takes them when it wakes for something else."""
    inbox = Inbox(10_000)
    woken: list[int] = []
    inbox.wake = lambda: woken.append(1)
    source = inbox.source("peer", 1)
    source.put([b"late"] * 3, 12, urgent=False)
    assert not woken and inbox
    source.put([b"news"], 4)
    assert woken == [1]
    assert [item for _, item in inbox.take(10)] == [b"late"] * 3 + [b"news"]


def test_a_flood_of_what_is_not_urgent_wakes_a_node_once_it_has_to_stop_reading() -> None:
    inbox = Inbox(10_000)
    woken: list[int] = []
    inbox.wake = lambda: woken.append(1)
    source = inbox.source("peer", 1)
    for _ in range(3):
        source.put([b"x" * 4000], 4000, urgent=False)
    assert source.paused and woken == [1]


def test_the_tag_of_a_message_is_seen_without_decoding_it() -> None:
    """A hint, for whatever bytes."""
    assert tag_of(encode(Welcome(bytes(32), 0, 0, 0))) == 1
    for other in (
        b"",
        b"\x92",
        b"\x90\x02",
        b"\x92\xcc\x02",
        b"\x82\x02\x03",
        b"\xdc\x00\x02\x02",
        b"\x01\x02",
    ):
        assert tag_of(other) == -1
