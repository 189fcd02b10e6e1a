"""The words of the house: frozen records that every floor above passes around.

Bytes and steps everywhere; GiB and percent are for the renderers. `None` means not known, never zero. They are named
tuples and not dataclasses because making two dozen of those takes 40 ms at every start, and named tuples take 5.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, TypeAlias

from msgspec import Struct, field
from msgspec.structs import asdict, replace

from optadvise.core.findings import Evidence

Scalar: TypeAlias = float | int | bool | str | None
Value: TypeAlias = Scalar | list[Scalar]
FactValue: TypeAlias = "str | int | float | bool | None"

_NOTHING: Mapping[str, Any] = {}  # a plain one, as records are pickled and copied

# Words in the names of matrices that are not hidden, which matrix optimizers leave to their companion.
NOT_HIDDEN = ("embed", "embedding", "embeddings", "head", "token", "position", "wte", "wpe")
FAMILIES = ("sgd", "adaptive", "sign", "layerwise", "matrix", "free")  # of optimizers
SHARDINGS = ("none", "zero1", "fsdp")  # over several ranks: DDP, ZeroRedundancyOptimizer, FSDP2
_SHARDED_BY = {"none": "none", "zero1": "zero1", "zero2": "fsdp", "zero3": "fsdp"}
COLLECTIVES = ("all-reduce", "all-gather", "reduce-scatter", "broadcast")
AGREES = "agrees"  # what an implementation does over several ranks where it computes what one process does
SHIPPED = "shipped"  # the layer of the rules that come with the program
MOST_STEPS = 10_000  # of a walk on a surface, which has a point for each


class Design(Struct, frozen=True):
    """What an experiment needs, and how its figures spread."""

    sides: int  # optimizers that run
    setting: tuple[str, ...]  # what has to be said
    rates: bool = False  # each side has learning rates to try
    ratio: bool = True  # its figures are above zero and spread by factors; else they may have any sign


_TRAINING = ("network", "batch_size", "steps")
_SPIKE = (*_TRAINING, "spike_at", "spike_steps", "spike_times", "after")
EXPERIMENTS: Mapping[str, Design] = {  # that a claim may name
    "state-ratio": Design(2, ("shape",)), "state-buffers": Design(1, ("shape",)),
    "path-distance": Design(2, ("shape", "steps")), "first-step-ratio": Design(1, ("shape", "steps")),
    "decay-evenness": Design(1, ("elements", "steps", "scales")), "goal-steps-ratio": Design(2, ("surface", "steps")),
    "step-time-ratio": Design(2, ("params", "steps")), "curve-distance": Design(2, (*_TRAINING, "smooth")),
    "final-loss-ratio": Design(2, (*_TRAINING, "last")), "damage-ratio": Design(2, _SPIKE, ratio=False),
    "best-rate-ratio": Design(2, (*_TRAINING, "last"), rates=True),
    "best-loss-ratio": Design(2, (*_TRAINING, "last"), rates=True),
    "rate-width-ratio": Design(2, (*_TRAINING, "last", "within"), rates=True),
    "rate-growth-ratio": Design(2, (*_TRAINING, "last", "times"), rates=True),
}  # fmt: skip
UNKNOWN = "unknown"  # how a condition accepts a fact that nobody stated


class Source(Struct, frozen=True):
    """What a cite refers to."""

    id: str
    title: str
    url: str
    authors: str | None = None
    year: int | None = None


class Note(Struct, frozen=True):
    """A sentence with its sources."""

    text: str
    cite: tuple[str, ...]


class Reason(Struct, frozen=True):
    """A sentence for or against an optimizer, and the claim that it rests on, if it does on one."""

    text: str
    claim: str | None = None


class Step(Struct, frozen=True):
    """One adjustment of one hyperparameter: a `scale` by a factor or a power of a fact, or a `clamp`."""

    op: Literal["scale", "clamp"]
    parameter: str
    because: str
    cite: tuple[str, ...]
    factor: float | None = None
    by: str | None = None  # the fact whose ratio to `reference` is raised to `exponent`
    reference: float | None = None
    exponent: float = 1.0
    upto: float | None = None  # the fact counts no further than this
    low: float | None = None
    high: float | None = None


class StateTensor(Struct, frozen=True):
    """One tensor that an optimizer keeps, and for which weights."""

    name: str
    per: str  # element, tensor, block, row, column, row-square, column-square, optimizer
    dtype: str  # `parameter` follows the weight
    block: int = 1  # elements per block
    elements: int = 1  # elements per tensor or per optimizer
    min_elements: int = 0
    max_elements: int | None = None
    min_ndim: int = 0
    max_ndim: int | None = None
    max_side: int | None = None  # longest axis that gets a square
    weights: str | None = None  # `half`: only beside 16-bit weights


class Hyperparameter(Struct, frozen=True):
    """A constructor argument that a person may set."""

    name: str
    default: Value
    advised: bool  # the rules choose it; otherwise the default is the advice
    meaning: str
    low: float | None = None
    high: float | None = None


class Implementation(Struct, frozen=True):
    """One installable class that computes an optimizer."""

    id: str
    path: str = field(name="import")  # import path of the class
    package: str | None  # on PyPI; None where it has to be built from source
    devices: tuple[str, ...]
    min_version: str | None = None
    kwargs: Mapping[str, Value] = _NOTHING  # always passed
    on_cpu: Mapping[str, Value] = _NOTHING  # passed besides where there is no GPU
    arguments: Mapping[str, str] = _NOTHING  # our name -> the constructor's
    variants: Mapping[str, Mapping[str, Value]] = _NOTHING
    tensors: str | None = None  # `matrix`: takes 2-D weights only
    needs_train_mode: bool = False
    state: tuple[StateTensor, ...] | None = None  # where it differs from the card's
    # Copies that one step makes while it runs, in items of the weights: of all tensors at once (foreach), or of the
    # largest, where tensors are stepped one by one.
    scratch_all: float = 0.0
    scratch_largest: float = 0.0
    compiled: bool = False  # its step is compiled where there is a GPU, and then makes no copies
    deviates: Mapping[str, Any] | None = None
    note: str | None = None
    # What becomes of its step over several ranks, by SHARDINGS: `agrees` with one process, or what goes wrong.
    sharding: Mapping[str, str] = _NOTHING
    on_shard: Mapping[str, Mapping[str, Value]] = _NOTHING  # passed besides, so that it does agree
    # What an audit has to know: the share that its own arithmetic costs, and scenes that have several right answers.
    audit: Mapping[str, Any] | None = None

    @property
    def fused(self) -> Mapping[str, Value]:
        """The arguments that put its step into one kernel, none where it has no such kernel."""
        return self.variants.get("fused", _NOTHING)


class Optimizer(Struct, frozen=True):
    """An optimizer's card."""

    id: str
    name: str
    aliases: tuple[str, ...]
    family: str
    parents: tuple[str, ...]
    year: int
    summary: str
    equation: tuple[str, ...]
    effort: str
    rates: str  # whose learning rates it takes: adam, sgd or own
    decay: str  # decoupled, coupled or none
    sparse_gradients: bool
    suits: tuple[str, ...]
    hyperparameters: tuple[Hyperparameter, ...]
    adjust: tuple[Step, ...]
    state: tuple[StateTensor, ...]
    implementations: tuple[Implementation, ...]
    not_offered: tuple[Implementation, ...]  # that are called so, and why they are not taken
    companion: Mapping[str, str] | None
    schedules: tuple[str, ...] | None  # the only ones it may run under
    clips_update: bool  # needs no gradient clipping
    paged: bool  # state may leave the GPU
    wide_embeddings: bool  # transformers' Trainer keeps the state of embeddings in 32 bits
    use_when: tuple[Reason, ...]
    avoid_when: tuple[Reason, ...]
    notes: tuple[Note, ...]
    cite: tuple[str, ...]
    at: str
    layer: str = SHIPPED

    def hyperparameter(self, name: str) -> Hyperparameter | None:
        """Return the hyperparameter of a name, or None."""
        return next((h for h in self.hyperparameters if h.name == name), None)


