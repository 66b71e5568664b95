"""Configurations: who may vote, under which trusted component, since which height.

Configuration 0 is the genesis. Each later one differs from its predecessor by one
`ReplaceTc`, ordered in a CONFIG block (A8.3). The chain of configurations, each
signed for by a checkpoint certificate of the one before, is what an offline
verifier trusts.
"""

from __future__ import annotations

import struct
from typing import Annotated

import msgspec
from msgspec import Meta, Struct

from tepbft.core.block import CONFIG, Block
from tepbft.core.quorum import Quorums, quorums
from tepbft.crypto.hash import digest
from tepbft.errors import PeerFault
from tepbft.types import (
    MAX_NODES,
    U32,
    U64,
    ClientId,
    Digest,
    Height,
    NodeId,
    NodeIndex,
    PublicKey,
    Signature,
    TcId,
    View,
)

_encode = msgspec.msgpack.Encoder().encode
Name = Annotated[str, Meta(max_length=255)]


class Member(Struct, array_like=True, frozen=True):
    """One node of a configuration."""

    node: NodeIndex
    tc_id: TcId
    tc_key: PublicKey
    """P-256 point, uncompressed X9.62 (65 bytes), of the trusted component."""
    node_key: PublicKey
    """Ed25519 key (32 bytes) of the host: REQ-VC and NV-ACK."""
    operator_key: PublicKey
    """Ed25519 key (32 bytes) that may replace this node's trusted component."""
    certificate: Digest
    """SHA-256 of the node's TLS certificate (DER): pinned by peers and clients."""
    host: Name
    peer_port: U32
    client_port: U32
    http_port: U32
    replaced_at: U64 = 0
    """Height of the last replacement of this trusted component; 0 if never."""
    replacements: U32 = 0


class Configuration(Struct, array_like=True, frozen=True, dict=True):
    """One member table. `floor` is the height below its first block."""

    number: U32
    floor: U64
    members: Annotated[tuple[Member, ...], Meta(max_length=MAX_NODES)]

    @property
    def quorums(self) -> Quorums:
        """Quorum sizes of this member table."""
        found = self.__dict__.get("_quorums")
        if found is None:
            found = self.__dict__["_quorums"] = quorums(len(self.members))
        return found

    def digest(self) -> bytes:
        """`cfg_digest`: bound into every statement of a trusted component."""
        found = self.__dict__.get("_digest")
        if found is None:
            found = self.__dict__["_digest"] = digest(b"TEP1/CFG", _encode(self))
        return found

    def primary(self, view: View) -> NodeId:
        """The node that proposes in `view`."""
        return (self.number + view) % len(self.members)


def members_digest(members: tuple[Member, ...]) -> bytes:
    """Digest of a member table alone."""
    return digest(b"TEP1/MEMBERS", _encode(members))


class ReplaceTc(Struct, array_like=True, frozen=True):
    """ "Node `node`'s trusted component is now this one": the body of a CONFIG block.

    `evidence` is what the admission rule checks; with the shipped rule it is the
    Ed25519 signature of the node's operator over `replace_preimage`.
    `possession` is the new component's own attestation over the same bytes.
    """

    node: NodeIndex
    old_tc_id: TcId
    new_tc_id: TcId
    new_tc_key: PublicKey
    possession_seq: U64
    possession: Signature
    evidence: Annotated[bytes, Meta(max_length=4096)]


def replace_preimage(chain_id: bytes, op: ReplaceTc) -> bytes:
    """What an operator signs to admit a new trusted component."""
    return b"TEP1/RTC" + chain_id + struct.pack("<I", op.node) + op.old_tc_id + op.new_tc_id + op.new_tc_key


_replace_decoder = msgspec.msgpack.Decoder(ReplaceTc)


def encode_replace(op: ReplaceTc) -> bytes:
    """Canonical bytes: the body of a CONFIG block."""
    return _encode(op)


def decode_replace(body: bytes) -> ReplaceTc:
    """The change inside a CONFIG block; PeerFault if malformed or not canonical."""
    try:
        op = _replace_decoder.decode(body)
    except (msgspec.DecodeError, msgspec.ValidationError, RecursionError) as error:
        raise PeerFault("malformed_config", str(error)) from None
    if _encode(op) != body:
        raise PeerFault("malformed_config", "not the canonical encoding")
    return op


def replacement_gap(member: Member, min_gap: int) -> int:
    """Blocks that must pass since the last replacement: doubles each time, at most 4096 (A8.3, S-37)."""
    if member.replacements == 0:
        return 0
    return int(min(min_gap << min(member.replacements - 1, 16), max(4096, min_gap)))


def check_replace(cfg: Configuration, op: ReplaceTc, height: Height, min_gap: int) -> None:
    """Refuse (PeerFault) a change that does not follow from `cfg` at `height`.

    Signatures are checked by the admission rule, not here.
    """
    if op.node >= len(cfg.members):
        raise PeerFault("bad_config_change", f"no node {op.node}")
    member = cfg.members[op.node]
    if op.old_tc_id != member.tc_id:
        raise PeerFault("bad_config_change", "it replaces a trusted component that is not the current one")
    if any(op.new_tc_id == other.tc_id for other in cfg.members):
        raise PeerFault("bad_config_change", "the new trusted component is a member already")
    if digest(op.new_tc_key)[:16] != op.new_tc_id:
        raise PeerFault("bad_config_change", "the identity is not that of the key")
    if height < member.replaced_at + replacement_gap(member, min_gap):
        raise PeerFault("config_too_soon", f"node {op.node} was replaced at height {member.replaced_at}")


