"""Certificates: sets of statements that prove something to a third party.

Votes are grouped by content, never by signature bytes (A-10). What a certificate
proves follows from the member table of its configuration alone.
"""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta, Struct

from tepbft.types import MAX_NODES, U32, U64, Digest, NodeIndex, Signature


class PrepareHead(Struct, array_like=True, frozen=True, gc=False):
    """A PREPARE without its body: the primary's statement on (view, height, digest)."""

    view: U64
    height: U64
    digest: Digest
    seq: U64
    signature: Signature


class Vote(Struct, array_like=True, frozen=True, gc=False):
    """One node's statement inside a certificate: its call counter and signature."""

    node: NodeIndex
    seq: U64
    signature: Signature


class CommitCertificate(Struct, array_like=True, frozen=True, gc=False):
    """q_c votes for `digest` at (cfg, view, height); the vote of primary(cfg, view) is its PREPARE.

    Transferable, because a trusted component cannot vote after it left a view (A-20).
    """

    cfg: U32
    view: U64
    height: U64
    digest: Digest
    votes: Annotated[tuple[Vote, ...], Meta(max_length=MAX_NODES)]


class CheckpointCertificate(Struct, array_like=True, frozen=True, gc=False):
    """f+1 CHECKPOINT statements on one (height, cp_hash). Without votes only at a configuration's floor."""

    cfg: U32
    height: U64
    digest: Digest
    """cp_hash: digest of the executed header at `height`."""
    votes: Annotated[tuple[Vote, ...], Meta(max_length=MAX_NODES)]
