"""Byzantine strategies: what each makes of a node's effects, and that correct nodes go on in spite of it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import pytest

from support.world import WALL_MS, World
from tepbft.core.block import REFUSED, Block, Receipt, null_block
from tepbft.core.certificates import PrepareHead
from tepbft.core.events import Busy, Effects, PeerMessage, Reply, Send, Tick
from tepbft.core.options import NodeOptions
from tepbft.execution.apps import kv
from tepbft.lab.byzantine import (
    BACKUP,
    DESCRIPTIONS,
    FLOOD_BURST,
    FLOOD_KEPT,
    PRIMARY,
    STRATEGIES,
    Equivocate,
    Flood,
    Silent,
    Slow,
    corrupted,
    strategy,
)
from tepbft.lab.byzantine_core import Byzantine
from tepbft.protocols.tep.messages import Body, Commit, Prepare, ReqVc, Status, codec, req_vc_preimage
from tepbft.trusted.port import COMMIT, PREPARE, Order, Refused, order_body
from tepbft.types import ConnectionId
from tepbft.wire import encode

LEADING = sorted(name for name, found in BACKUP.items() if found.leads)


class Cluster(World):
    """A world in which one node is Byzantine; `core` stands where its node was."""

    def __init__(self, name: str, number: int, n: int = 3) -> None:
        super().__init__(n, options=NodeOptions(max_wait_ms=0))
        self.wire: list[tuple[int, object]] = []
        """(receiver, message) of everything that the Byzantine node says."""
        self.liar = number
        self.core = strategy(name)(self.node(number))
        self.hosts[number].node = self.core  # type: ignore[assignment]
        self.filters.append(self._listen)

    def _listen(self, sender: int, to: int, message: object) -> bool:
        if sender == self.liar:
            self.wire.append((to, message))
        return True

    @property
    def correct(self) -> list[int]:
        """The others."""
        return [host.number for host in self.hosts if host.number != self.liar]

    def load(self, tag: str, count: int = 10, wait: int = 20_000) -> None:
        """A client's operations, which must all come to an outcome."""
        client = self.clients[0]
        requests = client.submit(*(kv.parse(["put", f"{tag}{i}", "v"]) for i in range(count)))
        assert self.run(wait, client.done(requests)), f"{tag}: {self.executed(*self.correct)}"
        assert all(found[1].status == 0 for request in requests if (found := client.outcome(request)))

    def views(self) -> list[int]:
        """The views of the correct nodes."""
        return [self.node(number).state.view for number in self.correct]

    def said(self, kind: type) -> list[object]:
        """What the Byzantine node said of a kind."""
        return [message for _, message in self.wire if isinstance(message, kind)]

    def check(self) -> None:
        """The correct nodes agree, now and at every height."""
        self.run(1500)
        self.check_prefixes()
        heads = {self.node(number).state.head.digest() for number in self.correct}
        assert len(heads) == 1


@pytest.mark.parametrize("n", [3, 4, 5])
@pytest.mark.parametrize("name", sorted(BACKUP))
def test_a_byzantine_backup_stops_nothing(name: str, n: int) -> None:
    cluster = Cluster(name, n - 1, n)
    for tag in "abc":
        cluster.load(tag)
    cluster.check()
    assert cluster.views() == [0] * (n - 1)


@pytest.mark.parametrize("n", [3, 5])
@pytest.mark.parametrize("name", LEADING)
def test_a_byzantine_primary_stops_nothing_for_long(name: str, n: int) -> None:
    cluster = Cluster(name, 0, n)
    for number in range(60 if name == "equivocate" else 3):
        cluster.load(f"{number}.", 2)
    cluster.check()
    if name == "slow":  # just in time
        assert cluster.views() == [0] * (n - 1)
    else:
        assert min(cluster.views()) >= 1


def test_names_and_descriptions() -> None:
    assert len(set(STRATEGIES)) == len(STRATEGIES) == len(BACKUP) + len(LEADING)
    assert all(f"{PRIMARY}{name}" in STRATEGIES for name in LEADING)
    assert "equivocate" in LEADING and "withhold_bodies" in LEADING
    assert all(DESCRIPTIONS.values()) and all(found.summary for found in BACKUP.values())
    assert strategy("primary_silent") is strategy("silent") is Silent
    with pytest.raises(KeyError):
        strategy("primary_nothing")


