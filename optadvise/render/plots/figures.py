"""Pictures: the one place that imports matplotlib, and only when a picture was asked for."""

from __future__ import annotations

import io
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from optadvise.core.errors import CannotRunHereError, InputError
from optadvise.core.files import check_writable, write_output
from optadvise.core.units import show_count, show_number

if TYPE_CHECKING:
    from optadvise.render.text.schedule import Planned

FORMATS = ("png", "svg", "pdf")
ANIMATED = ("gif",)
DPI = 160
# Okabe and Ito's colours, which the colour-blind tell apart, without the yellow that white swallows.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000", "#8C510A", "#6A3D9A")
DASHES = ("-", (0, (6, 2)), (0, (6, 2, 1, 2)), (0, (1.2, 1.6)), (0, (3, 1.5)), (0, (8, 2, 1, 2, 1, 2)), (0, (2, 4)))
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">", "p", "h")
INK, PALE = "#22303f", "#c9d1da"
_FRAMES_A_SECOND = 12
_NEARLY_WHITE = 248


def style(number: int) -> dict[str, Any]:
    """Return colour, dashes and marker of the line of a number; one repeats long before all three do."""
    return {
        "color": COLOURS[number % len(COLOURS)],
        "linestyle": DASHES[number % len(DASHES)],
        "marker": MARKERS[number % len(MARKERS)],
    }


def check(file: Path, flag: str, formats: Sequence[str] = FORMATS) -> None:
    """Fail now where drawing would fail after all is computed.

    Args:
        file: The picture's file.
        flag: The option that named it.
        formats: What its ending may be.

    Raises:
        InputError: The ending is another, or the file cannot be written.
        CannotRunHereError: matplotlib is not installed.
    """
    if file.suffix.lstrip(".").lower() not in formats:
        what = "animations" if formats == ANIMATED else "pictures"
        raise InputError(f"{flag} {str(file)!r}: {what} are {', '.join(formats)}; name a file that ends so")
    try:
        import matplotlib

        if formats == ANIMATED:
            import PIL  # noqa: F401
    except ImportError as error:
        raise CannotRunHereError(f"{flag}: pictures need matplotlib; pip install 'optadvise[plot]'") from error
    matplotlib.rcParams["svg.hashsalt"] = "optadvise"  # the same data give the same file
    check_writable(file, flag)


def figure(width: float, height: float, **how: Any) -> Any:
    """Return an empty figure that belongs to no window.

    Args:
        width: In inches.
        height: In inches.
        how: What else matplotlib's Figure takes.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    made = Figure(figsize=(width, height), dpi=DPI, facecolor="white", **{"layout": "constrained", **how})
    FigureCanvasAgg(made)
    return made


def save(made: Any, file: Path) -> None:
    """Write a figure, whole or not at all.

    Args:
        made: The figure.
        file: Its ending says the format.
    """
    kind = file.suffix.lstrip(".").lower()
    undated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    out = io.BytesIO()
    made.savefig(out, format=kind, metadata=undated)
    write_output(file, _palette(out) if kind == "png" else out.getvalue())


def _palette(png: io.BytesIO) -> bytes:
    """Return a picture with 256 colours, which is enough for lines and areas and a third of the bytes.

    The colours of lines are kept as they are: thin ones would be mixed with others for the sake of large areas.
    """
    from PIL import Image

    whole = Image.open(png).convert("RGB")
    kept = [int(colour[at : at + 2], 16) for colour in (*COLOURS, INK, "#ffffff") for at in (1, 3, 5)]
    areas = whole.quantize(256 - len(kept) // 3, dither=Image.Dither.NONE).getpalette() or []
    shades = [areas[at : at + 3] for at in range(0, 768 - len(kept), 3)]
    palette = Image.new("P", (1, 1))
    # Pillow takes the first that is near, so what is nearly white must not be there beside white.
    palette.putpalette(kept + [part for shade in shades if min(shade, default=255) < _NEARLY_WHITE for part in shade])
    out = io.BytesIO()
    few = whole.quantize(palette=palette, dither=Image.Dither.NONE)
    few.save(out, format="png", optimize=True, dpi=(DPI, DPI))
    return out.getvalue()


def animate(made: Any, draw: Callable[[int], object], frames: Sequence[int], file: Path, dpi: int = 100) -> None:
    """Write an animation.

    Args:
        made: The figure.
        draw: Draws the state of a number into it.
        frames: The numbers, in order.
        file: A GIF.
        dpi: Dots per inch; an animation has many pictures to carry.
    """
    from matplotlib.animation import PillowWriter

    writer = PillowWriter(fps=_FRAMES_A_SECOND)
    with tempfile.TemporaryDirectory() as folder:
        whole = Path(folder) / "walk.gif"
        with writer.saving(made, str(whole), dpi):
            for number in frames:
                draw(number)
                writer.grab_frame()
        write_output(file, whole.read_bytes())


def plain_axes(axes: Any, x: str, y: str) -> None:
    """Label axes and leave only what is read of them."""
    axes.set_xlabel(x, color=INK)
    axes.set_ylabel(y, color=INK)
    axes.grid(color=PALE, linewidth=0.6, alpha=0.7)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def title(axes: Any, words: str, below: str = "") -> None:
    """Put a title at the left, and under it a smaller line."""
    axes.set_title(words + ("\n" if below else ""), loc="left", fontsize=13, fontweight="bold", color=INK)
    if below:
        axes.annotate(below, (0, 1), (0, 5), xycoords="axes fraction", textcoords="offset points", fontsize=9,
                      color="#55606c", va="bottom")  # fmt: skip


def ticks(low: float, high: float) -> list[float]:
    """Return round numbers between two ends."""
    from matplotlib.ticker import MaxNLocator

    return [
        float(tick) for tick in MaxNLocator(6, steps=[1, 2, 2.5, 5, 10]).tick_values(low, high) if low <= tick <= high
    ]


def written(axis: Any, show: Callable[[float], str]) -> None:
    """Write an axis's numbers as the text does."""
    axis.set_major_formatter(lambda value, position: show(value))


def schedules(planned: Sequence[Planned], file: Path) -> None:
    """Draw schedules over their run.

    Args:
        planned: The schedules.
        file: Where to.
    """
    made = figure(9, 4.8)
    axes = made.add_subplot()
    for number, p in enumerate(planned):
        points = p.points()
        dots = max(1, len(points) // 9)
        axes.plot(*zip(*points, strict=True), **style(number), label=p.card.name, linewidth=2, markersize=5,
                  markevery=(number * dots // max(1, len(planned)), dots), clip_on=False)  # fmt: skip
    first = planned[0]
    ramps = {p.warmup for p in planned if p.warmup}
    ramp = f"warmup of {' or '.join(f'{n:,}' for n in sorted(ramps))} steps" if ramps else "no warmup"
    title(axes, "Learning rate over the run", f"peak {show_number(first.lr)}, {first.steps:,} steps, {ramp}")
    plain_axes(axes, "optimizer step", "learning rate")
    written(axes.xaxis, lambda value: show_count(value) if value else "0")
    written(axes.yaxis, lambda value: show_number(float(f"{value:.6g}")))
    axes.set_xlim(0, first.steps)
    axes.set_ylim(bottom=0)
    axes.legend(loc="upper left", bbox_to_anchor=(1.01, 1.0), frameon=False, fontsize=10, handlelength=3.5)
    save(made, file)
