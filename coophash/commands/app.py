"""The application: its commands, and what happens to their errors."""

from __future__ import annotations

import sys
import warnings
from typing import Any

import typer
from typer.core import TyperGroup

from coophash.cli import INTERRUPTED, USER_ERRORS, debugging, describe, fail
from coophash.commands import (
    data,
    demo,
    diagnose,
    doctor,
    encode,
    evaluate,
    index,
    recipe,
    search,
    train,
)


class _Group(TyperGroup):
    """Shows an error of the user's making as one line, on the way out of any command."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (typer.Exit, typer.Abort):
            raise  # typer's own way out; they are RuntimeErrors
        except BrokenPipeError:
            raise  # the reader of our output has left, as in `coophash search ... | head`
        except USER_ERRORS as error:
            if debugging():
                raise
            fail(describe(error))
        except KeyboardInterrupt:
            print("interrupted", file=sys.stderr)
            sys.exit(INTERRUPTED)


def make_app() -> typer.Typer:
    """The typer application with all commands."""
    app = typer.Typer(
        cls=_Group,
        name="coophash",
        help="Learn short binary codes for images and search them exactly.",
        no_args_is_help=True,
        add_completion=False,
        pretty_exceptions_enable=False,
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    warnings.showwarning = _show_warning
    app.callback(invoke_without_command=True)(_root)
    for command in (
        demo.demo, train.train, encode.encode, index.index, search.search, evaluate.evaluate,
        diagnose.diagnose, doctor.doctor,
    ):  # fmt: skip
        app.command()(command)
    app.add_typer(data.app, name="data")
    app.add_typer(recipe.app, name="recipe")
    return app


def _show_warning(message: Warning | str, *_: Any, **__: Any) -> None:
    print(f"warning: {message}", file=sys.stderr)


def _show_version(value: bool) -> None:
    if value:
        from coophash import __version__

        typer.echo(f"coophash {__version__}")
        raise typer.Exit()


def _root(
    version: bool = typer.Option(
        False, "--version", callback=_show_version, is_eager=True, help="Show the version."
    ),
) -> None:
    """Learn short binary codes for images and search them exactly."""
