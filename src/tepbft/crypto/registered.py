"""What the schemes share: the table of registered clients, with keys decoded once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from tepbft.core.configuration import RegisteredClient
from tepbft.errors import TepbftError

K = TypeVar("K")


def decode_keys(
    clients: Sequence[RegisteredClient], scheme: str, decode: Callable[[bytes], K]
) -> dict[bytes, K]:
    """Decoded public key by client identity; TepbftError for a key that is none or a client twice.

    `decode` raises ValueError for bytes that are not a public key in the one accepted encoding.
    """
    keys: dict[bytes, K] = {}
    for client in clients:
        thing = f"client {client.name or client.client.hex()} of the genesis"
        if client.client in keys:
            raise TepbftError(thing, "its identity is registered twice", "Make a new genesis.")
        try:
            keys[client.client] = decode(client.key)
        except ValueError as error:
            raise TepbftError(
                thing, f"its key is not a {scheme} public key ({error})", "Make a new genesis."
            ) from None
    return keys
