"""`bench`: one benchmark from nothing to a figure."""

from __future__ import annotations

import json as jsonlib
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from tepbft.cli.client_commands import write_file
from tepbft.cli.output import FAILED, OK, emit, page, prose, say, table, warn
from tepbft.cli.signals import terminate_as_interrupt
from tepbft.errors import TepbftError
from tepbft.lab.bench import run_bench
from tepbft.lab.byzantine import STRATEGIES
from tepbft.lab.options import MOST_PIPELINE, BenchOptions, check_options
from tepbft.lab.result import BenchResult

LONGEST_S = 24 * 3600.0
MUCH_STOLEN = 0.01
"""Share of the processors' time that went to others, from which on a run is worth repeating."""


def _rate(text: str) -> float:
    """`max`, or requests per second; 0 is `max` for a benchmark."""
    if text == "max":
        return 0.0
    try:
        rate = float(text.replace("_", ""))
    except ValueError:
        rate = 0.0
    if not rate > 0:
        raise TepbftError("--rate", f"{text!r} is no rate", "For example 2000, or max.", exit_code=2)
    return rate


def _window(seconds: float | None, transactions: int | None) -> float:
    """How long the window may be: 10 s, or as long as the transactions take."""
    if seconds is not None:
        return seconds
    return 10.0 if transactions is None else LONGEST_S / 2


def show(result: BenchResult) -> None:
    """The figures, for a person."""
    latency = result.latency_ms
    options = result.options
    limited = result.limited_by_client
    told = f"{result.tps:,.0f} requests per second"
    rows: list[tuple[str, str]] = [
        ("throughput", f"{told} [yellow](limited by the load: no peak)[/yellow]" if limited else told),
    ]
    if result.limit_tps and result.ratio is not None:
        rows += [
            (
                "limit by signatures",
                f"{result.limit_tps:,.0f} ({result.t_verify_us:.1f} µs to verify one)",
            ),
            ("throughput / limit", f"{result.ratio:.0%}"),
        ]
    rows += [
        ("latency", f"{latency['p50']:,.1f} ms median, {latency['p95']:,.1f} at 95 %, "
                    f"{latency['p99']:,.1f} at 99 %, {latency['max']:,.1f} at most"),
        ("CPU per request and node", f"{result.cpu_us_per_tx_per_replica:,.1f} µs, "
                                     f"{result.trusted_cpu_us_per_tx_per_replica:,.1f} of it component"),
        ("CPU of the load per request", f"{result.load_cpu_us_per_tx:,.1f} µs"),
        ("memory of the largest node", f"{result.rss_mb_max:,.0f} MiB"),
        ("disk per request and node", f"{result.disk_bytes_per_tx:,.0f} bytes"),
        ("messages per request", f"{sum(result.messages_per_tx.values()):,.2f}, "
                                 f"{sum(result.bytes_per_tx.values()):,.0f} bytes"),
        ("answered", f"{result.committed:,} in {result.seconds:,.1f} s"),
    ]  # fmt: skip
    if options.rate:
        rows.append(("due", f"{result.due:,}, {result.shed:,} of them declined"))
    if result.refused:
        rows.append(("refused by the application", f"{result.refused:,} (agreed outcomes too)"))
    if result.lost:
        rows.append(("without an answer", f"[red]{result.lost:,}[/red]"))
    if result.view_changes or options.kill_primary_after_s is not None:
        rows.append(("view changes", str(result.view_changes)))
        rows.append(("longest time without an answer", f"{result.gap_ms:,.0f} ms"))
    agree = "[green]yes[/green]" if result.replicas_agree else "[red]no[/red]"
    rows.append(("all replicas agree", agree))
    title = f"{options.nodes} nodes, {options.protocol}, {options.scheme}, {options.app}"
    console = page()
    console.print(table(title, ["what", "found"], rows))
    for error in result.errors:
        console.print(f"[red]problem:[/red] {escape(error)}", soft_wrap=True)


def measure(options: BenchOptions, directory: Path | None, quiet: bool) -> BenchResult:
    """Run it, telling each phase on standard error: a spinner where somebody watches, else a line."""
    console = prose()
    if quiet or not console.is_terminal:
        return run_bench(options, directory=directory, tell=(lambda _: None) if quiet else say)
    with console.status("Beginning") as status:
        return run_bench(options, directory=directory, tell=lambda text: status.update(f"{escape(text)} …"))


