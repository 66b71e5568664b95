"""The asyncio client against nodes on 127.0.0.1: real TLS, real frames, real signatures."""

from __future__ import annotations

import asyncio
import contextlib
import os
from pathlib import Path

import pytest
from client_servers import FakeCluster

from tepbft.client.aio import Client
from tepbft.client.credentials import (
    Credentials,
    encode_credentials,
    largest_operation,
    load_credentials,
    load_genesis,
    new_credentials,
)
from tepbft.client.events import SessionOptions
from tepbft.client.link import Frames
from tepbft.client.receipts import verify_receipt
from tepbft.core.block import Request, digest_of, encode_body
from tepbft.core.configuration import Parameters
from tepbft.crypto.schemes import SCHEMES
from tepbft.errors import PeerFault, TepbftError
from tepbft.wire import MAX_FRAME_BYTES, frame

FAST = SessionOptions(retransmit_ms=60, retransmit_max_ms=120, busy_ms=10)


async def test_five_lines_are_enough(tmp_path: Path) -> None:
    async with FakeCluster(tmp_path), Client.open(tmp_path) as client:
        outcome = await client.submit(b"hello")
        assert (outcome.ok, outcome.seq, outcome.height, outcome.result) == (True, 1, 1, b"olleh")
        assert len(outcome.nodes) == 2
        assert outcome.latency_ms > 0


async def test_many_operations_share_frames_and_keep_their_order(tmp_path: Path) -> None:
    async with FakeCluster(tmp_path) as cluster, Client.open(tmp_path) as client:
        ops = [b"%d" % i for i in range(300)]
        outcomes = await client.submit_many(ops)
        assert [outcome.result for outcome in outcomes] == [op[::-1] for op in ops]
        assert cluster.nodes[0].frames < 100
        assert await client.submit_many([]) == []


async def test_submit_many_waits_where_the_queue_is_full(tmp_path: Path) -> None:
    options = SessionOptions(window=2, queue_requests=3)
    async with FakeCluster(tmp_path), Client.open(tmp_path, options=options) as client:
        outcomes = await client.submit_many(b"%d" % i for i in range(40))
        assert [outcome.seq for outcome in outcomes] == list(range(1, 41))


async def test_the_queue_has_a_bound_and_says_so(tmp_path: Path) -> None:
    options = SessionOptions(queue_requests=2)
    async with FakeCluster(tmp_path), Client.open(tmp_path, options=options) as client:
        futures = [client.submit_nowait(b"a"), client.submit_nowait(b"b")]
        with pytest.raises(TepbftError, match="client queue"):
            client.submit_nowait(b"c")
        assert all(outcome.ok for outcome in await asyncio.gather(*futures))


async def test_f_lying_nodes_change_nothing(tmp_path: Path) -> None:
    """I-14."""
    async with FakeCluster(tmp_path) as cluster, Client.open(tmp_path, options=FAST) as client:
        cluster.nodes[1].mood = "lying"
        outcomes = await client.submit_many([b"abc"] * 20)
        assert {outcome.result for outcome in outcomes} == {b"cba"}
        assert all(1 not in outcome.nodes for outcome in outcomes)


@pytest.mark.parametrize("mood", ["silent", "garbage", "busy"])
async def test_f_unhelpful_nodes_change_nothing(tmp_path: Path, mood: str) -> None:
    async with FakeCluster(tmp_path) as cluster, Client.open(tmp_path, options=FAST) as client:
        cluster.nodes[2].mood = mood
        assert all(outcome.ok for outcome in await client.submit_many([b"abc"] * 5))


async def test_busy_nodes_are_asked_again(tmp_path: Path) -> None:
    async with FakeCluster(tmp_path) as cluster, Client.open(tmp_path, options=FAST) as client:
        for node in cluster.nodes:
            node.mood = "busy"
        assert (await client.submit(b"abc")).ok


async def test_broken_connections_are_made_again(tmp_path: Path) -> None:
    """A-45: what was outstanding is sent anew, and executed once."""
    async with FakeCluster(tmp_path) as cluster, Client.open(tmp_path) as client:
        for node in cluster.nodes:
            node.mood = "silent"
        future = client.submit_nowait(b"abc")
        await asyncio.sleep(0.05)
        for node in cluster.nodes:
            node.mood = "good"
            node.hang_up()
        assert (await future).height == 1
        assert (await client.submit(b"next")).height == 2


