"""Scenarios that an implementation is stepped in: shapes, starts, decays, learning rates, dtypes. Imports no torch."""

from __future__ import annotations

from msgspec import Struct


class Scenario(Struct, frozen=True):
    """Shape and start of the weights, and how they are stepped."""

    name: str
    description: str
    shape: tuple[int, ...]
    spread: float  # standard deviation of the start
    weight_decay: float = 0.0
    dtype: str = "float32"
    halves_lr: bool = False  # at the sixth step
    has_even_gradients: bool = False  # the same gradient for every element


# From 4096 elements on bitsandbytes quantises: not 1000, nor 1152. LAMB and LARS use a tensor's norm: it is 3.2 in the
# first scenario, 25.6 in the second and 0 in the zero start. A tall matrix distinguishes rows from columns. If all
# elements of a block are equal, quantisation loses nothing, and the method itself shows.
SCENARIOS = (
    Scenario(name="plain", description="a matrix", shape=(64, 64), spread=0.05),
    Scenario(
        name="decay", description="a long matrix under weight decay", shape=(64, 64), spread=0.4, weight_decay=0.5
    ),
    Scenario(name="zero", description="a start at zero", shape=(64, 64), spread=0.0),
    Scenario(name="tall", description="a tall matrix", shape=(128, 32), spread=0.05, weight_decay=0.5),
    Scenario(name="vector", description="a vector", shape=(1000,), spread=0.05, weight_decay=0.5),
    Scenario(name="scalar", description="a scalar", shape=(), spread=0.5),
    Scenario(name="filter", description="convolution filters", shape=(16, 8, 3, 3), spread=0.05, weight_decay=0.5),
    Scenario(name="falling", description="a learning rate that changes", shape=(64, 64), spread=0.05, halves_lr=True),
    Scenario(
        name="half", description="bf16 weights", shape=(64, 64), spread=0.0, dtype="bfloat16"
    ),  # from zero, where rounding costs the least
    Scenario(
        name="even",
        description="gradients that lose nothing to quantisation",
        shape=(64, 64),
        spread=0.4,
        weight_decay=0.5,
        has_even_gradients=True,
    ),
)
COMPARED_STEPS = (1, 5, 12)  # the twelfth is after Lookahead's pull and SOAP's refresh
