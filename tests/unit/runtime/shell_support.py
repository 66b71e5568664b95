"""A shell on fakes that record, in one list, everything that is done and in which order."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

from runtime_support import CHAIN

from tepbft.core.block import Receipt, genesis_header
from tepbft.core.certificates import PrepareHead
from tepbft.core.configuration import Configuration, Member
from tepbft.core.events import (
    Busy,
    Effects,
    Event,
    InstallState,
    Notice,
    Reply,
    SaveSnapshot,
    Send,
)
from tepbft.errors import PeerFault, TepbftError
from tepbft.node.status import NodeStatus
from tepbft.runtime.bridge import Bridge
from tepbft.runtime.core import Core
from tepbft.runtime.inbox import Inbox
from tepbft.runtime.metrics import Metrics
from tepbft.runtime.shell import Shell
from tepbft.storage.port import HeaderRecord, PrepareRecord
from tepbft.storage.records import height_of
from tepbft.trusted.port import Attest, Identity, SignCheckpoint, TcRequest, Ui
from tepbft.types import ConnectionId
from tepbft.wire import Welcome

Log = list[tuple[str, Any]]


def record(height: int) -> PrepareRecord:
    return PrepareRecord(0, PrepareHead(0, height, b"d" * 32, 1, b""))


def outcome_record(height: int) -> HeaderRecord:
    return HeaderRecord(genesis_header(CHAIN, height), b"")


def checkpoint(height: int) -> SignCheckpoint:
    return SignCheckpoint(height, b"c" * 32)


def effects(tag: int, **more: Any) -> Effects:
    """One of everything, tagged."""
    out = Effects(
        persist=[record(tag)],
        store=[SaveSnapshot(tag, [b""])],
        certify=[checkpoint(tag)],
        send=[Send((1, 2), f"message{tag}")],
        replies=[Reply(ConnectionId(tag), tag, [])],
        busy=[Busy(ConnectionId(tag), [(b"c" * 16, 1, tag, "busy")])],
        notices=[Notice("executed", {"height": tag, "requests": 2, "view": 0})],
    )
    for name, value in more.items():
        setattr(out, name, value)
    return out


def identity(tc: bytes = b"\x00" * 16) -> Identity:
    return Identity(tc, b"k" * 65, CHAIN, 0, 0, 0, 0, 0, 0, False, True)


def configuration(tc: bytes = b"\x00" * 16) -> Configuration:
    members = tuple(
        Member(n, tc if n == 0 else bytes([n]) * 16, b"k", b"n", b"o", b"c" * 32, "127.0.0.1", 1, 2, 3)
        for n in range(3)
    )
    return Configuration(0, 0, members)


class FakeNode:
    """Answers each event with what `script` says; records the events."""

    def __init__(self, log: Log, script: Callable[[Event], Effects | None]) -> None:
        self.log = log
        self.script = script
        self.events: list[Event] = []
        self.configuration = configuration()
        self.outcomes: dict[tuple[bytes, int, int], tuple[int, Receipt]] = {}
        self.phase, self.heals, self.verdict = "active", True, "works"
        self.seal_at_ms: int | None = None
        self.open = True

    def start(self, now_ms: int, wall_ms: int) -> Effects:
        self.log.append(("start", None))
        return Effects()

    def step(self, event: Event, now_ms: int) -> Effects:
        self.events.append(event)
        return self.script(event) or Effects()

    def wake_at_ms(self) -> int | None:
        return self.seal_at_ms

    def undecided(self) -> bool:
        return self.open

    def status(self, now_ms: int) -> NodeStatus:
        return NodeStatus(
            node=0,
            chain_id=CHAIN.hex(),
            protocol="tep",
            phase=self.phase,
            view=3,
            primary=0,
            n=3,
            f=1,
            commit_quorum=2,
            configuration=0,
            executed=5,
            stable=4,
            head="00",
            tc_id="00",
            pending_requests=0,
            blocks_in_flight=0,
            view_changes=0,
            heals=self.heals,
            verdict=self.verdict,
            peers=[],
            counters={"executed": 5},
        )

    def welcome(self) -> Welcome:
        return Welcome(CHAIN, 0, 3, 0)

    def find_outcome(self, client: bytes, session: int, seq: int) -> tuple[int, Receipt] | None:
        return self.outcomes.get((client, session, seq))


class FakeStore:
    """Records; `fail` is raised by the next calls of `append`."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.fail: list[Exception] = []
        self.written = False

    def append(self, records: list[Any], *, forced: bool = True) -> None:
        if self.fail:
            raise self.fail.pop(0)
        heights = [height_of(record) for record in records]
        self.written = not forced
        self.log.append(("append" if forced else "write", heights))

    def force(self) -> None:
        if self.written:
            self.log.append(("force", None))
        self.written = False

    def install(self, writes: Any, stable: int, header: Any) -> None:
        self.log.append(("install", stable))

    def save_snapshot(self, height: int, chunks: Any) -> None:
        self.log.append(("snapshot", height))

    def replace_state(self, height: int, header: Any, certificate: Any, chunks: Any) -> None:
        self.log.append(("replace", height))


