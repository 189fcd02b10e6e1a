"""Pictures that commands draw in addition to their output."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import typer

from optadvise.core.errors import CannotRunHereError


def check(plot: Path | None) -> None:
    """Check that a picture can be drawn to a file, before anything is measured.

    Args:
        plot: File of `--plot`; None for no picture.

    Raises:
        InputError: The ending of the file is not supported.
        CannotRunHereError: matplotlib is not installed.
    """
    if plot is not None:
        from optadvise.render.plots import figures

        figures.check_picture(plot, "--plot")


def draw(picture: Callable[[], None], code: int) -> None:
    """Draw a picture of a result; warn instead of failing if the result itself is a failure.

    Args:
        picture: Draws it.
        code: The exit code of the result, which takes precedence over that of a picture that cannot be drawn.

    Raises:
        CannotRunHereError: There is nothing to draw, and the result is not a failure.
    """
    try:
        picture()
    except CannotRunHereError as error:
        if not code:
            raise
        typer.echo(f"optadvise: warning: {error}", err=True)
