"""The audit finds what is wrong with a store, says where, and disturbs nobody."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from chain_builder import SNAPSHOT_INTERVAL, ChainBuilder, Counter

from tepbft.audit import AuditReport, audit_store
from tepbft.client.receipts import verify_receipt
from tepbft.core.block import Request, encode_body
from tepbft.errors import TepbftError
from tepbft.execution.port import Context
from tepbft.storage.folder import MANIFEST_FILE
from tepbft.storage.memory import MemoryStore
from tepbft.storage.port import BodyRecord, CommitRecord, HeaderRecord, Record, StableRecord
from tepbft.storage.proofs import prove
from tepbft.storage.rocks import RocksStore
from tepbft.wire import client_codec, encode


class Built:
    """A chain and a cleanly closed store of it."""

    def __init__(self, folder: Path, scheme: str = "ed25519") -> None:
        self.chain = ChainBuilder(scheme)
        self.folder = folder
        store = RocksStore(folder, self.chain.chain_id, sync=False, segment_bytes=8192)
        self.chain.fill(store)
        store.close()

    def audit(self, folder: Path | None = None) -> AuditReport:
        return audit_store(folder or self.folder, self.chain.genesis, Counter())


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Built]:
    yield Built(tmp_path_factory.mktemp("audit") / "store")


def _bytes(folder: Path) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def test_a_good_store_passes_and_is_not_changed(built: Built) -> None:
    before = _bytes(built.folder)
    stages = []
    report = audit_store(
        built.folder, built.chain.genesis, Counter(), progress=lambda stage, done, total: stages.append(stage)
    )
    assert report.findings == [] and report.ok and report.skipped == []
    assert (report.from_height, report.to_height, report.heights_checked) == (0, 11, 11)
    assert report.committed_height == 11 and report.records > 50
    assert set(stages) == {"files", "journal", "ledger"}
    assert _bytes(built.folder) == before


def test_every_flipped_byte_is_found_and_located(built: Built, tmp_path: Path) -> None:
    """Any one byte of a cleanly stopped node's store, in any file."""
    copy = Path(shutil.copytree(built.folder, tmp_path / "store"))
    files = _bytes(copy)
    assert {Path(name).parts[0] for name in files} == {
        "FORMAT",
        "journal",
        "lock",
        "snapshots",
        "state",
        "store.manifest",
    }
    for name, content in files.items():
        count = min(len(content), 6)
        for i in range(count):
            offset = (len(content) - 1) * i // max(1, count - 1)
            changed = bytearray(content)
            changed[offset] ^= 1 << (offset % 8)
            (copy / name).write_bytes(changed)
            report = built.audit(copy)
            located = [finding for finding in report.findings if name in finding.where]
            assert not report.ok and located, (name, offset, report.findings)
        (copy / name).write_bytes(content)
    assert built.audit(copy).ok


def test_a_missing_or_added_file_is_found(built: Built, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(built.folder, tmp_path / "store"))
    (copy / "state" / "000999.sst").write_bytes(b"")
    assert [f.what for f in built.audit(copy).findings] == ["it was not there when the node stopped"]
    shutil.rmtree(copy / "state")
    assert any("missing" in f.what for f in built.audit(copy).findings)
    shutil.rmtree(copy)
    with pytest.raises(TepbftError, match="no store"):
        built.audit(copy)


def test_a_shortened_journal_is_found(built: Built, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(built.folder, tmp_path / "store"))
    last = max((copy / "journal").glob("*.log"))
    last.write_bytes(last.read_bytes()[:-5])
    findings = built.audit(copy).findings
    assert any("incomplete" in f.what for f in findings) and any("ended here" in f.what for f in findings)


