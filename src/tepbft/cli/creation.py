"""Making a cluster: keys, certificates, trusted components, genesis, one self-contained folder per node.

The components are started first, because the genesis names their keys; then they are
bound to the chain that the genesis defines, sealed and stopped. `genesis.json` in the
cluster's folder is written last: a folder with it is complete.
"""

from __future__ import annotations

import json
import secrets
import shutil
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import cast

import msgspec

from tepbft.cli.certificates import Certificate, make_certificate
from tepbft.cli.components import bind_components, start_components, stop_components
from tepbft.cli.ports import PORTS_PER_NODE, choose_ports, ports_in_use
from tepbft.client.credentials import Credentials, encode_credentials, new_credentials
from tepbft.core.configuration import (
    Genesis,
    Member,
    Parameters,
    Recovered,
    RegisteredClient,
    encode_genesis,
)
from tepbft.crypto.node_key import SEED_BYTES, NodeKey
from tepbft.crypto.schemes import SCHEMES, Scheme
from tepbft.errors import TepbftError
from tepbft.execution.loader import load_application
from tepbft.runtime.layout import ClusterLayout, NodeLayout, write_secret
from tepbft.runtime.settings import NodeSettings, dump_settings, parse_settings
from tepbft.trusted.keys import DEFAULT_KIND, KINDS, KeyKind
from tepbft.trusted.kind import write_kind
from tepbft.trusted.port import Identity
from tepbft.types import MAX_NODES

PROTOCOLS = ("tep",)
MIN_NODES = 3
MAX_CLIENTS = 16_384


@dataclass(frozen=True)
class Plan:
    """What a new cluster shall be."""

    root: Path
    nodes: int
    protocol: str = "tep"
    app: str = "kv"
    scheme: str = "secp256k1"
    clients: int = 64
    host: str = "127.0.0.1"
    base_port: int | None = None
    parameters: Parameters = field(default_factory=Parameters)
    component_key: str = DEFAULT_KIND
    """What trusted components sign with: one of `trusted.keys.KINDS`."""
    settings: tuple[str, ...] = ()
    """Lines of TOML for every node.toml, such as `t_request_ms = 500`."""

    def node_settings(self, node: int) -> NodeSettings:
        """The settings of one node; TepbftError for a line that is none."""
        settings = parse_settings("\n".join([f"node = {node}", *self.settings]), "--set")
        in_flight = min(settings.in_flight_blocks, self.parameters.window)
        return msgspec.structs.replace(settings, in_flight_blocks=in_flight)


@dataclass(frozen=True)
class NodeSecrets:
    """What belongs to one node alone."""

    node_seed: bytes
    operator_seed: bytes
    certificate: Certificate


def _usage(thing: str, reason: str, remedy: str) -> TepbftError:
    return TepbftError(thing, reason, remedy, exit_code=2)


def check_plan(plan: Plan) -> None:
    """Refuse (TepbftError, exit code 2) what cannot become a cluster. Writes nothing."""
    if not MIN_NODES <= plan.nodes <= MAX_NODES:
        raise _usage(
            "--nodes",
            f"{plan.nodes} is outside {MIN_NODES}..{MAX_NODES}",
            "Take 2f+1 to survive f faulty nodes: 3, 5, 7, …",
        )
    if plan.protocol not in PROTOCOLS:
        raise _usage("--protocol", f"{plan.protocol!r} is not known", f"Choose: {', '.join(PROTOCOLS)}.")
    if plan.scheme not in SCHEMES:
        raise _usage("--scheme", f"{plan.scheme!r} is not known", f"Choose: {', '.join(SCHEMES)}.")
    if plan.component_key not in KINDS:
        raise _usage(
            "--component-key", f"{plan.component_key!r} is not known", f"Choose: {', '.join(KINDS)}."
        )
    if not 1 <= plan.clients <= MAX_CLIENTS:
        raise _usage("--clients", f"{plan.clients} is outside 1..{MAX_CLIENTS}", "Choose a number within.")
    if not plan.host or len(plan.host) > 255:
        raise _usage("--host", "it is empty or too long", "Name an address by which nodes are reached.")
    wrong = plan.parameters.check()
    if wrong:
        raise _usage("the parameters", "; ".join(wrong), "See the ranges in: tepbft init --help")
    load_application(plan.app)
    plan.node_settings(0)
    if plan.root.is_symlink() or (plan.root.exists() and not plan.root.is_dir()):
        raise _usage(str(plan.root), "it is not a folder", "Name a new or empty folder.")
    if plan.root.is_dir() and any(plan.root.iterdir()):
        raise _usage(
            str(plan.root), "the folder is not empty, and nothing is ever overwritten", "Name another folder."
        )


def warnings_for(plan: Plan) -> list[str]:
    """What a person should know before relying on this cluster."""
    found = []
    scheme = SCHEMES[plan.scheme]
    if scheme.weaker:
        found.append(f"scheme {scheme.name}: {scheme.note}")
    if plan.nodes % 2 == 0:
        survives = (plan.nodes - 1) // 2
        found.append(
            f"{plan.nodes} nodes survive {survives} faulty ones, as {plan.nodes - 1} do; "
            f"with {plan.nodes + 1} nodes it would be {survives + 1}"
        )
    if plan.base_port is not None:
        count = PORTS_PER_NODE * plan.nodes
        taken = ports_in_use(plan.host, list(range(plan.base_port, plan.base_port + count)))
        if taken:
            found.append(f"ports in use, or not this machine's, now: {', '.join(map(str, taken[:6]))}")
    return found


