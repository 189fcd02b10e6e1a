"""A picture beside a command's answer."""

from __future__ import annotations

from collections.abc import Callable

import typer

from optadvise.core.errors import CannotRunHereError


def draw(picture: Callable[[], None], code: int) -> None:
    """Draw a picture of what was found.

    Args:
        picture: Draws it.
        code: The exit code of what was found, which counts for more than a picture of nothing.

    Raises:
        CannotRunHereError: There is nothing to draw, and the exit code does not tell already.
    """
    try:
        picture()
    except CannotRunHereError as error:
        if not code:
            raise
        typer.echo(f"optadvise: warning: {error}", err=True)
