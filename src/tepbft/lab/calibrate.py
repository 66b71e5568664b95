"""How long one signature takes here and now, with every core busy: what the limit is made of.

    python -m tepbft.lab.calibrate SCHEME NODES SECONDS

A machine that runs one verification per core at once is slower at each than an idle one (shared caches,
lower clocks). So the limit takes the time under load: before a run, after it, and for a peak during it
(`lab.companion`).

A node verifies every signature once, so here none is verified that was verified shortly before: a processor
learns the way through a few signatures that return, and took 34 µs instead of 37 for one on secp256k1.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
import time
from collections.abc import Sequence
from statistics import median

import msgspec
from msgspec import Struct

from tepbft.client.credentials import new_credentials
from tepbft.core.block import Request, request_digest
from tepbft.core.requests import Hashed, body_of, join_hashed, open_body
from tepbft.crypto.schemes import SCHEMES, scheme_named
from tepbft.errors import TepbftError
from tepbft.lab.usage import cores

BATCH = 4096
"""Signatures until the first of them returns; many enough for caches and branch predictors to forget it."""
PART = 256
START_DELAY_S = 1.0
_CHAIN, _OPERATION = bytes(32), bytes(100)


class SignatureCost(Struct, frozen=True):
    """Microseconds of one core per signature made, and per signature verified as a node does it."""

    verify_us: float
    sign_us: float


class Workbench:
    """Requests of one client, to sign and to verify as a node does it: opened from the body of a block."""

    def __init__(self, scheme_name: str, nodes: int) -> None:
        scheme = scheme_named(scheme_name)
        credentials = new_credentials(scheme_name, "calibration")
        self._client = credentials.client
        keys = None
        if scheme.node_mac_keys is not None:
            keys = {self._client: scheme.node_mac_keys(credentials.secret, self._client, 0)}
        self._verifier = scheme.verifier([credentials.registration()], node=0, mac_keys=keys)
        self._signer = scheme.signer(credentials.secret, nodes)
        self._digests = [request_digest(_CHAIN, self._client, 1, seq, _OPERATION) for seq in range(BATCH)]

    def sign(self, first: int = 0, count: int = BATCH) -> list[Request]:
        """So many of the `BATCH` requests, from the `first` one on, signed now."""
        numbered = range(first, min(first + count, BATCH))
        auths = [self._signer.sign(self._digests[seq]) for seq in numbered]
        return [
            Request(self._client, 1, seq, _OPERATION, auth) for seq, auth in zip(numbered, auths, strict=True)
        ]

    def open(self, requests: Sequence[Request]) -> Hashed:
        """Requests as a node finds them in a block."""
        parts = [requests[first : first + PART] for first in range(0, len(requests), PART)]
        return join_hashed([open_body(_CHAIN, body_of(part)) for part in parts])

    def verify(self, requests: Sequence[Request], digests: Sequence[bytes]) -> None:
        """Verify opened requests. TepbftError if one is not good."""
        if self._verifier.verify(digests, requests):
            raise TepbftError("calibration", "a good signature did not verify", "Check the installation.")


def limit_per_s(cost: SignatureCost, replicas: int, live_share: float = 0.0) -> float | None:
    """Requests per second that signatures allow on the cores here, whatever the protocol does; None if they
    cost nothing. `live_share`: of all requests, those that are signed on the same cores meanwhile."""
    if not cost.verify_us:
        return None
    return cores() * 1e6 / (replicas * cost.verify_us + live_share * cost.sign_us)


def measure(scheme_name: str, nodes: int, seconds: float, begin_s: float) -> SignatureCost:
    """On this core: part by part, the median of the parts. Begins at `begin_s` (monotonic)."""
    bench = Workbench(scheme_name, nodes)
    time.sleep(max(0.0, begin_s - time.monotonic()))
    signing: list[float] = []
    verifying: list[float] = []
    end = time.perf_counter() + seconds
    for first in itertools.cycle(range(0, BATCH, PART)):
        if len(verifying) >= 3 and time.perf_counter() >= end:
            break
        started = time.perf_counter()
        requests = bench.sign(first, PART)
        signing.append((time.perf_counter() - started) / PART * 1e6)
        opened = bench.open(requests)
        started = time.perf_counter()
        bench.verify(*opened)
        verifying.append((time.perf_counter() - started) / PART * 1e6)
    return SignatureCost(median(verifying), median(signing))


def calibrate(scheme: str, nodes: int, seconds: float = 1.0) -> SignatureCost:
    """Measured on all cores at once; the mean over the cores. TepbftError if a process fails."""
    if scheme not in SCHEMES or scheme == "none":
        return SignatureCost(0.0, 0.0)
    begin = time.monotonic() + START_DELAY_S
    processes = [
        subprocess.Popen(
            [sys.executable, "-m", "tepbft.lab.calibrate", scheme, str(nodes), str(seconds), str(begin)],
            stdout=subprocess.PIPE,
            stdin=subprocess.DEVNULL,
        )
        for _ in range(cores())
    ]
    found = []
    try:
        for process in processes:
            output, _ = process.communicate(timeout=60 + seconds)
            if process.returncode:
                raise TepbftError("calibration", "a process failed", "Run it again with a free machine.")
            found.append(msgspec.json.decode(output, type=SignatureCost))
    finally:
        for process in processes:
            if process.poll() is None:
                process.kill()
                process.wait()
    count = len(found)
    return SignatureCost(
        sum(cost.verify_us for cost in found) / count, sum(cost.sign_us for cost in found) / count
    )


def main() -> int:
    """One core's share of `calibrate`."""
    scheme, nodes, seconds, begin = sys.argv[1:5]
    print(msgspec.json.encode(measure(scheme, int(nodes), float(seconds), float(begin))).decode())
    return 0


if __name__ == "__main__":
    sys.exit(main())
