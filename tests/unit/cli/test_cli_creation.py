"""Making a cluster's folder: complete, private, bound to its chain, and all or nothing."""

from __future__ import annotations

import json
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from tepbft.cli import creation
from tepbft.cli.cluster import open_cluster
from tepbft.cli.components import start_components, stop_components
from tepbft.cli.creation import Plan, check_plan, create_cluster, warnings_for
from tepbft.client.credentials import load_credentials
from tepbft.core.configuration import Parameters, decode_genesis
from tepbft.crypto.node_key import NodeKey
from tepbft.crypto.schemes import SCHEMES
from tepbft.errors import TepbftError
from tepbft.runtime.layout import ClusterLayout, read_seed
from tepbft.runtime.settings import load_settings
from tepbft.runtime.tls import certificate_digest, make_contexts
from tepbft.trusted.client import device_pid


@pytest.fixture(scope="module")
def cluster_root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A cluster of three, scheme mac (which has the most files); its components are stopped at the end."""
    root = tmp_path_factory.mktemp("made") / "ledger"
    create_cluster(Plan(root, 3, scheme="mac", clients=3, settings=("t_request_ms = 1500",)))
    yield root
    stop_components(ClusterLayout(root).nodes(), quietly=True)


def test_every_folder_is_complete_and_self_contained(cluster_root: Path) -> None:
    cluster = open_cluster(cluster_root)
    assert [folder.node for folder in cluster.nodes] == [0, 1, 2]
    anchors = set()
    for folder in cluster.nodes:
        layout, member = folder.layout, folder.member
        assert decode_genesis(layout.genesis.read_bytes()) == cluster.genesis
        assert NodeKey.from_seed(read_seed(layout.node_key)).public == member.node_key
        assert NodeKey.from_seed(read_seed(layout.operator_key)).public == member.operator_key
        assert certificate_digest(layout.tls_certificate.read_text()) == member.certificate
        assert load_settings(layout.settings).t_request_ms == 1500
        make_contexts(layout.tls_certificate, layout.tls_key, layout.certificates)
        anchors.add(layout.certificates.read_bytes())
    assert len(anchors) == 1
    assert not (cluster_root / "node0" / "store").exists()


def test_secrets_are_private(cluster_root: Path) -> None:
    secret = ("node.key", "operator.key", "tls.key", "macs.json")
    files = [path for path in cluster_root.rglob("*") if path.name in secret or path.parent.name == "clients"]
    assert len(files) == 3 * 4 + 3
    assert all(stat.S_IMODE(path.stat().st_mode) == 0o600 for path in files)
    for node in range(3):
        assert stat.S_IMODE((cluster_root / f"node{node}" / "trusted").stat().st_mode) == 0o700


def test_clients_are_registered_and_share_their_mac_keys(cluster_root: Path) -> None:
    genesis = open_cluster(cluster_root).genesis
    for number in range(3):
        credentials = load_credentials(cluster_root / "clients" / f"client{number:02}.json")
        assert credentials.registration() == genesis.clients[number]
        derive = SCHEMES["mac"].node_mac_keys
        assert derive is not None
        for node in range(3):
            held = json.loads((cluster_root / f"node{node}" / "macs.json").read_text())
            assert (
                held[credentials.client.hex()] == derive(credentials.secret, credentials.client, node).hex()
            )


def test_components_are_sealed_and_come_back_bound_to_their_member(cluster_root: Path) -> None:
    """I-20: the identity in the genesis is the one that restores, warm, bound to chain and node."""
    cluster = open_cluster(cluster_root)
    layouts = [folder.layout for folder in cluster.nodes]
    assert all(device_pid(layout.trusted) is None for layout in layouts)
    identities = start_components(layouts)
    stop_components(layouts)
    for folder, identity in zip(cluster.nodes, identities, strict=True):
        assert identity.warm and identity.tc_id == folder.member.tc_id
        assert (identity.chain_id, identity.node) == (cluster.genesis.chain_id, folder.node)


def test_ports_do_not_overlap(cluster_root: Path) -> None:
    members = open_cluster(cluster_root).genesis.members
    ports = [port for m in members for port in (m.peer_port, m.client_port, m.http_port)]
    assert len(set(ports)) == 9 and all(1024 < port < 32768 for port in ports)


@pytest.mark.parametrize(
    ("wrong", "thing"),
    [
        ({"nodes": 2}, "--nodes"),
        ({"nodes": 65}, "--nodes"),
        ({"protocol": "paxos"}, "--protocol"),
        ({"scheme": "rot13"}, "--scheme"),
        ({"component_key": "rsa"}, "--component-key"),
        ({"clients": 0}, "--clients"),
        ({"host": ""}, "--host"),
        ({"app": "nothing"}, "application"),
        ({"parameters": Parameters(window=3, checkpoint_interval=2)}, "parameters"),
        ({"settings": ("t_request = 5",)}, "t_request"),
        ({"settings": ("node = 3",)}, "--set"),
    ],
)
def test_what_cannot_become_a_cluster_is_refused_by_name(
    tmp_path: Path, wrong: dict[str, object], thing: str
) -> None:
    values: dict[str, object] = {"root": tmp_path / "x", "nodes": 3} | wrong
    with pytest.raises(TepbftError) as caught:
        check_plan(Plan(**values))  # type: ignore[arg-type]
    assert thing in caught.value.thing
    assert not (tmp_path / "x").exists()


def test_a_folder_with_anything_in_it_is_refused(tmp_path: Path) -> None:
    (tmp_path / "precious").write_text("x")
    with pytest.raises(TepbftError, match="not empty"):
        create_cluster(Plan(tmp_path, 3))
    assert (tmp_path / "precious").read_text() == "x"


def test_a_failure_half_way_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Components that were started are stopped again, and the folder is as it was."""
    seen: list[int] = []

    def fail(layouts: object, genesis: object) -> None:
        seen.extend(pid for node in range(3) if (pid := device_pid(tmp_path / f"node{node}" / "trusted")))
        raise TepbftError("test", "on purpose", "none")

    monkeypatch.setattr(creation, "bind_components", fail)
    with pytest.raises(TepbftError, match="on purpose"):
        create_cluster(Plan(tmp_path, 3))
    assert len(seen) == 3
    assert list(tmp_path.iterdir()) == []


def test_weaker_choices_are_warned_of(tmp_path: Path) -> None:
    assert any("mac" in text for text in warnings_for(Plan(tmp_path, 3, scheme="mac")))
    assert any("none" in text for text in warnings_for(Plan(tmp_path, 3, scheme="none")))
    assert any("survive 1 faulty" in text for text in warnings_for(Plan(tmp_path, 4)))
    assert warnings_for(Plan(tmp_path, 5)) == []


def test_a_window_of_one_lowers_the_blocks_in_flight(tmp_path: Path) -> None:
    """BL = 1, K = 1 is a configuration of its own (A11): the local knob follows."""
    plan = Plan(tmp_path, 3, parameters=Parameters(window=1, checkpoint_interval=1))
    check_plan(plan)
    assert plan.node_settings(2).in_flight_blocks == 1
