"""Builds small real chains: three trusted components, signed requests, everything a node stores."""

from __future__ import annotations

from tepbft.core.admission import config_block
from tepbft.core.block import (
    CONFIG,
    NORMAL,
    Block,
    Header,
    Request,
    digest_of,
    encode_body,
    genesis_header,
    null_block,
)
from tepbft.core.certificates import CheckpointCertificate, CommitCertificate, PrepareHead, Vote
from tepbft.core.configuration import (
    Configuration,
    Genesis,
    Member,
    Parameters,
    next_configuration,
)
from tepbft.crypto.node_key import NodeKey
from tepbft.crypto.operator import sign_replacement
from tepbft.crypto.schemes import scheme_named
from tepbft.execution.executor import Executed, Executor
from tepbft.execution.port import Context, OperationRefused
from tepbft.protocols.tep.messages import NewViewCertificate, ack_preimage, summary_digest
from tepbft.storage.memory import MemoryStore
from tepbft.storage.port import (
    BodyRecord,
    ChainStore,
    CommitRecord,
    ConfigRecord,
    HeaderRecord,
    PrepareRecord,
    Record,
    StableRecord,
    ViewRecord,
)
from tepbft.trusted.hbusig import HbUsig
from tepbft.trusted.port import (
    COMMIT,
    PREPARE,
    AdvanceFloor,
    BeginConfig,
    Order,
    SignCheckpoint,
    TcRequest,
    Ui,
)
from tepbft.wire import encode

SNAPSHOT_INTERVAL = 4
WINDOW = 16


class Counter:
    """Adds the operation's number to a total; refuses `no`; `wide` writes many keys."""

    def execute(self, context: Context, operation: bytes) -> bytes:
        if operation == b"no":
            raise OperationRefused("not that")
        if operation == b"wide":
            for i in range(200):
                context.put(b"wide%03d" % i, context.seed)
            return b""
        total = int(context.get(b"total") or b"0") + int(operation)
        context.put(b"total", b"%d" % total)
        context.put(b"at%d" % context.height, context.client)
        return b"%d" % total


