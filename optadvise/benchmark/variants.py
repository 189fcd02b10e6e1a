"""Variants of implementations that can be used on this machine. Imports no optimizer."""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec

from msgspec import Struct

from optadvise.benchmark.spec import Spec
from optadvise.core.cards import Implementation
from optadvise.evidence.versions import find_version, parse_version

# Triton and fused kernels read and write each tensor once, without temporaries. By optimi's measurements its Triton
# kernels are faster than torch's fused ones (docs:optimi-triton). `foreach` runs several kernels for all tensors,
# `for-loop` several for each.
_FASTEST_FIRST = ("triton", "fused", "foreach", "for-loop")


class Choice(Struct, frozen=True):
    """An implementation and one of its variants; None if it has no variants."""

    implementation: Implementation
    variant: str | None


def list_choices(implementations: Sequence[Implementation], device_type: str) -> list[Choice]:
    """Return the variants of implementations, in their order, that can be used on a device."""
    return [Choice(each, variant) for each in implementations for variant in list_variants(each, device_type)]


def list_variants(implementation: Implementation, device_type: str) -> list[str | None]:
    """Return the variants that can be used on a device here, fastest first; [None] if there is none."""
    variants: list[str | None] = [
        name
        for name in _FASTEST_FIRST
        if name in implementation.variants and explain_unusable(implementation, name, device_type) is None
    ]
    return variants or [None]


def choose_fastest(implementation: Implementation, spec: Spec) -> Choice:
    """Return the fastest variant for the device and the sharding strategy."""
    choices = list_choices([implementation], spec.device_type)
    return next((choice for choice in choices if runs_sharded(choice, spec)), Choice(implementation, None))


def runs_sharded(choice: Choice, spec: Spec) -> bool:
    """Return whether the variant supports the sharding strategy and the arguments that it requires."""
    implementation, variant = choice.implementation, choice.variant or ""
    if spec.sharding is None:
        return True
    requirement = implementation.variant_requirements.get(variant)
    if requirement is not None and requirement.sharding and spec.sharding not in requirement.sharding:
        return False
    required = implementation.sharding_kwargs.get(spec.sharding, {})
    kwargs = implementation.variants.get(variant, {})
    return all(required.get(name, value) == value for name, value in kwargs.items())


def explain_unusable(implementation: Implementation, variant: str, device_type: str) -> str | None:
    """Return why a variant cannot be used on a device here; None if it can.

    A package of unknown version does not meet a minimum.
    """
    requirement = implementation.variant_requirements.get(variant)
    if requirement is None:
        return None
    if requirement.devices and device_type not in requirement.devices:
        return f"requires {' or '.join(requirement.devices)}"
    if requirement.package is not None and not is_installed(requirement.package):
        return f"requires the package {requirement.package}, which is not installed"
    minimum = requirement.min_version.get(device_type)
    if minimum is None:
        return None
    package = implementation.package or ""
    version = find_version(package)
    if version is not None and parse_version(version) >= parse_version(minimum):
        return None
    return f"requires {package}>={minimum} on {device_type}, installed is {version or 'an unknown version'}"


def find_old_version(implementation: Implementation) -> str | None:
    """Return the installed version of a package that is too old for an implementation, otherwise None."""
    minimum = implementation.min_version
    version = None if minimum is None else find_version(implementation.package or "")
    is_old = minimum is not None and version is not None and parse_version(version) < parse_version(minimum)
    return version if is_old else None


def is_importable(implementation: Implementation) -> bool:
    """Return whether the package of an implementation is installed."""
    return is_installed(implementation.path.split(".")[0])


_installed: set[str] = set()  # packages that were found; a missing one is looked for again


def is_installed(package: str) -> bool:
    """Return whether a top-level package can be found."""
    if package not in _installed:
        try:
            if find_spec(package) is None:
                return False
        except (ImportError, ValueError):
            return False
        _installed.add(package)
    return True