class Phase(Struct, frozen=True):
    """One leg of a schedule, as a torch class and its arguments; `$names` stand for quantities of the run."""

    shape: str
    path: str = field(name="import")
    kwargs: Mapping[str, Value]


class Scheduler(Struct, frozen=True):
    """A schedule's card."""

    id: str
    name: str
    aliases: tuple[str, ...]
    family: str
    warmup: bool
    shape: str
    summary: str
    parameters: tuple[Mapping[str, Any], ...]
    phases: tuple[Phase, ...]
    floor: float  # share of the peak at the end
    decay_fraction: float  # share of the run that decays, where a plateau comes before
    milestones: tuple[float, ...]  # shares of the run
    use_when: tuple[str, ...]
    avoid_when: tuple[str, ...]
    notes: tuple[Note, ...]
    cite: tuple[str, ...]
    at: str


class NamedOptimizer(Struct, frozen=True):
    """What a framework builds by a name."""

    name: str
    takes: tuple[str, ...]  # the hyperparameters that it lets one set
    leaves: Mapping[str, Value] = _NOTHING  # what others are then
    settings: Mapping[str, Value] = _NOTHING  # always given


class NamedSchedule(Struct, frozen=True):
    """A framework's own schedule; `$names` in its settings stand for quantities of the run."""

    name: str
    settings: Mapping[str, Any] = _NOTHING
    differs: str | None = None  # in what, from ours


