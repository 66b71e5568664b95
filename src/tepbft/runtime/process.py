"""A node as a process: everything is made here, top to bottom, and taken down in reverse.

`python -m tepbft.runtime.process FOLDER` runs the node of a folder in the foreground.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import itertools
import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import structlog

from tepbft.core.configuration import Configuration, Genesis, Member, decode_genesis
from tepbft.crypto.node_key import NodeKey
from tepbft.errors import TepbftError, TrustedRefusal
from tepbft.execution.loader import load_application
from tepbft.node.node import Node
from tepbft.protocols.tep.messages import VOTES, codec
from tepbft.rpc.app import create_app
from tepbft.rpc.server import HttpServer
from tepbft.runtime.bridge import Bridge
from tepbft.runtime.clients import ClientPort
from tepbft.runtime.core import Core, Device, DeviceSource, NodeCore
from tepbft.runtime.inbox import Inbox
from tepbft.runtime.interpreter import loop_factory, tame_garbage_collection
from tepbft.runtime.launcher import Launcher
from tepbft.runtime.layout import NodeLayout, read_secret, read_seed
from tepbft.runtime.logs import configure_logs
from tepbft.runtime.metrics import Metrics
from tepbft.runtime.peers import PeerNetwork
from tepbft.runtime.readmission import Readmission
from tepbft.runtime.settings import NodeSettings, load_settings, node_options, peer_addresses
from tepbft.runtime.shell import Shell
from tepbft.runtime.tls import TlsContexts, certificate_digest, make_contexts
from tepbft.runtime.traffic import Traffic
from tepbft.runtime.transport import bind
from tepbft.runtime.verifying import open_verifier, requests_at_once
from tepbft.runtime.verifying_parallel import NodeVerifier
from tepbft.runtime.view import NodeView, answer_want_proof
from tepbft.storage.port import ChainStore
from tepbft.storage.records import decode_configuration
from tepbft.storage.rocks import RocksStore
from tepbft.trusted.confine import confine_replica
from tepbft.trusted.port import Identity
from tepbft.trusted.verify import UiVerifier
from tepbft.types import MAX_NODES, ConnectionId

MAX_GENESIS_BYTES = 64 << 20
log = structlog.get_logger("tepbft.process")


@dataclass(frozen=True)
class Credentials:
    """What only this node has."""

    node_key: NodeKey
    operator_seed: bytes | None
    mac_keys: Mapping[bytes, bytes] | None
    contexts: TlsContexts


@dataclass(frozen=True)
class Sockets:
    """Bound before anything is started, so that a port in use costs nothing."""

    peer: socket.socket
    client: socket.socket
    http: socket.socket

    def close(self) -> None:
        """Close all three."""
        for sock in (self.peer, self.client, self.http):
            sock.close()


# --- what is on disk --------------------------------------------------------------------------


@contextlib.contextmanager
def hold_folder(layout: NodeLayout) -> Iterator[None]:
    """Keep other processes off this node's folder, and say who is here (`node.pid`)."""
    try:
        descriptor = os.open(layout.lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise TepbftError(
            str(layout.lock), f"it cannot be created ({error.strerror})", "Check the folder's permissions."
        ) from None
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise TepbftError(
                str(layout.folder), "a node runs on this folder already", "Stop it first: tepbft down."
            ) from None
        layout.pid.write_text(f"{os.getpid()}\n", encoding="ascii")
        try:
            yield
        finally:
            layout.pid.unlink(missing_ok=True)
    finally:
        os.close(descriptor)


def load_genesis(path: Path) -> Genesis:
    """The genesis in a file, its parameters checked; TepbftError if it is of no use."""
    remedy = "Restore it from another node's folder."
    try:
        if path.stat().st_size > MAX_GENESIS_BYTES:
            raise TepbftError(str(path), "it is too large for a genesis", remedy)
        genesis = decode_genesis(path.read_bytes())
    except OSError as error:
        raise TepbftError(str(path), f"it cannot be read ({error.strerror})", remedy) from None
    except (msgspec.ValidationError, msgspec.DecodeError) as error:
        raise TepbftError(str(path), f"it is not a genesis ({error})", remedy) from None
    wrong = genesis.parameters.check()
    if not 3 <= len(genesis.members) <= MAX_NODES:
        wrong.append(f"a cluster has 3 to {MAX_NODES} members, not {len(genesis.members)}")
    if [member.node for member in genesis.members] != list(range(len(genesis.members))):
        wrong.append("members must be numbered from 0 in order")
    if genesis.protocol != "tep":
        wrong.append(f"the protocol {genesis.protocol!r} is not known")
    if wrong:
        raise TepbftError(str(path), "; ".join(wrong), "Make the cluster anew, or use the matching version.")
    return genesis


def own_entry(layout: NodeLayout, settings: NodeSettings, genesis: Genesis) -> Member:
    """This node's entry of the member table; TepbftError if settings and genesis do not fit."""
    if settings.node >= len(genesis.members):
        raise TepbftError(
            f"{layout.settings}, setting `node`",
            f"the genesis has members 0 to {len(genesis.members) - 1}",
            "Restore node.toml.",
        )
    unknown = sorted(node for node in peer_addresses(settings) if node >= len(genesis.members))
    if unknown:
        raise TepbftError(
            f"{layout.settings}, setting `peer_addresses`",
            f"the genesis has no member {unknown[0]}",
            f"Nodes are 0 to {len(genesis.members) - 1}.",
        )
    if settings.in_flight_blocks > genesis.parameters.window:
        raise TepbftError(
            f"{layout.settings}, setting `in_flight_blocks`",
            f"it is above the window of the genesis, {genesis.parameters.window}",
            "Lower it.",
        )
    return genesis.members[settings.node]


def load_credentials(layout: NodeLayout, settings: NodeSettings, genesis: Genesis) -> Credentials:
    """Keys and certificates, compared with the member table; TepbftError for any that do not belong."""
    member = own_entry(layout, settings, genesis)
    node_key = NodeKey.from_seed(read_seed(layout.node_key))
    if node_key.public != member.node_key:
        raise TepbftError(
            str(layout.node_key), "it is not the key that the genesis names", "Restore the node's folder."
        )
    try:
        found = certificate_digest(layout.tls_certificate.read_text(encoding="ascii"))
    except (OSError, ValueError) as error:
        raise TepbftError(
            str(layout.tls_certificate), f"it is no certificate ({error})", "Restore the node's folder."
        ) from None
    if found != member.certificate:
        raise TepbftError(
            str(layout.tls_certificate),
            "it is not the certificate that the genesis names",
            "Restore the node's folder.",
        )
    read_secret(layout.tls_key)  # its permissions
    contexts = make_contexts(layout.tls_certificate, layout.tls_key, layout.certificates)
    operator_seed = None
    if settings.auto_readmit and layout.operator_key.exists():
        operator_seed = read_seed(layout.operator_key)
    mac_keys = _load_mac_keys(layout.macs) if genesis.scheme == "mac" else None
    return Credentials(node_key, operator_seed, mac_keys, contexts)


def _load_mac_keys(path: Path) -> dict[bytes, bytes]:
    try:
        return {bytes.fromhex(c): bytes.fromhex(k) for c, k in json.loads(read_secret(path)).items()}
    except (ValueError, AttributeError, TypeError, RecursionError) as error:
        raise TepbftError(str(path), f"it does not hold MAC keys ({error})", "Restore it.") from None


def bind_sockets(member: Member, settings: NodeSettings) -> Sockets:
    """All three ports; TepbftError naming the one that cannot be had."""
    host = settings.bind_host or member.host
    opened: list[socket.socket] = []
    try:
        for purpose, address, port in (
            ("peer", host, member.peer_port),
            ("client", host, member.client_port),
            ("HTTP", settings.http_host, member.http_port),
        ):
            opened.append(bind(address, port, purpose))
    except TepbftError:
        for sock in opened:
            sock.close()
        raise
    return Sockets(*opened)


# --- the trusted component --------------------------------------------------------------------


def current_configuration(genesis: Genesis, store: ChainStore) -> Configuration:
    """The newest configuration in this node's ledger."""
    stored = store.configurations()
    return decode_configuration(stored[-1]) if stored else genesis.configuration()


def check_component(
    layout: NodeLayout, genesis: Genesis, node: int, device: Device, cfg: Configuration
) -> Identity:
    """Bind a fresh component to this chain and node; TepbftError if it is bound to another."""
    thing = f"trusted component in {layout.trusted}"
    identity = device.identity()
    if identity.halted:
        raise TepbftError(thing, "it has sealed itself and ends", "Start the node again in a moment.")
    if identity.chain_id and (identity.chain_id, identity.node) != (genesis.chain_id, node):
        raise TepbftError(
            thing,
            f"it belongs to node {identity.node} of chain {identity.chain_id.hex()[:16]}…",
            "Use the trusted folder that belongs to this node.",
        )
    try:
        device.provision(
            genesis.chain_id, node, cfg.number, cfg.digest(), cfg.floor, genesis.parameters.window
        )
    except TrustedRefusal as refusal:
        raise TepbftError(
            thing, f"it refuses this node ({refusal})", "Use the trusted folder that belongs to this node."
        ) from None
    return device.identity()


# --- wiring -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Parts:
    """What a node is made of, once everything on disk has been checked."""

    layout: NodeLayout
    settings: NodeSettings
    genesis: Genesis
    credentials: Credentials
    store: ChainStore
    launcher: DeviceSource
    wrap: Callable[[Node], NodeCore]
    requests: NodeVerifier

    def core(self, store: ChainStore, device: Device) -> Core:
        """A node core on a store and a trusted component, which is bound to this chain if it is fresh."""
        genesis, settings = self.genesis, self.settings
        cfg = current_configuration(genesis, store)
        identity = check_component(self.layout, genesis, settings.node, device, cfg)
        if identity.tc_id != cfg.members[settings.node].tc_id:
            seed = self.credentials.operator_seed
            what_next = "an operator must readmit it" if seed is None else "it asks for readmission"
            log.warning("trusted_component_not_a_member", tc_id=identity.tc_id, what_next=what_next)
        node = Node(
            me=settings.node,
            genesis=genesis,
            store=store,
            identity=identity,
            signer=self.credentials.node_key,
            verifier=UiVerifier(genesis.chain_id),
            requests=self.requests,
            application=load_application(genesis.app),
            settings=node_options(settings, len(genesis.members)),
        )
        return Core(self.wrap(node), store, device, identity)


def _network(parts: Parts, sock: socket.socket, inbox: Inbox, traffic: Traffic) -> PeerNetwork:
    genesis, settings = parts.genesis, parts.settings
    return PeerNetwork(
        me=settings.node,
        chain_id=genesis.chain_id,
        members=genesis.members,
        contexts=parts.credentials.contexts,
        codec=codec,
        votes=VOTES,
        sock=sock,
        inbox=inbox,
        traffic=traffic,
        queue_bytes=settings.peer_queue_bytes,
        handshake_timeout_ms=settings.handshake_timeout_ms,
        addresses=peer_addresses(settings),
    )


async def serve(parts: Parts, core: Core, sockets: Sockets) -> int:
    """Run until a signal; the exit code."""
    genesis, settings = parts.genesis, parts.settings
    numbers = itertools.count(1)

    def next_number() -> ConnectionId:
        return ConnectionId(next(numbers))

    inbox = Inbox(settings.inbox_bytes)
    traffic = Traffic()
    metrics = Metrics()
    bridge = Bridge(inbox, next_number, settings.http_waiters)
    network = _network(parts, sockets.peer, inbox, traffic)
    clients = ClientPort(
        chain_id=genesis.chain_id,
        context=parts.credentials.contexts.client_server,
        sock=sockets.client,
        inbox=inbox,
        traffic=traffic,
        settings=settings,
        next_number=next_number,
    )
    seed = parts.credentials.operator_seed
    shell = Shell(
        core,
        inbox=inbox,
        network=network,
        clients=clients,
        bridge=bridge,
        metrics=metrics,
        reopen_device=parts.launcher.open_device,
        rebuild=parts.core,
        prove=lambda now, want: answer_want_proof(now, genesis, want),
        readmission=Readmission(genesis.chain_id, settings.node, seed) if seed is not None else None,
        tick_ms=settings.tick_ms,
        verification=parts.requests.mode,
        part_requests=requests_at_once(parts.requests.mode(), genesis.scheme),
    )
    metrics.watch(
        shell.status,
        traffic,
        network.states,
        inbox,
        lambda: (len(clients.connections), clients.listener.rejected),
    )
    view = NodeView(genesis, shell, bridge, metrics, timeout_ms=settings.http_timeout_ms)
    http = HttpServer(create_app(view), sockets.http, limit=2 * settings.http_waiters + 64)
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, shell.stop)
    network.start()
    clients.start()
    http.start()
    log.info("node_started", node=settings.node, chain_id=genesis.chain_id.hex(), pid=os.getpid())
    try:
        return await shell.run()
    finally:
        await http.close()
        await clients.close()
        await network.close()
        log.info("node_stopped", node=settings.node)


