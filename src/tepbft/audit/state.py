"""What RocksDB holds, opened without disturbing anybody, against what re-execution gives."""

from __future__ import annotations

import tempfile
from pathlib import Path
from types import TracebackType

import msgspec
from rocksdict import AccessType

from tepbft.audit.report import Notebook
from tepbft.audit.scan import JournalReader
from tepbft.core.block import Header
from tepbft.errors import TepbftError
from tepbft.execution.overlay import StateReader
from tepbft.storage.database import StateDatabase
from tepbft.storage.index import (
    HEIGHT_PREFIX,
    META_KEY,
    STATE_END,
    STATE_PREFIX,
    Meta,
    decode_meta,
    unpack_places,
)
from tepbft.types import Height


class InstalledState:
    """The state folder of a store: read-only if the node is stopped, as a secondary if it runs.

    Use as a context manager. `meta` is None if it cannot be read (which has been noted then).
    """

    def __init__(self, path: Path, chain_id: bytes, notebook: Notebook, *, running: bool) -> None:
        self.meta: Meta | None = None
        self._path = path
        self._chain_id = chain_id
        self._notebook = notebook
        self._scratch = tempfile.TemporaryDirectory(prefix="tepbft-audit-") if running else None
        self._db: StateDatabase | None = None
        self.open_error = ""

    def __enter__(self) -> InstalledState:
        access = AccessType.secondary(self._scratch.name) if self._scratch else AccessType.read_only()
        try:
            self._db = StateDatabase(self._path, access=access)
            data = self._db.get(META_KEY)
        except TepbftError as error:
            if self._scratch is None:
                self._notebook.add_error(error)
            else:
                self._notebook.skip(
                    f"the installed state: RocksDB cannot be read beside the node ({error.reason})"
                )
            return self
        self._read_meta(data)
        return self

    def _read_meta(self, data: bytes | None) -> None:
        try:
            meta = decode_meta(data or b"")
        except msgspec.MsgspecError:
            self._notebook.add(self._path, None, "it does not say which height it is at")
            return
        if meta.chain_id != self._chain_id:
            self._notebook.add(self._path, None, "it belongs to another chain")
        elif meta.replacing is not None:
            self._notebook.skip(
                f"the installed state: a state transfer to height {meta.replacing} was interrupted,"
                " the node completes it when it starts"
            )
        else:
            self.meta = meta

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._db is not None:
            self._db.close()
        if self._scratch is not None:
            self._scratch.cleanup()

    def compare(self, expected: StateReader, header: Header) -> None:
        """Key by key: what is installed must be what re-execution gave at the same height."""
        meta, database = self.meta, self._db
        if meta is None or database is None:
            return
        if meta.header is not None and meta.header != header:
            self._notebook.add(self._path, header.height, "the installed header is not the one of its height")
        theirs = ((key[1:], value) for key, value in database.scan(STATE_PREFIX, STATE_END))
        ours = expected.scan(b"", b"\xff")
        mine, found = next(ours, None), next(theirs, None)
        while mine is not None or found is not None:
            if found is None or (mine is not None and mine[0] < found[0]):
                assert mine is not None
                self._note(header.height, mine[0], "is missing")
                mine = next(ours, None)
            elif mine is None or found[0] < mine[0]:
                self._note(header.height, found[0], "should not be there")
                found = next(theirs, None)
            else:
                if mine[1] != found[1]:
                    self._note(header.height, mine[0], "has another value than re-execution gives")
                mine, found = next(ours, None), next(theirs, None)

    def _note(self, height: Height, key: bytes, what: str) -> None:
        shown = key[:48].hex() + ("…" if len(key) > 48 else "")
        self._notebook.add(self._path, height, f"key {shown} {what}")

    def compare_index(self, journal: JournalReader) -> None:
        """Every place that the index names must hold a record of that height and kind."""
        if self._db is None:
            return
        for key, value in self._db.scan(HEIGHT_PREFIX, bytes([HEIGHT_PREFIX[0] + 1])):
            height = int.from_bytes(key[1:], "big")
            places, known = unpack_places(value), journal.heights.get(height)
            kinds = (
                ("body", places.body, list(known.bodies.values()) if known else []),
                ("commit certificate", places.commit, known.commits if known else []),
                ("header", places.header, known.headers if known else []),
                ("checkpoint certificate", places.stable, known.stables if known else []),
            )
            for kind, place, records in kinds:
                if place is not None and place not in records:
                    self._notebook.add(self._path, height, f"its index names a wrong place for the {kind}")
