"""Settings and the layout of folders."""

from __future__ import annotations

import os
import stat
import tomllib
from pathlib import Path

import msgspec
import pytest

from tepbft.errors import TepbftError
from tepbft.runtime.layout import ClusterLayout, NodeLayout, read_secret, read_seed, write_secret
from tepbft.runtime.logs import LossyStream
from tepbft.runtime.settings import (
    SETTING_NAMES,
    NodeSettings,
    dump_settings,
    load_settings,
    parse_settings,
    peer_addresses,
    status_interval_ms,
)


@pytest.mark.parametrize(
    ("nodes", "changes", "expected"),
    [
        (3, {}, 200),
        (5, {}, 400),
        (7, {}, 500),  # at most half of the request timeout
        (9, {"t_request_ms": 4000}, 800),
        (21, {"t_request_ms": 4000, "t_max_ms": 60_000}, 2000),
        (9, {"t_status_ms": 900}, 900),  # set longer: left alone
    ],
)
def test_each_node_hears_as_many_statuses_a_second_as_with_three(
    nodes: int, changes: dict[str, int], expected: int
) -> None:
    assert status_interval_ms(NodeSettings(node=0, **changes), nodes) == expected  # type: ignore[arg-type]


def test_a_written_file_is_read_back_and_comments_every_setting() -> None:
    settings = NodeSettings(node=3, durable=False, log_level="debug", bind_host="0.0.0.0", t_request_ms=2000)
    text = dump_settings(settings)
    assert parse_settings(text, "node.toml") == settings
    lines = text.splitlines()
    for name in SETTING_NAMES:
        at = next(i for i, line in enumerate(lines) if line.startswith(f"{name} = "))
        assert lines[at - 1].startswith("# ")
    assert tuple(tomllib.loads(text)) == SETTING_NAMES


@pytest.mark.parametrize(
    ("text", "name", "words"),
    [
        ("node = 0\ntick_m = 3", "tick_m", "Did you mean `tick_ms`"),
        ("node = 0\nsomething_else = 3", "something_else", "no such setting"),
        ("node = 0\ntick_ms = 'a'", "tick_ms", "Expected `int`"),
        ("node = 0\ndurable = 1", "durable", "Expected `bool`"),
        ("node = 64", "node", "<= 63"),
        ("", "node", "missing"),
        ("node = 0\nlog_level = 'loud'", "log_level", "loud"),
        ("node = 0\nt_request_ms = 70000", "t_request_ms", "above t_max_ms"),
        ("node = 0\ntick_ms = 500", "t_status_ms", "below tick_ms"),
        ("node = 0\nt_status_ms = 1000", "t_status_ms", "not below t_request_ms"),
        ("node = 0\nmax_wait_ms = 900", "max_wait_ms", "more than half"),
        ("node = 0\nverification = 'fast'", "verification", "fast"),
        ("node = 0\nverification_workers = 65", "verification_workers", "<= 64"),
        ("node = 0\nverification_workers = -1", "verification_workers", ">= 0"),
        (
            "node = 0\nverification = 'inline'\nverification_workers = 2",
            "verification_workers",
            "there are none",
        ),
        (
            "node = 0\nverification = 'threads'\nverification_workers = 1",
            "verification_workers",
            "2 or more, or 0",
        ),
        ("node = 0\npeer_queue_bytes = 1000", "peer_queue_bytes", ">="),
        ("node = 0\npeer_addresses = { x = '127.0.0.1:1' }", "peer_addresses", "regex"),
        ("node = 0\npeer_addresses = { 0 = '127.0.0.1:1' }", "peer_addresses", "this node itself"),
        ("node = 0\npeer_addresses = { 1 = '127.0.0.1' }", "peer_addresses", "not host:port"),
        ("node = 0\npeer_addresses = { 1 = 'host:70000' }", "peer_addresses", "outside 1..65535"),
        ("node = 0\npeer_addresses = { 1 = '::1:7000' }", "peer_addresses", "[address]:port"),
    ],
)
def test_a_wrong_setting_is_named(text: str, name: str, words: str) -> None:
    with pytest.raises(TepbftError) as caught:
        parse_settings(text, "node.toml")
    assert f"`{name}`" in caught.value.thing
    assert words in str(caught.value)


