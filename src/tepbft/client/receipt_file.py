"""A proven receipt as a file: JSON that a person can read and that admits no change.

The file has exactly one form: it is parsed, written anew and compared byte by byte.
The readable part is derived from the proof, so it cannot say something else. The
digest covers the proof as a whole, including what no signature covers (such as the
number of leaves, which the shape of a Merkle path fixes only roughly).
"""

from __future__ import annotations

from typing import Any

import msgspec
from msgspec import Struct

from tepbft.core.block import STATUS_NAMES
from tepbft.crypto.hash import digest
from tepbft.errors import PeerFault, TepbftError
from tepbft.types import MAX_FRAME_BYTES
from tepbft.wire import Codec, ProvenReceipt, encode

FORMAT = "tepbft-receipt-1"
MAX_FILE_BYTES = 2 * MAX_FRAME_BYTES
_codec: Codec[ProvenReceipt] = Codec(ProvenReceipt)


class _File(Struct, forbid_unknown_fields=True):
    format: str
    chain_id: str
    client: str
    session: int
    seq: int
    height: int
    status: str
    result: str
    digest: str
    proof: bytes


_decoder = msgspec.json.Decoder(_File)


def receipt_to_json(proof: ProvenReceipt) -> bytes:
    """The one file of `proof`: indented JSON, byte strings in hex, the proof itself in base64."""
    receipt = proof.receipt
    data = encode(proof)
    status = STATUS_NAMES[receipt.status] if receipt.status < len(STATUS_NAMES) else str(receipt.status)
    file = _File(
        format=FORMAT,
        chain_id=proof.chain_id.hex(),
        client=receipt.client.hex(),
        session=receipt.session,
        seq=receipt.seq,
        height=proof.headers[0].height,
        status=status,
        result=receipt.result.hex(),
        digest=digest(b"TEP1/RECEIPT", data).hex(),
        proof=data,
    )
    return msgspec.json.format(msgspec.json.encode(file), indent=2) + b"\n"


def receipt_from_json(data: bytes) -> ProvenReceipt:
    """The proven receipt in a file, not verified yet; TepbftError unless every byte is as it was
    written. Follow with `verify_receipt`."""

    def refusal(reason: Any) -> TepbftError:
        return TepbftError("receipt file", str(reason), "Obtain the receipt anew.")

    if len(data) > MAX_FILE_BYTES:
        raise refusal(f"it has {len(data)} bytes, more than any receipt")
    try:
        file = _decoder.decode(data)
        if file.format != FORMAT:
            raise refusal(f"its format is not {FORMAT}")
        proof = _codec.decode(file.proof)
    except (msgspec.DecodeError, RecursionError, ValueError) as error:
        raise refusal(f"it is not a receipt ({str(error)[:120]})") from None
    except PeerFault as fault:
        raise refusal(f"its proof is malformed ({fault.detail})") from None
    if receipt_to_json(proof) != data:
        raise refusal("it was altered: it differs from the only form that its proof has")
    return proof
