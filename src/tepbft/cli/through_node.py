"""One request by way of one node's HTTP port: its word is not taken, its proof is verified."""

from __future__ import annotations

import base64
import time
from pathlib import Path
from typing import Any

import httpx

from tepbft.cli.cluster import http_address, plain_http
from tepbft.client.credentials import load_credentials
from tepbft.client.events import Outcome
from tepbft.client.receipt_file import MAX_FILE_BYTES, receipt_from_json
from tepbft.client.receipts import verify_receipt
from tepbft.core.block import request_digest
from tepbft.core.configuration import Genesis
from tepbft.errors import TepbftError
from tepbft.runtime.layout import ClusterLayout
from tepbft.wire import ProvenReceipt

_SPARE_S = 5.0
_POLL_S = 0.2


def _refused(thing: str, answer: httpx.Response) -> TepbftError:
    """The node's own words, if it has any."""
    try:
        told = answer.json()["error"]
        return TepbftError(thing, f"{told['thing']}: {told['reason']}", str(told["remedy"]))
    except (ValueError, KeyError, TypeError):
        return TepbftError(thing, f"it answered with status {answer.status_code}", "Look into its log.")


def _fetch_proof(http: httpx.Client, path: str, thing: str, deadline: float) -> ProvenReceipt:
    """The receipt, as soon as the node has a proof."""
    while True:
        answer = http.get(f"/v1/receipts/{path}")
        if answer.status_code == 200 and len(answer.content) <= MAX_FILE_BYTES:
            return receipt_from_json(answer.content)
        if answer.status_code not in (404, 409) or time.monotonic() >= deadline:
            raise _refused(thing, answer)
        time.sleep(_POLL_S)


def submit_through(
    folder: Path, name: str, genesis: Genesis, node: int, operation: bytes, timeout_s: float
) -> tuple[Outcome, ProvenReceipt]:
    """Submit `operation` as client `name` through `node` alone; the outcome, once a proof of it verified."""
    if not 0 <= node < len(genesis.members):
        raise TepbftError(
            f"node {node}",
            "there is no such node",
            f"Nodes are 0 to {len(genesis.members) - 1}.",
            exit_code=2,
        )
    thing = f"node{node}"
    credentials = load_credentials(ClusterLayout(folder).client(name))
    session, seq = time.time_ns() // 1000, 1
    digest = request_digest(genesis.chain_id, credentials.client, session, seq, operation)
    body: dict[str, Any] = {
        "client": credentials.client.hex(),
        "session": session,
        "seq": seq,
        "op": base64.b64encode(operation).decode("ascii"),
        "auth": base64.b64encode(credentials.signer(genesis).sign(digest)).decode("ascii"),
    }
    started = time.monotonic()
    deadline = started + timeout_s
    try:
        with plain_http(timeout_s + _SPARE_S, http_address(genesis.members[node])) as http:
            query = {"wait": "stable", "timeout_ms": str(int(timeout_s * 1000))}
            answer = http.post("/v1/requests", params=query, json=body)
            if answer.status_code not in (200, 202):
                raise _refused(thing, answer)
            path = f"{body['client']}/{session}/{seq}"
            proof = _fetch_proof(http, path, thing, deadline)
    except httpx.HTTPError as error:
        raise TepbftError(
            thing, f"it does not answer ({type(error).__name__})", "Start it, or leave out --node."
        ) from None
    verified = verify_receipt(genesis, proof)
    if (verified.client, verified.session, verified.seq) != (credentials.client, session, seq) or not (
        verified.is_for(operation)
    ):
        raise TepbftError(thing, "its proof is of another request", "Distrust this node; ask another.")
    outcome = Outcome(
        session=session,
        seq=seq,
        height=verified.height,
        status=verified.status,
        result=verified.result,
        receipt_digest=proof.receipt.digest(),
        nodes=(node,),
        latency_ms=(time.monotonic() - started) * 1000,
        proven=True,
    )
    return outcome, proof
