"""Looking at a cluster while it is measured: processes, disks, message counters."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import httpx
from prometheus_client.parser import text_string_to_metric_families

from tepbft.cli.cluster import NodeFolder, http_address, plain_http
from tepbft.cli.processes import node_pid
from tepbft.errors import TepbftError
from tepbft.lab.usage import folder_bytes, node_usage, processor_time, usage
from tepbft.trusted.client import device_pid

_TIMEOUT_S = 5.0


@dataclass
class Sample:
    """What all measured nodes had used together at one moment."""

    cpu_s: float = 0.0
    trusted_cpu_s: float = 0.0
    disk_bytes: int = 0
    processor_time: tuple[int, int] = (0, 0)
    """Ticks that passed on all processors, and that were stolen: see `usage.processor_time`."""
    messages: dict[str, tuple[int, int]] = field(default_factory=dict)
    """Message type -> (how many were sent, bytes), by all nodes to nodes and clients."""


class Probe:
    """Watches the processes of some nodes."""

    def __init__(self, nodes: Sequence[NodeFolder]) -> None:
        self._nodes = list(nodes)
        self._pids: list[tuple[int, int | None]] = []
        for folder in nodes:
            pid = node_pid(folder.layout)
            if pid is None:
                raise TepbftError(folder.name, "it has ended", f"Look into {folder.layout.log}.")
            self._pids.append((pid, device_pid(folder.layout.trusted)))
        self.rss_max_bytes = 0
        self.rss_series: list[tuple[float, int]] = []
        """(seconds since the window began, resident bytes of the largest node)."""

    def sample(self) -> Sample:
        """CPU, disk and messages now."""
        found = Sample(processor_time=processor_time())
        for pid, trusted in self._pids:
            node, component = node_usage(pid), usage(trusted) if trusted else None
            found.cpu_s += node.cpu_s if node else 0.0
            found.trusted_cpu_s += component.cpu_s if component else 0.0
        found.disk_bytes = sum(folder_bytes(folder.layout.store) for folder in self._nodes)
        for folder in self._nodes:
            self._count_messages(folder, found)
        return found

    def _count_messages(self, folder: NodeFolder, into: Sample) -> None:
        try:
            with plain_http(_TIMEOUT_S) as http:
                text = http.get(http_address(folder.member) + "/metrics").text
        except httpx.HTTPError:
            return
        totals = {"tepbft_messages": 0, "tepbft_message_bytes": 1}
        # Hundreds of lines are exposed, and reading them takes the processors from those that are measured.
        wanted = "\n".join(
            line for line in text.splitlines() if line.startswith(("tepbft_message", "# TYPE tepbft_message"))
        )
        for family in text_string_to_metric_families(wanted + "\n"):
            place = totals.get(family.name)
            if place is None:
                continue
            for sample in family.samples:
                if sample.labels.get("direction") == "sent" and sample.name.endswith("_total"):
                    kind = sample.labels["type"]
                    pair = list(into.messages.get(kind, (0, 0)))
                    pair[place] += int(sample.value)
                    into.messages[kind] = (pair[0], pair[1])

    def watch_memory(self, at_s: float) -> None:
        """Note resident sizes; call it now and then."""
        sizes = [found.rss_bytes for pid, _ in self._pids if (found := node_usage(pid)) is not None]
        largest = max(sizes, default=0)
        self.rss_max_bytes = max(self.rss_max_bytes, largest)
        self.rss_series.append((round(at_s, 2), largest))
