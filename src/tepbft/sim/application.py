"""The key-value application behind each node, which a fault can make wrong once (A-35, S-46)."""

from __future__ import annotations

from tepbft.execution.port import Application, Context


class Fallible:
    """An application that answers one operation wrongly when it is told to: a bit that flipped, a
    library that behaves differently. It looks right to itself ever after."""

    def __init__(self, inner: Application) -> None:
        self._inner = inner
        self.armed = False
        """The next operation goes wrong."""

    def execute(self, context: Context, operation: bytes) -> bytes:
        """See `Application`."""
        result = self._inner.execute(context, operation)
        if self.armed:
            self.armed = False
            context.put(b"flipped", result[:16])
            return result + b"?"
        return result