def test_every_strategy_is_documented() -> None:
    page = (Path(__file__).resolve().parents[3] / "docs" / "benchmarks.md").read_text(encoding="utf-8")
    for name, found in BACKUP.items():
        assert f"| `{name}` | {found.summary} | {'yes' if found.leads else ''} |" in page


# --- one by one -------------------------------------------------------------------------------


def effects_of(core: Byzantine, messages: Sequence[object] = (), replies: Sequence[Reply] = ()) -> Effects:
    """What becomes of effects that a node would have had."""
    effects = Effects(send=[Send(core.others, message) for message in messages], replies=list(replies))
    effects.busy = [Busy(ConnectionId(1), [])]
    core.change(effects)
    return effects


def test_silent_says_nothing() -> None:
    cluster = Cluster("silent", 2)
    effects = effects_of(cluster.core, [Body(_block())], [Reply(ConnectionId(1), 1, [])])
    assert (effects.send, effects.replies, effects.busy) == ([], [], [])
    cluster.load("a")
    assert cluster.wire == [] and cluster.core.node.state.executed > 0


def test_withhold_commits_asks_for_no_vote() -> None:
    cluster = Cluster("withhold_commits", 2)
    cluster.load("a")
    asked = [request for request, _ in cluster.hosts[2].statements if isinstance(request, Order)]
    assert not [request for request in asked if request.kind == COMMIT]
    cluster.run(500)
    assert cluster.said(Status) and not cluster.said(Commit)


def test_equivocate_is_refused_by_its_component_and_forges() -> None:
    cluster = Cluster("equivocate", 0, 5)
    cluster.load("a")
    core = cluster.core
    assert isinstance(core, Equivocate)
    assert core.refusals > 0 and core.successes == 0 and not core._asked
    by_height: dict[int, dict[bytes, set[int]]] = {}
    for to, message in cluster.wire:
        if isinstance(message, Prepare):
            by_height.setdefault(message.head.height, {}).setdefault(message.head.digest, set()).add(to)
    assert [sorted(map(sorted, lots.values())) for lots in by_height.values()] == [[[1, 2], [3, 4]]] * len(
        by_height
    )
    refused = [answer for _, answer in cluster.hosts[0].statements if isinstance(answer, Refused)]
    assert len(refused) == core.refusals and {answer.code for answer in refused} == {"register"}
    assert cluster.noticed(1, "peer_fault") and not cluster.noticed(3, "peer_fault")
    assert not cluster.noticed(0, "tc_refused")  # the node within hears nothing of it


def test_withhold_bodies_sends_heads_only() -> None:
    cluster = Cluster("withhold_bodies", 0)
    cluster.load("a", wait=30_000)
    prepares = cluster.said(Prepare)
    assert prepares and all(isinstance(p, Prepare) and p.block is None for p in prepares)
    assert not cluster.said(Body)


def test_corrupt_spoils_every_signature_and_nothing_else() -> None:
    cluster = Cluster("corrupt", 2)
    cluster.delay_ms = lambda sender, to, message: 1 if sender == 2 else 5  # its votes are looked at first
    cluster.load("a")
    cluster.run(100)
    commits = cluster.said(Commit)
    state = cluster.node(0).state
    assert commits
    for commit in commits:
        assert isinstance(commit, Commit)
        head = commit.head
        assert not state.verifier.ui(state.cfg, 2, commit.seq, COMMIT, _order(head), commit.signature)
        assert not state.verifier.ui(state.cfg, 0, head.seq, PREPARE, _order(head), head.signature)
    faults = {fault["code"] for fault in cluster.noticed(0, "peer_fault")}
    assert faults == {"bad_signature"}
    status = Status(0, 0, True, 1, 1, 0, ())
    assert corrupted(status) is status
    body = Body(_block())
    assert corrupted(body) is body


