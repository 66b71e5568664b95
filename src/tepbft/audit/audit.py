"""The audit of one store, from its bytes to what they mean, without changing any of them.

A stopped node's store is checked completely. Beside a running node no lock is taken:
the journal is read up to its durable end, RocksDB through a secondary view, and the
report says what had to be left out.
"""

from __future__ import annotations

from pathlib import Path

from tepbft.audit.base import Base, find_base
from tepbft.audit.ledger import LedgerCheck, Rules, compare_installed
from tepbft.audit.report import AuditReport, Notebook, Progress
from tepbft.audit.scan import JournalReader
from tepbft.audit.state import InstalledState
from tepbft.core.admission import AdmissionRule, OperatorSignature
from tepbft.core.configuration import Genesis
from tepbft.core.verification import Verifier
from tepbft.crypto.port import RequestVerifier
from tepbft.crypto.schemes import scheme_named
from tepbft.errors import PeerFault, TepbftError
from tepbft.execution.port import Application
from tepbft.execution.snapshot import snapshot_root
from tepbft.storage import folder as layout
from tepbft.storage.segments import Position
from tepbft.storage.snapshots import SnapshotFile, list_snapshots
from tepbft.trusted.verify import UiVerifier
from tepbft.types import Height

_REPORT_HEIGHTS = 64


def third_party_verifier(genesis: Genesis) -> RequestVerifier | None:
    """The request verifier that needs nothing but the genesis; None for schemes that have no public
    keys (`mac`, `none`), which only the nodes themselves can check, if anybody."""
    scheme = scheme_named(genesis.scheme)
    return None if scheme.weaker else scheme.verifier(genesis.clients, node=0)


def _quiet(stage: str, done: int, total: int) -> None:
    pass


def audit_store(
    folder: Path,
    genesis: Genesis,
    application: Application,
    *,
    progress: Progress = _quiet,
    requests: RequestVerifier | None = None,
    verifier: Verifier | None = None,
    admission: AdmissionRule | None = None,
) -> AuditReport:
    """Check the store in `folder` against `genesis`, executing its ledger again with `application`
    (a fresh instance of the chain's). The state is held in memory meanwhile.

    `requests` checks client signatures (default: `third_party_verifier`), `verifier` those of
    trusted components, `admission` replacements of them. TepbftError if there is nothing to audit.
    """
    if not (folder / layout.JOURNAL).is_dir():
        raise TepbftError(str(folder), "there is no store here", "Name the node's own store folder")
    checker = verifier or UiVerifier(genesis.chain_id)
    rules = Rules(
        genesis, checker, admission or OperatorSignature(checker), requests or third_party_verifier(genesis)
    )
    try:
        return _Audit(folder, rules, application, progress).run()
    except OSError as error:
        raise TepbftError(
            str(error.filename or folder),
            error.strerror or "it cannot be read",
            "Audit with the rights to read the store; if the node is running, try again",
        ) from error