def next_configuration(cfg: Configuration, block: Block) -> Configuration:
    """The configuration that follows a CONFIG block executed under `cfg`."""
    if block.kind != CONFIG or block.cfg != cfg.number:
        raise PeerFault("bad_config_change", "not a CONFIG block of this configuration")
    op = decode_replace(block.body)
    members = list(cfg.members)
    members[op.node] = msgspec.structs.replace(
        members[op.node],
        tc_id=op.new_tc_id,
        tc_key=op.new_tc_key,
        replaced_at=block.height,
        replacements=members[op.node].replacements + 1,
    )
    return Configuration(cfg.number + 1, block.height, tuple(members))


class RegisteredClient(Struct, array_like=True, frozen=True):
    """A client that may submit requests. `key` is empty for the schemes without public keys."""

    client: ClientId
    name: Name
    key: PublicKey


class Parameters(Struct, frozen=True, forbid_unknown_fields=True):
    """What all nodes must agree on (A11). Local knobs are in the node's own TOML."""

    window: int = 32
    """BL: blocks in flight above the stable checkpoint, 1..256, at least 2K."""
    checkpoint_interval: int = 16
    """K."""
    snapshot_interval: int = 4096
    """Blocks between snapshots; a multiple of K."""
    block_requests: int = 2048
    block_bytes: int = 1 << 20
    client_window: int = 128
    """W: requests of one session that may be outstanding."""
    min_config_gap: int = 64
    keep_blocks: int = 8192
    """Bodies served to laggards before they are sent a snapshot instead."""
    strict_sequential: bool = False
    commit_carries_block: bool = False
    primary_explicit_commit: bool = False
    reply_after: str = "execute"
    """`execute` or `stable`."""

    def check(self) -> list[str]:
        """What is contradictory about these values; empty if nothing."""
        wrong = []
        if not 1 <= self.window <= 256:
            wrong.append(f"window must be 1..256, not {self.window}")
        if self.checkpoint_interval < 1 or (
            self.window < 2 * self.checkpoint_interval and (self.window, self.checkpoint_interval) != (1, 1)
        ):
            wrong.append("window must be at least twice checkpoint_interval (or both 1)")
        if self.snapshot_interval < 1 or self.snapshot_interval % max(1, self.checkpoint_interval):
            wrong.append("snapshot_interval must be a multiple of checkpoint_interval")
        if not 1 <= self.block_requests <= 16384:
            wrong.append("block_requests must be 1..16384")
        if not 1024 <= self.block_bytes <= (4 << 20):
            wrong.append("block_bytes must be 1 KiB..4 MiB")
        if not 1 <= self.client_window <= 1024:
            wrong.append("client_window must be 1..1024")
        if self.min_config_gap < 0 or self.keep_blocks < self.window:
            wrong.append("min_config_gap must not be negative, keep_blocks not below window")
        if self.reply_after not in ("execute", "stable"):
            wrong.append("reply_after must be 'execute' or 'stable'")
        return wrong


class Recovered(Struct, frozen=True, forbid_unknown_fields=True):
    """Where a recovered chain continues from (A8.4): the old head, by name."""

    chain_id: bytes
    height: int
    head: bytes
    """cp_hash of the old chain at `height`."""
    snapshot_root: bytes
    """Merkle root over the chunks of the state carried over."""


class Genesis(Struct, frozen=True, forbid_unknown_fields=True, dict=True):
    """The file that defines a chain; its digest is the chain's name (`chain_id`)."""

    protocol: str
    app: str
    """`kv`, `bank`, `notary` or `module:Class`."""
    scheme: str
    created_ms: int
    nonce: bytes
    members: tuple[Member, ...]
    clients: tuple[RegisteredClient, ...]
    parameters: Parameters
    recovered: Recovered | None = None

    @property
    def chain_id(self) -> bytes:
        """SHA-256 over the canonical encoding of everything in the genesis."""
        found = self.__dict__.get("_chain_id")
        if found is None:
            found = self.__dict__["_chain_id"] = digest(b"TEP1/GENESIS", _encode(self))
        return found

    @property
    def base_height(self) -> int:
        """Height below the first block: 0, or the old head of a recovered chain."""
        return self.recovered.height if self.recovered else 0

    def configuration(self) -> Configuration:
        """Configuration 0."""
        return Configuration(0, self.base_height, self.members)


def encode_genesis(genesis: Genesis) -> bytes:
    """The genesis as indented JSON (bytes fields in base64)."""
    return msgspec.json.format(msgspec.json.encode(genesis), indent=2) + b"\n"


def decode_genesis(data: bytes) -> Genesis:
    """Inverse of `encode_genesis`; msgspec.ValidationError or DecodeError on anything else."""
    try:
        genesis = msgspec.json.decode(data, type=Genesis)
        _ = genesis.chain_id  # a number or a text that has no encoding shows here, not later
    except (UnicodeError, RecursionError, OverflowError) as error:
        raise msgspec.DecodeError(str(error)[:200]) from None
    return genesis