def run_node(
    folder: Path,
    *,
    wrap: Callable[[Node], NodeCore] = lambda node: node,
    launcher_for: Callable[[Path], DeviceSource] = Launcher,
) -> int:
    """Run the node of `folder` until SIGTERM or SIGINT; its exit code. TepbftError if it cannot start.

    `wrap` and `launcher_for` are for measurements, which call this function: no setting leads to them.
    """
    folder = folder.absolute()
    settings = load_settings(folder / "node.toml")
    layout = NodeLayout.of(folder, settings)
    configure_logs(settings, layout.log)
    genesis = load_genesis(layout.genesis)
    member = own_entry(layout, settings, genesis)
    launcher = launcher_for(layout.trusted)  # a fork: before locks, sockets, threads
    try:
        with hold_folder(layout):
            credentials = load_credentials(layout, settings, genesis)
            with contextlib.closing(bind_sockets(member, settings)) as sockets:
                return _run(layout, settings, genesis, credentials, launcher, wrap, sockets)
    finally:
        launcher.close()


def _run(
    layout: NodeLayout,
    settings: NodeSettings,
    genesis: Genesis,
    credentials: Credentials,
    launcher: DeviceSource,
    wrap: Callable[[Node], NodeCore],
    sockets: Sockets,
) -> int:
    launcher.open_device().close()  # it must run before this process gives up its folder
    layout.store.mkdir(mode=0o700, parents=True, exist_ok=True)
    if settings.confine:
        log.info("confinement", state=confine_replica(layout.trusted))
    with (
        contextlib.closing(open_verifier(settings, genesis, credentials.mac_keys)) as requests,
        contextlib.closing(RocksStore(layout.store, genesis.chain_id, sync=settings.durable)) as store,
    ):
        for warning in store.warnings:
            log.warning("store_repaired", what=warning)
        parts = Parts(layout, settings, genesis, credentials, store, launcher, wrap, requests)
        with (
            contextlib.closing(launcher.open_device()) as device,
            asyncio.Runner(loop_factory=loop_factory()) as runner,
        ):
            core = parts.core(store, device)
            tame_garbage_collection()
            return runner.run(serve(parts, core, sockets))


def main(arguments: Sequence[str] | None = None) -> int:
    """The command line: one argument, the node's folder."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if len(given) != 1:
        print("usage: python -m tepbft.runtime.process FOLDER", file=sys.stderr)
        return 2
    try:
        return run_node(Path(given[0]))
    except TepbftError as error:
        print(f"error: {error}", file=sys.stderr, flush=True)
        return error.exit_code


if __name__ == "__main__":
    sys.exit(main())
