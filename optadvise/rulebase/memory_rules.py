"""Immutable records of `memory.yaml`: GPU memory besides tensors, and the uncertainty of estimates."""

from collections.abc import Mapping
from typing import Annotated, Literal

from msgspec import Meta

from optadvise.core.yaml_types import Cites, ModelId
from optadvise.rulebase.records import RuleRecord


class CitedRange(RuleRecord, frozen=True, kw_only=True):
    """Value with its interval and sources."""

    low: float
    expected: float
    high: float
    cite: Cites


class FactorRange(RuleRecord, frozen=True, kw_only=True):
    """Factors on an expected value that give the ends of its interval."""

    low: float
    high: float


class ActivationFactors(RuleRecord, frozen=True, kw_only=True):
    """Factors on activations, by the basis of the estimate."""

    exact: FactorRange
    typical: FactorRange  # shape typical of the model size
    measured: FactorRange  # traced with fake tensors


class HighFactors(RuleRecord, frozen=True, kw_only=True):
    """Upper factors on tensors of which some implementations save additional copies."""

    logits: float
    adapters: float  # activations with adapters, whose dropout saves copies


class CollectiveSpec(RuleRecord, frozen=True, kw_only=True):
    """Collective operation of a sharding strategy."""

    operation: Literal["all-reduce", "all-gather", "reduce-scatter", "broadcast"]
    of: Literal["weights", "updated", "gradients"]  # `updated`: trained weights
    per: Literal["micro-batch", "step"]
    when: str


class ShardingStrategy(RuleRecord, frozen=True, kw_only=True):
    """Communication of a sharding strategy."""

    cite: Cites
    collectives: Annotated[tuple[CollectiveSpec, ...], Meta(min_length=1)]
    note: str | None = None  # how other implementations differ


class ShardingStrategies(RuleRecord, frozen=True, kw_only=True):
    """Communication of all sharding strategies."""

    none: ShardingStrategy
    zero1: ShardingStrategy
    zero2: ShardingStrategy
    zero3: ShardingStrategy

    def get(self, shard: str) -> ShardingStrategy:
        """Return the strategy for a value of `shard`."""
        strategy: ShardingStrategy = getattr(self, shard)
        return strategy


class EngineMemory(RuleRecord, frozen=True, kw_only=True):
    """Allocations of a library that shards, in mixed precision."""

    copies_gradients: bool = False  # the step reads fp32 copies of the gradients of a rank
    offloads_gradients: bool = False  # with offload, sharded gradients are in host memory
    buckets: float = 1  # gradient buckets at the same time
    buckets_high: float = 1
    cite: tuple[str, ...] = ()


class ReferenceSizes(RuleRecord, frozen=True, kw_only=True):
    """Well-known networks for interpolation by model size, and the default size of a sample."""

    shapes: Annotated[tuple[str, ...], Meta(min_length=2)]  # in ascending order of size
    seq_len: int | None = None
    image_size: int | None = None


class Copies(RuleRecord, frozen=True, kw_only=True):
    """Number of networks that are as large as the trained one."""

    low: int = 0
    expected: int = 0
    high: int = 0


class TaskNetworks(RuleRecord, frozen=True, kw_only=True):
    """Networks that a task holds with the trained network, and the activations of one sample."""

    explanation: str
    sequences: int = 1  # forward passes of one sample whose activations are kept at the same time
    frozen: Copies = Copies()
    frozen_with_adapters: Copies = Copies()  # the base without adapters is one of the networks
    trained: Copies = Copies()  # with gradients and optimizer state
    cite: Cites


class MemorySettings(RuleRecord, frozen=True, kw_only=True):
    """GPU memory besides tensors, and the uncertainty of the estimate."""

    headroom: float  # fraction of a GPU that stays free if the activations are unknown
    context: CitedRange  # CUDA context in GiB per GPU
    fragmentation: CitedRange  # fraction of the tensors
    activation_factors: ActivationFactors
    high_factors: HighFactors
    bucket_elements: int  # elements of a gradient bucket
    gathered_layers: int  # layers gathered at the same time under FSDP
    engines: Mapping[str, EngineMemory]  # by value of the fact `engine`
    communication: ShardingStrategies
    tasks: Mapping[str, TaskNetworks] = {}  # by task; other tasks hold no other network
    reference_sizes: Mapping[ModelId, ReferenceSizes]  # the first entry is used for an unknown kind of model
    unsupported_heads: tuple[str, ...]  # suffixes of architecture names whose head is not supported
    default_families: Mapping[ModelId, str]  # network family if only dimensions are given

    def find_engine(self, engine: str | None) -> EngineMemory:
        """Return the allocations of a library that shards; none without one."""
        return EngineMemory() if engine is None else self.engines[engine]

    def count_sequences(self, task: str) -> int:
        """Return the forward passes of one sample whose activations are kept at the same time."""
        return self.tasks[task].sequences if task in self.tasks else 1


class MemoryFile(RuleRecord, frozen=True, kw_only=True):
    """`memory.yaml`."""

    memory: MemorySettings
