"""Choosing ports for a cluster: three per node, side by side."""

from __future__ import annotations

import contextlib
import os
import random
import re
import socket

from tepbft.errors import TepbftError

PORTS_PER_NODE = 3
"""Peer, client, HTTP: in this order."""
RANGE_VARIABLE = "TEPBFT_PORTS"
"""Names the range in the environment, as FIRST-LAST: who runs several clusters side by side gives each its
own, since the ports of one that is stopped look free to the next."""
_RANGE = "20000-31999"
"""Where automatic ports are taken from: below the range that systems use for outgoing connections,
so that a port which is free now is still free when the node starts."""
_ATTEMPTS = 200


def _free(host: str, first: int, count: int) -> bool:
    """True if every port of the range can be listened on now."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.ExitStack() as held:
        for port in range(first, first + count):
            probe = held.enter_context(socket.socket(family, socket.SOCK_STREAM))
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError:
                return False
    return True


def _local(host: str) -> bool:
    """Whether `host` is an address of this machine."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        try:
            probe.bind((host, 0))
        except OSError:
            return False
    return True


def _range(count: int) -> range:
    """What the first of `count` ports may be."""
    text = os.environ.get(RANGE_VARIABLE) or _RANGE
    found = re.fullmatch(r"(\d{1,5})-(\d{1,5})", text, re.ASCII)
    first, last = map(int, found.groups()) if found else (0, 0)
    if not (first >= 1 and last <= 65_535 and last - first + 1 >= count):
        raise TepbftError(
            RANGE_VARIABLE,
            f"{text!r} is no range of at least {count} ports in 1..65535",
            f"Write FIRST-LAST, such as {_RANGE}, or take the variable out of the environment",
            exit_code=2,
        )
    return range(first, last - count + 2)


def choose_ports(nodes: int, host: str, base: int | None) -> int:
    """The first of `3 * nodes` consecutive ports: `base`, or free ones if it is None."""
    count = PORTS_PER_NODE * nodes
    if base is not None:
        if not 1 <= base <= 65_536 - count:
            raise TepbftError(
                "--base-port",
                f"{nodes} nodes need {count} ports from {base} on, which must lie in 1..65535",
                f"Choose 1..{65_536 - count}, or auto.",
                exit_code=2,
            )
        return base
    if not _local(host):
        raise TepbftError(
            "--base-port",
            f"free ports at {host} cannot be found from this machine",
            "Name the first port: --base-port 7000",
            exit_code=2,
        )
    possible = _range(count)
    chance = random.SystemRandom()  # two clusters made at the same moment must not choose the same
    for _ in range(_ATTEMPTS):
        first = chance.choice(possible)
        if _free(host, first, count):
            return first
    raise TepbftError(
        "--base-port", f"{count} free ports in a row were not found", "Name the first port: --base-port 7000"
    )


def ports_in_use(host: str, ports: list[int]) -> list[int]:
    """Those of `ports` that cannot be listened on now."""
    return [port for port in ports if not _free(host, port, 1)]
