"""Classes that commands may import: those on shipped cards, and those of rule layers that the user allows.

Rule layers and other files come with a repository, so they cannot allow imports themselves.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Set

from msgspec import Struct

from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError, shorten_location
from optadvise.rulebase.rule_base import RuleBase

OPTION = "--allow-imports"


class ImportPolicy(Struct, frozen=True):
    """Import paths of all cards, and the packages that the user allows."""

    shipped: Set[str]
    in_layers: Mapping[str, str]  # paths that only rule layers name, with the position of their card
    packages: tuple[str, ...]  # allowed packages or modules

    def allows_module(self, path: str) -> bool:
        """Return whether the user allows a module or class, by its name or that of a package above it."""
        return any(f"{path}.".startswith(f"{package}.") for package in self.packages)

    def explain(self, path: str) -> str | None:
        """Return why a class is not imported and what to do, in one line; None if it may be imported."""
        if path in self.shipped:
            return None
        if path not in self.in_layers:
            return f"{path} is not imported: no card lists it; optadvise show prints the implementations"
        if self.allows_module(path):
            return None
        return f"{path} is not imported: only {shorten_location(self.in_layers[path])} lists it; {suggest_option(path)}"

    def check(self, paths: Iterable[str]) -> None:
        """Check that classes may be imported.

        Raises:
            InputError: One may not be imported.
        """
        for path in paths:
            reason = self.explain(path)
            if reason is not None:
                raise InputError(reason, code=ErrorCode.IMPORT_NOT_ALLOWED, option=OPTION, value=path)


def suggest_option(path: str) -> str:
    """Return the option that allows a module or class, as the end of a message."""
    return f"if you trust it, add {OPTION} {path.partition('.')[0]}"


def make_policy(base: RuleBase, shipped: RuleBase, packages: tuple[str, ...]) -> ImportPolicy:
    """Return the policy for the rules of all layers.

    Args:
        base: Rules of all layers.
        shipped: Shipped rules without layers.
        packages: Packages or modules that the user allows.
    """
    names = {path for path, _ in _list_classes(shipped)}
    in_layers = {path: at for path, at in _list_classes(base) if path not in names}
    return ImportPolicy(shipped=names, in_layers=in_layers, packages=packages)


def _list_classes(base: RuleBase) -> Iterator[tuple[str, str]]:
    """Yield the import path of every class and attribute on a card, and the position of the card."""
    for optimizer in base.optimizers.values():
        for implementation in (*optimizer.implementations, *optimizer.not_offered):
            yield implementation.path, optimizer.at
            if implementation.has_cuda is not None:
                yield implementation.has_cuda, optimizer.at
    for schedule in base.schedulers.values():
        for phase in schedule.phases:
            yield phase.path, schedule.at
