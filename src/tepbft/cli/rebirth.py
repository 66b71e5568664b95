"""A new chain in the place of a lost one: fresh components, the old state, the old stores kept aside.

Everything new is prepared beside the old, complete. Then a marker is written, and from
there on only names change: run again after a crash, the command finishes the renaming.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import msgspec

from tepbft.cli.cluster import Cluster
from tepbft.cli.components import bind_components, start_components, stop_components
from tepbft.cli.creation import Plan, new_genesis
from tepbft.cli.salvage import Salvaged
from tepbft.core.block import genesis_header
from tepbft.core.certificates import CheckpointCertificate
from tepbft.core.configuration import Genesis, Member, Recovered, encode_genesis
from tepbft.errors import TepbftError
from tepbft.runtime.layout import NodeLayout
from tepbft.storage.files import sync_folder, write_durably
from tepbft.storage.rocks import RocksStore
from tepbft.trusted.kind import read_kind, write_kind
from tepbft.trusted.port import Identity

MARKER = "recovery.prepared"
_NEW = ".new"


def _new_beside(path: Path) -> Path:
    return path.with_name(path.name + _NEW)


def _old_beside(path: Path, suffix: str) -> Path:
    return path.with_name(f"{path.name}.old-{suffix}")


def _replaceable(layout: NodeLayout) -> tuple[Path, Path, Path]:
    """What a recovery puts something new in the place of, in one node's folder."""
    return layout.store, layout.trusted, layout.genesis


def _remove_drafts(cluster: Cluster) -> None:
    """What an attempt left that never got as far as the marker."""
    stop_components([_draft_layout(folder.layout) for folder in cluster.nodes], quietly=True)
    for folder in cluster.nodes:
        for path in _replaceable(folder.layout):
            draft = _new_beside(path)
            if draft.is_dir():
                shutil.rmtree(draft)
            else:
                draft.unlink(missing_ok=True)


def _draft_layout(layout: NodeLayout) -> NodeLayout:
    """The same node, with the places of what is being prepared."""
    return replace(
        layout, trusted_folder=layout.trusted_folder + _NEW, store_folder=layout.store_folder + _NEW
    )


def _new_member(old: Member, identity: Identity) -> Member:
    return msgspec.structs.replace(
        old, tc_id=identity.tc_id, tc_key=identity.key, replaced_at=0, replacements=0
    )


def _new_chain(cluster: Cluster, salvaged: Salvaged, identities: Sequence[Identity]) -> Genesis:
    """The genesis of the new chain: it names the old one, its height, its head and the state."""
    old = cluster.genesis
    members = tuple(
        _new_member(member, identity) for member, identity in zip(old.members, identities, strict=True)
    )
    plan = Plan(
        root=cluster.layout.root,
        nodes=len(members),
        protocol=old.protocol,
        app=old.app,
        scheme=old.scheme,
        parameters=old.parameters,
    )
    recovered = Recovered(old.chain_id, salvaged.height, salvaged.header.digest(), salvaged.root)
    return new_genesis(plan, members, old.clients, recovered)


def _write_store(folder: Path, genesis: Genesis, salvaged: Salvaged) -> None:
    """A store of the new chain that holds the old chain's state."""
    chain_id = genesis.chain_id
    header = genesis_header(chain_id, salvaged.height, salvaged.root)
    certificate = CheckpointCertificate(0, salvaged.height, header.digest(), ())
    store = RocksStore(folder, chain_id)
    try:
        store.replace_state(salvaged.height, header, certificate, salvaged.chunks)
    finally:
        store.close()


def prepare(cluster: Cluster, salvaged: Salvaged) -> Genesis:
    """Make everything new, beside the old. Nothing of the old changes."""
    _remove_drafts(cluster)
    drafts = [_draft_layout(folder.layout) for folder in cluster.nodes]
    for folder, draft in zip(cluster.nodes, drafts, strict=True):
        draft.trusted.mkdir(mode=0o700)
        write_kind(draft.trusted, read_kind(folder.layout.trusted))
    try:
        identities = start_components(drafts)
        genesis = _new_chain(cluster, salvaged, identities)
        bind_components(drafts, genesis)
    finally:
        stop_components(drafts)
    document = encode_genesis(genesis)
    for draft in drafts:
        _write_store(draft.store, genesis, salvaged)
        write_durably(_new_beside(draft.genesis), [document])
    write_durably(_new_beside(cluster.layout.genesis), [document])
    write_durably(cluster.layout.root / MARKER, [cluster.genesis.chain_id.hex()[:8].encode()])
    sync_folder(cluster.layout.root)
    return genesis


def prepared(root: Path) -> str | None:
    """The suffix under which the old is kept, if a recovery was prepared and not finished; else None."""
    try:
        suffix = (root / MARKER).read_text(encoding="ascii")
    except FileNotFoundError:
        return None
    if len(suffix) != 8 or not suffix.isalnum():
        raise TepbftError(str(root / MARKER), "it is not what a recovery writes there", "Remove it.")
    return suffix


def _take_place(path: Path, suffix: str) -> None:
    """Old aside, new in its place. Does the rest of it after a crash."""
    draft, aside = _new_beside(path), _old_beside(path, suffix)
    if not draft.exists():
        return
    if path.is_dir():
        os.rename(path, aside)
    elif path.exists() and not aside.exists():
        os.link(path, aside)  # a file is replaced at once: there is a genesis at every moment
    os.replace(draft, path)
    sync_folder(path.parent)


def finish(cluster: Cluster, suffix: str) -> None:
    """Put everything new in its place. Idempotent; the cluster's own genesis comes last."""
    for folder in cluster.nodes:
        for path in _replaceable(folder.layout):
            _take_place(path, suffix)
    _take_place(cluster.layout.genesis, suffix)
    (cluster.layout.root / MARKER).unlink(missing_ok=True)
    sync_folder(cluster.layout.root)
