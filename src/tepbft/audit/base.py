"""Where an audit starts from: the genesis, or the snapshot that the node's ledger begins with."""

from __future__ import annotations

from msgspec import Struct

from tepbft.audit.ledger import Rules
from tepbft.audit.report import Notebook
from tepbft.audit.scan import JournalReader
from tepbft.core.block import CONFIG, Header, genesis_header
from tepbft.core.certificates import CheckpointCertificate
from tepbft.core.configuration import Configuration
from tepbft.core.verification import check_checkpoint_certificate
from tepbft.errors import PeerFault, TepbftError
from tepbft.execution.snapshot import decode_chunk, snapshot_root
from tepbft.storage.memory import MemoryStore
from tepbft.storage.records import decode_configuration
from tepbft.storage.snapshots import SnapshotFile
from tepbft.types import ZERO_DIGEST, Height
from tepbft.wire import encode


class Base(Struct, frozen=True):
    """State, header and configuration that re-execution starts with."""

    state: MemoryStore
    header: Header
    cfg: Configuration


def find_base(
    snapshots: dict[Height, SnapshotFile], journal: JournalReader, rules: Rules, notebook: Notebook
) -> Base | None:
    """The verified starting point; None, with a finding, if there is none to trust."""
    bases = [height for height, file in snapshots.items() if file.head.header is not None]
    if not bases:
        if rules.genesis.recovered is None:
            genesis = rules.genesis
            return Base(MemoryStore(), genesis_header(genesis.chain_id, 0), genesis.configuration())
        notebook.add(
            "snapshots", rules.genesis.base_height, "the state that this chain continues from is missing"
        )
        return None
    file = snapshots[max(bases)]
    try:
        return _from_snapshot(file, journal, rules, notebook)
    except (TepbftError, PeerFault) as error:
        if isinstance(error, TepbftError):
            notebook.add_error(error, file.head.height)
        else:
            notebook.add(file.path, file.head.height, f"the base snapshot is malformed ({error.detail})")
        return None


def _from_snapshot(
    file: SnapshotFile, journal: JournalReader, rules: Rules, notebook: Notebook
) -> Base | None:
    header, certificate = file.head.header, file.head.certificate
    height = file.head.height
    if header is None or certificate is None or header.height != height:
        notebook.add(file.path, height, "the base snapshot does not carry its header and certificate")
        return None
    chunks = file.chunks()
    if snapshot_root(chunks) != header.snapshot_root:
        notebook.add(file.path, height, "its chunks do not fold into the header's snapshot root")
        return None
    if header.digest() != certificate.digest or certificate.height != height:
        notebook.add(file.path, height, "its certificate is for another header")
        return None
    chain = configurations_up_to(height, journal, rules, notebook)
    if not _is_certified(header, certificate, chain, journal, rules):
        notebook.add(file.path, height, "the certificate of the base snapshot does not verify")
        return None
    if any(h <= height and known.commits for h, known in journal.heights.items()):
        notebook.skip(
            f"re-execution up to height {height}: this node's ledger starts from the snapshot there"
        )
    for chunk in chunks:
        decode_chunk(chunk)
    state = MemoryStore()
    state.replace_state(height, header, certificate, chunks)
    return Base(state, header, chain[-1])


def _is_certified(
    header: Header,
    certificate: CheckpointCertificate,
    chain: list[Configuration],
    journal: JournalReader,
    rules: Rules,
) -> bool:
    """By the genesis itself, or by checkpoint statements of the configuration that they name."""
    recovered = rules.genesis.recovered
    root = recovered.snapshot_root if recovered else ZERO_DIGEST
    if header == genesis_header(rules.chain_id, rules.genesis.base_height, root):
        return True
    candidates = [certificate]
    if header.height in journal.heights:
        candidates += [record.certificate for _, record in journal.stables(header.height)]
    return any(
        found.digest == header.digest()
        and found.cfg < len(chain)
        and check_checkpoint_certificate(chain[found.cfg], found, rules.verifier)
        for found in candidates
    )


def configurations_up_to(
    height: Height, journal: JournalReader, rules: Rules, notebook: Notebook
) -> list[Configuration]:
    """Configurations 0, 1, … that began at or below `height`, each checked where its CONFIG block and
    checkpoint are in the journal."""
    chain = [rules.genesis.configuration()]
    while (recorded := journal.configurations.get(len(chain))) is not None:
        following = decode_configuration(recorded[1])
        if following.floor > height:
            break
        proven = _proven_change(chain[-1], following.floor, journal, rules)
        if proven is None:
            notebook.skip(
                f"the change to configuration {following.number} at height {following.floor}: it lies below"
                " this node's ledger, and its proof is not stored here"
            )
        elif encode(proven) != recorded[1]:
            notebook.add(
                journal.where(recorded[0]),
                following.floor,
                f"configuration {following.number} is not the one that its CONFIG block gives",
            )
            break
        chain.append(following)
    return chain


def _proven_change(
    cfg: Configuration, height: Height, journal: JournalReader, rules: Rules
) -> Configuration | None:
    """What a certified CONFIG block at `height` makes of `cfg`; None if the journal does not prove it."""
    known = journal.heights.get(height)
    if known is None:
        return None
    blocks = {digest: journal.body(place).block for digest, place in known.bodies.items()}
    for _, record in journal.headers(height):
        block = blocks.get(record.header.block_digest)
        if block is None or block.kind != CONFIG:
            continue
        for _, stable in journal.stables(height):
            certificate = stable.certificate
            if certificate.digest == record.header.digest() and check_checkpoint_certificate(
                cfg, certificate, rules.verifier
            ):
                try:
                    return rules.following(cfg, block)
                except PeerFault:
                    continue
    return None
