"""Verification inline, in threads and in workers: one answer, whatever the mode and whatever breaks."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from structlog.testing import capture_logs

from tepbft.core.block import Request, digest_of, encode_body
from tepbft.core.configuration import Genesis, Member, Parameters, RegisteredClient
from tepbft.core.requests import WAYS
from tepbft.crypto.port import RequestVerifier
from tepbft.crypto.schemes import SCHEMES
from tepbft.errors import TepbftError
from tepbft.lab.usage import node_usage, usage, verifying_workers
from tepbft.runtime import verifying_parallel
from tepbft.runtime.settings import NodeSettings
from tepbft.runtime.verifying import Choice, choose, open_verifier, requests_at_once
from tepbft.runtime.verifying_parallel import (
    MIN_PART_REQUESTS,
    InlineVerifier,
    NodeVerifier,
    ThreadedVerifier,
    WorkerVerifier,
    spans,
)
from tepbft.runtime.verifying_worker import (
    decode_answer,
    encode_batch,
    encode_setup,
    receive_frame,
    send_frame,
    serve,
)

NODE, NODES, CLIENTS = 1, 3, 4
SIGNATURES = [name for name, scheme in SCHEMES.items() if not scheme.weaker]
GOOD, FLIPPED, OF_ANOTHER, UNKNOWN, SHORT, EMPTY = KINDS = range(6)


class Signed:
    """Clients of a scheme, and requests of theirs that are good or bad in a certain way."""

    def __init__(self, name: str) -> None:
        self.scheme = SCHEMES[name]
        secrets = [self.scheme.generate_secret() for _ in range(CLIENTS)]
        self.clients = [self.scheme.register(secret, f"c{n}") for n, secret in enumerate(secrets)]
        self.mac_keys: dict[bytes, bytes] | None = None
        if (derive := self.scheme.node_mac_keys) is not None:
            pairs = zip(self.clients, secrets, strict=True)
            self.mac_keys = {entry.client: derive(secret, entry.client, NODE) for entry, secret in pairs}
        self.signers = signers = [self.scheme.signer(secret, NODES) for secret in secrets]
        self.good = []
        for number in range(32):
            digest, owner = sha256(bytes([number])).digest(), number % CLIENTS
            self.good.append((digest, self.clients[owner].client, signers[owner].sign(digest)))
        self.verifier = self.verifier_for(self.clients)

    def verifier_for(self, clients: Sequence[RegisteredClient]) -> RequestVerifier:
        return self.scheme.verifier(clients, node=NODE, mac_keys=self.mac_keys)

    def batch(self, kinds: Sequence[int]) -> tuple[list[bytes], list[Request]]:
        """Digests and requests, one of each kind in order."""
        digests, requests = [], []
        for number, kind in enumerate(kinds):
            digest, client, auth = self.good[number % len(self.good)]
            if kind == FLIPPED and auth:
                at = number % 16 + 16 * NODE
                auth = auth[:at] + bytes([auth[at] ^ 1]) + auth[at + 1 :]
            elif kind == OF_ANOTHER:
                auth = self.good[(number + 1) % len(self.good)][2]
            elif kind == UNKNOWN:
                client = b"\x07" * 16
            elif kind == SHORT:
                auth = auth[:-1]
            elif kind == EMPTY:
                auth = b""
            digests.append(digest)
            requests.append(Request(client, 1, number, b"op", auth))
        return digests, requests


SIGNED = {name: Signed(name) for name in SCHEMES}
BATCH = [FLIPPED if number % 37 == 5 else GOOD for number in range(8 * MIN_PART_REQUESTS)]
BAD = [number for number, kind in enumerate(BATCH) if kind != GOOD]


@pytest.fixture(scope="module")
def workers() -> Iterator[dict[str, WorkerVerifier]]:
    """Two workers for each scheme of signatures."""
    made = {name: WorkerVerifier(SIGNED[name].verifier, name, SIGNED[name].clients, 2) for name in SIGNATURES}
    yield made
    pids = [pid for verifier in made.values() for pid in verifier.pids]
    for verifier in made.values():
        verifier.close()
    assert len(pids) == 2 * len(SIGNATURES) and not any(map(runs, pids))


@pytest.fixture
def opened() -> Iterator[Callable[[int], WorkerVerifier]]:
    """Makes verifiers with workers of their own."""
    made: list[WorkerVerifier] = []

    def make(count: int) -> WorkerVerifier:
        party = SIGNED["secp256k1"]
        made.append(WorkerVerifier(party.verifier, "secp256k1", party.clients, count))
        return made[-1]

    yield make
    for verifier in made:
        verifier.close()


def runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()[0] != b"Z"
    except OSError:
        return False


def soon(condition: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 20
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.01)
    return condition()


# --- the choice -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("wanted", "count", "cores", "nodes", "found"),
    [
        ("auto", 0, 1, 1, Choice("inline", 1)),
        ("auto", 0, 2, 3, Choice("inline", 1)),
        ("auto", 0, 5, 3, Choice("inline", 1)),
        ("auto", 0, 2, 1, Choice("threads", 2)),
        ("auto", 0, 12, 3, Choice("threads", 4)),
        ("auto", 0, 5, 1, Choice("workers", 5)),
        ("auto", 0, 32, 4, Choice("workers", 8)),
        ("auto", 0, 512, 1, Choice("workers", 64)),
        ("auto", 1, 32, 1, Choice("inline", 1)),
        ("auto", 3, 1, 3, Choice("threads", 3)),
        ("auto", 6, 1, 3, Choice("workers", 6)),
        ("inline", 0, 32, 1, Choice("inline", 1)),
        ("threads", 0, 2, 3, Choice("threads", 2)),
        ("threads", 0, 8, 1, Choice("threads", 8)),
        ("workers", 0, 2, 3, Choice("workers", 2)),
        ("workers", 3, 2, 1, Choice("workers", 3)),
    ],
)
def test_the_choice_goes_by_the_cores_of_a_node(
    wanted: str, count: int, cores: int, nodes: int, found: Choice
) -> None:
    assert choose(wanted, count, cores=cores, nodes=nodes, scheme="secp256k1") == found
    for scheme in ("mac", "none"):  # a microsecond each
        assert choose(wanted, count, cores=cores, nodes=nodes, scheme=scheme) == Choice("inline", 1)


@pytest.mark.parametrize(
    ("mode", "scheme", "count"),
    [
        ("inline", "secp256k1", 128),
        ("inline", "mac", 256),
        ("inline", "none", 256),
        ("4 threads", "p256", 256),
    ],
)
def test_peers_wait_for_few_signatures(mode: str, scheme: str, count: int) -> None:
    """Costly signatures are verified in small parts, between which a node hears its peers; what is cheap,
    or shared by several cores, in larger ones."""
    assert requests_at_once(mode, scheme) == count


def a_genesis(scheme: str, *hosts: str) -> Genesis:
    members = tuple(
        Member(n, bytes([n]) * 16, b"k", b"n", b"o", b"c" * 32, host, 1, 2, 3) for n, host in enumerate(hosts)
    )
    clients = tuple(SIGNED[scheme].clients)
    return Genesis("tep", "kv", scheme, 1, b"n" * 16, members, clients, Parameters())


def opened_mode(chosen: NodeSettings, genesis: Genesis, mac_keys: Any = None) -> str:
    verifier = open_verifier(chosen, genesis, mac_keys)
    try:
        return verifier.mode()
    finally:
        verifier.close()


def test_a_node_counts_the_members_on_its_host(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(4)))
    plain = NodeSettings(node=NODE)
    assert opened_mode(plain, a_genesis("ed25519", "a", "a", "a")) == "inline"
    assert opened_mode(plain, a_genesis("ed25519", "b", "a", "a")) == "2 threads"
    assert opened_mode(plain, a_genesis("ed25519", "b", "a", "c")) == "4 threads"
    asked = msgspec.structs.replace(plain, verification="workers", verification_workers=2)
    assert opened_mode(asked, a_genesis("p256", "a", "a", "a")) == "2 workers"
    assert opened_mode(asked, a_genesis("mac", "a", "b", "c"), SIGNED["mac"].mac_keys) == "inline"
    with pytest.raises(TepbftError, match="needs this node's keys"):
        open_verifier(plain, a_genesis("mac", "a", "b", "c"), None)


# --- one answer -------------------------------------------------------------------------------


@given(count=st.integers(0, 5000), parts=st.integers(0, 64))
def test_parts_cover_a_batch_and_none_is_small(count: int, parts: int) -> None:
    found = spans(count, parts)
    assert [number for start, end in found for number in range(start, end)] == list(range(count))
    assert 1 <= len(found) <= max(1, parts)
    sizes = [end - start for start, end in found]
    assert max(sizes) - min(sizes) <= 1
    assert len(found) == 1 or min(sizes) >= MIN_PART_REQUESTS


@pytest.mark.parametrize("name", SCHEMES)
@given(kinds=st.lists(st.sampled_from(KINDS), max_size=60))
@settings(max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_the_answer_does_not_depend_on_the_mode(
    name: str, kinds: list[int], workers: dict[str, WorkerVerifier], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verifying_parallel, "MIN_PART_REQUESTS", 4)
    party = SIGNED[name]
    digests, requests = party.batch(kinds)
    expected = party.verifier.verify(digests, requests)
    threads = ThreadedVerifier(party.verifier, 3)
    found: list[NodeVerifier] = [InlineVerifier(party.verifier), threads]
    found += [workers[name]] if name in workers else []
    for verifier in found:
        assert verifier.verify(digests, requests) == expected, verifier.mode()
        assert verifier.known(party.clients[0].client) and not verifier.known(b"\x07" * 16)
    threads.close()
    if name in workers:
        assert workers[name].mode() == "2 workers"  # none was lost


@pytest.mark.parametrize("name", SCHEMES)
def test_a_scheme_may_be_used_by_several_threads_at_once(name: str) -> None:
    """What `ThreadedVerifier` relies on, with more threads than cores and every kind of badness."""
    party = SIGNED[name]
    digests, requests = party.batch([number * 7 % 6 for number in range(16 * MIN_PART_REQUESTS)])
    expected = party.verifier.verify(digests, requests)
    assert 0 < len(expected) < len(requests)
    verifier = ThreadedVerifier(party.verifier, 8)
    for _ in range(3):
        assert verifier.verify(digests, requests) == expected
    verifier.close()


def test_lists_of_unequal_length_are_refused_in_every_mode(workers: dict[str, WorkerVerifier]) -> None:
    party = SIGNED["secp256k1"]
    digests, requests = party.batch(BATCH)
    threads = ThreadedVerifier(party.verifier, 2)
    for verifier in (InlineVerifier(party.verifier), threads, workers["secp256k1"]):
        with pytest.raises(ValueError):
            verifier.verify(digests[:-1], requests)
    threads.close()


def test_a_system_without_threads_to_give(monkeypatch: pytest.MonkeyPatch) -> None:
    party = SIGNED["secp256k1"]
    verifier = ThreadedVerifier(party.verifier, 3)

    def refuse(*arguments: Any) -> Any:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(verifier._pool, "submit", refuse)
    assert verifier.verify(*party.batch(BATCH)) == BAD
    verifier.close()


# --- workers that fail ------------------------------------------------------------------------


def test_a_killed_worker_costs_nothing_but_itself(opened: Callable[[int], WorkerVerifier]) -> None:
    """I-16's premise: no request is lost or wrongly accepted."""
    verifier, batch = opened(3), SIGNED["secp256k1"].batch(BATCH)
    assert verifier.mode() == "3 workers" and verifier.verify(*batch) == BAD
    for left in ("2 workers", "inline"):
        victim = verifier.pids[0]
        os.kill(victim, signal.SIGKILL)
        assert soon(lambda: not runs(victim))  # noqa: B023
        with capture_logs() as logs:
            assert verifier.verify(*batch) == BAD
            assert verifier.verify(*batch) == BAD
        assert [(entry["event"], entry["pid"]) for entry in logs] == [("verification_worker_lost", victim)]
        assert verifier.mode() == left


