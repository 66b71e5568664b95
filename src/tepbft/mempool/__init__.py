"""Pending requests."""

from tepbft.mempool.options import MempoolOptions
from tepbft.mempool.pool import Batch, Mempool

__all__ = ["Batch", "Mempool", "MempoolOptions"]
