"""A cluster's folder as the commands see it: open it, ask its nodes, name its parts."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

import httpx
import msgspec

from tepbft.cli.verdict import Verdict, judge
from tepbft.core.configuration import Genesis, Member, decode_genesis
from tepbft.errors import TepbftError
from tepbft.node.status import NodeStatus
from tepbft.runtime.layout import ClusterLayout, NodeLayout
from tepbft.runtime.settings import NodeSettings, load_settings

MAX_GENESIS_BYTES = 64 << 20
STATUS_TIMEOUT_S = 2.0
MAX_STATUS_BYTES = 1 << 20
THREADS = 16
_status_decoder = msgspec.json.Decoder(NodeStatus)


def read_genesis(path: Path) -> Genesis:
    """The genesis in a file; TepbftError if it is missing or is not one."""
    try:
        if path.stat().st_size > MAX_GENESIS_BYTES:
            raise TepbftError(
                str(path), "it is too large for a genesis", "Name the genesis.json of a cluster."
            )
        return decode_genesis(path.read_bytes())
    except FileNotFoundError:
        raise TepbftError(
            str(path), "there is no such file", "Make a cluster first: tepbft init DIR --nodes 3"
        ) from None
    except OSError as error:
        raise TepbftError(str(path), f"it cannot be read ({error.strerror})", "Check the path.") from None
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise TepbftError(
            str(path), f"it is not a genesis ({error})", "Restore it from another node's folder."
        ) from None


@dataclass(frozen=True)
class NodeFolder:
    """One node of the cluster whose folder is on this machine."""

    node: int
    layout: NodeLayout
    settings: NodeSettings
    member: Member

    @property
    def name(self) -> str:
        """`node0`, `node1`, …"""
        return f"node{self.node}"


@dataclass(frozen=True)
class Cluster:
    """A cluster's folder."""

    layout: ClusterLayout
    genesis: Genesis
    nodes: tuple[NodeFolder, ...]
    """The nodes whose folders are here; the member table may have more."""

    def select(self, only: Sequence[int] | None) -> tuple[NodeFolder, ...]:
        """The nodes named by `only`; all that are here if it is empty."""
        if not only:
            return self.nodes
        here = {folder.node: folder for folder in self.nodes}
        for node in only:
            if node not in here:
                names = ", ".join(str(number) for number in sorted(here))
                raise TepbftError(
                    f"node {node}",
                    f"{self.layout.root} holds no such node",
                    f"Nodes here: {names}.",
                    exit_code=2,
                )
        return tuple(here[node] for node in sorted(dict.fromkeys(only)))


def open_cluster(root: Path) -> Cluster:
    """The cluster in `root`; TepbftError if that is not a cluster's folder."""
    layout = ClusterLayout(root.absolute())
    genesis = read_genesis(layout.genesis)
    nodes = []
    for found in layout.nodes():
        settings = load_settings(found.settings)
        if settings.node >= len(genesis.members):
            raise TepbftError(
                str(found.settings),
                f"node {settings.node} is not in the genesis of {len(genesis.members)} members",
                "Restore the node's folder, or the genesis that belongs to it.",
            )
        nodes.append(
            NodeFolder(
                settings.node, NodeLayout.of(found.folder, settings), settings, genesis.members[settings.node]
            )
        )
    return Cluster(layout, genesis, tuple(nodes))


def open_node(folder: Path) -> tuple[NodeLayout, Genesis]:
    """The layout and the genesis of one node's folder; TepbftError if that is not one."""
    settings = load_settings(folder.absolute() / "node.toml")
    layout = NodeLayout.of(folder.absolute(), settings)
    return layout, read_genesis(layout.genesis)


def http_address(member: Member) -> str:
    """Base address of a node's HTTP port."""
    host = f"[{member.host}]" if ":" in member.host else member.host
    return f"http://{host}:{member.http_port}"


def plain_http(timeout_s: float, base_url: str = "") -> httpx.Client:
    """A client for nodes' HTTP ports. They speak HTTP without TLS, so it does not read this machine's
    certificates, which takes 25 ms of a processor each time: too much for one that is asked often, or
    beside a measurement. Proxies of the environment are not for it either."""
    return httpx.Client(base_url=base_url, timeout=timeout_s, trust_env=False, verify=False)


def fetch_status(member: Member, timeout_s: float = STATUS_TIMEOUT_S) -> NodeStatus | None:
    """What a node says of itself; None if it does not answer, or not sensibly."""
    try:
        with (
            plain_http(timeout_s) as http,
            http.stream("GET", http_address(member) + "/v1/status") as answer,
        ):
            if answer.status_code != 200:
                return None
            content = bytearray()
            for chunk in answer.iter_bytes():
                content += chunk
                if len(content) > MAX_STATUS_BYTES:
                    return None
        status = _status_decoder.decode(content)
    except (httpx.HTTPError, OSError, msgspec.ValidationError, msgspec.DecodeError):
        return None
    return status if status.node == member.node else None


def fetch_statuses(genesis: Genesis, timeout_s: float = STATUS_TIMEOUT_S) -> list[NodeStatus | None]:
    """The status of every member, in order; those of another chain count as absent."""
    chain_id = genesis.chain_id.hex()
    with ThreadPoolExecutor(THREADS) as threads:
        found = list(threads.map(lambda member: fetch_status(member, timeout_s), genesis.members))
    return [status if status is not None and status.chain_id == chain_id else None for status in found]


def survey(genesis: Genesis) -> tuple[list[NodeStatus | None], Verdict]:
    """Statuses of all members, and what they mean together."""
    statuses = fetch_statuses(genesis)
    return statuses, judge(len(genesis.members), statuses)