def test_a_running_node_is_not_disturbed(built: Built, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(built.folder, tmp_path / "store"))
    store = RocksStore(copy, built.chain.chain_id, sync=False)
    store.append([r for r in store.recover().records if isinstance(r, BodyRecord)][:1])
    report = built.audit(copy)
    assert report.ok and report.to_height == 11
    assert len(report.skipped) == 1 and "running" in report.skipped[0]
    with (copy / "journal" / "00000001.log").open("r+b") as file:
        file.seek(300)
        file.write(b"\xff\xff")
    assert not built.audit(copy).ok
    store.close()


def test_what_a_running_node_is_writing_is_looked_at_twice(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A record that was half written when it was read is no damage; one that stays bad is, and once."""
    copy = Path(shutil.copytree(built.folder, tmp_path / "store"))
    store = RocksStore(copy, built.chain.chain_id, sync=False)
    store.append([r for r in store.recover().records if isinstance(r, BodyRecord)][:1])
    path = max((copy / "journal").glob("*.log"))
    whole = path.read_bytes()
    half = bytearray(whole)
    half[store._open_journal.end.offset - 1] ^= 1
    path.write_bytes(half)
    pauses: list[float] = []
    monkeypatch.setattr("time.sleep", pauses.append)
    report = built.audit(copy)
    assert len(report.findings) == 1 and "checksum" in report.findings[0].what and len(pauses) == 1
    monkeypatch.setattr("time.sleep", lambda seconds: path.write_bytes(whole))
    path.write_bytes(half)
    assert built.audit(copy).ok
    store.close()


def test_a_node_that_was_killed(built: Built, tmp_path: Path) -> None:
    """Without a manifest the rest is still checked, and the report says what was not."""
    copy = Path(shutil.copytree(built.folder, tmp_path / "store"))
    (copy / MANIFEST_FILE).unlink()
    report = built.audit(copy)
    assert report.ok and len(report.skipped) == 1 and MANIFEST_FILE in report.skipped[0]
    sst = max((copy / "state").glob("*.sst"))
    content = bytearray(sst.read_bytes())
    content[len(content) // 4] ^= 1
    sst.write_bytes(content)
    report = built.audit(copy)
    assert any("state" in finding.where for finding in report.findings)


def test_another_genesis_is_refused(built: Built) -> None:
    genesis = msgspec.structs.replace(built.chain.genesis, nonce=b"another")
    report = audit_store(built.folder, genesis, Counter())
    assert not report.ok and any("chain" in finding.what for finding in report.findings)


def test_another_application_gives_other_roots(built: Built) -> None:
    class Other(Counter):
        def execute(self, context: Context, operation: bytes) -> bytes:
            return super().execute(context, operation) + b"!"

    report = audit_store(built.folder, built.chain.genesis, Other())
    assert report.findings[0].height == 1 and "receipts_root" in report.findings[0].what
    assert report.to_height == 0 and report.committed_height == 11


@pytest.mark.parametrize("scheme", ["none", "secp256k1"])
def test_schemes(tmp_path: Path, scheme: str) -> None:
    report = Built(tmp_path / "store", scheme).audit()
    assert report.ok
    assert [what for what in report.skipped if "third party" in what] == report.skipped
    assert len(report.skipped) == (1 if scheme == "none" else 0)


# --- forged records: the bytes are fine, what they say is not ---------------------------------


class Forger(MemoryStore):
    """Passes everything on to a store on disk, changing records on the way."""

    def __init__(self, folder: Path, chain: ChainBuilder) -> None:
        super().__init__()
        self.disk = RocksStore(folder, chain.chain_id, sync=False)
        self.forge = lambda record: record

    def append(self, records: object, *, forced: bool = True) -> None:
        self.disk.append([self.forge(record) for record in records])  # type: ignore[attr-defined]

    def install(self, writes: object, stable: int, header: object) -> None:
        self.disk.install(writes, stable, header)  # type: ignore[arg-type]

    def save_snapshot(self, height: int, chunks: object) -> None:
        self.disk.save_snapshot(height, chunks)  # type: ignore[arg-type]


def _forged_audit(folder: Path, forge: object) -> AuditReport:
    chain = ChainBuilder()
    store = Forger(folder, chain)
    store.forge = forge  # type: ignore[assignment]
    chain.fill(store)
    store.disk.close()
    return audit_store(folder, chain.genesis, Counter())


def _change_votes(record: Record) -> Record:
    if isinstance(record, CommitRecord) and record.certificate.height == 3:
        votes = (record.certificate.votes[0], record.certificate.votes[0])
        return CommitRecord(msgspec.structs.replace(record.certificate, votes=votes))
    return record


def _change_checkpoint(record: Record) -> Record:
    if isinstance(record, StableRecord) and record.certificate.height == 4:
        votes = record.certificate.votes[:1]
        return StableRecord(msgspec.structs.replace(record.certificate, votes=votes), record.header)
    return record


def _change_header(record: Record) -> Record:
    if isinstance(record, HeaderRecord) and record.header.height == 3:
        return HeaderRecord(msgspec.structs.replace(record.header, clients_root=bytes(32)), record.receipts)
    return record


def _change_receipts(record: Record) -> Record:
    if isinstance(record, HeaderRecord) and record.header.height == 3:
        return HeaderRecord(record.header, encode([]))
    return record


def _change_body(record: Record) -> Record:
    if isinstance(record, BodyRecord) and record.block.height == 3:
        forged = [Request(bytes(16), 1, 1, b"7", b"")]
        block = msgspec.structs.replace(record.block, body=encode_body(forged), count=1)
        return BodyRecord(record.digest, block)
    return record


@pytest.mark.parametrize(
    ("forge", "height", "what"),
    [
        (_change_votes, 3, "commit certificate does not verify"),
        (_change_checkpoint, 4, "checkpoint certificate does not verify"),
        (_change_header, 3, "re-execution gives another clients_root"),
        (_change_receipts, 3, "other receipts"),
        (_change_body, 3, "does not have the digest"),
    ],
)
def test_a_forged_record_is_found(tmp_path: Path, forge: object, height: int, what: str) -> None:
    report = _forged_audit(tmp_path / "store", forge)
    assert any(f.height == height and what in f.what for f in report.findings), report.findings
    assert {f.height for f in report.findings} == {height}


def test_a_request_that_nobody_signed_is_found(tmp_path: Path) -> None:
    """I-13: nodes that all order a forged request are found out by anybody."""
    chain = ChainBuilder()
    store = RocksStore(tmp_path / "store", chain.chain_id, sync=False)
    good = chain.request(b"1")
    bad = Request(good.client, 1, 77, b"1000", good.auth)
    chain.add(store, chain.normal(good, bad), [good, bad])
    store.close()
    findings = audit_store(tmp_path / "store", chain.genesis, Counter()).findings
    assert len(findings) == 1 and findings[0].height == 1 and "/1/77" in findings[0].where


def test_a_changed_state_is_found_key_by_key(tmp_path: Path) -> None:
    """A state that was changed through RocksDB itself, so that every checksum is right."""
    from tepbft.storage.database import StateDatabase

    built = Built(tmp_path / "store")
    database = StateDatabase(built.folder / "state")
    database.put([(b"satotal", b"1000000"), (b"sanew", b"1")], sync=False)
    database.close()
    (built.folder / MANIFEST_FILE).unlink()
    findings = built.audit().findings
    assert [f.what for f in findings] == [
        f"key {b'anew'.hex()} should not be there",
        f"key {b'atotal'.hex()} has another value than re-execution gives",
    ]


# --- ledgers that start from a snapshot -------------------------------------------------------


def _transferred(folder: Path, chain: ChainBuilder) -> RocksStore:
    """A node that joins by a snapshot at height 8, and follows from there."""
    source = MemoryStore()
    chain.fill(source)
    height = 2 * SNAPSHOT_INTERVAL
    chunks = [source.snapshot_chunk(height, i) for i in range(dict(source.snapshots())[height])]
    certified = source.stable_at_or_above(height)
    assert certified is not None and certified[0].height == height
    store = RocksStore(folder, chain.chain_id, sync=False)
    config = [r for r in source.recover().records if type(r).__name__ == "ConfigRecord"]
    store.append(config)
    store.replace_state(height, certified[1], certified[0], chunks)  # type: ignore[arg-type]
    for above in range(height + 1, 12):
        found = source.block(above)
        assert found is not None and found.header is not None and found.receipts is not None
        store.append([BodyRecord(found.certificate.digest, found.block), CommitRecord(found.certificate)])
        store.append([HeaderRecord(found.header, found.receipts)])
    return store


def test_a_ledger_that_starts_from_a_snapshot(tmp_path: Path) -> None:
    """A3.5: re-execution starts from the certified snapshot; the missing proof of the
    configuration change below it is reported, not passed over."""
    chain = ChainBuilder()
    _transferred(tmp_path / "store", chain).close()
    report = audit_store(tmp_path / "store", chain.genesis, Counter())
    assert report.ok and (report.from_height, report.to_height) == (8, 11)
    assert ["configuration 1" in what for what in report.skipped] == [True]


def test_a_base_that_nobody_certified_is_refused(tmp_path: Path) -> None:
    chain, other = ChainBuilder(), ChainBuilder()
    store = RocksStore(tmp_path / "store", chain.chain_id, sync=False)
    source = MemoryStore()
    other.fill(source)
    certified = source.stable_at_or_above(8)
    assert certified is not None
    chunks = [source.snapshot_chunk(8, i) for i in range(dict(source.snapshots())[8])]
    store.replace_state(8, certified[1], certified[0], chunks)  # type: ignore[arg-type]
    store.close()
    findings = audit_store(tmp_path / "store", chain.genesis, Counter()).findings
    assert any("certificate of the base snapshot" in f.what for f in findings)


# --- proven receipts --------------------------------------------------------------------------


def test_proven_receipts_verify_from_the_genesis_alone(built: Built, tmp_path: Path) -> None:
    """A9: for every request, across a configuration change, after a restart of the node."""
    copy = Path(shutil.copytree(built.folder, tmp_path / "store"))
    store = RocksStore(copy, built.chain.chain_id, sync=False)
    genesis, client = built.chain.genesis, built.chain.client
    for height in (1, 2, 3, 4, 7, 8, 9, 10):
        block = store.block(height)
        assert block is not None
        seq = {7: 13, 8: 14, 9: 15, 10: 16}.get(height, 3 * height - 1)
        proof = prove(store, genesis, client, 1, seq, height)
        assert client_codec.decode(encode(proof)) == proof
        verified = verify_receipt(genesis, proof)
        assert verified.height == height and verified.seq == seq
        assert len(proof.links) == (1 if height > 6 else 0)
    for seq, height, why in [
        (99, 1, "no outcome"),
        (1, 5, "no outcome"),
        (17, 11, "stable yet"),
        (1, 40, "ledger"),
    ]:
        with pytest.raises(LookupError, match=why):
            prove(store, genesis, client, 1, seq, height)
    store.close()


def test_a_proof_needs_the_links_to_its_configuration(tmp_path: Path) -> None:
    chain = ChainBuilder()
    store = _transferred(tmp_path / "store", chain)
    with pytest.raises(LookupError, match="stable yet"):
        prove(store, chain.genesis, chain.client, 1, 15, 9)
    above = store.block(10)
    assert above is not None and above.header is not None
    store.append([StableRecord(chain.checkpoint(chain._executor.head), chain._executor.head)])
    with pytest.raises(LookupError, match="configuration 1, is not in this node's ledger"):
        prove(store, chain.genesis, chain.client, 1, 15, 9)
    store.close()
