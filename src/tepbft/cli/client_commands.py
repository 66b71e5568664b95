"""`submit`, `notarize`, `receipt get`, `receipt verify`: what a client of the ledger does."""

from __future__ import annotations

import asyncio
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.markup import escape

from tepbft.cli.cluster import read_genesis
from tepbft.cli.lease import lease_client
from tepbft.cli.notarizing import Tally, collect, notarize_files, plan_for
from tepbft.cli.output import FAILED, OK, emit, page, progress, say
from tepbft.cli.through_node import submit_through
from tepbft.client.aio import Client
from tepbft.client.events import Outcome
from tepbft.client.receipt_file import MAX_FILE_BYTES, receipt_from_json, receipt_to_json
from tepbft.client.receipts import VerifiedReceipt, verify_receipt
from tepbft.core.block import OK as EXECUTED
from tepbft.core.block import STATUS_NAMES
from tepbft.errors import TepbftError
from tepbft.execution.loader import load_operations
from tepbft.wire import ProvenReceipt

Folder = Annotated[Path, typer.Argument(metavar="DIR", help="The cluster's folder.", show_default=False)]
Json = Annotated[bool, typer.Option("--json", help="One JSON object per line on standard output.")]
ClientName = Annotated[
    str | None,
    typer.Option("--client", metavar="NAME", help="Sign as this client (default: the first that is free)."),
]
receipts = typer.Typer(
    name="receipt", no_args_is_help=True, help="Receipts: proofs that verify offline, from the genesis alone."
)


def write_file(path: Path, data: bytes) -> None:
    """Put a file in place as a whole; TepbftError if the disk refuses."""
    draft = path.with_name(path.name + ".part")
    try:
        draft.write_bytes(data)
        os.replace(draft, path)
    except OSError as error:
        draft.unlink(missing_ok=True)
        raise TepbftError(
            str(path), f"it cannot be written ({error.strerror})", "Name a place that you may write to."
        ) from None


def outcome_record(outcome: Outcome, client: str, operation: bytes, app: str) -> dict[str, Any]:
    """The JSON form of an outcome; `result` is in the application's own words."""
    record: dict[str, Any] = {
        "client": client,
        "session": outcome.session,
        "seq": outcome.seq,
        "status": outcome.status_name,
        "height": outcome.height,
        "nodes": list(outcome.nodes),
        "latency_ms": round(outcome.latency_ms, 3),
    }
    if outcome.ok:
        record["result"] = load_operations(app).render(operation, outcome.result)
    else:
        record["reason"] = outcome.result.decode("utf-8", "replace")
    return record


async def _submit(
    folder: Path, name: str, operation: bytes, timeout_s: float, proof_wanted: bool
) -> tuple[Outcome, ProvenReceipt | None]:
    async with Client.open(folder, name, timeout_s=timeout_s) as client:
        outcome = await client.submit(operation)
        proof = (
            await client.receipt(outcome, timeout_s=timeout_s) if proof_wanted and outcome.height else None
        )
        return outcome, proof


