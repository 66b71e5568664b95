"""The command line `tepbft`: one module per group of commands, wired here.

Exit codes: 0 done, 1 failed (or the answer is no), 2 wrong usage, 130 interrupted.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence

import typer

from tepbft.cli import (
    audit_command,
    bench,
    client_commands,
    cluster_commands,
    demo,
    lab,
    recover,
    sim,
    torment,
)
from tepbft.cli.output import FAILED, INTERRUPTED, OK, emit, error_record, say, show_error
from tepbft.cli.signals import exit_code_survives_interrupt
from tepbft.errors import TepbftError

app = typer.Typer(
    name="tepbft",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.callback()
def _root() -> None:
    """A replicated ledger that survives f Byzantine machines out of 2f+1.

    Each node has a small trusted component beside it, which signs at most one statement per
    view and height.

    [bold]A first cluster[/bold]

      tepbft init ledger --nodes 3       make it
      tepbft up ledger                   start it
      tepbft submit ledger put colour blue
      tepbft submit ledger get colour
      tepbft status ledger               is it well?
      tepbft down ledger                 stop it

    [bold]See it survive[/bold]: tepbft demo        [bold]How fast is it?[/bold] tepbft bench

    Commands with --json print one JSON object per line on standard output and nothing else there.
    Exit codes: 0 done, 1 failed, 2 wrong usage.
    """


for module in (cluster_commands, client_commands, audit_command, recover, demo, bench, lab, sim, torment):
    module.register(app)


def run(arguments: Sequence[str]) -> int:
    """Carry out one command line and return its exit code."""
    try:
        app(args=list(arguments), prog_name="tepbft")
    except TepbftError as error:
        if "--json" in arguments:
            emit(error_record(error))
        show_error(error)
        return error.exit_code
    except KeyboardInterrupt:
        say("Interrupted.")
        return INTERRUPTED
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else (OK if end.code is None else FAILED)
    return OK


def main() -> None:
    """Entry point of the command."""
    exit_code_survives_interrupt()
    sys.exit(run(sys.argv[1:]))


if __name__ == "__main__":
    main()
