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
    Scenario("plain", "a matrix", (64, 64), 0.05),
    Scenario("decay", "a long matrix under weight decay", (64, 64), 0.4, 0.5),
    Scenario("zero", "a start at zero", (64, 64), 0.0),
    Scenario("tall", "a tall matrix", (128, 32), 0.05, 0.5),
    Scenario("vector", "a vector", (1000,), 0.05, 0.5),
    Scenario("scalar", "a scalar", (), 0.5),
    Scenario("filter", "convolution filters", (16, 8, 3, 3), 0.05, 0.5),
    Scenario("falling", "a learning rate that changes", (64, 64), 0.05, halves_lr=True),
    Scenario("half", "bf16 weights", (64, 64), 0.0, dtype="bfloat16"),  # from zero, where rounding costs the least
    Scenario("even", "gradients that lose nothing to quantisation", (64, 64), 0.4, 0.5, has_even_gradients=True),
)
COMPARED_STEPS = (1, 5, 12)  # the twelfth is after Lookahead's pull and SOAP's refresh
