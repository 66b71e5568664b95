"""Second pass of an audit: what the records say, checked as anybody could who has the genesis.

From the genesis (or the base snapshot) upwards, height by height: the commit
certificate, the block's form, its requests' signatures; then the block is executed
again, and header, roots, receipts, checkpoint certificates and configuration must be
the recorded ones.
"""

from __future__ import annotations

from collections.abc import Sequence

from tepbft.audit.report import Notebook
from tepbft.audit.scan import JournalReader
from tepbft.audit.state import InstalledState
from tepbft.core.admission import AdmissionRule
from tepbft.core.block import (
    CONFIG,
    NORMAL,
    NULL,
    Block,
    Header,
    Request,
    decode_body,
    digest_of,
    null_block,
)
from tepbft.core.configuration import (
    Configuration,
    Genesis,
    check_replace,
    decode_replace,
    next_configuration,
)
from tepbft.core.verification import Verifier, check_checkpoint_certificate, check_commit_certificate
from tepbft.crypto.port import RequestVerifier
from tepbft.errors import PeerFault
from tepbft.execution.executor import Executed, Executor
from tepbft.execution.port import Application
from tepbft.storage.memory import MemoryStore
from tepbft.storage.port import StableRecord
from tepbft.storage.records import decode_configuration
from tepbft.storage.segments import Position
from tepbft.types import Height
from tepbft.wire import encode


class Rules:
    """What a chain's genesis makes checkable: signatures, admission, parameters."""

    def __init__(
        self, genesis: Genesis, verifier: Verifier, admission: AdmissionRule, requests: RequestVerifier | None
    ) -> None:
        self.genesis = genesis
        self.chain_id = genesis.chain_id
        self.verifier = verifier
        self.requests = requests
        self._admission = admission

    def following(self, cfg: Configuration, block: Block) -> Configuration:
        """The configuration that a CONFIG block begins; PeerFault if the block is not admissible."""
        op = decode_replace(block.body)
        check_replace(cfg, op, block.height, self.genesis.parameters.min_config_gap)
        if block.count != 0:
            raise PeerFault("bad_config_change", "a CONFIG block with requests")
        if not self._admission.admits(self.chain_id, cfg, op):
            raise PeerFault("bad_config_change", f"nobody authorised the new component of node {op.node}")
        return next_configuration(cfg, block)


