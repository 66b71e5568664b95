"""`recover`: an operator's decision after more than f trusted components were lost at once (A8.4)."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from tepbft.cli.cluster import Cluster, open_cluster, read_genesis
from tepbft.cli.components import start_components, stop_components
from tepbft.cli.output import FAILED, OK, emit, prose, say, warn
from tepbft.cli.processes import node_pid
from tepbft.cli.rebirth import finish, prepare, prepared
from tepbft.cli.salvage import Salvage, Salvaged
from tepbft.core.configuration import Configuration
from tepbft.errors import TepbftError
from tepbft.execution.loader import load_application
from tepbft.storage.port import ChainStore
from tepbft.storage.rocks import RocksStore
from tepbft.trusted.client import device_pid


def _check_folders(cluster: Cluster) -> None:
    """All members' folders are here, and no node runs on them."""
    here = {folder.node for folder in cluster.nodes}
    missing = [member.node for member in cluster.genesis.members if member.node not in here]
    if missing:
        raise TepbftError(
            str(cluster.layout.root),
            f"the folders of {', '.join(f'node{node}' for node in missing)} are not here",
            "Bring the folders of all nodes together: what one of them alone knows must not be lost.",
        )
    for folder in cluster.nodes:
        if node_pid(folder.layout) is not None:
            raise TepbftError(
                folder.name,
                "it runs",
                f"Stop the nodes first: tepbft down {cluster.layout.root} --nodes-only",
            )


@contextlib.contextmanager
def _open_stores(cluster: Cluster, without: set[int]) -> Iterator[dict[int, ChainStore]]:
    """All stores but those that the operator leaves out."""
    with contextlib.ExitStack() as stack:
        stores: dict[int, ChainStore] = {}
        for folder in cluster.nodes:
            if folder.node in without:
                continue
            try:
                store = RocksStore(folder.layout.store, cluster.genesis.chain_id)
            except TepbftError as error:
                raise TepbftError(
                    error.thing,
                    error.reason,
                    f"Repair or restore it; or leave it out, if you accept that: --without {folder.node}",
                ) from None
            stack.callback(store.close)
            stores[folder.node] = store
        yield stores


def lost_components(cluster: Cluster, configuration: Configuration) -> list[int]:
    """Nodes whose component is not the one that the configuration names. Components that did not
    run are started to see who they are, and sealed again."""
    layouts = [folder.layout for folder in cluster.nodes]
    idle = [layout for layout in layouts if device_pid(layout.trusted) is None]
    identities = start_components(layouts)
    stop_components(idle)
    return [
        member.node
        for member, identity in zip(configuration.members, identities, strict=True)
        if identity.tc_id != member.tc_id
    ]


def _refuse_unless_lost(cluster: Cluster, configuration: Configuration) -> list[int]:
    quorum = configuration.quorums
    lost = lost_components(cluster, configuration)
    if len(lost) <= quorum.f:
        named = ", ".join(f"node{node}" for node in lost) or "none"
        raise TepbftError(
            "recover",
            f"only {len(lost)} of {quorum.n} trusted components are lost ({named}), and the cluster "
            f"survives {quorum.f} by itself",
            f"Start it: tepbft up {cluster.layout.root}",
        )
    return lost


def _examine(cluster: Cluster, without: set[int]) -> tuple[list[int], Salvaged]:
    """Which components are lost, and the last state that the stores prove."""
    _check_folders(cluster)
    with _open_stores(cluster, without) as stores:
        salvage = Salvage(cluster.genesis, stores, lambda: load_application(cluster.genesis.app))
        lost = _refuse_unless_lost(cluster, salvage.configurations[-1])
        return lost, salvage.run()


def _record(cluster: Cluster, lost: list[int], salvaged: Salvaged) -> dict[str, Any]:
    return {
        "old_chain_id": cluster.genesis.chain_id.hex(),
        "height": salvaged.height,
        "proven_height": salvaged.proven_height,
        "stable_height": salvaged.stable_height,
        "head": salvaged.header.digest().hex(),
        "lost_components": lost,
        "agreeing": list(salvaged.agreeing),
        "problems": salvaged.problems,
    }


def _describe(record: dict[str, Any]) -> None:
    agreeing = ", ".join(f"node{node}" for node in record["agreeing"])
    say(
        f"Lost: the trusted components of {', '.join(f'node{node}' for node in record['lost_components'])}, "
        "more than the cluster survives by itself."
    )
    say(f"Proven by the stores: height {record['proven_height']} (checkpoint at {record['stable_height']}).")
    if record["height"] > record["proven_height"]:
        say(
            f"Up to height {record['height']} the last primary's blocks go on too: they may have been "
            "decided and acknowledged, and nothing else can have been."
        )
    say(f"The same state in {agreeing}.")
    for problem in record["problems"]:
        warn(problem)


def recover(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="The cluster's folder.", show_default=False)],
    yes: Annotated[
        bool, typer.Option("--yes-i-understand", help="Do it. Without this, only say what would be done.")
    ] = False,
    without: Annotated[
        list[int] | None,
        typer.Option("--without", metavar="K", help="Leave out this node's damaged store."),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="One JSON object per line on standard output.")
    ] = False,
) -> None:
    """Continue the ledger under a new genesis, after more than f trusted components were lost at once.

    The old chain can then decide nothing any more: enough of those that remember what they signed are
    gone. This command takes the last state that certificates prove and f+1 stores agree on, with the
    blocks above it that clients may have been told of, and begins a new chain with it: new components,
    the same nodes, keys and clients. Heights go on; the new genesis names the old chain, its height and
    its head. Old stores, components and the old genesis are kept.

    It is an operator's decision, never made by the program: everyone who relies on the chain has to be
    given the new genesis.json and has to accept it. Run it once, where the folders of ALL nodes are, with
    all nodes stopped; then take the folders back to their machines. Receipts of the old chain verify with
    the old genesis (genesis.json.old-…).

    It refuses where the cluster can help itself: at most f components lost.

    [bold]Examples[/bold]

      tepbft recover ledger                      what would be done
      tepbft recover ledger --yes-i-understand
    """
    cluster = open_cluster(folder)
    root = cluster.layout.root
    suffix = prepared(root)
    if suffix is None:
        with prose().status("Examining the stores …"):
            lost, salvaged = _examine(cluster, set(without or ()))
        record = _record(cluster, lost, salvaged)
        if not json:
            _describe(record)
        if not yes:
            if json:
                emit(record | {"done": False})
            say("Nothing was changed. To do it: add [bold]--yes-i-understand[/bold]")
            raise typer.Exit(FAILED)
        stop_components([node.layout for node in cluster.nodes])
        with prose().status("Preparing the new chain …"):
            prepare(cluster, salvaged)
        suffix = cluster.genesis.chain_id.hex()[:8]
    else:
        say("A recovery was prepared and interrupted: finishing it.")
        record = {"resumed": True}
        _check_folders(cluster)
    finish(cluster, suffix)
    genesis = read_genesis(cluster.layout.genesis)
    if json:
        emit(record | {"done": True, "chain_id": genesis.chain_id.hex()})
    else:
        say(
            f"[green]Recovered[/green]: chain {genesis.chain_id.hex()[:16]}… continues at height "
            f"{genesis.base_height}. The old is kept under *.old-{suffix}."
        )
        say("Give the new genesis.json to everyone who verifies receipts.")
        say(f"Start it: [bold]tepbft up {escape(str(root))}[/bold]")
    raise typer.Exit(OK)


def register(app: typer.Typer) -> None:
    """Add this command to the command line."""
    app.command()(recover)
