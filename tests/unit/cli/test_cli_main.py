"""The command line: exit codes, errors that teach, and nothing but JSON where JSON was asked for."""

from __future__ import annotations

import http.server
import json
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from tepbft.cli import main
from tepbft.cli.cluster import MAX_STATUS_BYTES, Cluster, fetch_status, read_genesis
from tepbft.cli.creation import Plan, member_of, new_genesis, new_node_secrets
from tepbft.cli.main import run
from tepbft.cli.rebirth import _take_place, prepared
from tepbft.cli.tables import emit_cluster, show_cluster, verification_line, without_extension_line
from tepbft.cli.verdict import judge
from tepbft.core.configuration import Genesis, encode_genesis
from tepbft.errors import TepbftError
from tepbft.node.status import NodeStatus
from tepbft.runtime.layout import ClusterLayout
from tepbft.trusted.port import Identity

COMMANDS = [
    ["init"],
    ["up"],
    ["down"],
    ["node"],
    ["status"],
    ["submit"],
    ["notarize"],
    ["receipt", "get"],
    ["receipt", "verify"],
    ["audit"],
    ["recover"],
    ["demo"],
]


def a_genesis(root: Path, http_port: int = 9) -> Genesis:
    """A genesis of three nodes that nobody runs."""
    members = []
    for node in range(3):
        identity = Identity(bytes([node]) * 16, bytes(65), b"", 0, 0, 0, 0, 0, 0, False, False)
        members.append(
            member_of(node, identity, new_node_secrets(node, "127.0.0.1", "t"), "127.0.0.1", http_port - 2)
        )
    return new_genesis(Plan(root, 3), tuple(members), ())


def a_status(genesis: Genesis, node: int) -> NodeStatus:
    return NodeStatus(
        node, genesis.chain_id.hex(), "tep", "active", 3, 0, 3, 1, 2, 0, 7, 7, "ab" * 32, "cd" * 16,
        0, 0, 0, True, "", [], {},
    )  # fmt: skip


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_teaches_by_example(command: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*command, "--help"]) == 0
    text = capsys.readouterr().out
    assert "Example" in text and f"tepbft {' '.join(command)}" in text


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["init"],
        ["init", "x"],
        ["init", "x", "--nodes", "many"],
        ["init", "x", "--nodes", "2"],
        ["init", "x", "--nodes", "3", "--base-port", "seven"],
        ["init", "x", "--nodes", "3", "--reply-after", "never"],
        ["receipt", "verify", "x"],
        ["demo", "--nodes", "2"],
    ],
)
def test_wrong_usage_is_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert run(arguments) == 2
    seen = capsys.readouterr()
    assert seen.out == "" and seen.err and "Traceback" not in seen.err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("arguments", [["status"], ["up"], ["down"], ["submit"], ["audit"], ["recover"]])