class LedgerCheck:
    """Re-executes a ledger. `height` and `cfg` are where it stands; `stopped` says why it cannot go on."""

    def __init__(
        self,
        journal: JournalReader,
        rules: Rules,
        application: Application,
        state: MemoryStore,
        header: Header,
        cfg: Configuration,
        notebook: Notebook,
    ) -> None:
        self.cfg = cfg
        self.state = state
        self.stopped = ""
        self._journal = journal
        self._rules = rules
        self._notebook = notebook
        self._executor = Executor(
            chain_id=rules.chain_id,
            application=application,
            reader=state,
            header=header,
            client_window=rules.genesis.parameters.client_window,
            snapshot_interval=rules.genesis.parameters.snapshot_interval,
        )

    @property
    def height(self) -> Height:
        """Last height that was re-executed and agreed."""
        return self._executor.height

    @property
    def header(self) -> Header:
        """Header at `height`."""
        return self._executor.head

    def next(self) -> Executed | None:
        """Check and execute the next height; None if there is none, or with `stopped` set."""
        height = self.height + 1
        executed_here = self._journal.headers_reach(height)
        block = self.check_final(height, self.cfg) if executed_here else None
        if block is None:
            if executed_here and not self.stopped:
                self._notebook.add(f"height {height}", height, "the ledger has no commit certificate for it")
                self._stop(height, "its block is not known to be final")
            return None
        if not self._journal.heights[height].headers:
            self._notebook.add(self._body_place(block), height, "the header of this block is not recorded")
            self._stop(height, "its header is missing")
            return None
        requests = self._check_form(block)
        if requests is None:
            self._stop(height, "its block is malformed")
            return None
        digests = [digest_of(self._rules.chain_id, request) for request in requests]
        self._check_requests(height, requests, digests)
        following = self._following(block)
        below = self.header
        executed = self._executor.execute(
            block,
            block.digest(self._rules.chain_id),
            requests,
            digests,
            encode(following) if following else None,
        )
        if not self._compare(executed):
            self._executor.rollback(below)
            self._stop(height, "its header differs from re-execution")
            return None
        self._check_stables(height, executed.digest)
        writes = self._executor.install(height)
        self.state.install(writes, height, executed.header)
        self._executor.settle(height)
        if following is not None:
            self._enter(following)
        return executed

    def _stop(self, height: Height, why: str) -> None:
        self.stopped = f"height {height}: {why}"

    def check_final(self, height: Height, cfg: Configuration) -> Block | None:
        """The final block of a height, after checking its certificates; None (and `stopped`, if the
        ledger should have one) if there is none."""
        known = self._journal.heights.get(height)
        if known is None or not known.commits:
            return None
        final: bytes | None = None
        for place, record in self._journal.commits(height):
            certificate = record.certificate
            if not check_commit_certificate(cfg, certificate, self._rules.verifier):
                self._notebook.add(
                    self._journal.where(place), height, "the commit certificate does not verify"
                )
            elif final not in (None, certificate.digest):
                self._notebook.add(
                    self._journal.where(place), height, "two different blocks have a valid commit certificate"
                )
            else:
                final = certificate.digest
        if final is None:
            self._stop(height, "it has no valid commit certificate")
            return None
        if final not in known.bodies:
            self._notebook.add(
                self._journal.where(known.commits[0]), height, "the body of the final block is missing"
            )
            self._stop(height, "its block is missing")
            return None
        return self._journal.body(known.bodies[final]).block

    def _check_form(self, block: Block) -> list[Request] | None:
        """Static checks of a block; its requests, or None if it is not well-formed."""
        where = self._body_place(block)
        if block.cfg != self.cfg.number:
            self._notebook.add(where, block.height, f"the block is of configuration {block.cfg}")
            return None
        if block.kind == NORMAL:
            try:
                requests = decode_body(block.body)
            except PeerFault as fault:
                self._notebook.add(where, block.height, f"the body is malformed ({fault.detail})")
                return None
            if len(requests) == block.count:
                return requests
            self._notebook.add(where, block.height, f"{len(requests)} requests in a block of {block.count}")
            return None
        if block.kind == CONFIG or (block.kind == NULL and block == null_block(block.cfg, block.height)):
            return []
        self._notebook.add(where, block.height, f"it is no block of kind {block.kind}")
        return None

    def _body_place(self, block: Block) -> str:
        digest = block.digest(self._rules.chain_id)
        return self._journal.where(self._journal.heights[block.height].bodies[digest])

    def _check_requests(self, height: Height, requests: Sequence[Request], digests: Sequence[bytes]) -> None:
        if self._rules.requests is None or not requests:
            return
        for index in self._rules.requests.verify(digests, requests):
            request = requests[index]
            self._notebook.add(
                f"request {request.client.hex()}/{request.session}/{request.seq}",
                height,
                "its authenticator is not its client's",
            )

    def _following(self, block: Block) -> Configuration | None:
        if block.kind != CONFIG:
            return None
        try:
            return self._rules.following(self.cfg, block)
        except PeerFault as fault:
            self._notebook.add(
                self._body_place(block),
                block.height,
                f"the configuration change is not admissible: {fault.detail}",
            )
            return None

    def _compare(self, executed: Executed) -> bool:
        """The recorded header and receipts against what re-execution gave."""
        height = executed.header.height
        place, record = self._journal.headers(height)[-1]
        where = self._journal.where(place)
        if record.header != executed.header:
            fields = Header.__struct_fields__
            names = [
                name for name in fields if getattr(record.header, name) != getattr(executed.header, name)
            ]
            self._notebook.add(where, height, f"re-execution gives another {', '.join(names)}")
            return False
        if record.receipts != executed.encoded_receipts and (record.receipts or executed.receipts):
            self._notebook.add(where, height, "re-execution gives other receipts")
        return True

    def _check_stables(self, height: Height, digest: bytes) -> None:
        for place, record in self._journal.stables(height):
            self.check_stable(place, record, digest, self.cfg)

    def check_stable(self, place: Position, record: StableRecord, digest: bytes, cfg: Configuration) -> None:
        """A checkpoint certificate of a height whose header is known."""
        certificate, where = record.certificate, self._journal.where(place)
        if certificate.digest != digest or (record.header and record.header.digest() != digest):
            self._notebook.add(
                where, certificate.height, "the checkpoint is for another header than re-execution gives"
            )
        elif certificate.votes and not check_checkpoint_certificate(cfg, certificate, self._rules.verifier):
            self._notebook.add(where, certificate.height, "the checkpoint certificate does not verify")

    def _enter(self, following: Configuration) -> None:
        recorded = self._journal.configurations.get(following.number)
        if recorded is not None and recorded[1] != encode(following):
            self._notebook.add(
                self._journal.where(recorded[0]),
                following.floor,
                f"configuration {following.number} is not the one that its CONFIG block gives",
            )
        self.cfg = following

    def check_above(self) -> Height:
        """Certificates and bodies of heights that are final but not re-executed; the highest of them.

        Where re-execution had to stop, the configurations are those that the store records."""
        highest = self.height
        recorded = [decode_configuration(data) for _, data in self._journal.configurations.values()]
        for height in sorted(h for h in self._journal.heights if h > self.height):
            if not self._journal.heights[height].commits:
                continue
            cfg = self.cfg
            if self.stopped:
                known = [c for c in recorded if c.number > cfg.number and c.floor < height]
                cfg = max(known, key=lambda c: c.number, default=cfg)
            self.check_final(height, cfg)
            highest = height
        return highest


def compare_installed(installed: InstalledState, check: LedgerCheck) -> None:
    """Compare RocksDB with re-execution if that stands at the installed height right now."""
    meta = installed.meta
    if meta is not None and meta.installed == check.height:
        installed.compare(check.state, check.header)