def new_node_secrets(node: int, host: str, hint: str) -> NodeSecrets:
    """Fresh keys and a certificate for one node."""
    return NodeSecrets(
        secrets.token_bytes(SEED_BYTES),
        secrets.token_bytes(SEED_BYTES),
        make_certificate(f"node{node}", host, hint),
    )


def member_of(node: int, identity: Identity, keys: NodeSecrets, host: str, first_port: int) -> Member:
    """The entry of the member table for a node with this trusted component."""
    port = first_port + PORTS_PER_NODE * node
    return Member(
        node=node,
        tc_id=identity.tc_id,
        tc_key=identity.key,
        node_key=NodeKey.from_seed(keys.node_seed).public,
        operator_key=NodeKey.from_seed(keys.operator_seed).public,
        certificate=keys.certificate.digest,
        host=host,
        peer_port=port,
        client_port=port + 1,
        http_port=port + 2,
    )


def new_genesis(
    plan: Plan,
    members: tuple[Member, ...],
    clients: tuple[RegisteredClient, ...],
    recovered: Recovered | None = None,
) -> Genesis:
    """A genesis that no other shares: it holds a nonce."""
    return Genesis(
        protocol=plan.protocol,
        app=plan.app,
        scheme=plan.scheme,
        created_ms=time.time_ns() // 1_000_000,
        nonce=secrets.token_bytes(32),
        members=members,
        clients=clients,
        parameters=plan.parameters,
        recovered=recovered,
    )


def _write_node(
    layout: NodeLayout,
    keys: NodeSecrets,
    settings: NodeSettings,
    trust_anchors: str,
    macs: dict[str, str] | None,
) -> None:
    """Everything in a node's folder but the genesis."""
    write_secret(layout.node_key, keys.node_seed.hex() + "\n")
    write_secret(layout.operator_key, keys.operator_seed.hex() + "\n")
    write_secret(layout.tls_key, keys.certificate.key_pem)
    layout.tls_certificate.write_text(keys.certificate.certificate_pem, encoding="ascii")
    layout.certificates.write_text(trust_anchors, encoding="ascii")
    layout.settings.write_text(dump_settings(settings), encoding="utf-8")
    if macs is not None:
        write_secret(layout.macs, json.dumps(macs, indent=2) + "\n")


def _node_macs(scheme: Scheme, clients: list[Credentials], node: int) -> dict[str, str] | None:
    """Client -> the key that `node` shares with it, hex; None for schemes without such keys."""
    derive = scheme.node_mac_keys
    if derive is None:
        return None
    return {client.client.hex(): derive(client.secret, client.client, node).hex() for client in clients}


def create_cluster(plan: Plan) -> Genesis:
    """Make the cluster's folder. On any failure the components are stopped and what was made is removed."""
    check_plan(plan)
    layout = ClusterLayout(plan.root.absolute())
    layouts = [layout.node(node) for node in range(plan.nodes)]
    existed = layout.root.exists()
    first_port = choose_ports(plan.nodes, plan.host, plan.base_port)
    try:
        for node_layout in layouts:
            node_layout.trusted.mkdir(mode=0o700, parents=True)
            write_kind(node_layout.trusted, cast(KeyKind, plan.component_key))
        genesis = _create(plan, layout, layouts, first_port)
    except BaseException:
        stop_components(layouts, quietly=True)
        _remove(layout.root, keep_root=existed)
        raise
    return genesis


def _remove(root: Path, *, keep_root: bool) -> None:
    """Take back what an attempt that failed has made: the folder was empty or absent before it."""
    shutil.rmtree(root, ignore_errors=True)
    if keep_root:
        root.mkdir(exist_ok=True)


def _create(plan: Plan, layout: ClusterLayout, layouts: list[NodeLayout], first_port: int) -> Genesis:
    scheme = SCHEMES[plan.scheme]
    identities = start_components(layouts)
    hint = secrets.token_hex(4)
    keys = [new_node_secrets(node, plan.host, hint) for node in range(plan.nodes)]
    clients = [new_credentials(plan.scheme, f"client{number:02}") for number in range(plan.clients)]
    members = tuple(
        member_of(node, identity, keys[node], plan.host, first_port)
        for node, identity in enumerate(identities)
    )
    genesis = new_genesis(plan, members, tuple(client.registration() for client in clients))
    bind_components(layouts, genesis)
    stop_components(layouts)
    anchors = "".join(secret.certificate.certificate_pem for secret in keys)
    document = encode_genesis(genesis)
    for node, node_layout in enumerate(layouts):
        macs = _node_macs(scheme, clients, node)
        _write_node(node_layout, keys[node], plan.node_settings(node), anchors, macs)
        node_layout.genesis.write_bytes(document)
    layout.clients.mkdir(mode=0o700)
    for client in clients:
        write_secret(layout.client(client.name), encode_credentials(client))
    layout.genesis.write_bytes(document)
    return genesis
