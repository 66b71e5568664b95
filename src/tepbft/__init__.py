"""tepbft: a replicated ledger and state machine that survives f Byzantine machines out of 2f+1."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tepbft.errors import OperationRefused, TepbftError

if TYPE_CHECKING:
    from tepbft.client.aio import Client

__all__ = ["Client", "OperationRefused", "TepbftError"]


def __getattr__(name: str) -> Any:
    """The client is imported when it is first asked for: nodes do not need it."""
    if name == "Client":
        from tepbft.client.aio import Client

        return Client
    raise AttributeError(f"module 'tepbft' has no attribute {name!r}")