class Framework(Struct, frozen=True):
    """What people train with, how it is told of an optimizer, and what it cannot express."""

    id: str
    name: str
    package: str | None
    writes: str  # python, yaml or json
    about: str
    cite: tuple[str, ...]
    any_class: bool = False  # takes any optimizer's class
    two_optimizers: tuple[str, ...] = ()  # the precisions under which it steps two over one network
    carries: tuple[str, ...] = ()  # facts of the run that its text can say, beside the optimizer's and the schedule's
    client: str | None = None  # how it takes an optimizer that was built elsewhere
    decays_all: str | None = None  # how it has one parameter group, so that biases and norms decay too
    instead: Mapping[str, str] = _NOTHING  # what it does in the place of a word that it lacks, such as a precision
    targets: Mapping[str, str] = _NOTHING  # layers that take adapters one by one, where not all do
    launch: str | None = None  # what starts it on several GPUs; {gpus} is their number
    torch_classes: bool = False  # builds any class of torch.optim by its name
    arguments: Mapping[str, tuple[str, ...]] = _NOTHING  # ours -> its own, a pair taken apart
    optimizers: Mapping[str, NamedOptimizer] = _NOTHING  # by our ids
    schedules: Mapping[str, NamedSchedule] = _NOTHING

    def by_name(self, card: Optimizer) -> NamedOptimizer | None:
        """Return what it builds by a name for an optimizer; None where it has no name.

        Args:
            card: The optimizer.
        """
        made = card.implementations[0]
        module, _, name = made.path.rpartition(".")
        if card.id in self.optimizers or not self.torch_classes or module != "torch.optim":
            return self.optimizers.get(card.id)
        return NamedOptimizer(name, tuple(h.name for h in card.hyperparameters), settings=made.kwargs)


class Gpu(Struct, frozen=True):
    """A GPU as sold."""

    id: str
    name: str
    memory_gib: float
    bandwidth_gb_s: float
    vendor: str
    bf16: bool = True  # computes in bf16
    usual: bool = False  # told where nobody named a GPU

    @property
    def memory_bytes(self) -> int:
        """Its memory in bytes."""
        return round(self.memory_gib * 2**30)


class Surface(Struct, frozen=True):
    """A loss of two weights, on which optimizers are watched."""

    id: str
    name: str
    formula: str
    x: tuple[float, float]  # what is drawn of it
    y: tuple[float, float]
    start: tuple[float, float]
    steps: int
    minimum: tuple[float, float] | None
    goal: Mapping[str, Any]  # the value that counts as having arrived: `at_most`, and what that means: `say`
    rates: Mapping[str, Mapping[str, Any]]  # for each class of rates, `lr` or `times` a card's own
    cite: tuple[str, ...]
    at: str
    families: Mapping[str, Mapping[str, Any]] = _NOTHING  # a `factor` on its class's rate
    optimizers: Mapping[str, Mapping[str, Any]] = _NOTHING  # a rate of its own, before its class's


class Trial(Struct, frozen=True):
    """One side of an experiment: an optimizer and how it is run."""

    optimizer: str
    implementation: str | None = None  # None: the best that is here
    numbers: Mapping[str, Value] = _NOTHING  # hyperparameters; others have the card's defaults
    rates: tuple[float, ...] = ()  # learning rates that are tried
    warmup: int = 0  # steps
    max_grad_norm: float | None = None


