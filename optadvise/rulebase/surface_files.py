"""Reading of `rules/surfaces.yaml`: two-dimensional test functions for optimizer trajectories.

The file has its own cache entry, because only `trajectories` needs it.
"""

from __future__ import annotations

from optadvise.core.cards import MOST_STEPS
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import RuleFileError
from optadvise.core.surface_cards import Surface, SurfaceFile
from optadvise.core.yaml_reader import KnownIds
from optadvise.core.yaml_records import read_file
from optadvise.rulebase.rule_paths import Contents


def read_surfaces(contents: Contents, known_ids: KnownIds) -> SurfaceFile:
    """Return the test functions and default optimizers; those of later layers replace earlier ones.

    Raises:
        RuleFileError: A file is invalid.
    """
    surfaces: dict[str, Surface] = {}
    default_optimizers: tuple[str, ...] = ()
    for _, file, content in contents:
        read, _, _ = read_file(SurfaceFile, content, str(file), known_ids)
        for surface in read.surfaces:
            _check_surface(surface)
            surfaces.pop(surface.id, None)
            surfaces[surface.id] = surface
        default_optimizers = read.default_optimizers or default_optimizers
    return SurfaceFile(surfaces=tuple(surfaces.values()), default_optimizers=default_optimizers)


def _check_surface(surface: Surface) -> None:
    """Check that points are inside the ranges, and that steps, learning rates and factors are positive."""
    for point in (surface.start, surface.minimum or surface.start):
        for value, name, (low, high) in zip(point, ("x", "y"), (surface.x, surface.y), strict=True):
            if not low < value < high:
                message = f"{value:g} is outside the range of `{name}`, {low:g} to {high:g}"
                raise RuleFileError(message, surface.at, code=ErrorCode.INVALID_ENTRY)
    if not 0 < surface.steps <= MOST_STEPS:
        message = f"`steps: {surface.steps}` must be from 1 to {MOST_STEPS:,}"
        raise RuleFileError(message, surface.at, code=ErrorCode.INVALID_ENTRY)
    by_scale = surface.learning_rates
    for learning_rate in (by_scale.adam, by_scale.sgd, by_scale.custom, *surface.optimizers.values()):
        values = [value for value in (learning_rate.lr, learning_rate.times) if value is not None]
        if len(values) != 1 or not values[0] > 0:
            message = "a learning rate requires either `lr` or `times`, above 0"
            raise RuleFileError(message, learning_rate.at, code=ErrorCode.INVALID_ENTRY)
    for family in surface.families.values():
        if not family.factor > 0:
            message = f"`factor: {family.factor:g}` must be above 0"
            raise RuleFileError(message, family.at, code=ErrorCode.INVALID_ENTRY)
