"""Pictures that a command draws besides its answer."""

from __future__ import annotations

from collections.abc import Callable

import typer

from optadvise.core.errors import CannotRunHereError


def draw(picture: Callable[[], None], code: int) -> None:
    """Draw a picture of a result; warn instead of failing if the result itself is a failure.

    Args:
        picture: Draws it.
        code: The exit code of the result, which takes precedence over that of a picture that cannot be drawn.

    Raises:
        CannotRunHereError: There is nothing to draw, and the result is no failure.
    """
    try:
        picture()
    except CannotRunHereError as error:
        if not code:
            raise
        typer.echo(f"optadvise: warning: {error}", err=True)