class Claim(Struct, frozen=True):
    """A sentence that an experiment can refute. Its figure is a ratio or a share, so it has no unit."""

    id: str
    claim: str  # in our words
    cite: tuple[str, ...]
    at: str
    says: str | None = None  # the source's own words
    experiment: str | None = None  # None: see `needs`
    trials: tuple[Trial, ...] = ()
    setting: Mapping[str, Any] = _NOTHING
    measures: str | None = None  # what the figure is
    holds: tuple[Any, ...] = ()  # low, closed, high, closed: where the figure lies if the claim is true
    seeds: int = 1  # from 0 on
    devices: tuple[str, ...] = ("cpu",)  # the first that is here
    limits: str | None = None  # what the experiment cannot say
    needs: str | None = None  # what no experiment of a minute can be made without
    supports: tuple[str, ...] = ()  # rules that repeat it as advice
    about: tuple[str, ...] = ()  # optimizers, where none runs

    @property
    def optimizers(self) -> tuple[str, ...]:
        """The optimizers that it names, each once; the first is the one that it is about."""
        return tuple(dict.fromkeys((*self.about, *(trial.optimizer for trial in self.trials))))


class NetworkShape(Struct, frozen=True):
    """A network's family and dimensions, as far as memory needs them."""

    family: str
    name: str
    basis: str  # config, named, dimensions, or typical of its size
    dims: tuple[tuple[str, int], ...]
    flags: tuple[str, ...]


class Situation(Struct, frozen=True):
    """What is known about a training run. None is not known.

    A value is stated by the user, a default of the rules, or derived from the others. Every value has its default here
    where no rule gives one. `state`, `derive` and `withdraw` keep account of that.
    """

    model: str | None = None
    task: str = "pretrain"
    method: str = "full"
    params: int | None = None  # of the whole model
    shape: NetworkShape | None = None
    lora_rank: int | None = None  # of adapters, where there are any
    lora_targets: str = "all"  # linear layers with adapters, by their short names, joined by commas
    vram_bytes: int | None = None  # of one GPU
    gpu: str | None = None
    bf16: bool = True  # the GPU computes in bf16
    vendor: str = "nvidia"  # of the GPU
    gpus: int = 1
    batch_size: int | None = None  # samples per optimizer step, over all GPUs and accumulation
    micro_batch: int | None = None  # samples per forward pass on one GPU
    precision: str = "amp-bf16"
    stability: str = "stable"
    tuning: str = "low"
    priority: str = "balanced"
    sparse_gradients: bool = False
    shard: str = "none"
    seq_len: int | None = None  # tokens of a sample
    image_size: int | None = None  # pixels of an image's side
    checkpointing: str = "none"
    attention: str = "flash"
    loss: str = "whole"  # or chunked: logits are never there as a whole
    gradient_release: bool = False
    clipping: bool = False  # the global gradient norm is clipped; False is not said
    offload: bool = False  # optimizer state on the host
    steps: int = 100_000  # optimizer steps of the whole run
    optimizer: str | None = None  # taken instead of choosing
    stated: tuple[str, ...] = ()  # names of the facts that the user stated
    defaults: tuple[str, ...] = ()  # of those that were not stated: they have a rule's default, or stay unknown
    derived: tuple[str, ...] = ()  # of those that were computed from the others

    @property
    def assumed(self) -> tuple[str, ...]:
        """The names of the facts that were not stated: those with a default or unknown, then those derived."""
        return (*self.defaults, *self.derived)

    @property
    def stated_inputs(self) -> dict[str, Any]:
        """The values that the user stated, by fact."""
        return {name: getattr(self, name) for name in self.stated}

    def state(self, **values: Any) -> Situation:
        """Return the situation with values that count as stated."""
        return replace(
            self, **values, stated=(*self.stated, *(name for name in values if name not in self.stated)),
            defaults=tuple(name for name in self.defaults if name not in values),
            derived=tuple(name for name in self.derived if name not in values),
        )  # fmt: skip

    def derive(self, **values: Any) -> Situation:
        """Return the situation with values that follow from the others."""
        return replace(self, **values, derived=(*self.derived, *values))

    def withdraw(self, *names: str) -> Situation:
        """Return the situation without some of its derived values; others are left as they are."""
        gone = [name for name in names if name in self.derived]
        derived = tuple(name for name in self.derived if name not in gone)
        return replace(self, **dict.fromkeys(gone), derived=derived)

    @property
    def sharding(self) -> str | None:
        """How PyTorch does what is sharded, one of SHARDINGS; None on one GPU."""
        return _SHARDED_BY[self.shard] if self.gpus > 1 else None


