"""When to cut a block."""

from tepbft.seal.sealer import Sealer, Sealing

__all__ = ["Sealer", "Sealing"]
