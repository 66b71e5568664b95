"""`init`, `up`, `down`, `node`, `status`: the life of a cluster."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from tepbft.cli.cluster import open_cluster, survey
from tepbft.cli.creation import MAX_CLIENTS, Plan, check_plan, create_cluster, warnings_for
from tepbft.cli.lifecycle import lower_cluster, raise_cluster
from tepbft.cli.output import FAILED, OK, emit, prose, say, warn
from tepbft.cli.tables import emit_cluster, show_cluster
from tepbft.cli.verdict import LOST
from tepbft.core.configuration import Parameters
from tepbft.core.quorum import quorums
from tepbft.crypto.schemes import SCHEMES
from tepbft.errors import TepbftError
from tepbft.trusted.keys import DEFAULT_KIND
from tepbft.types import MAX_NODES

_DEFAULTS = Parameters()
Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The cluster's folder.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="One JSON object per line on standard output.")]
Only = Annotated[
    list[int] | None, typer.Option("--only", metavar="K", help="This node alone; may be repeated.")
]
_CHAIN = "What all nodes agree on (fixed in the genesis)"


def _base_port(text: str) -> int | None:
    if text == "auto":
        return None
    if not text.isdecimal():
        raise TepbftError("--base-port", f"{text!r} is no port", "Give a number, or auto.", exit_code=2)
    return int(text)


def _announce(plan: Plan, chain_id: str) -> None:
    quorum = quorums(plan.nodes)
    say(
        f"[green]Made[/green] {escape(str(plan.root))}: {plan.nodes} nodes survive {quorum.f} faulty, "
        f"protocol {plan.protocol}, application {escape(plan.app)}, requests signed with {plan.scheme}, "
        f"{plan.clients} clients."
    )
    say(f"Chain {chain_id[:16]}… is defined by genesis.json: keep a copy, receipts are verified with it.")
    say(f"Start it: [bold]tepbft up {escape(str(plan.root))}[/bold]")


def init(
    folder: Folder,
    nodes: Annotated[
        int, typer.Option("--nodes", "-n", help=f"Nodes, 3..{MAX_NODES}; 2f+1 survive f faulty.")
    ],
    protocol: Annotated[str, typer.Option(help="Consensus protocol: tep.")] = "tep",
    application: Annotated[
        str,
        typer.Option(
            "--app",
            help="kv, bank, notary, or module:Class of your own; bundle:APP takes many operations at once.",
        ),
    ] = "kv",
    scheme: Annotated[
        str, typer.Option(help=f"How clients sign: {', '.join(SCHEMES)} (mac and none are weaker).")
    ] = "secp256k1",
    component_key: Annotated[
        str,
        typer.Option(
            help="What trusted components sign with: secp256k1 (quick), or p256, the curve of TPMs and SGX."
        ),
    ] = DEFAULT_KIND,
    clients: Annotated[int, typer.Option(help=f"Clients to register, 1..{MAX_CLIENTS}.")] = 64,
    host: Annotated[str, typer.Option(help="Address of the nodes.")] = "127.0.0.1",
    base_port: Annotated[
        str,
        typer.Option(
            help="First of three ports per node, or auto: free ones now (in TEPBFT_PORTS, FIRST-LAST)."
        ),
    ] = "auto",
    window: Annotated[
        int, typer.Option(help="Blocks in flight, 1..256.", rich_help_panel=_CHAIN)
    ] = _DEFAULTS.window,
    checkpoint_interval: Annotated[
        int, typer.Option(help="Blocks between checkpoints.", rich_help_panel=_CHAIN)
    ] = _DEFAULTS.checkpoint_interval,
    snapshot_interval: Annotated[
        int, typer.Option(help="Blocks between snapshots.", rich_help_panel=_CHAIN)
    ] = _DEFAULTS.snapshot_interval,
    block_size: Annotated[
        int, typer.Option(help="Requests in a block, 1..16384.", rich_help_panel=_CHAIN)
    ] = _DEFAULTS.block_requests,
    block_bytes: Annotated[
        int, typer.Option(help="Bytes in a block.", rich_help_panel=_CHAIN)
    ] = _DEFAULTS.block_bytes,
    client_window: Annotated[
        int, typer.Option(help="Outstanding requests of a client, 1..1024.", rich_help_panel=_CHAIN)
    ] = _DEFAULTS.client_window,
    min_config_gap: Annotated[
        int, typer.Option(help="Blocks between replacements of one component.", rich_help_panel=_CHAIN)
    ] = _DEFAULTS.min_config_gap,
    keep_blocks: Annotated[
        int, typer.Option(help="Bodies kept for nodes that lag.", rich_help_panel=_CHAIN)
    ] = _DEFAULTS.keep_blocks,
    reply_after: Annotated[
        str, typer.Option(help="execute, or stable: reply later.", rich_help_panel=_CHAIN)
    ] = _DEFAULTS.reply_after,
    strict_sequential: Annotated[
        bool, typer.Option("--strict-sequential", help="Vote in order only.", rich_help_panel=_CHAIN)
    ] = False,
    commit_carries_block: Annotated[
        bool, typer.Option("--commit-carries-block", help="Votes carry the block.", rich_help_panel=_CHAIN)
    ] = False,
    primary_explicit_commit: Annotated[
        bool,
        typer.Option("--primary-explicit-commit", help="The primary votes twice.", rich_help_panel=_CHAIN),
    ] = False,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="NAME=VALUE", help="A line for every node.toml; may be repeated."),
    ] = None,
    json: Json = False,
) -> None:
    """Make a cluster: keys, certificates, trusted components, genesis, one folder per node.

    Nothing runs afterwards. Each node's folder is self-contained and can be moved to its machine.

    [bold]Examples[/bold]

      tepbft init ledger --nodes 3
      tepbft init bank --nodes 5 --app bank --scheme ed25519
      tepbft init mine --nodes 3 --app my_package.my_app:Counter
      tepbft init fast --nodes 7 --checkpoint-interval 8 --block-size 1024 --set t_request_ms=2000
    """
    plan = Plan(
        root=folder,
        nodes=nodes,
        protocol=protocol,
        app=application,
        scheme=scheme,
        component_key=component_key,
        clients=clients,
        host=host,
        base_port=_base_port(base_port),
        parameters=Parameters(
            window=window,
            checkpoint_interval=checkpoint_interval,
            snapshot_interval=snapshot_interval,
            block_requests=block_size,
            block_bytes=block_bytes,
            client_window=client_window,
            min_config_gap=min_config_gap,
            keep_blocks=keep_blocks,
            strict_sequential=strict_sequential,
            commit_carries_block=commit_carries_block,
            primary_explicit_commit=primary_explicit_commit,
            reply_after=reply_after,
        ),
        settings=tuple(settings or ()),
    )
    carry_out_init(plan, json)


def carry_out_init(plan: Plan, json: bool) -> None:
    """Check, warn, make, report."""
    check_plan(plan)
    warnings = warnings_for(plan)
    for text in warnings:
        warn(text)
    with prose().status(f"Making {plan.nodes} nodes …"):
        genesis = create_cluster(plan)
    chain_id = genesis.chain_id.hex()
    if json:
        record: dict[str, Any] = {
            "folder": str(plan.root.absolute()),
            "chain_id": chain_id,
            "nodes": plan.nodes,
            "f": quorums(plan.nodes).f,
            "first_port": genesis.members[0].peer_port,
            "warnings": warnings,
        }
        emit(record)
    else:
        _announce(plan, chain_id)


def up(folder: Folder, only: Only = None, json: Json = False) -> None:
    """Start trusted components and nodes, and wait until they answer.

    What runs already is left alone, so it is safe to repeat. A component that was sealed by
    `tepbft down` comes back under its old identity. One that was killed comes back as a new one:
    its node stays silent until the others have admitted it, which they do by themselves as long as
    at most f are affected. If more are, this command says so: `tepbft recover` is then for you to decide.

    [bold]Examples[/bold]

      tepbft up ledger
      tepbft up ledger --only 2
    """
    cluster = open_cluster(folder)
    with prose().status("Starting …"):
        raised = raise_cluster(cluster, only)
    if raised.fresh:
        names = ", ".join(f"node{node}" for node in raised.fresh)
        warn(f"the trusted component of {names} lost its state and came back as a new one")
    if json:
        emit_cluster(cluster, raised.statuses, raised.verdict)
    else:
        say(f"Started {len(raised.started)}, already running {len(raised.already)}.")
        show_cluster(cluster, raised.statuses, raised.verdict)
    partial = bool(only) and raised.verdict.state != LOST
    raise typer.Exit(OK if raised.verdict.writes or partial else FAILED)


def down(
    folder: Folder,
    only: Only = None,
    nodes_only: Annotated[
        bool, typer.Option("--nodes-only", help="Leave the trusted components running.")
    ] = False,
    json: Json = False,
) -> None:
    """Stop nodes, then seal and stop their trusted components.

    A sealed state is good for exactly one start: that is what lets a node come back under its old
    identity without being able to go back in time.

    [bold]Examples[/bold]

      tepbft down ledger
      tepbft down ledger --only 2 --nodes-only
    """
    cluster = open_cluster(folder)
    with prose().status("Stopping …"):
        ran, killed = lower_cluster(cluster, only, nodes_only=nodes_only)
    for layout in killed:
        warn(f"{layout.folder.name} did not end in time and was killed; nothing is lost by that")
    if json:
        emit({"stopped": ran, "killed": [layout.folder.name for layout in killed], "sealed": not nodes_only})
    else:
        rest = "their components go on" if nodes_only else "components sealed"
        say(f"Stopped {len(ran)} nodes; {rest}.")


def node(
    folder: Annotated[Path, typer.Argument(metavar="DIR/nodeK", help="A node's folder.", show_default=False)],
) -> None:
    """Run one node in the foreground, its log on standard error; Ctrl-C stops it.

    This is what a service manager runs. The trusted component is started beside it if it does not run,
    and goes on when the node ends: `tepbft down` seals it.

    [bold]Example[/bold]

      tepbft node ledger/node0
    """
    from tepbft.runtime.process import run_node  # a node's whole wiring: only this command needs it

    raise typer.Exit(run_node(folder.absolute()))


def status(folder: Folder, json: Json = False) -> None:
    """Ask every node how it is, and say what that means: are writes possible, what else may fail.

    Exit code 0 if writes are possible, 1 if not.

    [bold]Examples[/bold]

      tepbft status ledger
      tepbft status ledger --json | tail -n 1
    """
    cluster = open_cluster(folder)
    statuses, verdict = survey(cluster.genesis)
    if json:
        emit_cluster(cluster, statuses, verdict)
    else:
        show_cluster(cluster, statuses, verdict)
    raise typer.Exit(OK if verdict.writes else FAILED)


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    for command in (init, up, down, node, status):
        app.command()(command)
