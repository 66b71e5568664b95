"""Where a node verifies the signatures of its clients: the choice, and what comes of it (ADR 0016)."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Literal, NamedTuple

import structlog

from tepbft.core.configuration import Genesis
from tepbft.crypto.schemes import scheme_named
from tepbft.runtime.settings import MAX_VERIFIERS, NodeSettings
from tepbft.runtime.verifying_parallel import InlineVerifier, NodeVerifier, ThreadedVerifier, WorkerVerifier

Mode = Literal["inline", "threads", "workers"]
CHEAP_SCHEMES = frozenset({"mac", "none"})
"""Schemes whose verification takes about a microsecond: less than it costs to tell another thread of it."""
PROMPT, PLENTY = 128, 256
"""Requests that a node verifies before it looks at what its peers say. 128 signatures take some 4 ms of a
core: with twice as many, other nodes ran out of work while the primary was at it. What costs little, or is
shared by several cores, is better done in larger parts."""
MAX_THREADS = 4
"""With more of them the GIL, needed between two signatures, is what they wait for."""
log = structlog.get_logger("tepbft.verifying")


class Choice(NamedTuple):
    """A mode, and how many threads (the node's own among them) or worker processes."""

    mode: Mode
    parts: int


INLINE = Choice("inline", 1)


def choose(wanted: str, parts: int, *, cores: int, nodes: int, scheme: str) -> Choice:
    """What the settings `verification` and `verification_workers` come to on a machine with so many
    `cores` for this process and so many `nodes`, this one among them."""
    if scheme in CHEAP_SCHEMES or wanted == "inline":
        return INLINE
    share = parts or min(cores // nodes, MAX_VERIFIERS)
    if wanted == "threads":
        return Choice("threads", max(2, share))
    if wanted == "workers":
        return Choice("workers", max(2, share))
    if share <= 1:
        return INLINE
    return Choice("threads" if share <= MAX_THREADS else "workers", share)


def requests_at_once(mode: str, scheme: str) -> int:
    """How many requests of clients are worked off at a time, in a mode as `NodeVerifier.mode` tells it."""
    return PROMPT if mode == INLINE.mode and scheme not in CHEAP_SCHEMES else PLENTY


def open_verifier(
    settings: NodeSettings, genesis: Genesis, mac_keys: Mapping[bytes, bytes] | None
) -> NodeVerifier:
    """The verifier of a node, ready; TepbftError for a genesis with a key that is none. Call it before
    the node takes part, and after it was confined."""
    scheme = scheme_named(genesis.scheme).verifier(genesis.clients, node=settings.node, mac_keys=mac_keys)
    own = genesis.members[settings.node]
    mode, parts = choose(
        settings.verification,
        settings.verification_workers,
        cores=len(os.sched_getaffinity(0)),
        nodes=sum(member.host == own.host for member in genesis.members),
        scheme=genesis.scheme,
    )
    found: NodeVerifier
    match mode:
        case "inline":
            found = InlineVerifier(scheme)
        case "threads":
            found = ThreadedVerifier(scheme, parts)
        case "workers":
            found = WorkerVerifier(scheme, genesis.scheme, genesis.clients, parts)
    log.info("verification", mode=found.mode())
    return found
