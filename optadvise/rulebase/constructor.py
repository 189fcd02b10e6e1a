"""Constructor arguments of an implementation: the one place where they are built."""

from __future__ import annotations

from collections.abc import Mapping

from optadvise.core.cards import Implementation, Value


def argument_name(implementation: Implementation, hyperparameter: str) -> str:
    """Return the constructor's name of a hyperparameter."""
    return implementation.arguments.get(hyperparameter, hyperparameter)


def constructor_kwargs(
    implementation: Implementation,
    values: Mapping[str, Value],
    *,
    device: str | None,
    sharding: str | None = None,
    variant: str | None = None,
) -> dict[str, Value]:
    """Return the arguments that an implementation's class is built with.

    Args:
        values: Hyperparameters by the card's names.
        device: cpu or cuda, with a number or without; None where the program that takes the arguments tells them apart.
        sharding: none, zero1 or fsdp over several processes; None for one process.
        variant: One of the implementation's variants, such as fused; any other name adds nothing.
    """
    renamed = {argument_name(implementation, name): value for name, value in values.items()}
    return {
        **renamed,
        **implementation.kwargs,
        **implementation.variants.get(variant or "", {}),
        **runtime_kwargs(implementation, device=device, sharding=sharding),
    }


def runtime_kwargs(implementation: Implementation, *, device: str | None, sharding: str | None) -> dict[str, Value]:
    """Return the arguments that depend on where the class runs. Parameters are those of `constructor_kwargs`."""
    on_device = implementation.cpu_kwargs if device == "cpu" else {}
    return {**on_device, **implementation.sharding_kwargs.get(sharding or "", {})}


def convert_lists(kwargs: Mapping[str, Value]) -> dict[str, object]:
    """Return arguments with lists as tuples, which some constructors require."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in kwargs.items()}