def submit(
    folder: Folder,
    operation: Annotated[
        list[str],
        typer.Argument(metavar="OPERATION...", help="In the application's words.", show_default=False),
    ],
    client: ClientName = None,
    node: Annotated[
        int | None,
        typer.Option(
            "--node", metavar="K", help="By way of this node's HTTP port alone; its proof is verified."
        ),
    ] = None,
    receipt: Annotated[
        Path | None, typer.Option("--receipt", metavar="FILE", help="Also fetch the proven receipt.")
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for the outcome.", min=0.1)] = 30.0,
    json: Json = False,
) -> None:
    """Submit one operation and show its outcome, as f+1 nodes agree on it.

    What an operation looks like is up to the application of the cluster: a wrong one shows the usage.
    Exit code 0 if it took effect, 1 if the application refused it or no outcome came.

    [bold]Examples[/bold]

      tepbft submit ledger put colour blue
      tepbft submit ledger get colour --json
      tepbft submit bank send_payment 3 4 100 --client client07
      tepbft submit ledger put k v --receipt receipt.json
      tepbft submit bank --json -- transact_savings 3 -50
    """
    genesis = read_genesis(folder / "genesis.json")
    encoded = load_operations(genesis.app).parse(operation)
    with lease_client(folder, client) as name:
        if node is None:
            outcome, proof = asyncio.run(_submit(folder, name, encoded, timeout, receipt is not None))
        else:
            outcome, proof = submit_through(folder, name, genesis, node, encoded, timeout)
    if receipt is not None and proof is not None:
        write_file(receipt, receipt_to_json(proof))
    record = outcome_record(outcome, name, encoded, genesis.app)
    if json:
        emit(record)
    elif outcome.ok:
        page().print_json(data=record["result"])
        by = "proven" if outcome.proven else f"agreed by {len(outcome.nodes)} nodes"
        say(f"[green]ok[/green] at height {outcome.height}, {by}, {outcome.latency_ms:.0f} ms")
    else:
        say(f"[red]{outcome.status_name}[/red] at height {outcome.height}: {escape(record['reason'])}")
    if receipt is not None and proof is not None and not json:
        say(f"Receipt: {escape(str(receipt))} (verify it: tepbft receipt verify FILE --genesis genesis.json)")
    raise typer.Exit(OK if outcome.ok else FAILED)


def notarize(
    folder: Folder,
    paths: Annotated[
        list[Path], typer.Argument(metavar="PATH...", help="Files and folders.", show_default=False)
    ],
    exclude: Annotated[
        list[str] | None,
        typer.Option("--exclude", metavar="GLOB", help="Leave out what matches; may be repeated."),
    ] = None,
    client: ClientName = None,
    timeout: Annotated[float, typer.Option(help="Seconds to wait for each outcome.", min=0.1)] = 60.0,
    json: Json = False,
) -> None:
    """Register the SHA-256 of files on the ledger: who had them first, and when.

    Folders are taken as a whole, in sorted order; symbolic links are not followed. A file that somebody
    registered before is reported, not an error. The content never leaves this machine.

    [bold]Examples[/bold]

      tepbft notarize ledger thesis.pdf
      tepbft notarize ledger src --exclude '.git' --exclude '*.pyc'
    """
    genesis = read_genesis(folder / "genesis.json")
    plan = plan_for(genesis.app)
    files = collect(paths, exclude or [])
    with lease_client(folder, client) as name, progress(enabled=not json) as bar:
        task = bar.add_task("Notarizing", total=len(files))
        tally = asyncio.run(
            notarize_files(
                folder,
                name,
                plan,
                files,
                timeout_s=timeout,
                done=lambda: bar.advance(task),
                each=_shown(json),
            )
        )
    _summary(tally, name, json)
    raise typer.Exit(OK if tally.failed == 0 else FAILED)


def _shown(json: bool) -> Any:
    """What is said of each file: everything to a machine, failures only to a person."""

    def show(record: dict[str, Any]) -> None:
        if json:
            emit(record)
        elif record["status"] == "failed":
            say(f"[red]failed[/red] {escape(record['path'])}: {escape(record['reason'])}")

    return show


def _summary(tally: Tally, client: str, json: bool) -> None:
    if json:
        emit({"summary": tally.record() | {"client": client}})
        return
    say(
        f"{tally.registered} registered, {tally.already} already registered, {tally.failed} failed "
        f"(as {client}, {tally.bytes} bytes, {tally.seconds:.1f} s)"
    )


def receipt_get(
    folder: Folder,
    client: Annotated[str, typer.Argument(metavar="CLIENT", help="Name of the client.", show_default=False)],
    session: Annotated[
        int, typer.Argument(metavar="SESSION", help="As the outcome says.", show_default=False)
    ],
    seq: Annotated[int, typer.Argument(metavar="SEQ", help="As the outcome says.", show_default=False)],
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", metavar="FILE", help="Where to (default: standard output)."),
    ] = None,
    timeout: Annotated[float, typer.Option(help="Seconds to wait.", min=0.1)] = 30.0,
) -> None:
    """Fetch the proven receipt of a request that was executed.

    [bold]Example[/bold]

      tepbft receipt get ledger client00 1763640000000000 1 -o receipt.json
    """

    async def fetch() -> ProvenReceipt:
        async with Client.open(folder, client) as opened:
            return await opened.receipt(seq, session=session, timeout_s=timeout)

    data = receipt_to_json(asyncio.run(fetch()))
    if output is None:
        sys.stdout.write(data.decode("utf-8"))
        return
    write_file(output, data)
    say(f"Receipt: {escape(str(output))}")


def verified_record(verified: VerifiedReceipt) -> dict[str, Any]:
    """The JSON form of what a receipt proves."""
    return {
        "valid": True,
        "chain_id": verified.chain_id.hex(),
        "client": verified.client.hex(),
        "session": verified.session,
        "seq": verified.seq,
        "request_digest": verified.request_digest.hex(),
        "status": STATUS_NAMES[verified.status] if verified.status < len(STATUS_NAMES) else verified.status,
        "result": verified.result.hex(),
        "height": verified.height,
        "timestamp_ms": verified.timestamp_ms,
        "configuration": verified.configuration,
        "signers": list(verified.signers),
    }


def read_receipt(path: Path) -> ProvenReceipt:
    """The proven receipt in a file, not verified yet; TepbftError if it is none."""
    try:
        with path.open("rb") as file:
            data = file.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise TepbftError(str(path), f"it cannot be read ({error.strerror})", "Check the path.") from None
    return receipt_from_json(data)


def receipt_verify(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="The receipt.", show_default=False)],
    genesis: Annotated[
        Path, typer.Option("--genesis", metavar="FILE", help="The genesis of the chain.", show_default=False)
    ],
    json: Json = False,
) -> None:
    """Verify a receipt offline: the file and the genesis, no node is asked.

    Exit code 0 if it proves its outcome, 1 if not.

    [bold]Example[/bold]

      tepbft receipt verify receipt.json --genesis ledger/genesis.json
    """
    verified = verify_receipt(read_genesis(genesis), read_receipt(file))
    record = verified_record(verified)
    if json:
        emit(record)
        return
    signers = ", ".join(f"node{node}" for node in verified.signers)
    page().print_json(data=record)
    effect = "it took effect" if verified.status == EXECUTED else f"outcome: {record['status']}"
    say(f"[green]valid[/green]: {effect} at height {verified.height}; signed by the components of {signers}")


def register(app: typer.Typer) -> None:
    """Add these commands to the command line."""
    app.command(no_args_is_help=True)(submit)
    app.command(no_args_is_help=True)(notarize)
    receipts.command("get")(receipt_get)
    receipts.command("verify")(receipt_verify)
    app.add_typer(receipts)
