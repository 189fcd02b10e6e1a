"""Constructor arguments of an implementation."""

from __future__ import annotations

from collections.abc import Mapping

from optadvise.core.cards import Implementation, Value


def argument_name(implementation: Implementation, hyperparameter: str) -> str:
    """Return the name of the constructor argument for a hyperparameter."""
    return implementation.arguments.get(hyperparameter, hyperparameter)


def constructor_kwargs(
    implementation: Implementation,
    values: Mapping[str, Value],
    *,
    device: str | None,
    sharding: str | None = None,
    variant: str | None = None,
    steps: int | None = None,
) -> dict[str, Value]:
    """Return the constructor arguments of an implementation's class.

    Args:
        values: Hyperparameters by the names in the card.
        device: cpu or cuda, optionally with an index; None if the generated program decides at run time.
        sharding: none, zero1 or fsdp for several processes; None for one process.
        variant: A variant of the implementation, such as fused; unknown names are ignored.
        steps: Steps of the run; None leaves out the arguments that need them.
    """
    renamed = {argument_name(implementation, name): value for name, value in values.items()}
    return {
        **renamed,
        **implementation.kwargs,
        **({} if steps is None else dict.fromkeys(implementation.step_arguments, steps)),
        **implementation.variants.get(variant or "", {}),
        **runtime_kwargs(implementation, device=device, sharding=sharding),
    }


def runtime_kwargs(implementation: Implementation, *, device: str | None, sharding: str | None) -> dict[str, Value]:
    """Return the arguments that depend on device and sharding, see `constructor_kwargs`."""
    on_device = implementation.cpu_kwargs if device == "cpu" else {}
    return {**on_device, **implementation.sharding_kwargs.get(sharding or "", {})}


def convert_lists(kwargs: Mapping[str, Value]) -> dict[str, object]:
    """Convert lists to tuples, which some constructors require."""
    return {name: tuple(value) if isinstance(value, list) else value for name, value in kwargs.items()}