def test_slow_holds_everything_back_and_loses_nothing() -> None:
    cluster = Cluster("slow", 2)
    core = cluster.core
    assert isinstance(core, Slow) and core.delay_ms == 450
    message, reply = Body(_block()), Reply(ConnectionId(1), 1, [])
    core.now_ms = 10_000
    effects = effects_of(core, [message], [reply])
    assert (effects.send, effects.replies, effects.busy) == ([], [], [])
    assert core.step(Tick(WALL_MS), 10_449).replies == []
    late = core.step(Tick(WALL_MS), 10_450)
    assert [send.message for send in late.send] == [message] and late.replies == [reply] and late.busy


def test_slow_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tepbft.lab.byzantine.MAX_HELD", 3)
    core = Cluster("slow", 2).core
    said = [effects_of(core, [Body(_block(number))]).send for number in range(5)]
    assert [[send.message.block.height for send in sends] for sends in said] == [[], [], [], [0], [1]]


def test_flood_is_bounded_by_time_and_well_formed() -> None:
    cluster = Cluster("flood", 2)
    for tag in "abcdefghijkl":
        cluster.load(tag)
    core = cluster.core
    assert isinstance(core, Flood)
    now = cluster.now + 5
    core.step(Tick(WALL_MS), now)
    assert core.step(Tick(WALL_MS), now).send == []
    soon = core.step(Tick(WALL_MS), now + 7).send
    assert len(soon) <= 7 + 2 and len(soon) >= 7
    later = core.step(Tick(WALL_MS), now + 60_000).send
    assert len(later) >= FLOOD_BURST
    for send in later:
        assert codec.decode(encode(send.message)) == send.message
    assert len(core._seen) == FLOOD_KEPT
    kinds = {type(send.message).__name__ for send in later}
    assert {"Commit", "Checkpoint", "Body", "Forward", "FetchFinal"} <= kinds


def test_lies_to_clients_are_alike_and_stand_alone() -> None:
    receipt = Receipt(bytes(16), 1, 2, bytes(32), 0, b"true")
    reply = Reply(ConnectionId(1), 3, [receipt])
    told = [effects_of(Cluster("lie_to_clients", n).core, replies=[reply]).replies for n in (1, 2)]
    assert told[0] == told[1]
    lie = told[0][0].receipts[0]
    assert (lie.client, lie.seq, lie.status, lie.result) == (bytes(16), 2, REFUSED, b"a lietrue")
    cluster = Cluster("lie_to_clients", 2)
    assert cluster.core.welcome().view == cluster.node(0).welcome().view + 1


def test_spam_asks_for_ever_higher_views() -> None:
    cluster = Cluster("spam_view_changes", 2)
    cluster.run(500)
    wishes = [wish for to, wish in cluster.wire if to == 0 and isinstance(wish, ReqVc)]
    targets = [wish.target for wish in wishes]
    assert len(targets) >= 20 and targets == sorted(targets) and targets[-1] > 20
    state, wish = cluster.node(0).state, wishes[0]
    preimage = req_vc_preimage(cluster.chain_id, state.cfg, 2, wish.target)
    assert state.verifier.signed(state.cfg, 2, preimage, wish.signature)
    assert cluster.core.step(Tick(WALL_MS), cluster.core.now_ms).send == []


def test_stale_status_lies_both_ways() -> None:
    cluster = Cluster("stale_status", 2)
    cluster.load("a")
    cluster.run(2000)
    told = [status for to, status in cluster.wire if to == 0 and isinstance(status, Status)]
    executed = [status.executed for status in told]
    assert 0 in executed and max(executed) >= 1000
    core = cluster.core
    other = Body(_block())
    assert effects_of(core, [other]).send[0].message is other


def test_a_wrapper_that_changes_nothing_is_the_node() -> None:
    world = World(3)
    node = world.node(1)
    wrapped = Byzantine(node)
    assert wrapped.configuration is node.configuration and wrapped.welcome() == node.welcome()
    assert wrapped.status(5) == node.status(5)
    assert wrapped.find_outcome(bytes(16), 1, 1) is None
    message = Status(0, 0, True, 0, 0, 0, ())
    heard: list[object] = []
    wrapped.heard = lambda sender, message: heard.append((sender, message))  # type: ignore[method-assign]
    wrapped.step(PeerMessage(0, message), world.now)
    assert heard == [(0, message)]


def _block(height: int = 1) -> Block:
    return null_block(0, height)


def _order(head: PrepareHead) -> bytes:
    return order_body(head.view, head.height, head.digest)
