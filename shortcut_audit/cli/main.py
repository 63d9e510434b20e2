"""`shortcut-audit`: the table of commands, and how every error ends."""

from __future__ import annotations

import signal
import sys
from collections.abc import Callable
from types import FrameType

import typer

from shortcut_audit.cli.audit import audit
from shortcut_audit.cli.compare import compare
from shortcut_audit.cli.cue_conflict import cue_conflict
from shortcut_audit.cli.data import data
from shortcut_audit.cli.demo import demo
from shortcut_audit.cli.export import export
from shortcut_audit.cli.filter import filter_
from shortcut_audit.cli.gate import gate
from shortcut_audit.cli.plant import plant
from shortcut_audit.cli.report import report
from shortcut_audit.cli.schema import schema
from shortcut_audit.cli.selftest import selftest
from shortcut_audit.cli.shift import shift
from shortcut_audit.cli.synth import synth
from shortcut_audit.cli.train import train
from shortcut_audit.cli.transfer import transfer
from shortcut_audit.errors import AuditError
from shortcut_audit.version import __version__

__all__ = ["COMMANDS", "app", "main"]

# In the order of `--help`; a function is a command, an app a group of commands.
COMMANDS: dict[str, Callable[..., None] | typer.Typer] = {
    "audit": audit,
    "transfer": transfer,
    "cue-conflict": cue_conflict,
    "data": data,
    "gate": gate,
    "report": report,
    "compare": compare,
    "export": export,
    "schema": schema,
    "train": train,
    "synth": synth,
    "plant": plant,
    "filter": filter_,
    "shift": shift,
    "demo": demo,
    "selftest": selftest,
}

app = typer.Typer(
    name="shortcut-audit",
    help="Audit image classifiers for frequency shortcuts: which classes hang on which spatial"
    " frequencies, and how sure we are.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
for _name, _command in COMMANDS.items():
    if isinstance(_command, typer.Typer):
        app.add_typer(_command, name=_name)
    else:
        app.command(_name)(_command)


def _print_version(asked: bool) -> None:
    if asked:
        typer.echo(f"shortcut-audit {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: bool = typer.Option(
        False, "--version", callback=_print_version, is_eager=True, help="Print the version."
    ),
) -> None:
    del version


def main() -> None:
    """Run the command line.

    Exit codes: 0 done, 2 the input has to change, 3 a fault of ours, 130 stopped.
    """
    # A scheduler's SIGTERM should leave the same readable state as Ctrl-C.
    signal.signal(signal.SIGTERM, _interrupt)
    try:
        app()
    except AuditError as error:
        typer.echo(f"error[{error.slug}]: {error.problem}", err=True)
        if error.next_step:
            typer.echo(f"  {error.next_step}", err=True)
        sys.exit(error.exit_code)
    except KeyboardInterrupt:
        typer.echo("Stopped.", err=True)
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output went away (`... | head`); that is no error of ours.
        sys.stderr.close()
        sys.exit(0)
    except Exception as error:
        import traceback

        traceback.print_exc()
        typer.echo(
            f"error[internal]: {type(error).__name__}: this is a fault of shortcut-audit,"
            " not of your input. Please report it with the lines above.",
            err=True,
        )
        sys.exit(3)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