class FakeDevice:
    """Signs; `dead` makes it vanish, `dying` once it has been asked."""

    def __init__(self, log: Log) -> None:
        self.log = log
        self.dead = self.dying = False
        self.outlives_host = False
        self.asked: list[TcRequest] = []

    def ask(self, requests: list[TcRequest]) -> None:
        if self.dead:
            raise TepbftError("trusted component", "ended while it was being used", "Look.")
        self.log.append(("certify", [getattr(r, "height", 0) for r in requests]))
        self.asked, self.dead = requests, self.dying

    def answers(self) -> list[Ui]:
        if self.dead:
            raise TepbftError("trusted component", "ended while it was being used", "Look.")
        return [Ui(1, b"s") for _ in self.asked]

    def identity(self) -> Identity:
        if self.dead:
            raise TepbftError("trusted component", "ended while it was being used", "Look.")
        return identity()

    def call(self, request: Attest) -> Ui:
        self.ask([request])
        return self.answers()[0]

    def close(self) -> None:
        self.log.append(("close_device", None))


class FakeNetwork:
    def __init__(self, log: Log) -> None:
        self.log = log
        self.queued: list[Any] = []

    def send(self, to: Any, message: Any) -> None:
        self.log.append(("send", message))
        self.queued.append(message)

    def flush(self) -> None:
        if self.queued:
            self.log.append(("left", self.queued))
        self.queued = []

    def open(self, sender: int, data: bytes) -> Any:
        if data == b"bad":
            raise PeerFault("malformed")
        return data


class FakeClients:
    gone: Any = None
    welcome: Any = None

    def __init__(self, log: Log) -> None:
        self.log = log

    def reply(self, reply: Reply, view: int) -> None:
        self.log.append(("reply", (reply.height, view)))

    def busy(self, busy: Busy) -> None:
        self.log.append(("busy", busy.connection))

    def open(self, data: bytes) -> Any:
        if isinstance(data, bytes):
            raise PeerFault("malformed")
        return data

    def send(self, number: int, message: Any) -> None:
        self.log.append(("client", message))

    def flush(self) -> None:
        pass

    def drop(self, number: int, fault: PeerFault) -> None:
        self.log.append(("drop", fault.code))


class FakeClock:
    now = 1000
    step = 0
    """How far the clock moves whenever somebody looks."""

    def now_ms(self) -> int:
        self.now += self.step
        return self.now

    def wall_ms(self) -> int:
        return 1_000_000


class World:
    """A shell and everything around it."""

    def __init__(self, script: Callable[[Event], Effects | None], readmission: Any = None) -> None:
        self.log: Log = []
        self.node = FakeNode(self.log, script)
        self.store = FakeStore(self.log)
        self.device = FakeDevice(self.log)
        self.clock = FakeClock()
        self.inbox = Inbox(1 << 20)
        numbers = itertools.count(1000)
        self.bridge = Bridge(self.inbox, lambda: ConnectionId(next(numbers)), 4)
        self.metrics = Metrics()
        self.reopened: list[Any] = []
        self.new_identity = identity(b"\x99" * 16)
        self.shell = Shell(
            Core(self.node, self.store, self.device, identity()),  # type: ignore[arg-type]
            inbox=self.inbox,
            network=FakeNetwork(self.log),  # type: ignore[arg-type]
            clients=FakeClients(self.log),  # type: ignore[arg-type]
            bridge=self.bridge,
            metrics=self.metrics,
            reopen_device=self.reopen,
            rebuild=self.rebuild,  # type: ignore[arg-type]
            prove=lambda core, want: ("proof", want.seq),
            readmission=readmission,
            tick_ms=10,
            verification=lambda: "2 threads",
            clock=self.clock,  # type: ignore[arg-type]
        )

    def reopen(self) -> Any:
        found = self.reopened.pop(0)
        if isinstance(found, Exception):
            raise found
        return found

    def rebuild(self, store: Any, device: Any) -> Core:
        self.log.append(("rebuild", None))
        return Core(self.node, store, device, self.new_identity)

    def kinds(self) -> list[str]:
        return [kind for kind, _ in self.log if kind != "left"]


__all__ = [
    "InstallState",
    "World",
    "checkpoint",
    "effects",
    "genesis_header",
    "identity",
    "outcome_record",
    "record",
]
