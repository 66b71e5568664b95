"""Hot loops over requests in C, where there was a compiler at installation. Nothing depends on it:
`core.requests` does the same in Python otherwise, and whatever comes out, to the last byte and to the last
refusal, is the same.

`TEPBFT_NATIVE=0` in the environment does without.
"""

from __future__ import annotations

import os

AVAILABLE = os.environ.get("TEPBFT_NATIVE", "1") != "0"
"""Whether `native` is the extension; otherwise it is None."""

if AVAILABLE:
    try:
        from tepbft.native import _native as native
    except ImportError:
        AVAILABLE = False
if not AVAILABLE:
    native = None  # type: ignore[assignment]