class ChainBuilder:
    """A chain whose nodes all behave: `add` makes the next height, `records` what a node stores of it."""

    def __init__(self, scheme: str = "ed25519") -> None:
        self._components = [HbUsig.fresh() for _ in range(3)]
        self._scheme = scheme_named(scheme)
        self._secret = self._scheme.generate_secret()
        members = []
        for node, component in enumerate(self._components):
            identity = component.identity()
            key = NodeKey.from_seed(bytes([node]) * 32).public
            operator = NodeKey.from_seed(bytes([node + 100]) * 32).public
            members.append(
                Member(node, identity.tc_id, identity.key, key, operator, bytes(32), "127.0.0.1", 1, 2, 3)
            )
        client = self._scheme.register(self._secret, "client00")
        self.genesis = Genesis(
            protocol="tep",
            app="counter",
            scheme=scheme,
            created_ms=0,
            nonce=bytes(16),
            members=tuple(members),
            clients=(client,),
            parameters=Parameters(
                window=WINDOW, snapshot_interval=SNAPSHOT_INTERVAL, checkpoint_interval=2, min_config_gap=4
            ),
        )
        self.chain_id = self.genesis.chain_id
        self.cfg: Configuration = self.genesis.configuration()
        self.client = client.client
        self._seq = 0
        for node, component in enumerate(self._components):
            component.provision(self.chain_id, node, 0, self.cfg.digest(), 0, WINDOW)
        self._signer = self._scheme.signer(self._secret, 3)
        self._state = MemoryStore()
        self._executor = Executor(
            chain_id=self.chain_id,
            application=Counter(),
            reader=self._state,
            header=genesis_header(self.chain_id, 0),
            client_window=self.genesis.parameters.client_window,
            snapshot_interval=SNAPSHOT_INTERVAL,
        )

    @property
    def height(self) -> int:
        """Newest height."""
        return self._executor.height

    # --- blocks -------------------------------------------------------------------------------

    def request(self, op: bytes, seq: int | None = None) -> Request:
        """A signed request; a new number unless told otherwise."""
        if seq is None:
            self._seq += 1
            seq = self._seq
        bare = Request(self.client, 1, seq, op, b"")
        auth = self._signer.sign(digest_of(self.chain_id, bare))
        return Request(self.client, 1, seq, op, auth)

    def normal(self, *requests: Request) -> Block:
        """The next block with these requests."""
        height = self.height + 1
        return Block(
            self.cfg.number, height, NORMAL, 1000 * height, len(requests), encode_body(list(requests))
        )

    def null(self) -> Block:
        """A gap."""
        return null_block(self.cfg.number, self.height + 1)

    def replacement(self, node: int) -> Block:
        """A CONFIG block that gives `node` a new trusted component."""
        fresh = HbUsig.fresh()
        fresh.provision(self.chain_id, node, 0, self.cfg.digest(), 0, WINDOW)
        seed = bytes([node + 100]) * 32
        change = sign_replacement(self.chain_id, self.cfg, node, seed, fresh.identity(), fresh.call)
        self._components[node] = fresh
        return config_block(self.cfg.number, self.height + 1, 0, change)

    # --- what nodes make of a block -----------------------------------------------------------

    def _vote(self, node: int, request: TcRequest) -> Vote:
        answer = self._components[node].call(request)
        assert isinstance(answer, Ui), answer
        return Vote(node, answer.seq, answer.signature)

    def certify(self, block: Block) -> tuple[PrepareRecord, CommitRecord]:
        """The primary's PREPARE and the certificate with one more vote."""
        digest = block.digest(self.chain_id)
        primary = self.cfg.primary(0)
        nodes = [primary, *[node for node in (0, 1, 2) if node != primary and self._current(node)][:1]]
        votes = tuple(
            self._vote(node, Order(PREPARE if node == primary else COMMIT, 0, block.height, digest))
            for node in nodes
        )
        head = PrepareHead(0, block.height, digest, votes[0].seq, votes[0].signature)
        certificate = CommitCertificate(self.cfg.number, 0, block.height, digest, votes)
        return PrepareRecord(self.cfg.number, head), CommitRecord(certificate)

    def propose(self, block: Block, view: int = 0) -> tuple[BodyRecord, PrepareRecord]:
        """What a node has forced to the disk before it votes for `block` in `view`."""
        digest = block.digest(self.chain_id)
        vote = self._vote(self.cfg.primary(view), Order(PREPARE, view, block.height, digest))
        head = PrepareHead(view, block.height, digest, vote.seq, vote.signature)
        return BodyRecord(digest, block), PrepareRecord(self.cfg.number, head)

    def draft(self, block: Block) -> tuple[BodyRecord, PrepareRecord]:
        """What the primary has forced to the disk before it asks for its signature."""
        digest = block.digest(self.chain_id)
        head = PrepareHead(0, block.height, digest, 0, b"")
        return BodyRecord(digest, block), PrepareRecord(self.cfg.number, head)

    def new_view(self, view: int, *blocks: Block) -> ViewRecord:
        """The certificate of a view that proposes `blocks` again, from the genesis on."""
        nvc = tuple(block.digest(self.chain_id) for block in blocks)
        floor = genesis_header(self.chain_id, 0).digest()
        checkpoint = CheckpointCertificate(self.cfg.number, 0, floor, ())
        summary = summary_digest(self.cfg.number, view, checkpoint, nvc)
        acks = tuple(
            Vote(
                node,
                0,
                NodeKey.from_seed(bytes([node]) * 32).sign(
                    ack_preimage(self.chain_id, self.cfg, node, view, summary)
                ),
            )
            for node in (0, 1)
        )
        certificate = NewViewCertificate(self.cfg.number, view, 0, checkpoint, nvc, acks)
        return ViewRecord("new_view_certificate", self.cfg.number, view, encode(certificate))

    def _current(self, node: int) -> bool:
        return self._components[node].identity().tc_id == self.cfg.members[node].tc_id

    def checkpoint(self, header: Header) -> CheckpointCertificate:
        """A stable checkpoint by two nodes."""
        digest = header.digest()
        nodes = [node for node in (0, 1, 2) if self._current(node)][:2]
        votes = tuple(self._vote(node, SignCheckpoint(header.height, digest)) for node in nodes)
        return CheckpointCertificate(self.cfg.number, header.height, digest, votes)

    def execute(self, block: Block, requests: list[Request]) -> Executed:
        """Execute, and move on to the next configuration where there is one."""
        following = next_configuration(self.cfg, block) if block.kind == CONFIG else None
        return self._executor.execute(
            block,
            block.digest(self.chain_id),
            requests,
            [digest_of(self.chain_id, request) for request in requests],
            encode(following) if following else None,
        )

    def add(self, store: ChainStore, block: Block, requests: list[Request], stable: bool = True) -> None:
        """Make `block` the next height and store what a node stores: evidence, ledger, state."""
        prepare, commit = self.certify(block)
        executed = self.execute(block, requests)
        records: list[Record] = [
            BodyRecord(block.digest(self.chain_id), block),
            prepare,
            commit,
            HeaderRecord(executed.header, executed.encoded_receipts),
        ]
        if stable or block.kind == CONFIG:
            records.append(StableRecord(self.checkpoint(executed.header), executed.header))
        store.append(records)
        if executed.snapshot is not None:
            store.save_snapshot(executed.header.height, executed.snapshot)
        if stable or block.kind == CONFIG:
            writes = self._executor.install(self.height)
            for target in (self._state, store):
                target.install(writes, self.height, executed.header)
            self._executor.settle(self.height)
            for component in self._components:
                component.call(AdvanceFloor(self.height))
        if block.kind == CONFIG:
            self._enter(next_configuration(self.cfg, block), store)

    def _enter(self, following: Configuration, store: ChainStore) -> None:
        self.cfg = following
        store.append([ConfigRecord(encode(following))])
        for component in self._components:
            component.call(BeginConfig(following.number, following.digest(), following.floor))

    def fill(self, store: ChainStore, *, config: bool = True) -> None:
        """Eleven heights with everything in them; the last one is not stable."""
        for i in range(4):
            requests = [self.request(b"%d" % i), self.request(b"no"), self.request(b"1")]
            self.add(store, self.normal(*requests), requests, stable=i % 2 == 1)
        self.add(store, self.null(), [], stable=False)
        if config:
            self.add(store, self.replacement(2), [])
        for _ in range(4):
            requests = [self.request(b"5"), self.request(b"1", seq=1)]
            self.add(store, self.normal(*requests), requests)
        last = [self.request(b"wide")]
        self.add(store, self.normal(*last), last, stable=False)