async def test_no_outcome_in_time_is_a_clear_error(tmp_path: Path) -> None:
    async with FakeCluster(tmp_path) as cluster, Client.open(tmp_path, options=FAST) as client:
        for node in cluster.nodes[:2]:
            node.mood = "silent"
        with pytest.raises(TepbftError, match=r"no outcome was confirmed in time.*may still take effect"):
            await client.submit(b"abc", timeout_s=0.15)
        for node in cluster.nodes:
            node.mood = "good"
        assert (await client.submit(b"def")).seq == 2
        for _ in range(200):  # the first one is pursued all the same
            if client.session.low == 2:
                break
            await asyncio.sleep(0.01)
        assert client.session.low == 2


async def test_a_cancelled_wait_harms_nobody(tmp_path: Path) -> None:
    async with FakeCluster(tmp_path), Client.open(tmp_path) as client:
        task = asyncio.create_task(client.submit(b"abc"))
        await asyncio.sleep(0)
        task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await task
        assert (await client.submit(b"def")).seq == 2


async def test_receipts_verify_offline_and_liars_are_passed_over(tmp_path: Path) -> None:
    async with FakeCluster(tmp_path) as cluster, Client.open(tmp_path) as client:
        outcome = await client.submit(b"abc")
        await client.submit(b"def")
        cluster.nodes[0].mood = "lying"
        for request in (outcome, outcome.seq):
            proof = await client.receipt(request)
            found = verify_receipt(load_genesis(tmp_path / "genesis.json"), proof)
            assert (found.seq, found.height, found.result) == (1, outcome.height, b"cba")
            assert found.is_for(b"abc")
            assert proof.receipt.digest() == outcome.receipt_digest


async def test_a_receipt_that_nobody_proves_is_a_clear_error(tmp_path: Path) -> None:
    async with FakeCluster(tmp_path), Client.open(tmp_path) as client:
        with pytest.raises(TepbftError, match="unknown request"):
            await client.receipt(99, timeout_s=0.2)


async def test_one_node_with_a_proof_completes_a_request(tmp_path: Path) -> None:
    """A-33, A-45: the others say nothing at all; the proof is asked for and found."""
    options = SessionOptions(retransmit_ms=20, retransmit_max_ms=40)
    async with FakeCluster(tmp_path) as cluster, Client.open(tmp_path, options=options) as client:
        for node in (0, 1):
            cluster.nodes[node].mood = "silent"
        outcome = await client.submit(b"abc", timeout_s=10)
        assert (outcome.proven, outcome.nodes, outcome.result) == (True, (2,), b"cba")


async def test_closing_tells_whoever_waits(tmp_path: Path) -> None:
    async with FakeCluster(tmp_path) as cluster:
        async with Client.open(tmp_path) as client:
            for node in cluster.nodes:
                node.mood = "silent"
            future = client.submit_nowait(b"abc")
        with pytest.raises(TepbftError, match="closed before"):
            await future
        with pytest.raises(TepbftError, match="not open"):
            await client.submit(b"abc")


async def test_a_cluster_that_is_down_is_a_clear_error(tmp_path: Path) -> None:
    cluster = FakeCluster(tmp_path)
    async with cluster:
        pass
    with pytest.raises(TepbftError, match="fewer than 2 of 3 nodes are reachable"):
        async with Client.open(tmp_path, connect_timeout_s=0.3):
            pass


@pytest.mark.parametrize(
    ("fault", "reason"),
    [
        ("certificate", "not the one in the genesis"),
        ("chain", "it serves chain"),
        ("node", "it says that it is node 5"),
    ],
)
async def test_impostors_are_not_talked_to(tmp_path: Path, fault: str, reason: str) -> None:
    """A node is who its pinned certificate says; its first words have to fit."""
    async with FakeCluster(tmp_path, pinned=fault != "certificate") as cluster:
        if fault == "chain":
            cluster.says_chain = bytes(32)
        if fault == "node":
            cluster.says_node = lambda node: 5
        with pytest.raises(TepbftError, match=reason):
            async with Client.open(tmp_path, connect_timeout_s=0.5):
                pass
        assert all(node.frames == 0 for node in cluster.nodes)