SITUATION_DEFAULTS: Mapping[str, Any] = asdict(Situation())


class HyperparameterStep(Struct, frozen=True):
    """One step in the making of a number."""

    step: str  # what was done: `set 3e-4`, `× 0.2`
    value: Value  # the value after it
    rule: str
    because: str
    cite: tuple[str, ...]
    layer: str = SHIPPED
    refuted: str | None = None  # the claim that it rests on, where that was refuted on this machine


class AdvisedHyperparameter(Struct, frozen=True):
    """A hyperparameter's value, its usual range, and how it came to be."""

    name: str
    value: Value
    low: float | None
    high: float | None
    derivation: tuple[HyperparameterStep, ...] = field(name="ledger")


class Interval(Struct, frozen=True):
    """A figure that is not certain, in bytes."""

    low: int
    expected: int
    high: int


class MemoryLine(Struct, frozen=True):
    """One line of the memory ledger."""

    part: str
    bytes: int | None  # all of it, whenever it is there
    how: str  # the arithmetic in words
    at_peak: int | None = field(default=None, name="at_peak_bytes")  # what of it is there at the highest moment
    interval: Interval | None = None  # of what is there at the highest moment


class MemoryEstimate(Struct, frozen=True):
    """Bytes on one GPU. `total` is the highest moment, None where the shape is not known; `known` needs no shape."""

    weights: int | None  # with the fp32 copy that sharded mixed precision keeps
    gradients: int | None
    optimizer: int | None
    activations: int | None  # kept for the backward pass, with the logits
    overhead: int | None  # at the highest moment: copies, temporaries, communication, the batch and beside tensors
    total: int | None
    known: int | None  # weights, gradients and state
    available: int | None
    fits: bool | None  # True and False are certain within the interval
    ledger: tuple[MemoryLine, ...]
    interval: Interval | None = None  # of the total
    intervals: Mapping[str, Interval] = _NOTHING  # of each figure above, by its name
    allocated: int | None = None  # what torch.cuda.max_memory_allocated would say
    reserved: int | None = None  # what torch.cuda.max_memory_reserved would say
    peak: str | None = None  # when the highest moment is
    basis: str = "none"  # exact shape, typical of the size, or none
    pages: int = 0  # bytes of state that may leave the GPU


class MaxModelSize(Struct, frozen=True):
    """Up to which model size an optimizer fits."""

    optimizer: str = field(name="id")
    bytes_per_parameter: float
    max_params: int


class Alternative(Struct, frozen=True):
    """Another optimizer, why one would take it and what its state would cost."""

    id: str
    because: str
    optimizer_bytes: int | None
    state_bytes_per_parameter: float
    fits: bool | None


class AdviceWarning(Struct, frozen=True):
    """Something to know before starting."""

    id: str
    level: str  # info or warning
    text: str
    cite: tuple[str, ...]
    layer: str = SHIPPED


class TraceEntry(Struct, frozen=True):
    """A rule that decided."""

    table: str
    rule: str
    because: str
    cite: tuple[str, ...]
    layer: str = SHIPPED  # whose rule it is
    refuted: str | None = None  # the claim that it rests on, where that was refuted on this machine


class Sensitivity(Struct, frozen=True):
    """The smallest change of one fact after which the optimizer is another."""

    change: Mapping[str, str]
    optimizer: str


class ScheduleAdvice(Struct, frozen=True):
    """A schedule with the numbers of this run."""

    id: str
    path: str
    kwargs: Mapping[str, Value]
    phases: tuple[Phase, ...]  # with the numbers of the run
    quantities: Mapping[str, Value]
    alternatives: Mapping[str, str]


class CompanionAdvice(Struct, frozen=True):
    """The optimizer beside another one, and the arguments of its constructor."""

    implementation: Implementation
    kwargs: Mapping[str, Value]


