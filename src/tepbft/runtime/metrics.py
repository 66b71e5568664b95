"""Prometheus metrics of one node, fed by notices, by the network layer and by the node's status."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

from prometheus_client import CollectorRegistry, Counter, Histogram, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, InfoMetricFamily, Metric
from prometheus_client.registry import Collector

from tepbft.core.events import Notice
from tepbft.node.status import NodeStatus
from tepbft.runtime.inbox import KINDS, Inbox
from tepbft.runtime.peers import LinkState
from tepbft.runtime.traffic import Traffic

FSYNC_BUCKETS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
PHASES = ("active", "view_change", "silent", "transferring", "diverged", "halted")


class Metrics:
    """The registry of one node. What is counted elsewhere is read at the time of a scrape."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        registry = self.registry
        self._cells: dict[tuple[Counter, str], Counter] = {}
        self.append_seconds = Histogram(
            "tepbft_journal_append_seconds",
            "Time of one durable append to the journal.",
            buckets=FSYNC_BUCKETS,
            registry=registry,
        )
        self.batch_events = Histogram(
            "tepbft_batch_events",
            "Events worked off together, with one append.",
            buckets=BATCH_BUCKETS,
            registry=registry,
        )
        self.notices = Counter("tepbft_notices", "Notices of the node, by name.", ["name"], registry=registry)
        self.requests = Counter("tepbft_executed_requests", "Requests executed.", registry=registry)
        self.blocks = Counter("tepbft_executed_blocks", "Blocks executed.", registry=registry)
        self.faults = Counter(
            "tepbft_inadmissible_inputs",
            "Inputs that the node refused, by origin and code.",
            ["origin", "code"],
            registry=registry,
        )
        self.tc_calls = Counter(
            "tepbft_trusted_calls", "Calls of the trusted component, by kind.", ["kind"], registry=registry
        )
        self.tc_restarts = Counter(
            "tepbft_trusted_component_losses",
            "How often the trusted component was lost.",
            registry=registry,
        )

    def called(self, kind: str) -> None:
        """Count one call of the trusted component."""
        self._count(self.tc_calls, kind)

    def _count(self, counter: Counter, label: str) -> None:
        """Add one to the cell of `label`; cells are remembered, as looking one up costs more than adding."""
        cell = self._cells.get((counter, label))
        if cell is None:
            cell = self._cells[counter, label] = counter.labels(label)
        cell.inc()

    def notice(self, notice: Notice) -> None:
        """Count one notice."""
        self._count(self.notices, notice.name)
        fields = notice.fields
        if notice.name == "executed":
            self.blocks.inc()
            requests = fields.get("requests", 0)
            self.requests.inc(requests if isinstance(requests, int) else 0)
        elif notice.name in ("peer_fault", "client_fault"):
            origin = f"node{fields['sender']}" if "sender" in fields else "clients"
            count = fields.get("count", 1)
            self.faults.labels(origin, str(fields.get("code", "unknown"))).inc(
                count if isinstance(count, int) else 1
            )

    def watch(
        self,
        status: Callable[[], NodeStatus],
        traffic: Traffic,
        links: Callable[[], Sequence[LinkState]],
        inbox: Inbox,
        clients: Callable[[], tuple[int, int]],
    ) -> None:
        """Read these at each scrape; `clients` gives connections now and connections turned away."""
        self.registry.register(_Scrape(status, traffic, links, inbox, clients))

    def render(self) -> bytes:
        """The text exposition format."""
        return generate_latest(self.registry)


class _Scrape(Collector):
    def __init__(self, status: Any, traffic: Any, links: Any, inbox: Any, clients: Any) -> None:
        self._status: Callable[[], NodeStatus] = status
        self._traffic: Traffic = traffic
        self._links: Callable[[], Sequence[LinkState]] = links
        self._inbox: Inbox = inbox
        self._clients: Callable[[], tuple[int, int]] = clients

    def describe(self) -> Iterable[Metric]:
        return ()

    def collect(self) -> Iterable[Metric]:
        yield from self._node()
        yield from self._network()

    def _node(self) -> Iterable[Metric]:
        status = self._status()
        for name, text, value in (
            ("view", "Current view.", status.view),
            ("configuration", "Number of the current configuration.", status.configuration),
            ("executed_height", "Highest executed block.", status.executed),
            ("stable_height", "Highest stable checkpoint.", status.stable),
            ("pending_requests", "Requests that wait to be executed.", status.pending_requests),
            ("blocks_in_flight", "Blocks proposed but not executed.", status.blocks_in_flight),
            ("view_changes", "View changes since the start.", status.view_changes),
        ):
            yield GaugeMetricFamily(f"tepbft_{name}", text, value=value)
        phase = GaugeMetricFamily("tepbft_phase", "1 for the phase that the node is in.", labels=["phase"])
        for known in PHASES:
            phase.add_metric([known], 1 if status.phase == known else 0)
        yield phase
        yield InfoMetricFamily(
            "tepbft_verification",
            "How signatures of clients are verified.",
            value={"mode": status.verification},
        )
        text = "1 if the compiled extension is in use."
        yield GaugeMetricFamily("tepbft_extension", text, value=status.extension)
        counters = GaugeMetricFamily("tepbft_node_counter", "The node's own counters.", labels=["name"])
        for key, value in sorted(status.counters.items()):
            counters.add_metric([key], value)
        yield counters

    def _network(self) -> Iterable[Metric]:
        labels = ["direction", "link", "type"]
        messages = CounterMetricFamily("tepbft_messages", "Messages per link and type (B7).", labels=labels)
        octets = CounterMetricFamily("tepbft_message_bytes", "Bytes per link and type (B7).", labels=labels)
        for direction, link, kind, count, size in self._traffic.messages():
            messages.add_metric([direction, link, kind], count)
            octets.add_metric([direction, link, kind], size)
        yield messages
        yield octets
        refused = CounterMetricFamily(
            "tepbft_refused", "What the network layer refused.", labels=["link", "code"]
        )
        for link, code, count in self._traffic.refusals():
            refused.add_metric([link, code], count)
        yield refused
        yield from self._queues()

    def _queues(self) -> Iterable[Metric]:
        up = GaugeMetricFamily("tepbft_link_up", "1 for a link that is up.", labels=["link", "direction"])
        queued = GaugeMetricFamily("tepbft_link_queued_bytes", "Bytes queued for a peer.", labels=["link"])
        dropped = CounterMetricFamily(
            "tepbft_link_dropped_frames", "Frames dropped at a full queue.", labels=["link"]
        )
        for state in self._links():
            link = f"node{state.node}"
            up.add_metric([link, "sent"], int(state.sending))
            up.add_metric([link, "received"], int(state.receiving))
            queued.add_metric([link], state.queued_bytes)
            dropped.add_metric([link], state.dropped_frames)
        yield up
        yield queued
        yield dropped
        inbox = GaugeMetricFamily(
            "tepbft_inbox_bytes", "Bytes that arrived and wait, by origin.", labels=["origin"]
        )
        for kind in KINDS:
            inbox.add_metric([kind], self._inbox.bytes_of(kind))
        yield inbox
        now, rejected = self._clients()
        yield GaugeMetricFamily("tepbft_client_connections", "Client connections.", value=now)
        yield CounterMetricFamily(
            "tepbft_client_connections_rejected", "Client connections turned away.", value=rejected
        )
