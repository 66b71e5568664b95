"""The node, sans-IO: client requests, mempool, sealer, consensus, execution, replies, in one step.

`step` is the only way in, `Effects` the only way out. Simulator and cluster run
this same class; clock, network, disk and the trusted component are theirs.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeAlias, TypeVar, assert_never

import msgspec

from tepbft.core.admission import config_block
from tepbft.core.block import (
    NORMAL,
    Block,
    Header,
    Receipt,
    Request,
    genesis_header,
)
from tepbft.core.configuration import Configuration, Genesis
from tepbft.core.events import (
    AdmissionRequested,
    Busy,
    ClientRequests,
    ConnectionClosed,
    Effects,
    Event,
    Notice,
    PeerMessage,
    Reply,
    TcAnswered,
    Tick,
)
from tepbft.core.links import floor_digest
from tepbft.core.options import NodeOptions
from tepbft.core.requests import Run, body_of, request_digests, runs
from tepbft.core.verification import NodeSigner, Verifier
from tepbft.crypto.port import RequestVerifier
from tepbft.execution.client_table import EXECUTE
from tepbft.execution.port import Application
from tepbft.mempool.options import MempoolOptions
from tepbft.mempool.pool import BUSY, Mempool
from tepbft.node.ledger import Ledger
from tepbft.node.replies import Replies
from tepbft.node.status import NodeStatus
from tepbft.node.verdict import node_status
from tepbft.protocols.tep.messages import Forward
from tepbft.protocols.tep.replica import Replica
from tepbft.protocols.tep.state import State
from tepbft.seal.sealer import Sealer, Sealing
from tepbft.storage.port import ChainStore, HeaderRecord, Recovered
from tepbft.trusted.port import Identity
from tepbft.types import ConnectionId, Height, Millis, NodeId
from tepbft.wire import Welcome

T = TypeVar("T")
FORGET_AT_ONCE = 256
Refused: TypeAlias = tuple[bytes, int, int, str]
"""(client, session, seq, code)."""
REFUSAL_CODES = {2: "conflict", 3: "stale", 4: "out_of_window"}
"""Why a request is not admitted, by the status that executing it would come to (A9)."""


class Node:
    """One node of a chain. Construct, `start` once, then `step` for every event."""

    def __init__(
        self,
        *,
        me: NodeId,
        genesis: Genesis,
        store: ChainStore,
        identity: Identity,
        signer: NodeSigner,
        verifier: Verifier,
        requests: RequestVerifier,
        application: Application,
        settings: NodeOptions,
    ) -> None:
        self.me, self.genesis, self.options = me, genesis, settings
        self.chain_id = genesis.chain_id
        parameters = genesis.parameters
        self._store, self._identity, self._requests = store, identity, requests
        self._recovered = store.recover()
        configurations = _configurations(genesis, store)
        head = self._recovered.base_header or genesis_header(self.chain_id, genesis.base_height)
        # A crash may have lost installs: replay starts in the configuration of the installed height.
        current = [cfg for cfg in configurations if cfg.floor <= head.height][-1]
        self.mempool = Mempool(
            MempoolOptions(
                client_quota=parameters.client_window,
                capacity=settings.pool_requests,
                budget_ms=settings.t_request_ms // 2,
                max_request_bytes=max(1, parameters.block_bytes - 1024),
            )
        )
        self._replies = Replies(parameters.reply_after == "stable")
        self.ledger = Ledger(
            genesis=genesis,
            store=store,
            head=head,
            application=application,
            verifier=verifier,
            requests=requests,
            mempool=self.mempool,
            replies=self._replies,
            ahead_ms=settings.timestamp_ahead_ms,
        )
        self.ledger.configuration = current
        self.ledger.history = configurations
        self.state = State(
            me=me,
            chain_id=self.chain_id,
            cfg=current,
            parameters=parameters,
            options=settings,
            tc_id=identity.tc_id,
            verifier=verifier,
            signer=signer,
            host=self.ledger,
            store=store,
            head=head,
            floor_digest=floor_digest(genesis, current, store),
        )
        for cfg in configurations:
            self.state.history[cfg.number] = cfg
        self.replica = Replica(self.state)
        self._sealer = Sealer(
            parameters.block_requests,
            parameters.block_bytes,
            parameters.window,
            settings.in_flight_blocks,
            settings.max_wait_ms,
        )
        self._proposed_above: Height = 0
        self._wall_ms: Millis = 0
        self._more = self._pressed = False
        self.counters: dict[str, int] = {}

    # --- the one door -------------------------------------------------------------------------

    def start(self, now_ms: int, wall_ms: int) -> Effects:
        """Recover what the store holds; the first effects. Call once."""
        out = self._begin(now_ms)
        self._wall_ms = self.ledger.wall_ms = wall_ms
        state = self.state
        state.entered_ms = state.progress_ms = now_ms
        state.status_ms = now_ms - state.options.t_status_ms
        self.ledger.known_headers = _known_headers(self._recovered)
        self.replica.recover(self._recovered, self._identity)
        self.ledger.known_headers.clear()
        self._recovered = Recovered(0, (), None)
        return self._end(out)

    def step(self, event: Event, now_ms: int) -> Effects:
        """One event in, everything that follows from it out. Never raises for what others did."""
        if type(event) is PeerMessage and self.replica.is_late(event.message):
            return Effects()
        out = self._begin(now_ms)
        match event:
            case PeerMessage():
                if isinstance(event.message, Forward):
                    self._admit(None, event.message.requests)
                else:
                    self.replica.on_message(event.sender, event.message)
            case ClientRequests():
                self._more, self._pressed = event.more, event.pressed
                self._admit(event.connection, event.requests)
            case TcAnswered():
                self.replica.on_answer(event.request, event.answer)
            case Tick():
                self._wall_ms = self.ledger.wall_ms = event.wall_ms
                self.replica.on_tick()
                self._forward()
            case ConnectionClosed():
                self._replies.closed(event.connection)
            case AdmissionRequested():
                self.replica.on_admission(event.change)
            case _:
                assert_never(event)
        self._seal()
        return self._end(out)

    def _begin(self, now_ms: int) -> Effects:
        out = Effects()
        self.state.out = self.ledger.out = out
        self.state.now = self.ledger.now = now_ms
        self.state.paused = False
        self.ledger.begin_step()
        return out

    def _end(self, out: Effects) -> Effects:
        self.ledger.executed_view = self.state.view
        if len(self.state.history) != len(self.ledger.history):
            self.ledger.history = [self.state.history[number] for number in sorted(self.state.history)]
        for notice in out.notices:
            self.counters[notice.name] = self.counters.get(notice.name, 0) + 1
        return out

    # --- client requests ----------------------------------------------------------------------

    def _admit(self, connection: ConnectionId | None, requests: Sequence[Request]) -> None:
        """Authenticate, answer what is decided, take up the rest. Nothing here is replicated state."""
        refused: list[Refused] = []
        fresh, digests, in_runs = self._sort_out(connection, requests, refused)
        bad = self._wrongly_signed(fresh, digests, in_runs)
        if bad:
            for index in bad:
                request = fresh[index]
                code = "bad_signature" if self._requests.known(request.client) else "unknown_client"
                refused.append((request.client, request.session, request.seq, code))
            fresh, digests = _without(fresh, bad), _without(digests, bad)
            in_runs = runs(fresh)
        if fresh:
            if connection is not None:
                self._replies.heard(connection, dict.fromkeys([run[0] for run in in_runs]))
            for index, code in self.mempool.admit_many(fresh, digests, self.state.now, in_runs):
                request = fresh[index]
                refused.append((request.client, request.session, request.seq, code))
        self._notice_faults([code for *_, code in refused])
        if refused and connection is not None:
            self.state.out.busy.append(Busy(connection, refused))

    def _wrongly_signed(
        self, requests: Sequence[Request], digests: Sequence[bytes], in_runs: list[Run]
    ) -> list[int]:
        """Indices of the requests whose authenticator does not hold."""
        unverified = self.mempool.unverified(requests, digests, in_runs)
        if len(unverified) == len(requests):
            return self._requests.verify(digests, requests)
        bad = self._requests.verify([digests[i] for i in unverified], [requests[i] for i in unverified])
        return [unverified[index] for index in bad]

    def _sort_out(
        self, connection: ConnectionId | None, requests: Sequence[Request], refused: list[Refused]
    ) -> tuple[Sequence[Request], Sequence[bytes], list[Run]]:
        """The requests that may still be executed, with their digests, and in runs; the others are
        answered."""
        known = self._requests.known
        in_runs = runs(requests)
        strangers = {client for client in dict.fromkeys([run[0] for run in in_runs]) if not known(client)}
        if strangers:
            refused += [
                (r.client, r.session, r.seq, "unknown_client") for r in requests if r.client in strangers
            ]
            requests = [request for request in requests if request.client not in strangers]
            in_runs = runs(requests)
        if not self.ledger.executor.all_fresh(in_runs):
            return self._classify(connection, list(requests), refused)
        surplus = self._shed(requests, refused)
        if surplus:
            requests = _without(requests, surplus)
            in_runs = runs(requests)
        return requests, request_digests(self.chain_id, requests), in_runs

    def _classify(
        self, connection: ConnectionId | None, requests: list[Request], refused: list[Refused]
    ) -> tuple[list[Request], list[bytes], list[Run]]:
        """See `_sort_out`: each of them by itself."""
        classify = self.ledger.executor.classify
        digests = request_digests(self.chain_id, requests)
        statuses = [
            classify(request.client, request.session, request.seq, digest)
            for request, digest in zip(requests, digests, strict=True)
        ]
        fresh: list[Request] = []
        fresh_digests: list[bytes] = []
        for request, digest, status in zip(requests, digests, statuses, strict=True):
            if status == EXECUTE:
                fresh.append(request)
                fresh_digests.append(digest)
            elif status in REFUSAL_CODES:
                refused.append((request.client, request.session, request.seq, REFUSAL_CODES[status]))
            else:
                self._answer_again(connection, request, digest, refused)
        surplus = self._shed(fresh, refused)
        if surplus:
            fresh, fresh_digests = _without(fresh, surplus), _without(fresh_digests, surplus)
        return fresh, fresh_digests, runs(fresh)

    def _shed(self, requests: Sequence[Request], refused: list[Refused]) -> list[int]:
        """Decline what there is no room for before anything is spent on it: under overload what is
        declined must cost next to nothing. Returns the indices."""
        surplus = self.mempool.surplus(requests)
        for index in surplus:
            request = requests[index]
            refused.append((request.client, request.session, request.seq, BUSY))
        return surplus

    def _answer_again(
        self,
        connection: ConnectionId | None,
        request: Request,
        digest: bytes,
        refused: list[Refused],
    ) -> None:
        """A request that was executed: the kept reply, and certificates for peers that lag (A3.5)."""
        found = self.ledger.executor.outcome(request.client, request.session, request.seq)
        if found is None:
            refused.append((request.client, request.session, request.seq, "stale"))
            return
        height, receipt = found
        if connection is not None and receipt.request_digest == digest:
            self.state.out.replies.append(Reply(connection, height, [receipt]))
            # The first that is heard of a client here may be a request that others executed meanwhile.
            if not self._replies.knows(connection, request.client) and not self._requests.verify(
                [digest], [request]
            ):
                self._replies.heard(connection, (request.client,))
        self.replica.push(height)

    def _notice_faults(self, codes: list[str]) -> None:
        """One notice for each code: under overload there are thousands."""
        for code in dict.fromkeys(codes):
            fields = {"code": code, "count": codes.count(code)}
            self.state.out.notices.append(Notice("client_fault", fields))

    def _forward(self) -> None:
        """Requests that wait at a backup go to the primary, and once to everybody (A-44)."""
        state = self.state
        after = state.options.t_request_ms // 2
        if self.mempool.overdue(state.now, after):
            self._forget_decided()
        due = self.mempool.due_for_forwarding(state.now, after)
        if due and state.primary != self.me:
            state.broadcast(Forward(tuple(due)))

    def _forget_decided(self) -> None:
        """Of the oldest pending requests, drop those that no block can execute any more: a client that
        began a newer session must not cause view changes by what it left behind (A-42, S-42)."""
        decided = self.ledger.executor.is_decided
        oldest = self.mempool.pending_keys()[:FORGET_AT_ONCE]
        gone = [key for key in oldest if decided(*key)]
        if gone:
            self.mempool.executed_many(gone, self.state.now)

    # --- sealing ------------------------------------------------------------------------------

    def _seal(self) -> None:
        """As the primary: cut blocks while the sealer says so; a configuration change goes first."""
        state, replica = self.state, self.replica
        while replica.may_propose():
            change = replica.config_due()
            if change is not None:
                block = config_block(state.cfg.number, state.next_height, self._wall_ms, change)
                replica.propose(block, block.digest(self.chain_id))
                continue
            if not self.mempool.waiting or not self._sealer.should_seal(self._moment()):
                return
            parameters = self.genesis.parameters
            batch = self.mempool.take(parameters.block_requests, parameters.block_bytes)
            if not batch.requests:
                return
            body = body_of(batch.requests)
            block = Block(
                state.cfg.number, state.next_height, NORMAL, self._wall_ms, len(batch.requests), body
            )
            digest = block.digest(self.chain_id)
            self.ledger.proposed(digest, batch.requests, batch.digests)
            replica.propose(block, digest)

    def _moment(self) -> Sealing:
        state = self.state
        return Sealing(
            state.now,
            self.mempool.waiting,
            self.mempool.waiting_bytes,
            self.mempool.oldest_waiting_ms(),
            max(0, state.next_height - 1 - state.executed),
            state.next_height,
            state.stable_height,
            self._more,
            self._pressed,
        )

    def undecided(self) -> bool:
        """Whether a vote of a peer may matter now. While it cannot, those that come need not be looked at
        before something else happens."""
        return self.replica.undecided()

    def wake_at_ms(self) -> Millis | None:
        """When a block is due by time alone: whoever runs the node lets it know then, with a `Tick`. None
        if something else has to happen first. Other timers are content with a tick now and then."""
        if not self.mempool.waiting or not self.replica.may_propose():
            return None
        return self._sealer.wake_at_ms(self._moment())

    # --- asking -------------------------------------------------------------------------------

    @property
    def configuration(self) -> Configuration:
        """The current member table."""
        return self.state.cfg

    def welcome(self) -> Welcome:
        """First message to a client."""
        return Welcome(self.chain_id, self.me, self.state.view, self.state.primary)

    def find_outcome(self, client: bytes, session: int, seq: int) -> tuple[Height, Receipt] | None:
        """The kept reply to a request, if there is one."""
        return self.ledger.executor.outcome(client, session, seq)

    def status(self, now_ms: int) -> NodeStatus:
        """Where this node stands, with a verdict."""
        return node_status(self, now_ms)


def _without(items: Sequence[T], indices: Iterable[int]) -> list[T]:
    """All but those at `indices`."""
    gone = set(indices)
    return [item for index, item in enumerate(items) if index not in gone]


def _configurations(genesis: Genesis, store: ChainStore) -> list[Configuration]:
    found = [genesis.configuration()]
    for data in store.configurations():
        found.append(msgspec.msgpack.decode(data, type=Configuration))
    return found


def _known_headers(recovered: Recovered) -> dict[Height, Header]:
    return {
        record.header.height: record.header
        for record in recovered.records
        if isinstance(record, HeaderRecord)
    }