class _Audit:
    """One run."""

    def __init__(self, folder: Path, rules: Rules, application: Application, progress: Progress) -> None:
        self._folder = folder
        self._rules = rules
        self._application = application
        self._progress = progress
        self._notebook = Notebook()
        self._running = layout.is_locked(folder)
        self._snapshots: dict[Height, SnapshotFile] = {}

    def run(self) -> AuditReport:
        notebook, chain_id = self._notebook, self._rules.chain_id
        if self._rules.requests is None:
            notebook.skip(
                f"request signatures: the scheme '{self._rules.genesis.scheme}' cannot be checked"
                " by a third party"
            )
        manifest = self._check_files()
        # RocksDB first: what it holds was in the journal before.
        state = InstalledState(self._folder / layout.STATE, chain_id, notebook, running=self._running)
        with state:
            journal = JournalReader(self._folder / layout.JOURNAL, chain_id, notebook, running=self._running)
            journal.scan(self._progress)
            self._check_end(manifest, journal.end)
            if state.meta is not None:
                journal.drop_headers(state.meta.base or 0, Position(*state.meta.void))
            self._open_snapshots()
            base = find_base(self._snapshots, journal, self._rules, notebook)
            if base is None:
                return self._report(journal, 0, 0, 0)
            check = self._run_ledger(journal, state, base)
            committed = check.check_above()
            try:
                state.compare_index(journal)
            except TepbftError as error:
                notebook.add_error(error)
        return self._report(journal, base.header.height, check.height, committed)

    def _report(self, journal: JournalReader, start: Height, end: Height, committed: Height) -> AuditReport:
        findings = self._notebook.all_findings()
        return AuditReport(
            ok=not findings,
            heights_checked=end - start,
            from_height=start,
            to_height=end,
            committed_height=committed,
            records=journal.records,
            findings=findings,
            skipped=self._notebook.skipped,
        )

    # --- files --------------------------------------------------------------------------------

    def _check_files(self) -> layout.Manifest | None:
        """FORMAT and, if the node was stopped cleanly, every file's bytes."""
        notebook, folder = self._notebook, self._folder
        try:
            layout.check_format(folder, self._rules.chain_id)
        except TepbftError as error:
            notebook.add_error(error)
        if self._running:
            notebook.skip(
                "files that RocksDB does not check itself: the node is running, audit it when stopped"
            )
            return None
        try:
            manifest = layout.read_manifest(folder)
        except TepbftError as error:
            notebook.add_error(error)
            return None
        if manifest is None:
            notebook.skip(
                "files that RocksDB does not check itself: the node was not stopped cleanly, so there is"
                f" no {layout.MANIFEST_FILE}"
            )
            return None
        self._progress("files", 0, len(manifest.files))
        for name, what in layout.compare_files(folder, manifest, contents=True):
            notebook.add(folder / name, None, what)
        self._progress("files", len(manifest.files), len(manifest.files))
        return manifest

    def _check_end(self, manifest: layout.Manifest | None, end: Position | None) -> None:
        if manifest is None or end is None:
            return
        segment, offset, chain = manifest.journal_end
        if (end.segment, end.offset, end.chain) != (segment, offset, chain):
            path = self._folder / layout.JOURNAL / f"{segment:08d}.log"
            self._notebook.add(
                f"{path} at byte {offset}",
                None,
                f"the journal ended here when the node stopped; its readable part ends at byte {end.offset}"
                f" of segment {end.segment}",
            )

    def _open_snapshots(self) -> None:
        for height, _, path in list_snapshots(self._folder / layout.SNAPSHOTS):
            try:
                file = SnapshotFile(path, self._rules.chain_id)
                if file.head.height != height:
                    self._notebook.add(path, height, f"it is the snapshot of height {file.head.height}")
                    continue
                self._snapshots.setdefault(height, file)
            except FileNotFoundError:
                continue  # a running node dropped it meanwhile
            except TepbftError as error:
                self._notebook.add_error(error, height)

    # --- the ledger ---------------------------------------------------------------------------

    def _run_ledger(self, journal: JournalReader, state: InstalledState, base: Base) -> LedgerCheck:
        check = LedgerCheck(
            journal, self._rules, self._application, base.state, base.header, base.cfg, self._notebook
        )
        top = max(journal.heights, default=0)
        self._at_height(check, state)
        while True:
            try:
                executed = check.next()
            except PeerFault as fault:
                self._notebook.add(f"height {check.height + 1}", check.height + 1, str(fault))
                check.stopped = f"height {check.height + 1}: {fault.detail}"
                break
            if executed is None:
                break
            self._at_height(check, state)
            if check.height % _REPORT_HEIGHTS == 0:
                self._progress("ledger", check.height, top)
        self._progress("ledger", top, top)
        self._conclude(check, state, top)
        return check

    def _at_height(self, check: LedgerCheck, state: InstalledState) -> None:
        """What can only be compared when re-execution stands at just this height."""
        try:
            compare_installed(state, check)
        except TepbftError as error:
            self._notebook.add_error(error, check.height)
        file = self._snapshots.pop(check.height, None)
        if file is None:
            return
        try:
            root = snapshot_root(file.chunks())
        except FileNotFoundError:
            return
        except TepbftError as error:
            self._notebook.add_error(error, check.height)
            return
        if root != check.header.snapshot_root:
            self._notebook.add(
                file.path, check.height, "its chunks do not fold into the header's snapshot root"
            )

    def _conclude(self, check: LedgerCheck, state: InstalledState, top: Height) -> None:
        notebook = self._notebook
        if check.stopped:
            notebook.skip(f"re-execution above height {check.height}, because of {check.stopped}")
        installed = state.meta.installed if state.meta else 0
        if state.meta and installed > check.height:
            if check.stopped:
                notebook.skip(f"the installed state at height {installed}")
            else:
                notebook.add(
                    self._folder / layout.STATE,
                    installed,
                    f"the state is of height {installed}, the ledger reaches {check.height} only",
                )
        for height, file in sorted(self._snapshots.items()):
            try:
                file.chunks()
                notebook.skip(
                    f"the snapshot of height {height} against its header: not re-executed at that height"
                )
            except FileNotFoundError:
                continue
            except TepbftError as error:
                notebook.add_error(error, height)