def test_an_error_says_what_why_and_what_to_do(
    arguments: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["get", "k"] if arguments == ["submit"] else []
    assert run([*arguments, str(tmp_path / "no"), *words, "--json"]) == 1
    seen = capsys.readouterr()
    error = json.loads(seen.out)["error"]
    assert set(error) == {"thing", "reason", "remedy"} and str(tmp_path / "no") in error["thing"]
    assert "why:" in seen.err and "then:" in seen.err and "Traceback" not in seen.err


def test_an_interruption_is_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(main, "app", interrupted)
    assert run(["status", "x"]) == 130


def test_what_is_no_genesis_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "genesis.json"
    genesis = a_genesis(tmp_path)
    path.write_bytes(encode_genesis(genesis))
    assert read_genesis(path) == genesis
    for content in (b"", b"{}", b"\xff", b"[" * 5000):
        path.write_bytes(content)
        with pytest.raises(TepbftError, match="not a genesis"):
            read_genesis(path)


def test_tables_fit_on_80_columns_and_records_are_lines(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    genesis = a_genesis(tmp_path, http_port=60_000)
    cluster = Cluster(ClusterLayout(tmp_path), genesis, ())
    statuses = [a_status(genesis, 0), None, a_status(genesis, 2)]
    verdict = judge(3, statuses)
    show_cluster(cluster, statuses, verdict)
    lines = capsys.readouterr().out.splitlines()
    rows = [line for line in lines if line.strip().startswith("node")]
    assert [row.split()[0] for row in rows] == ["node", "node0*", "node1", "node2"]
    assert all(len(line) <= 80 for line in lines if "nodes" not in line)
    assert "verification: inline" in lines
    emit_cluster(cluster, statuses, verdict)
    records = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [record.get("reachable") for record in records] == [True, False, True, None]
    assert records[-1]["verdict"]["writes"] is True
    assert records[0]["verification"] == "inline"
    statuses[2] = msgspec.structs.replace(a_status(genesis, 2), verification="3 threads")
    assert verification_line(statuses) == "verification: node0 inline, node2 3 threads"
    assert verification_line([None]) == ""
    with_it = [msgspec.structs.replace(status, extension=True) for status in statuses if status is not None]
    assert without_extension_line([None, *with_it]) == ""
    with_it[1] = msgspec.structs.replace(with_it[1], extension=False)
    assert without_extension_line(with_it).endswith(f": node{with_it[1].node}")


class Answering(http.server.BaseHTTPRequestHandler):
    """Answers /v1/status with whatever the test put here."""

    content = b""
    code = 200

    def do_GET(self) -> None:
        self.send_response(self.code)
        self.send_header("Content-Length", str(len(self.content)))
        self.end_headers()
        self.wfile.write(self.content)

    def log_message(self, *_: object) -> None:
        """Quiet."""


@pytest.fixture
def server() -> Iterator[http.server.HTTPServer]:
    """An HTTP server on a free port."""
    with http.server.HTTPServer(("127.0.0.1", 0), Answering) as found:
        thread = threading.Thread(target=found.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield found
        found.shutdown()
        thread.join()


def test_a_node_that_answers_nonsense_counts_as_down(
    server: http.server.HTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """I-25: what a node says is bounded and checked before anything is made of it."""
    genesis = a_genesis(tmp_path, http_port=server.server_address[1])
    good = msgspec.json.encode(a_status(genesis, 0))
    cases: list[tuple[int, bytes, bool]] = [
        (200, good, True),
        (503, good, False),
        (200, b"", False),
        (200, b"[]", False),
        (200, b"\xff\xfe", False),
        (200, good.replace(b'"node":0', b'"node":1'), False),
        (200, b" " * MAX_STATUS_BYTES + good, False),
    ]
    for code, content, believed in cases:
        monkeypatch.setattr(Answering, "code", code)
        monkeypatch.setattr(Answering, "content", content)
        assert (fetch_status(genesis.members[0]) is not None) == believed


def test_renaming_after_a_crash_goes_on_where_it_stopped(tmp_path: Path) -> None:
    """A recovery's last step only changes names, each of them once, whenever it is interrupted."""
    folder, file = tmp_path / "store", tmp_path / "genesis.json"
    for path, new in ((folder, tmp_path / "store.new"), (file, tmp_path / "genesis.json.new")):
        for place, text in ((path, "old"), (new, "new")):
            if path is folder:
                place.mkdir()
                (place / "x").write_text(text)
            else:
                place.write_text(text)
    folder.rename(tmp_path / "store.old-abcd")  # a crash between two renames
    for _ in range(3):
        _take_place(folder, "abcd")
        _take_place(file, "abcd")
        assert (folder / "x").read_text() == file.read_text() == "new"
        assert (tmp_path / "store.old-abcd" / "x").read_text() == "old"
        assert (tmp_path / "genesis.json.old-abcd").read_text() == "old"
    assert prepared(tmp_path) is None
    (tmp_path / "recovery.prepared").write_text("../../etc")
    with pytest.raises(TepbftError):
        prepared(tmp_path)
