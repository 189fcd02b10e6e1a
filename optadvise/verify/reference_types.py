"""Types of the reference implementations."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

from torch import Tensor

Hyperparameters = dict[str, Any]  # values by the names of the card; betas is a list
Trajectory = Generator[Tensor, Tensor, None]  # yields the parameter, receives its gradient
Method = Callable[[Tensor, Hyperparameters], Trajectory]