def test_a_worker_that_stands_still_is_given_up(
    opened: Callable[[int], WorkerVerifier], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verifying_parallel, "ANSWER_TIMEOUT_S", 0.5)
    verifier, batch = opened(2), SIGNED["secp256k1"].batch(BATCH)
    stopped = verifier.pids[1]
    os.kill(stopped, signal.SIGSTOP)
    assert verifier.verify(*batch) == BAD
    assert verifier.mode() == "inline" and not runs(stopped)
    assert verifier.verify(*batch) == BAD


def test_an_answer_that_is_none_is_not_believed(
    opened: Callable[[int], WorkerVerifier], monkeypatch: pytest.MonkeyPatch
) -> None:
    verifier, batch = opened(2), SIGNED["secp256k1"].batch(BATCH)
    monkeypatch.setattr(verifying_parallel, "receive_frame", lambda sock: b"\xc1")
    assert verifier.verify(*batch) == BAD and verifier.pids == []
    for content in (b"", b"\xc1", msgspec.msgpack.encode([3]), msgspec.msgpack.encode([-1]), b"\xc0"):
        with pytest.raises(ValueError):
            decode_answer(content, 3)
    assert decode_answer(msgspec.msgpack.encode([0, 2]), 3) == [0, 2]


def test_a_system_without_processes_to_give(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/nowhere")
    party = SIGNED["secp256k1"]
    with capture_logs() as logs:
        verifier = WorkerVerifier(party.verifier, "secp256k1", party.clients, 2)
    assert [entry["event"] for entry in logs] == ["verification_worker_not_started"]
    assert verifier.mode() == "inline" and verifier.verify(*party.batch(BATCH)) == BAD
    verifier.close()


# --- what a worker is -------------------------------------------------------------------------


def test_a_worker_has_nothing_but_its_socket_and_ignores_signals(workers: dict[str, WorkerVerifier]) -> None:
    verifier, party = workers["ed25519"], SIGNED["ed25519"]
    listener = socket.create_server(("127.0.0.1", 0))
    for pid in verifier.pids:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            os.kill(pid, number)
        links = {path.name: os.readlink(path) for path in Path(f"/proc/{pid}/fd").iterdir()}
        assert set(links) == {"0", "1", "2"} and links["1"] == "/dev/null"
        assert links["0"].startswith("socket:")
        assert os.getsid(pid) == pid  # a terminal's ^C goes elsewhere
    listener.close()
    assert verifier.verify(*party.batch(BATCH)) == BAD and verifier.mode() == "2 workers"


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("count", [1, 2 * MIN_PART_REQUESTS, 8 * MIN_PART_REQUESTS])
def test_requests_of_a_block_are_verified_in_every_mode(
    workers: dict[str, WorkerVerifier], way: Any, count: int
) -> None:
    """As they are opened: with the extension, requests and digests are views of one table."""
    party, chain = SIGNED["secp256k1"], sha256(b"a chain").digest()
    listed = []
    for seq in range(count):
        owner = seq % CLIENTS
        request = Request(party.clients[owner].client, 1, seq, b"op%d" % seq, b"")
        auth = party.signers[owner].sign(digest_of(chain, request))
        listed.append(msgspec.structs.replace(request, auth=bytes(64) if seq % 37 == 5 else auth))
    requests, digests = way.open_body(chain, encode_body(listed))
    bad = [seq for seq in range(count) if seq % 37 == 5]
    threads = ThreadedVerifier(party.verifier, 2)
    for verifier in (InlineVerifier(party.verifier), threads, workers["secp256k1"]):
        assert verifier.verify(digests, requests) == bad
        assert verifier.verify(digests[:90], requests[:90]) == [seq for seq in bad if seq < 90]
    threads.close()
    assert workers["secp256k1"].mode() == "2 workers"


def test_a_worker_is_told_only_what_it_needs() -> None:
    """In this process: setup, batches, and the end of the other side."""
    party, (ours, theirs) = SIGNED["p256"], socket.socketpair()
    digests, requests = party.batch([GOOD, FLIPPED, GOOD])
    assert b"op" not in encode_batch(digests, requests)
    with ours, theirs:
        for content in (encode_setup("p256", party.clients), encode_batch(digests, requests)):
            send_frame(ours, content)
        ours.shutdown(socket.SHUT_WR)
        with pytest.raises(EOFError):
            serve(theirs)
        assert decode_answer(receive_frame(ours), 3) == [1]
        theirs.sendall(b"\xff\xff\xff\xff")
        with pytest.raises(EOFError, match="bytes"):
            receive_frame(ours)


def test_work_of_workers_counts_as_their_nodes(workers: dict[str, WorkerVerifier]) -> None:
    """Benchmarks look at it."""
    pids = {pid for verifier in workers.values() for pid in verifier.pids}
    assert pids <= set(verifying_workers(os.getpid()))
    own, together = usage(os.getpid()), node_usage(os.getpid())
    assert own is not None and together is not None
    assert together.cpu_s > own.cpu_s and together.rss_bytes > own.rss_bytes
    assert verifying_workers(1 << 22) == [] and node_usage(1 << 22) is None


PARENT = """
import sys, time
from tepbft.crypto.schemes import SCHEMES
from tepbft.runtime.verifying_parallel import WorkerVerifier
scheme = SCHEMES["ed25519"]
clients = [scheme.register(scheme.generate_secret(), "a")]
verifier = WorkerVerifier(scheme.verifier(clients, node=0), "ed25519", clients, 2)
print(*verifier.pids, flush=True)
sys.stdin.readline()
verifier.close()
"""


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_workers_end_with_their_parent_however_it_ends(number: signal.Signals) -> None:
    with subprocess.Popen(
        [sys.executable, "-c", PARENT],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        assert len(pids) == 2 and all(map(runs, pids))
        parent.send_signal(number)
        parent.wait()
        assert soon(lambda: not any(map(runs, pids)))


CONFINED = """
import os, signal, sys
from pathlib import Path
from tepbft.crypto.schemes import SCHEMES
from tepbft.runtime import verifying_parallel
from tepbft.runtime.verifying_parallel import WorkerVerifier
from tepbft.trusted.confine import confine_replica
from tepbft.core.block import Request
verifying_parallel.ANSWER_TIMEOUT_S = 0.5
secret = Path(sys.argv[1])
print(confine_replica(secret))
scheme = SCHEMES["ed25519"]
clients = [scheme.register(scheme.generate_secret(), "a")]
verifier = WorkerVerifier(scheme.verifier(clients, node=0), "ed25519", clients, 2)
os.kill(verifier.pids[0], signal.SIGSTOP)
requests = [Request(clients[0].client, 1, n, b"", b"") for n in range(100)]
lines = [Path(f"/proc/{pid}/status").read_text() for pid in ("self", *verifier.pids)]
print({line for text in lines for line in text.splitlines() if line.startswith("NoNewPrivs")})
print(verifier.mode(), verifier.verify([bytes(32)] * 100, requests) == list(range(100)), verifier.mode())
verifier.close()
"""


def test_a_confined_node_has_confined_workers_and_may_end_them(tmp_path: Path) -> None:
    """A kernel that keeps a node from signalling others lets it end what it started."""
    (tmp_path / "trusted").mkdir()
    (tmp_path / "trusted" / "secret").touch()
    done = subprocess.run(
        [sys.executable, "-c", CONFINED, str(tmp_path / "trusted")],
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 0, done.stderr
    sentence, rights, modes = (line for line in done.stdout.splitlines() if "worker_lost" not in line)
    assert rights == str({f"NoNewPrivs:\t{int('is in force' in sentence)}"})
    assert modes == "2 workers True inline"
