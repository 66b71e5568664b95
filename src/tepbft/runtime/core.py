"""What a shell drives: the sans-IO node, its store, its trusted component, and the time."""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import Protocol

from tepbft.core.block import Receipt
from tepbft.core.configuration import Configuration
from tepbft.core.events import Effects, Event
from tepbft.node.status import NodeStatus
from tepbft.storage.port import ChainStore
from tepbft.trusted.port import Identity, TcAnswer, TcRequest
from tepbft.types import Height
from tepbft.wire import Welcome


class NodeCore(Protocol):
    """The sans-IO node (`tepbft.node.node.Node`)."""

    @property
    def configuration(self) -> Configuration:
        """The current member table."""
        ...

    def start(self, now_ms: int, wall_ms: int) -> Effects:
        """Recover from the store. Called once."""
        ...

    def step(self, event: Event, now_ms: int) -> Effects:
        """Take one event."""
        ...

    def undecided(self) -> bool:
        """Whether votes of peers may matter now."""
        ...

    def wake_at_ms(self) -> int | None:
        """When it wants a `Tick` earlier than it would come anyway."""
        ...

    def status(self, now_ms: int) -> NodeStatus:
        """Where the node stands."""
        ...

    def welcome(self) -> Welcome:
        """First message to a client."""
        ...

    def find_outcome(self, client: bytes, session: int, seq: int) -> tuple[Height, Receipt] | None:
        """The kept reply to a request, with its height."""
        ...


class Device(Protocol):
    """The connection to the trusted component (`trusted.client.DeviceClient`). Every method raises
    one of `shell.DEVICE_ERRORS` when the component is gone."""

    @property
    def outlives_host(self) -> bool:
        """Whether it keeps its registers when the power fails: it is asked only for what is on the disk
        then. One that is lost with what was only written may sign while the disk works (ADR 0023)."""
        ...

    def identity(self) -> Identity:
        """Who it is."""
        ...

    def provision(
        self, chain_id: bytes, node: int, cfg: int, cfg_digest: bytes, floor: int, window: int
    ) -> None:
        """Bind a fresh component; a no-op on one that is bound to the same."""
        ...

    def call(self, request: TcRequest) -> TcAnswer:
        """Carry out one request."""
        ...

    def ask(self, requests: list[TcRequest]) -> None:
        """Hand over requests; `answers` is called next."""
        ...

    def answers(self) -> list[TcAnswer]:
        """The answers to what was asked, as many and in the same order."""
        ...

    def close(self) -> None:
        """Close the connection; the component stays."""
        ...


class DeviceSource(Protocol):
    """Where a node's connection to its trusted component comes from (`runtime.launcher.Launcher`)."""

    def open_device(self) -> Device:
        """A connection; TepbftError if the component cannot be had."""
        ...

    def close(self) -> None:
        """The node ends."""
        ...


@dataclass(frozen=True)
class Core:
    """A running node core with what it stands on; made anew when its trusted component is."""

    node: NodeCore
    store: ChainStore
    device: Device
    identity: Identity


class Clock:
    """The time, as the shell gives it to the node."""

    def now_ms(self) -> int:
        """Monotonic milliseconds."""
        return time.monotonic_ns() // 1_000_000

    def wall_ms(self) -> int:
        """Unix milliseconds."""
        return time.time_ns() // 1_000_000
