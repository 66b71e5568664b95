"""What one node is told by its own `node.toml`: local knobs, never what all nodes must agree on.

What the cluster agrees on stands in the genesis (`core.configuration.Parameters`).
Every setting has a default but `node`; an unknown or contradictory one is refused
by name. The comments of a written file come from the same declarations.
"""

from __future__ import annotations

import difflib
import re
import textwrap
import tomllib
import typing
from pathlib import Path
from typing import Annotated, Literal

import msgspec
import tomli_w
from msgspec import Meta, Struct

from tepbft.core.options import NodeOptions
from tepbft.errors import TepbftError
from tepbft.types import MAX_BLOCK_REQUESTS, MAX_FRAME_BYTES, MAX_NODES, MAX_WINDOW, NodeId

MAX_SETTINGS_BYTES = 1 << 16
MAX_DOTS = 16
MAX_VERIFIERS = 64

_Path = Annotated[str, Meta(min_length=1, max_length=1024)]
_Timer = Annotated[int, Meta(ge=10, le=3_600_000)]
_NodeName = Annotated[str, Meta(pattern="^(0|[1-9][0-9]?)$")]
_Address = Annotated[str, Meta(min_length=3, max_length=270)]


class NodeSettings(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The settings of one node; `load_settings` reads them, `dump_settings` writes them."""

    node: Annotated[
        int, Meta(ge=0, le=MAX_NODES - 1, description="Which member of the genesis this node is.")
    ]
    bind_host: Annotated[
        str,
        Meta(
            max_length=255,
            description="Address to listen on for peers and clients; empty: this node's host in the genesis.",
        ),
    ] = ""
    http_host: Annotated[
        str,
        Meta(
            max_length=255,
            description="Address of the HTTP port. It is plain HTTP: keep it on loopback or behind a proxy.",
        ),
    ] = "127.0.0.1"

    peer_addresses: Annotated[
        dict[_NodeName, _Address],
        Meta(
            max_length=MAX_NODES,
            description="Where to dial other nodes, if not at their host and peer_port of the genesis: "
            'by node id, such as { "1" = "10.0.0.7:7000" }. For relays and address translation; who '
            "answers there still has to show the certificate that the genesis pins.",
        ),
    ] = {}

    trusted_folder: Annotated[
        _Path, Meta(description="The trusted component's folder; relative to the node's folder, or absolute.")
    ] = "trusted"
    store_folder: Annotated[_Path, Meta(description="Journal, state and snapshots.")] = "store"
    log_file: Annotated[str, Meta(max_length=1024, description='Log file; "-" for standard error.')] = "-"
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="debug, info, warning or error.")
    ] = "info"
    log_format: Annotated[Literal["json", "console"], Meta(description="json or console.")] = "json"

    durable: Annotated[
        bool,
        Meta(
            description="Force every record to the disk before anything that depends on it leaves. "
            "Off is for experiments only: a power failure may then break promises."
        ),
    ] = True
    confine: Annotated[
        bool, Meta(description="Give up the right to touch the trusted component's folder and memory.")
    ] = True
    auto_readmit: Annotated[
        bool,
        Meta(
            description="Re-admit a trusted component that lost its state, with operator.key if it is here."
        ),
    ] = True

    verification: Annotated[
        Literal["auto", "inline", "threads", "workers"],
        Meta(
            description="Where signatures of clients are verified: auto, inline, threads, or workers "
            "(processes of their own). auto goes by the cores for each node on this host: inline up to 1, "
            "threads up to 4, workers beyond."
        ),
    ] = "auto"
    verification_workers: Annotated[
        int,
        Meta(
            ge=0,
            le=MAX_VERIFIERS,
            description="How many threads or workers verify; 0: as many as there are cores for this node.",
        ),
    ] = 0

    tick_ms: Annotated[
        int,
        Meta(
            ge=1,
            le=1000,
            description="Time between two looks at the timers, ms. Blocks that are due do not wait for it.",
        ),
    ] = 40
    t_request_ms: Annotated[
        _Timer, Meta(description="A request must be executed within this time, or the view changes.")
    ] = 1000
    t_view_change_ms: Annotated[
        _Timer, Meta(description="A view change must end within this time, or the next one begins.")
    ] = 1000
    t_max_ms: Annotated[_Timer, Meta(description="Upper end of both, which double when they expire.")] = (
        60_000
    )
    t_status_ms: Annotated[
        _Timer, Meta(description="Time between two STATUS messages; with more than three nodes it is longer.")
    ] = 200
    t_retransmit_ms: Annotated[_Timer, Meta(description="Time between retransmissions.")] = 500

    in_flight_blocks: Annotated[
        int,
        Meta(ge=1, le=MAX_WINDOW, description="Blocks a primary keeps in flight; at most the window."),
    ] = 4
    max_wait_ms: Annotated[
        int, Meta(ge=0, le=60_000, description="Time a primary may wait to fill a block, milliseconds.")
    ] = 5
    pool_requests: Annotated[
        int,
        Meta(ge=MAX_BLOCK_REQUESTS, le=1 << 22, description="Requests in the pool; above it: BUSY."),
    ] = 65_536

    peer_queue_bytes: Annotated[
        int,
        Meta(
            ge=MAX_FRAME_BYTES + 4,
            le=1 << 32,
            description="Bytes queued for one peer; the oldest go first and are counted.",
        ),
    ] = 64 << 20
    inbox_bytes: Annotated[
        int,
        Meta(
            ge=1 << 16,
            le=1 << 32,
            description="Bytes of one connection not worked off yet; above it, reading stops.",
        ),
    ] = 8 << 20
    client_queue_bytes: Annotated[
        int,
        Meta(
            ge=1 << 16,
            le=1 << 32,
            description="Bytes queued for one client; above it its requests wait, at twice it is cut off.",
        ),
    ] = 4 << 20
    max_clients: Annotated[
        int, Meta(ge=1, le=65_536, description="Client connections at a time; one more is closed.")
    ] = 1024
    handshake_timeout_ms: Annotated[_Timer, Meta(description="A connection must be set up in this time.")] = (
        5000
    )
    client_idle_ms: Annotated[
        int,
        Meta(ge=0, le=86_400_000, description="Close a client connection silent for this long; 0: never."),
    ] = 600_000
    http_waiters: Annotated[
        int, Meta(ge=1, le=65_536, description="HTTP requests that wait for an outcome at a time.")
    ] = 1024
    http_timeout_ms: Annotated[_Timer, Meta(description="How long an HTTP request waits by default.")] = (
        10_000
    )


def _field_meta() -> dict[str, Meta]:
    """The description of every setting, from its declaration."""
    found = {}
    for name, hint in typing.get_type_hints(NodeSettings, include_extras=True).items():
        metas = [meta for meta in getattr(hint, "__metadata__", ()) if isinstance(meta, Meta)]
        found[name] = next(meta for meta in metas if meta.description)
    return found


_META = _field_meta()
SETTING_NAMES: tuple[str, ...] = tuple(_META)
"""Names of all settings, in the order of the file."""


def parse_address(text: str) -> tuple[str, int]:
    """(host, port) of `host:port` or `[ipv6]:port`; ValueError for anything else."""
    host, colon, port = text.rpartition(":")
    if host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        raise ValueError(f"{text!r} has to be written [address]:port")
    if not colon or not host or not (port.isascii() and port.isdecimal()) or len(port) > 5:
        raise ValueError(f"{text!r} is not host:port")
    if not 1 <= int(port) <= 65_535:
        raise ValueError(f"the port in {text!r} is outside 1..65535")
    return host, int(port)


def node_options(settings: NodeSettings, nodes: int) -> NodeOptions:
    """The settings that the node core takes, in a cluster of so many nodes."""
    return NodeOptions(
        t_request_ms=settings.t_request_ms,
        t_view_change_ms=settings.t_view_change_ms,
        t_max_ms=settings.t_max_ms,
        t_status_ms=status_interval_ms(settings, nodes),
        t_retransmit_ms=settings.t_retransmit_ms,
        in_flight_blocks=settings.in_flight_blocks,
        max_wait_ms=settings.max_wait_ms,
        pool_requests=settings.pool_requests,
    )


def peer_addresses(settings: NodeSettings) -> dict[NodeId, tuple[str, int]]:
    """The setting of that name, parsed. It was checked when the file was read."""
    return {int(node): parse_address(text) for node, text in settings.peer_addresses.items()}


def status_interval_ms(settings: NodeSettings, nodes: int) -> int:
    """Time between two STATUS messages with so many nodes: each hears as many a second as with three, as
    long as it is at most half of the request timeout (or what is set is longer anyway)."""
    longer = settings.t_status_ms * (nodes - 1) // 2
    return max(settings.t_status_ms, min(longer, settings.t_request_ms // 2))


def contradictions(settings: NodeSettings) -> list[tuple[str, str]]:
    """(setting, what is wrong) for values that are each in range but not together."""
    wrong = []
    for name in ("t_request_ms", "t_view_change_ms"):
        if getattr(settings, name) > settings.t_max_ms:
            wrong.append((name, f"it is above t_max_ms = {settings.t_max_ms}"))
    for name in ("t_status_ms", "t_retransmit_ms", "t_request_ms", "t_view_change_ms"):
        if getattr(settings, name) < settings.tick_ms:
            wrong.append((name, f"it is below tick_ms = {settings.tick_ms}"))
    if settings.t_status_ms >= settings.t_request_ms:
        wrong.append(("t_status_ms", f"it is not below t_request_ms = {settings.t_request_ms}"))
    if settings.verification == "inline" and settings.verification_workers > 1:
        wrong.append(("verification_workers", 'there are none with verification = "inline"'))
    if settings.verification in ("threads", "workers") and settings.verification_workers == 1:
        wrong.append(
            ("verification_workers", f'with verification = "{settings.verification}" it is 2 or more, or 0')
        )
    try:
        if settings.node in peer_addresses(settings):
            wrong.append(("peer_addresses", f"node {settings.node} is this node itself"))
    except ValueError as error:
        wrong.append(("peer_addresses", str(error)))
    if settings.max_wait_ms * 2 > settings.t_request_ms:
        wrong.append(("max_wait_ms", f"it is more than half of t_request_ms = {settings.t_request_ms}"))
    return wrong


def parse_settings(text: str, source: str) -> NodeSettings:
    """Settings from TOML text; TepbftError naming the setting, with `source` as the file's name."""
    for number, line in enumerate(text.splitlines(), 1):
        key = line.partition("=")[0]
        if key.count(".") > MAX_DOTS and not key.lstrip().startswith("#"):  # each level costs all above it
            raise TepbftError(f"{source}, line {number}", "no setting has so many parts", "Correct the file.")
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:  # a number of thousands of digits, arrays without end
        raise TepbftError(source, f"it is not valid TOML ({error})", "Correct the file.") from None
    for name in table:
        if name not in _META:
            near = difflib.get_close_matches(name, SETTING_NAMES, 1)
            hint = f"Did you mean `{near[0]}`?" if near else f"Settings are: {', '.join(SETTING_NAMES)}."
            raise TepbftError(f"{source}, setting `{name}`", "there is no such setting", hint)
    try:
        settings = msgspec.convert(table, NodeSettings, strict=True)
    except msgspec.ValidationError as error:
        named = re.search(r"\$\.(\w+)|field `(\w+)`", str(error))
        name = (named.group(1) or named.group(2)) if named else "?"
        reason = str(error).split(" - at ")[0]
        meta = _META.get(name)
        raise TepbftError(
            f"{source}, setting `{name}`", reason, meta.description or "" if meta else "Correct the file."
        ) from None
    for name, wrong in contradictions(settings):
        remedy = "Correct it." if name == "peer_addresses" else "Change one of the two."
        raise TepbftError(f"{source}, setting `{name}`", wrong, remedy)
    return settings


def load_settings(path: Path) -> NodeSettings:
    """Settings from `node.toml`; TepbftError if it is missing, unreadable or wrong."""
    try:
        if path.stat().st_size > MAX_SETTINGS_BYTES:
            raise TepbftError(str(path), "it is too large for settings", "Is it the right file?")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise TepbftError(
            str(path), "there is no such file", "Is this a node's folder, made by `tepbft init`?"
        ) from None
    except (OSError, UnicodeDecodeError) as error:
        raise TepbftError(str(path), f"it cannot be read ({error})", "Check the file.") from None
    return parse_settings(text, str(path))


def _assignment(name: str, value: object) -> str:
    """One line of TOML. A table is written inline: behind a `[name]` nothing else could follow."""
    if not isinstance(value, dict):
        return tomli_w.dumps({name: value}).rstrip("\n")
    pairs = (tomli_w.dumps({key: text}).rstrip("\n") for key, text in value.items())
    inner = ", ".join(pairs)
    return f"{name} = {{ {inner} }}" if inner else f"{name} = {{}}"


def dump_settings(settings: NodeSettings) -> str:
    """The settings as a commented TOML file that `parse_settings` reads back."""
    lines = ["# Settings of this node alone. What all nodes agree on stands in genesis.json.", ""]
    for name in SETTING_NAMES:
        lines += textwrap.wrap(_META[name].description or "", 96, initial_indent="# ", subsequent_indent="# ")
        lines.append(_assignment(name, getattr(settings, name)))
        lines.append("")
    return "\n".join(lines)