class Recommendation(Struct, frozen=True):
    """The advice."""

    situation: Situation
    optimizer: Optimizer
    implementation: Implementation
    kwargs: Mapping[str, Value]
    companion: CompanionAdvice | None  # for the tensors that the optimizer does not take
    hyperparameters: tuple[AdvisedHyperparameter, ...]
    schedule: ScheduleAdvice
    memory: MemoryEstimate
    max_model_sizes: tuple[MaxModelSize, ...]
    alternatives: tuple[Alternative, ...]
    warnings: tuple[AdviceWarning, ...]
    trace: tuple[TraceEntry, ...]
    sensitivities: tuple[Sensitivity, ...]
    fingerprint: str
    layers: tuple[str, ...]
    evidence: Evidence = Evidence()  # none of it where advice is worked out, which knows no machine

    @property
    def fused(self) -> Mapping[str, Value]:
        """The arguments that put a step into one kernel; none for sparse gradients or cut tensors that it refuses."""
        besides = self.implementation.on_shard.get(self.situation.sharding or "", _NOTHING)
        refused = self.situation.sparse_gradients or any(name in besides for name in self.implementation.fused)
        return _NOTHING if refused else self.implementation.fused


class Fit(Struct, frozen=True):
    """One optimizer in a run's place."""

    id: str
    optimizer_bytes: int | None
    total: int | None = field(name="total_bytes")
    known: int | None = field(name="known_bytes")
    fits: bool | None
    largest_pass: int | None = field(name="largest_micro_batch")  # samples of one pass that fit
    longest: int | None = field(name="longest_seq_len")  # tokens of a sample that fit
    basis: str = "derived"  # or measured, or card where fake tensors cannot step it
    # It is known to fail, or to compute something else, where the run is sharded.
    breaks: bool = field(default=False, name="breaks_sharded")


class Fix(Struct, frozen=True):
    """One step of a chain of changes after which a run fits."""

    rule: str
    change: Mapping[str, Any]
    saves: int = field(name="saves_bytes")  # bytes: what the chain would need more without this step
    needs: int = field(name="needs_bytes")  # bytes that the whole chain needs of a GPU
    pages: int = field(name="pageable_bytes")  # bytes of state that may leave it besides
    instead: Mapping[str, Any]  # of what was said
    costs: str
    cite: tuple[str, ...]


class Collective(Struct, frozen=True):
    """What all GPUs do together, some times in an optimizer step."""

    operation: str  # all-reduce, all-gather, reduce-scatter or broadcast
    of: str  # weights, updated (those that are trained) or gradients
    when: str
    bytes: int  # of what is reduced or gathered, all GPUs' parts of it
    times: int  # in one optimizer step
    sent: int = field(name="sent_bytes")  # bytes by each GPU in one optimizer step, by a ring


class Traffic(Struct, frozen=True):
    """What each GPU sends to the others in an optimizer step."""

    sent: int = field(name="sent_bytes")  # bytes
    passes: int  # forward and backward passes of the step
    collectives: tuple[Collective, ...]
    note: str | None  # what another engine does otherwise
    cite: tuple[str, ...]


class Scale(Struct, frozen=True):
    """The same run on another number of GPUs."""

    gpus: int
    optimizer_bytes: int  # of state on one GPU
    master_bytes: int = field(name="master_copy_bytes")  # of the fp32 copy of the weights that is sharded with it
    total: int | None = field(name="total_bytes")
    fits: bool | None
    micro_batch: int
    largest_pass: int | None = field(name="largest_micro_batch")
    sent: int = field(name="sent_bytes")  # bytes by each GPU in an optimizer step


class Scaling(Struct, frozen=True):
    """What more GPUs would pay."""

    sample_bytes: int | None  # what one more sample of a pass keeps for its backward
    # GPUs from which on every doubling frees less of state and copy; None where neither is there.
    enough: int | None = field(name="enough_gpus")
    scales: tuple[Scale, ...]  # the fewest first


class MemoryAnswer(Struct, frozen=True):
    """Will it fit?"""

    situation: Situation
    optimizer: str
    memory: MemoryEstimate
    largest_pass: int | None
    longest: int | None
    optimizers: tuple[Fit, ...]  # the least memory first
    fixes: tuple[tuple[Fix, ...], ...]  # the cheapest chain first
    measured: float | None = None  # seconds that measuring took; None where all is derived
    traffic: Traffic | None = None  # None on one GPU
    scaling: Scaling | None = None  # None where nothing is sharded
    passes: Mapping[str, int] = _NOTHING  # samples of one pass by the usual GPUs' ids, where no limit was said
