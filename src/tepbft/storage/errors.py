"""What a store tells a person when it cannot go on."""

from __future__ import annotations

from pathlib import Path

from tepbft.errors import TepbftError

FETCH_AGAIN = (
    "Move the store folder away and start the node: it fetches the ledger and the state from its peers"
)


class StoreFull(TepbftError):
    """The disk, the quota or the file size limit is exhausted. Nothing that was durable is lost,
    and the same append succeeds once there is room again."""

    def __init__(self, path: Path, reason: str) -> None:
        super().__init__(
            str(path),
            reason,
            "Free some space (or raise the quota) and start the node again; nothing is lost",
        )


class StoreDamaged(TepbftError):
    """Bytes on disk are not what was written. `path` and `offset` say where (offset None: the whole file)."""

    def __init__(self, path: Path, offset: int | None, reason: str, remedy: str = FETCH_AGAIN) -> None:
        super().__init__(str(path) if offset is None else f"{path} at byte {offset}", reason, remedy)
        self.path = path
        self.offset = offset
