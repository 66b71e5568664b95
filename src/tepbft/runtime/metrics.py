"""Prometheus metrics of one node, fed by notices, by the network layer and by the node's status."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from typing import Any

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    InfoMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector
from prometheus_client.utils import floatToGoString

from tepbft.core.events import Notice
from tepbft.node.status import NodeStatus
from tepbft.runtime.inbox import KINDS, Inbox
from tepbft.runtime.peers import LinkState
from tepbft.runtime.traffic import Traffic

FSYNC_BUCKETS = (0.0001, 0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.5, 1.0)
BATCH_BUCKETS = (1, 2, 4, 8, 16, 32, 64, 128, 256)
PHASES = ("active", "view_change", "silent", "transferring", "diverged", "halted")


class Tally:
    """A histogram that costs a fraction of a microsecond to feed: a node does so several times a block.
    `bounds` are the upper ends of its buckets, each inclusive."""

    def __init__(self, bounds: Sequence[float]) -> None:
        self.bounds = tuple(bounds)
        self.counts = [0] * (len(self.bounds) + 1)
        self.sum = 0.0

    def observe(self, value: float) -> None:
        """Count one value."""
        self.counts[bisect_left(self.bounds, value)] += 1
        self.sum += value

    def family(self, name: str, text: str) -> HistogramMetricFamily:
        """As Prometheus wants it."""
        ends = [*map(floatToGoString, self.bounds), "+Inf"]
        buckets = list(zip(ends, accumulate(self.counts), strict=True))
        return HistogramMetricFamily(name, text, buckets=buckets, sum_value=self.sum)


class Metrics(Collector):
    """The registry of one node. What happens often is only counted here; everything is put into
    Prometheus' form at the time of a scrape."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.append_seconds = Tally(FSYNC_BUCKETS)
        self.batch_events = Tally(BATCH_BUCKETS)
        self.notices: Counter[str] = Counter()
        self.requests = 0
        self.blocks = 0
        self.faults: Counter[tuple[str, str]] = Counter()
        """By (origin, code)."""
        self.tc_calls: Counter[str] = Counter()
        self.tc_losses = 0
        self.registry.register(self)

    def notice(self, notice: Notice) -> None:
        """Count one notice."""
        self.notices[notice.name] += 1
        fields = notice.fields
        if notice.name == "executed":
            self.blocks += 1
            requests = fields.get("requests", 0)
            self.requests += requests if isinstance(requests, int) else 0
        elif notice.name in ("peer_fault", "client_fault"):
            origin = f"node{fields['sender']}" if "sender" in fields else "clients"
            count = fields.get("count", 1)
            place = (origin, str(fields.get("code", "unknown")))
            self.faults[place] += count if isinstance(count, int) else 1

    def describe(self) -> Iterable[Metric]:
        """Nothing: what there is shows at the first scrape."""
        return ()

    def collect(self) -> Iterable[Metric]:
        """What was counted, for the registry."""
        yield self.append_seconds.family(
            "tepbft_journal_append_seconds", "Time of one durable append to the journal."
        )
        yield self.batch_events.family("tepbft_batch_events", "Events worked off together, with one append.")
        notices = CounterMetricFamily("tepbft_notices", "Notices of the node, by name.", labels=["name"])
        for name, count in self.notices.items():
            notices.add_metric([name], count)
        yield notices
        yield CounterMetricFamily("tepbft_executed_requests", "Requests executed.", value=self.requests)
        yield CounterMetricFamily("tepbft_executed_blocks", "Blocks executed.", value=self.blocks)
        text = "Inputs that the node refused, by origin and code."
        faults = CounterMetricFamily("tepbft_inadmissible_inputs", text, labels=["origin", "code"])
        for place, count in self.faults.items():
            faults.add_metric(list(place), count)
        yield faults
        text = "Calls of the trusted component, by kind."
        calls = CounterMetricFamily("tepbft_trusted_calls", text, labels=["kind"])
        for kind, count in self.tc_calls.items():
            calls.add_metric([kind], count)
        yield calls
        text = "How often the trusted component was lost."
        yield CounterMetricFamily("tepbft_trusted_component_losses", text, value=self.tc_losses)

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
