"""Audit scenarios: shapes, initial weights, weight decays, learning rates and dtypes. Does not import torch."""

from __future__ import annotations

from msgspec import Struct


class Scenario(Struct, frozen=True):
    """Shape and initial values of the weights, and settings of the steps."""

    name: str
    description: str
    shape: tuple[int, ...]
    spread: float  # standard deviation of the initial weights
    weight_decay: float = 0.0
    dtype: str = "float32"
    halves_lr: bool = False  # halve the learning rate at step 6
    has_even_gradients: bool = False  # the same gradient for every element


# bitsandbytes quantizes tensors of 4096 or more elements, so not those of 1000 and 1152. LAMB and LARS use a tensor's
# norm, which is 3.2 in the first scenario, 25.6 in the second and 0 in the third. A tall matrix distinguishes rows from
# columns. If all elements of a block are equal, quantization is exact, so only the method itself can deviate.
SCENARIOS = (
    Scenario(name="plain", description="a matrix", shape=(64, 64), spread=0.05),
    Scenario(
        name="decay",
        description="a matrix of large norm with weight decay",
        shape=(64, 64),
        spread=0.4,
        weight_decay=0.5,
    ),
    Scenario(name="zero", description="weights that start at zero", shape=(64, 64), spread=0.0),
    Scenario(name="tall", description="a tall matrix", shape=(128, 32), spread=0.05, weight_decay=0.5),
    Scenario(name="vector", description="a vector", shape=(1000,), spread=0.05, weight_decay=0.5),
    Scenario(name="scalar", description="a scalar", shape=(), spread=0.5),
    Scenario(name="filter", description="convolution filters", shape=(16, 8, 3, 3), spread=0.05, weight_decay=0.5),
    Scenario(name="falling", description="a learning rate that changes", shape=(64, 64), spread=0.05, halves_lr=True),
    Scenario(
        name="half", description="bf16 weights", shape=(64, 64), spread=0.0, dtype="bfloat16"
    ),  # zero initial weights, for which rounding errors are smallest
    Scenario(
        name="even",
        description="equal gradients, which quantization does not change",
        shape=(64, 64),
        spread=0.4,
        weight_decay=0.5,
        has_even_gradients=True,
    ),
)
COMPARED_STEPS = (1, 5, 12)  # step 12 is after Lookahead's update and SOAP's new eigenbasis