def bench(
    file: Annotated[
        Path | None,
        typer.Argument(metavar="[FILE]", help="With --json: write the object here.", show_default=False),
    ] = None,
    nodes: Annotated[int, typer.Option("--nodes", metavar="N", help="Nodes: 2f+1.")] = 3,
    protocol: Annotated[str, typer.Option(help="Which protocol.")] = "tep",
    scheme: Annotated[
        str, typer.Option(help="How clients sign: secp256k1, ed25519, p256, mac, none.")
    ] = "secp256k1",
    app: Annotated[str, typer.Option(help="The load: kv, bank, notary.")] = "kv",
    payload: Annotated[int, typer.Option(metavar="BYTES", help="Bytes of an operation.")] = 100,
    clients: Annotated[int, typer.Option(metavar="C", help="Clients.")] = 32,
    pipeline: Annotated[
        int | None,
        typer.Option(
            metavar="P",
            help=f"Requests each keeps waiting (default: up to {MOST_PIPELINE}, as many as nodes take up; "
            "1 for a single client).",
        ),
    ] = None,
    rate: Annotated[
        str, typer.Option(metavar="QPS|max", help="Requests due per second, or as many as are answered.")
    ] = "max",
    seconds: Annotated[float | None, typer.Option(metavar="S", help="The window (default: 10).")] = None,
    warmup: Annotated[float, typer.Option(metavar="S", help="Load before the window.")] = 3.0,
    transactions: Annotated[
        int | None, typer.Option(metavar="N", help="End the window after so many answers.")
    ] = None,
    block_size: Annotated[int | None, typer.Option(metavar="B", help="Requests per block, at most.")] = None,
    in_flight: Annotated[int | None, typer.Option(metavar="W", help="Blocks in flight, at most.")] = None,
    checkpoint_interval: Annotated[
        int | None, typer.Option(metavar="K", help="Blocks between checkpoints.")
    ] = None,
    bundle: Annotated[int, typer.Option(metavar="k", help="Operations under one signature.")] = 1,
    byzantine: Annotated[
        str, typer.Option(metavar="K:STRATEGY", help=f"K nodes are Byzantine: {', '.join(STRATEGIES)}.")
    ] = "",
    crashed: Annotated[int, typer.Option(metavar="K", help="The last K nodes are not started.")] = 0,
    kill_primary: Annotated[
        float | None, typer.Option(metavar="S", help="SIGKILL for the primary, S seconds into the window.")
    ] = None,
    strict_sequential: Annotated[
        bool, typer.Option("--strict-sequential", help="Agree on one block after the other.")
    ] = False,
    in_process: Annotated[
        bool, typer.Option("--in-process", help="Trusted components inside the nodes: protects nothing.")
    ] = False,
    not_durable: Annotated[
        bool, typer.Option("--not-durable", help="Do not force blocks to the disk.")
    ] = False,
    generators: Annotated[int, typer.Option(metavar="G", help="Load processes.")] = 1,
    seed: Annotated[int, typer.Option(help="Which operations.")] = 1,
    setting: Annotated[
        list[str] | None, typer.Option("--set", metavar="LINE", help="A line of TOML for every node.toml.")
    ] = None,
    directory: Annotated[
        Path | None,
        typer.Option("--dir", metavar="DIR", help="Keep the cluster here (default: a temporary folder)."),
    ] = None,
    json: Annotated[
        bool, typer.Option("--json", help="One JSON object on standard output, or in FILE.")
    ] = False,
) -> None:
    """Measure a fresh cluster on this machine: throughput, latency, processor time, memory, disk, messages.

    Nodes, trusted components and load are processes of their own; nodes speak TLS, force every block to
    the disk and verify every signature. Throughput is told beside the limit that verification sets on
    these cores, measured in the same run. With --rate latency counts from when a request was due.

    If the load cannot be made fast enough the result says so: it is no peak then.

    Exit codes: 0 measured, 1 failed, or replicas disagree, 2 wrong usage, or what cannot be measured.

    [bold]Examples[/bold]

      tepbft bench --nodes 3                                 as much as it can do
      tepbft bench --nodes 5 --rate 2000 --seconds 30        latency at a given rate
      tepbft bench --clients 1                               one request after the other
      tepbft bench --nodes 9 --crashed 4 --json result.json
      tepbft bench --nodes 5 --byzantine 2:flood
      tepbft bench --rate 1000 --kill-primary 3              how long is nobody answered?
      tepbft bench --scheme none --block-size 1024 --checkpoint-interval 8
    """
    if file is not None and not json:
        raise TepbftError(str(file), "a file is for --json", "Say: tepbft bench … --json FILE", exit_code=2)
    options = BenchOptions(
        nodes=nodes,
        protocol=protocol,
        scheme=scheme,
        app=app,
        payload=payload,
        clients=clients,
        pipeline=pipeline,
        rate=_rate(rate),
        seconds=_window(seconds, transactions),
        warmup_s=warmup,
        transactions=transactions,
        block_size=block_size,
        in_flight=in_flight,
        checkpoint_interval=checkpoint_interval,
        bundle=bundle,
        byzantine=byzantine,
        crashed=crashed,
        strict_sequential=strict_sequential,
        in_process=in_process,
        durable=not not_durable,
        kill_primary_after_s=kill_primary,
        generators=generators,
        seed=seed,
        settings=tuple(setting or ()),
    )
    check_options(options)
    with terminate_as_interrupt():
        result = measure(options, directory, quiet=json and file is None)
    _deliver(result, json, file)
    good = result.replicas_agree and not result.errors
    if not good:
        warn("this run did not hold, and its figures mean nothing: " + "; ".join(result.errors))
    if result.limited_by_client:
        warn("limited by the load generator: not a peak. Try --generators 2, or more --clients.")
    if result.stolen_share >= MUCH_STOLEN:
        warn(
            f"{result.stolen_share:.0%} of the processors' time went to others on this machine: run it again."
        )
    raise typer.Exit(OK if good else FAILED)


def _deliver(result: BenchResult, json: bool, file: Path | None) -> None:
    record: dict[str, Any] = result.record()
    if not json:
        show(result)
    elif file is None:
        emit(record)
    else:
        write_file(file, (jsonlib.dumps(record, ensure_ascii=False) + "\n").encode())
        say(f"Written: {escape(str(file))}")


def register(app: typer.Typer) -> None:
    """Add this command to the command line."""
    app.command(name="bench")(bench)