def test_addresses_of_peers_are_written_and_read_back() -> None:
    """A node may dial others elsewhere than the genesis says; who answers is checked all the same."""
    settings = NodeSettings(node=0, peer_addresses={"1": "10.0.0.1:7000", "12": "[::1]:7001"})
    again = parse_settings(dump_settings(settings), "node.toml")
    assert again == settings
    assert peer_addresses(again) == {1: ("10.0.0.1", 7000), 12: ("::1", 7001)}
    table = parse_settings("node = 0\n[peer_addresses]\n1 = 'host:1'", "node.toml")
    assert peer_addresses(table) == {1: ("host", 1)}


def test_a_file_that_is_no_toml_or_not_there(tmp_path: Path) -> None:
    (tmp_path / "node.toml").write_text("node = [")
    with pytest.raises(TepbftError, match="not valid TOML"):
        load_settings(tmp_path / "node.toml")
    with pytest.raises(TepbftError, match="no such file"):
        load_settings(tmp_path / "other.toml")
    (tmp_path / "binary.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(TepbftError, match="cannot be read"):
        load_settings(tmp_path / "binary.toml")


def test_secrets_are_private_and_never_overwritten(tmp_path: Path) -> None:
    path = tmp_path / "node.key"
    old = os.umask(0)
    try:
        write_secret(path, "11" * 32 + "\n")
    finally:
        os.umask(old)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert read_seed(path) == b"\x11" * 32
    with pytest.raises(TepbftError, match="never overwritten"):
        write_secret(path, "other")
    assert read_secret(path) == "11" * 32


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666, 0o620])
def test_a_secret_that_others_may_touch_is_refused(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "key"
    write_secret(path, "x")
    path.chmod(mode)
    with pytest.raises(TepbftError, match=r"chmod 600"):
        read_secret(path)


def test_other_bad_secrets(tmp_path: Path) -> None:
    with pytest.raises(TepbftError, match="missing"):
        read_secret(tmp_path / "none")
    with pytest.raises(TepbftError, match="regular file"):
        read_secret(tmp_path)
    big = tmp_path / "big"
    write_secret(big, "x" * ((1 << 20) + 1))
    with pytest.raises(TepbftError, match="too large"):
        read_secret(big)
    for number, text in enumerate(["zz", "11" * 31, ""]):
        path = tmp_path / f"seed{number}"
        write_secret(path, text)
        with pytest.raises(TepbftError, match="32 bytes"):
            read_seed(path)
    target = tmp_path / "target"
    (tmp_path / "link").symlink_to(target)
    with pytest.raises(TepbftError):
        write_secret(tmp_path / "link", "through a link")
    assert not target.exists()


def test_the_layout_follows_the_settings(tmp_path: Path) -> None:
    settings = NodeSettings(node=0, trusted_folder="/run/tc0", store_folder="data", log_file="a.log")
    layout = NodeLayout.of(tmp_path, settings)
    assert layout.trusted_socket == Path("/run/tc0/tc.sock")
    assert layout.store == tmp_path / "data"
    assert layout.log == tmp_path / "a.log"
    assert NodeLayout.of(tmp_path, msgspec.structs.replace(settings, log_file="-")).log.name == "node.log"
    with pytest.raises(TepbftError, match="at most 107"):
        NodeLayout(tmp_path / ("x" * 120)).check_socket_path()


def test_a_cluster_lists_its_nodes_in_order(tmp_path: Path) -> None:
    for name in ("node10", "node2", "node0", "nodex", "node3"):
        (tmp_path / name).mkdir()
    for name in ("node10", "node2", "node0", "nodex"):
        (tmp_path / name / "node.toml").write_text("node = 0")
    assert [layout.folder.name for layout in ClusterLayout(tmp_path).nodes()] == ["node0", "node2", "node10"]


def test_a_log_on_a_full_disk_never_ends_a_node() -> None:
    """A full disk halts the journal, which heals. What the log cannot take is dropped."""
    with open("/dev/full", "w", buffering=1, encoding="utf-8") as file:
        stream = LossyStream(file)
        for _ in range(10_000):
            stream.write("a line of the log\n")
            stream.flush()
        os.dup2(os.open(os.devnull, os.O_WRONLY), file.fileno())  # room again: it closes
        stream.write("another\n")