async def test_the_window_is_not_above_that_of_the_chain(tmp_path: Path) -> None:
    parameters = Parameters(client_window=3, block_bytes=2048)
    cluster = FakeCluster(tmp_path, parameters=parameters)
    async with cluster:
        client = Client.open(tmp_path)
        assert client.session.options.window == 3
        limit = client.session.options.operation_bytes
        request = Request(bytes(16), 2**62, 2**62, bytes(limit), bytes(72))
        assert len(encode_body([request])) <= 2048
        assert len(encode_body([request])) > 1900
        assert limit == largest_operation(cluster.chain.genesis)
        async with client:
            with pytest.raises(TepbftError, match="takes at most"):
                await client.submit(bytes(limit + 1))


# --- the files --------------------------------------------------------------------------------------


def test_client_files_are_read_back_and_kept_secret(tmp_path: Path) -> None:
    for scheme in SCHEMES:
        made = new_credentials(scheme, "alice")
        path = tmp_path / f"{scheme}.json"
        path.write_text(encode_credentials(made))
        path.chmod(0o600)
        assert load_credentials(path) == made
        assert made.secret.hex() not in repr(made)
        path.chmod(0o644)
        with pytest.raises(TepbftError, match="chmod 600"):
            load_credentials(path)


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"client":"","name":"","scheme":"mac","secret":"zz"}'])
def test_malformed_client_files_are_clear_errors(tmp_path: Path, content: str) -> None:
    path = tmp_path / "client.json"
    path.write_text(content)
    path.chmod(0o600)
    with pytest.raises(TepbftError, match="not a client file"):
        load_credentials(path)
    with pytest.raises(TepbftError, match="cannot be read"):
        load_credentials(tmp_path / "absent.json")


async def test_wrong_folders_and_names_are_clear_errors(tmp_path: Path) -> None:
    with pytest.raises(TepbftError, match="no client file"):
        Client.open(tmp_path)
    async with FakeCluster(tmp_path) as cluster:
        for name in ("nobody", "../client00", ""):
            with pytest.raises(TepbftError):
                Client.open(tmp_path, name)
        stranger = new_credentials("secp256k1", "stranger")
        with pytest.raises(TepbftError, match="does not list it"):
            Client(cluster.chain.genesis, stranger)
        other = new_credentials("ed25519", "other")
        with pytest.raises(TepbftError, match="scheme"):
            Client(cluster.chain.genesis, other)
        mine = cluster.chain.credentials
        thief = Credentials(mine.client, mine.name, mine.scheme, stranger.secret)
        with pytest.raises(TepbftError, match="does not list it"):
            Client(cluster.chain.genesis, thief)
        (tmp_path / "genesis.json").write_text("{}")
        with pytest.raises(TepbftError, match="not a genesis"):
            Client.open(tmp_path)


def test_every_scheme_signs_what_its_verifier_accepts(tmp_path: Path) -> None:
    for scheme in SCHEMES.values():
        made = new_credentials(scheme.name, "alice")
        signer = scheme.signer(made.secret, 3)
        draft = Request(made.client, 1, 1, b"op", b"")
        request = Request(made.client, 1, 1, b"op", signer.sign(digest_of(bytes(32), draft)))
        derive = scheme.node_mac_keys
        keys = {made.client: derive(made.secret, made.client, 2)} if derive else None
        verifier = scheme.verifier([made.registration()], node=2, mac_keys=keys)
        assert verifier.verify([digest_of(bytes(32), request)], [request]) == []


def test_frames_are_cut_wherever_the_stream_is(tmp_path: Path) -> None:
    bodies = [b"", b"a", os.urandom(300), b"last"]
    stream = b"".join(frame(body) for body in bodies)
    for step in (1, 3, 7, 1000):
        frames = Frames()
        found = [body for at in range(0, len(stream), step) for body in frames.feed(stream[at : at + step])]
        assert found == bodies
    with pytest.raises(PeerFault, match="frame_too_large"):
        Frames().feed((MAX_FRAME_BYTES + 1).to_bytes(4, "little"))
