"""Where to send requests: which node leads, from what all nodes say, of which up to f lie."""

from __future__ import annotations


class PrimaryGuess:
    """A view counts once f+1 nodes claim it or a higher one: then a correct one does.

    Primaries rotate with the view; by how much they are shifted (the configuration's number) counts once
    f+1 nodes say so.
    """

    def __init__(self, n: int, f: int) -> None:
        self._n, self._f = n, f
        self._views = [0] * n
        self._shifts: list[int | None] = [None] * n
        self._shift = 0
        self.node = 0
        """The node that leads, as far as is known."""

    def introduced(self, node: int, view: int, primary: int) -> None:
        """What `node` said when a connection was made."""
        shift = self._shifts[node] = (primary - view) % self._n
        if self._shifts.count(shift) > self._f:
            self._shift = shift
        self._views[node] = -1
        self.said(node, view)

    def said(self, node: int, view: int) -> None:
        """The view that `node` named along with an answer."""
        if view > self._views[node]:
            self._views[node] = view
            believed = sorted(self._views)[-(self._f + 1)]
            self.node = (max(0, believed) + self._shift) % self._n
