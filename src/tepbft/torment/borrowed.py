"""The nodes' settings while the relays stand between them: changed for the run, then as they were found.

The original lies beside each `node.toml` meanwhile, so that even a run that was killed
is repaired by the next one.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import threading
from collections.abc import Callable, Iterator

import msgspec

from tepbft.cli.cluster import Cluster
from tepbft.cli.lifecycle import raise_cluster
from tepbft.cli.processes import node_pid, send_signal, stop_nodes
from tepbft.cli.verdict import Verdict
from tepbft.errors import TepbftError
from tepbft.runtime.layout import ClusterLayout, NodeLayout
from tepbft.runtime.settings import dump_settings, peer_addresses
from tepbft.storage.files import replace_durably, sync_folder
from tepbft.torment.relays import Pair
from tepbft.trusted.client import device_pid
from tepbft.types import NodeId

SUFFIX = ".before-torment"


def _original(layout: NodeLayout) -> str:
    return layout.settings.name + SUFFIX


def targets_of(cluster: Cluster) -> dict[Pair, tuple[str, int]]:
    """Where each node dials each other one by its own settings: where the relay has to go on to."""
    members = cluster.genesis.members
    found: dict[Pair, tuple[str, int]] = {}
    for folder in cluster.nodes:
        elsewhere = peer_addresses(folder.settings)
        for member in members:
            if member.node != folder.node:
                own = (member.host, member.peer_port)
                found[folder.node, member.node] = elsewhere.get(member.node, own)
    return found


def borrow(cluster: Cluster, addresses_for: Callable[[NodeId], dict[str, str]]) -> None:
    """Let every node dial what `addresses_for` says, from its next start on. Undone by `give_back`."""
    for folder in cluster.nodes:
        path = folder.layout.settings
        original = path.with_name(_original(folder.layout))
        changed = msgspec.structs.replace(folder.settings, peer_addresses=addresses_for(folder.node))
        if not original.exists():
            replace_durably(original, [path.read_bytes()])
        replace_durably(path, [dump_settings(changed).encode()])


def give_back(layout: ClusterLayout) -> list[NodeLayout]:
    """Put the original settings back, byte for byte; the nodes whose settings were borrowed."""
    found = []
    for node in layout.nodes():
        original = node.settings.with_name(_original(node))
        if original.exists():
            os.replace(original, node.settings)
            sync_folder(node.folder)
            found.append(node)
    return found


def stop(cluster: Cluster) -> None:
    """End all nodes; the components stay. What a run that was killed left paused goes on first."""
    for folder in cluster.nodes:
        for pid in (node_pid(folder.layout), device_pid(folder.layout.trusted)):
            if pid is not None:
                send_signal(pid, signal.SIGCONT)
    stop_nodes(folder.layout for folder in cluster.nodes)


def restart(cluster: Cluster, settle_s: float) -> Verdict:
    """All nodes anew, so that they read their settings; how the cluster is then."""
    stop(cluster)
    return raise_cluster(cluster, settle_s=settle_s).verdict


@contextlib.contextmanager
def alone(layout: ClusterLayout) -> Iterator[None]:
    """Only one torment per cluster at a time: a lock on its genesis."""
    descriptor = os.open(layout.genesis, os.O_RDONLY | os.O_CLOEXEC)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise TepbftError(
                str(layout.root), "it is being tormented already", "Wait for the other command."
            ) from None
        yield
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def deaf() -> Iterator[None]:
    """Ctrl-C is ignored inside: a cluster is not left half restored."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {number: signal.signal(number, signal.SIG_IGN) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
