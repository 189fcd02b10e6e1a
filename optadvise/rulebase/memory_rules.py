"""Immutable records of `memory.yaml`: what a GPU loses beside tensors, and how sure an estimate is."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from msgspec import Meta

from optadvise.core.yaml_types import Cites, ModelId
from optadvise.rulebase.records import RuleRecord


class CitedRange(RuleRecord, frozen=True, kw_only=True):
    """A figure with its interval and sources."""

    low: float
    expected: float
    high: float
    cite: Cites


class FactorRange(RuleRecord, frozen=True, kw_only=True):
    """Factors on an expected figure that give the ends of its interval."""

    low: float
    high: float


class ActivationFactors(RuleRecord, frozen=True, kw_only=True):
    """Factors on activations, by how the network's shape is known."""

    exact: FactorRange
    typical: FactorRange  # typical of the network's size
    measured: FactorRange  # measured with fake tensors


class HighFactors(RuleRecord, frozen=True, kw_only=True):
    """High factors on what some implementations save in further copies."""

    logits: float
    adapters: float  # on activations under adapters, whose dropout saves copies


class CollectiveSpec(RuleRecord, frozen=True, kw_only=True):
    """A collective operation of a way of sharding."""

    operation: Literal["all-reduce", "all-gather", "reduce-scatter", "broadcast"]
    of: Literal["weights", "updated", "gradients"]  # `updated` are the weights that are trained
    per: Literal["micro-batch", "step"]
    when: str


class ShardingStrategy(RuleRecord, frozen=True, kw_only=True):
    """Implementation of a way of sharding."""

    cite: Cites
    collectives: Annotated[tuple[CollectiveSpec, ...], Meta(min_length=1)]
    note: str | None = None  # how another implementation differs


class ShardingStrategies(RuleRecord, frozen=True, kw_only=True):
    """Implementation of each way of sharding."""

    none: ShardingStrategy
    zero1: ShardingStrategy
    zero2: ShardingStrategy
    zero3: ShardingStrategy

    def get(self, shard: str) -> ShardingStrategy:
        """Return the strategy of a value of `shard`."""
        strategy: ShardingStrategy = getattr(self, shard)
        return strategy


class ReferenceSizes(RuleRecord, frozen=True, kw_only=True):
    """The well-known shapes between which a size alone is interpolated, and the usual length of a sample."""

    shapes: Annotated[tuple[str, ...], Meta(min_length=2)]  # the smallest first
    seq_len: int | None = None
    image_size: int | None = None


class MemorySettings(RuleRecord, frozen=True, kw_only=True):
    """Memory of a GPU beside tensors, and the uncertainty of the estimate."""

    headroom: float  # share of a GPU that stays free where activations are not known
    context: CitedRange  # GiB of one GPU
    fragmentation: CitedRange  # share of the tensors
    activation_factors: ActivationFactors
    high_factors: HighFactors
    bucket_elements: int  # of one bucket of gradients
    gathered_layers: int  # that are whole at a time under FSDP
    communication: ShardingStrategies
    reference_sizes: Mapping[ModelId, ReferenceSizes]  # the first is for an unknown kind of model
    unsupported_heads: tuple[str, ...]  # endings of architectures whose head no family describes
    default_families: Mapping[ModelId, str]  # for dimensions alone


class MemoryFile(RuleRecord, frozen=True, kw_only=True):
    """`memory.yaml`."""

    memory: MemorySettings
