"""From a situation to a recommendation: the one function that other programs call.

The chain is short: facts → memory pressure → the concern that decides → optimizer → schedule → numbers → warnings.
Every link is a table in `rules/`; this module only passes the facts along and writes down which rule decided.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import cached_property, lru_cache
from typing import TYPE_CHECKING, Any

from msgspec.structs import replace

from optadvise.advice.sensitivity import FlipFinder, stretches
from optadvise.core import schedules
from optadvise.core.records import (
    AGREES,
    AdviceWarning,
    AdvisedHyperparameter,
    Alternative,
    HyperparameterStep,
    Implementation,
    MaxModelSize,
    MemoryAnswer,
    MemoryEstimate,
    Optimizer,
    Recommendation,
    ScheduleAdvice,
    Scheduler,
    Situation,
    Step,
    TraceEntry,
    Value,
)
from optadvise.memory import own_state, state_bytes_per_parameter, unsized
from optadvise.rulebase.catalog import Catalog, step_from
from optadvise.rulebase.defaults import Completer
from optadvise.rulebase.hyperparameters import Draft, apply, set_by, written
from optadvise.rulebase.tables import Axis, Rule, Table, cut_axes

if TYPE_CHECKING:
    from optadvise.memory.estimator import Sizing

# Facts of a situation that conditions may name, and that are questions to the user.
ASKED = (
    "model", "task", "method", "params", "lora_rank", "vram_bytes", "gpus", "batch_size", "precision", "stability",
    "tuning", "priority", "sparse_gradients", "shard", "steps", "bf16", "vendor", "checkpointing", "attention", "loss",
    "gradient_release", "clipping", "offload", "micro_batch", "seq_len", "image_size",
)  # fmt: skip
# Hyperparameters that belong to the run and not to the optimizer's constructor, with the table that sets each.
_RUN_TABLES = {"warmup_fraction": "warmup", "max_grad_norm": "clipping"}
_MINOR = 0.05  # share of the memory that 8-bit state has to save to be worth a word
_ADVISED_TABLES = {"lr": "learning_rate", "weight_decay": "weight_decay", "betas": "betas", "eps": "eps"}


class Advisor:
    """The rules, compiled and ready to answer.

    Example:
        >>> from optadvise.rulebase.catalog import load
        >>> advisor = Advisor(load())
        >>> advisor.recommend(advisor.situation({"model": "transformer"})).optimizer.id
        'adamw'
    """

    def __init__(self, catalog: Catalog, also: Iterable[Mapping[str, Any]] = ()) -> None:
        """Compile a catalogue's tables.

        Args:
            catalog: The rules.
            also: Further conditions at whose thresholds facts are cut, so that two sets of rules share their cells.
        """
        self.catalog = catalog
        documents = catalog.documents
        assume, contradictions = documents["assume"], documents["contradictions"]
        rules = [r["when"] for t in documents["tables"].values() for r in t["rules"]]
        conditions = [*rules, *(r["when"] for r in (*assume, *contradictions) if "when" in r)]
        self.axes = cut_axes(catalog.facts, [*conditions, *also])
        self.completer = Completer(assume, contradictions, catalog.facts, self.axes)
        with_ = catalog.facts["memory"]["with"]
        self.limits: tuple[str, str] = (with_["reference"], with_["compact"])
        self._decisions: dict[tuple[int, ...], tuple[Rule, Rule]] = {}
        self._pressures = lru_cache(maxsize=8192)(self._pressing)
        self._steps: dict[str, tuple[Step, ...]] = {}
        self._per_parameter: dict[tuple[str, str], float] = {}

    @cached_property
    def tables(self) -> dict[str, Table]:
        """The decision tables, compiled when one is asked, which an estimate does not."""
        return {name: Table(table, self.axes) for name, table in self.catalog.documents["tables"].items()}

    @cached_property
    def _read(self) -> list[tuple[str, Axis]]:
        """The facts of a situation that any condition reads."""
        read = {name for table in self.tables.values() for name in table.columns} | self.completer.reads
        return [(name, self.axes[name]) for name in (*ASKED, "optimizer") if name in read]

    @cached_property
    def _followed(self) -> tuple[str, ...]:
        """The facts that a number may follow."""
        rules = [rule["then"] for table in self.catalog.documents["tables"].values() for rule in table["rules"]]
        steps = [step for then in rules for step in then.get("steps", ())]
        steps += [step for card in self.catalog.documents["optimizers"].values() for step in card.get("adjust", ())]
        named = {then.get("along") for then in rules} | {step.get(key) for step in steps for key in ("by", "upto")}
        return tuple(name for name in ASKED if name in named)

    @cached_property
    def deciding(self) -> tuple[str, ...]:
        """The facts that decide about the optimizer."""
        both = (self.tables["concern"], self.tables["choose_optimizer"])
        return tuple(sorted({column for table in both for column in table.columns} - {"concern"}))

    @cached_property
    def _flips(self) -> FlipFinder:
        return FlipFinder(self)

    @cached_property
    def sizing(self) -> Sizing:
        """The arithmetic of memory, which only a size or a limit asks for."""
        from optadvise.memory.estimator import Sizing  # a sixth of the start, which advice without a size need not pay

        return Sizing(self.catalog)

    def situation(self, answers: Mapping[str, Any]) -> Situation:
        """Return the complete situation that a person's answers describe.

        Args:
            answers: Facts by their names, only what was stated.

        Raises:
            InputError: Two answers contradict each other.
        """
        if "shape" in answers:
            answers = {**answers, "params": self.sizing.params(answers["shape"])}
        situation = self.completer.complete(answers)
        return situation if situation.params is None else self.sizing.completed(situation)

    # -- the chain ----------------------------------------------------------------------------------------------

    def recommend(self, situation: Situation) -> Recommendation:
        """Return the advice for a situation.

        Args:
            situation: A complete situation, from `situation()`.

        Raises:
            RuleFileError: The rules leave this situation open or contradict themselves.
        """
        cells, concern, choice, optimizer = self.point(situation)
        implementation = optimizer.implementations[0]
        # What was asked is what flips change; the samples of a pass follow from it and from the optimizer.
        asked = situation
        if situation.params is None:
            estimate = unsized(situation.vram_bytes)
        else:
            situation = self.sizing.placed(situation, optimizer.id)
            estimate = self.sizing.estimate(situation, optimizer.id)
        self._add_fit(cells, estimate, situation)
        scheduler, scheduled, why_schedule = self._schedule(optimizer, cells)
        cells["schedule"] = self.axes["schedule"].cell(scheduler.family)
        numbers = self._numbers(situation, optimizer, scheduler, cells)
        pinned = situation.optimizer is not None and situation.optimizer != choice.then["optimizer"]
        trace = [_trace(concern), self._asked_for(choice) if pinned else _trace(choice), why_schedule]
        return Recommendation(
            situation=situation,
            optimizer=optimizer,
            implementation=implementation,
            kwargs=_constructor(implementation, optimizer, numbers, situation.sharding),
            companion=self._companion(situation, optimizer, scheduler, cells),
            hyperparameters=tuple(numbers.values()),
            schedule=_schedule_advice(scheduler, scheduled, situation, numbers),
            memory=estimate,
            max_model_sizes=tuple(self._bands(situation, optimizer, choice)),
            alternatives=tuple(self._alternatives(situation, optimizer, choice)),
            warnings=tuple(
                AdviceWarning(rule.id, rule.then["level"], rule.then["text"], rule.cite, rule.layer)
                for rule in self.tables["warn"].matching(cells)
            ),
            trace=tuple(trace),
            sensitivities=() if situation.optimizer else self._flips.find(asked, cells, optimizer.id),
            fingerprint=self.catalog.fingerprint,
            layers=self.catalog.layers,
        )

    def remedies(self, advice: Recommendation) -> MemoryAnswer | None:
        """Return what would make a recommended run fit; None where it fits for certain, or nothing limits it.

        Args:
            advice: From `recommend()`.
        """
        run = advice.situation
        if advice.memory.fits is True or run.params is None or run.vram_bytes is None:
            return None
        from optadvise.advice.fit_search import Fitter

        if run.optimizer is None:
            run = replace(run, optimizer=advice.optimizer.id, assumed=(*run.assumed, "optimizer"))
        return Fitter(self).answer(run, ranked=False)

    def point(self, situation: Situation) -> tuple[dict[str, int], Rule, Rule, Optimizer]:
        """Return where a situation lies once its optimizer is known, the two rules that decided, and the optimizer.

        Args:
            situation: A complete situation.
        """
        cells = self.cells(situation)
        concern, choice = self.decide_at(tuple([cells[name] for name in self.deciding]))
        cells["concern"] = self.axes["concern"].cell(concern.then["concern"])
        optimizer = self.catalog.optimizer(situation.optimizer or choice.then["optimizer"])
        self._add_card(cells, optimizer, optimizer.implementations[0], situation)
        return cells, concern, choice, optimizer

    def cells(self, situation: Situation) -> dict[str, int]:
        """Return the point of the grid that a situation lies at, with the derived fact `memory`."""
        cells = {name: axis.cell(getattr(situation, name)) for name, axis in self._read}
        cells["memory"] = self.axes["memory"].cell(self.pressure(situation))
        return cells

    def decide_at(self, point: tuple[int, ...]) -> tuple[Rule, Rule]:
        """Return the rules that name the concern and the optimizer.

        Args:
            point: The cells of the facts in `deciding`, in their order.
        """
        found = self._decisions.get(point)
        if found is None:
            cells = dict(zip(self.deciding, point, strict=True))
            concern = self.tables["concern"].winner(cells)
            cells["concern"] = self.axes["concern"].cell(concern.then["concern"])
            found = self._decisions[point] = concern, self.tables["choose_optimizer"].winner(cells)
        return found

    def warmup(self, scheduler: Scheduler) -> Rule:
        """Return the rule that says how long a schedule ramps up in a run of which nothing else is known.

        Args:
            scheduler: The schedule's card.
        """
        cells = self.cells(self.situation({}))
        cells["schedule"] = self.axes["schedule"].cell(scheduler.family)
        return self.tables["warmup"].winner(cells)

    def chosen(self, situation: Situation) -> str:
        """Return the optimizer that the rules choose, whatever was asked for."""
        cells = self.cells(situation)
        return str(self.decide_at(tuple([cells[name] for name in self.deciding]))[1].then["optimizer"])

    def stretches(self, name: str) -> list[tuple[int, int]]:
        """Return the first and last cell of every stretch of a fact that the deciding tables do not tell apart."""
        tables = [self.tables[table] for table in ("concern", "choose_optimizer")]
        columns = [table.column(name) for table in tables if name in table.columns]
        return stretches(self.axes[name], columns)

    def changed(self, situation: Situation, changes: dict[str, Any]) -> Situation:
        """Return a complete situation after changes, with all that is assumed following them."""
        if situation.params is None and changes.get("params") is None:
            return replace(situation, **changes)
        return self.sizing.changed(situation, changes)

    def pressure(self, situation: Situation) -> str:
        """Return the derived fact `memory`: how hard the limit presses."""
        if situation.vram_bytes is None:
            return "unlimited"
        return "limited" if situation.params is None else self._pressures(situation)

    def _pressing(self, situation: Situation) -> str:
        reference, compact = self.limits
        if self.sizing.fits(situation, reference):
            return "fits"
        needs, saves = self.sizing.demand(situation, reference), self._saves(situation)
        if needs is not None and saves < _MINOR * needs and self.sizing.knows_activations(situation):
            return "activations"
        return "tight" if self.sizing.fits(situation, compact) else "too-small"

    def _saves(self, situation: Situation) -> int:
        """Return the bytes that the compact optimizer's state saves against the usual one's."""
        usual, compact = (self.sizing.adds(name, situation).state for name in self.limits)
        return usual - compact

    def needs(self, situation: Situation) -> list[int]:
        """Return the memory from which on the usual, and the compact optimizer fit; empty for a size unknown."""
        found = [self.sizing.demand(situation, name) for name in self.limits]
        return [needs for needs in found if needs is not None]

    def largest(self, situation: Situation) -> list[int]:
        """Return the sizes up to which the usual, and the compact optimizer fit; empty where nothing limits them."""
        bands = [self.sizing.band(situation, name) for name in self.limits]
        return [band.max_params for band in bands if band is not None]

    def state_per_parameter(self, optimizer: str, situation: Situation) -> float:
        """Return the bytes of state that an optimizer keeps for each parameter it trains."""
        key = (optimizer, "bfloat16" if situation.precision == "bf16" else "float32")
        if key not in self._per_parameter:
            self._per_parameter[key] = state_bytes_per_parameter(own_state(self.catalog.optimizer(optimizer)), key[1])
        return self._per_parameter[key]

    def guide_buffers(self, optimizer: str) -> float | None:
        """Return the buffers per parameter that the guide gives an optimizer; None where it gives none."""
        cell = self.axes["optimizer"].cell(optimizer)
        buffers = self.tables["memory_notation"].winner({"optimizer": cell}).then["buffers"]
        return None if buffers is None else float(buffers)

    # -- its links ----------------------------------------------------------------------------------------------

    def _add_card(
        self, cells: dict[str, int], optimizer: Optimizer, implementation: Implementation, situation: Situation
    ) -> None:
        values = card_facts(optimizer, implementation, self.axes)
        values["asked_for"] = situation.optimizer is not None
        values["suited"] = situation.model in optimizer.suits
        for name, value in values.items():
            cells[name] = self.axes[name].cell(value)

    def _add_fit(self, cells: dict[str, int], estimate: MemoryEstimate, situation: Situation) -> None:
        fit = None
        if estimate.known is not None and estimate.available is not None:
            room = estimate.available * (1 - self.sizing.headroom)
            sure = estimate.fits if estimate.total is not None else estimate.known <= room
            fit = "no" if estimate.fits is False else "yes" if sure else "close"
        cells["fits"] = self.axes["fits"].cell(fit)
        share = None
        if estimate.total is not None:
            share = "minor" if self._saves(situation) < _MINOR * estimate.total else "notable"
        cells["state_share"] = self.axes["state_share"].cell(share)

    def _schedule(self, optimizer: Optimizer, cells: Mapping[str, int]) -> tuple[Scheduler, Rule, TraceEntry]:
        rule = self.tables["choose_schedule"].winner(cells)
        chosen = rule.then["scheduler"]
        taken = self.scheduled(optimizer, chosen)
        if taken.id == chosen:
            return taken, rule, _trace(rule)
        why = f"{optimizer.name} runs under {', '.join(optimizer.schedules or ())} only, so {chosen} is not taken"
        return taken, rule, TraceEntry("choose_schedule", optimizer.id, why, optimizer.cite, optimizer.layer)

    def reads(self, table: str, optimizer: Optimizer, scheduler: Scheduler | None = None) -> bool:
        """Is a table read for an optimizer, and under a schedule?

        Args:
            table: Its id.
            optimizer: The card.
            scheduler: The schedule, where it is known.
        """
        name = next((number for number, own in _ADVISED_TABLES.items() if own == table), None)
        if name is not None:
            number = optimizer.hyperparameter(name)
            return number is not None and number.advised and optimizer.rates != "own"
        return table != _RUN_TABLES["warmup_fraction"] or scheduler is None or scheduler.warmup

    def scheduled(self, optimizer: Optimizer, chosen: str) -> Scheduler:
        """Return the schedule that is taken where the rules choose one and the card may not allow it."""
        if optimizer.schedules is None or chosen in optimizer.schedules:
            return self.catalog.scheduler(chosen)
        # The ramp is kept where the card has a schedule with one.
        wants_ramp = self.catalog.scheduler(chosen).warmup
        allowed = [self.catalog.scheduler(name) for name in optimizer.schedules]
        return next((s for s in allowed if s.warmup == wants_ramp), allowed[0])

    def _numbers(
        self, situation: Situation, optimizer: Optimizer, scheduler: Scheduler, cells: Mapping[str, int]
    ) -> dict[str, AdvisedHyperparameter]:
        facts = {name: getattr(situation, name) for name in self._followed}
        drafts = {}
        for h in optimizer.hyperparameters:
            own = _ADVISED_TABLES.get(h.name)
            table = self.tables[own] if own is not None and self.reads(own, optimizer) else None
            if table is not None:
                drafts[h.name] = set_by(table.winner(cells), h.name, facts)
            else:
                default, why = f"set {written(h.default)}", f"default of {optimizer.name}"
                entry = HyperparameterStep(default, h.default, optimizer.id, why, optimizer.cite, optimizer.layer)
                drafts[h.name] = Draft(h.name, h.default, h.low, h.high, entry)
        for name, table_name in _RUN_TABLES.items():
            if self.reads(table_name, optimizer, scheduler):
                drafts[name] = set_by(self.tables[table_name].winner(cells), name, facts)
        apply(drafts, self._adjustments(optimizer, cells), facts)
        return {name: draft.finished() for name, draft in drafts.items()}

    def _companion(
        self, situation: Situation, optimizer: Optimizer, scheduler: Scheduler, cells: Mapping[str, int]
    ) -> tuple[Implementation, Mapping[str, Value]] | None:
        if optimizer.companion is None:
            return None
        card = self.catalog.optimizer(optimizer.companion["optimizer"])
        implementation = card.implementations[0]
        own = dict(cells)
        self._add_card(own, card, implementation, situation)
        numbers = self._numbers(situation, card, scheduler, own)
        return implementation, _constructor(implementation, card, numbers, situation.sharding)

    def _adjustments(self, optimizer: Optimizer, cells: Mapping[str, int]) -> Iterator[tuple[str, str, Step]]:
        for step in optimizer.adjust:
            yield optimizer.id, optimizer.layer, step
        for rule in self.tables["adjust"].matching(cells):
            if rule.id not in self._steps:
                self._steps[rule.id] = tuple(step_from(entry) for entry in rule.then["steps"])
            for step in self._steps[rule.id]:
                yield rule.id, rule.layer, step

    def _asked_for(self, choice: Rule) -> TraceEntry:
        why = f"asked for; the rules would take {choice.then['optimizer']}: {choice.because}"
        return TraceEntry(choice.table, choice.id, why, choice.cite, choice.layer)

    def _others(self, situation: Situation, chosen: Optimizer, choice: Rule) -> Iterable[tuple[str, str]]:
        """Yield what else could be taken and why, but for what breaks where this run is sharded."""
        named = {choice.then["optimizer"]: choice.because, **choice.then.get("alternatives", {})}
        for name, because in named.items():
            made = self.catalog.optimizer(name).implementations[0]
            if name != chosen.id and made.sharding.get(situation.sharding or "", AGREES) == AGREES:
                yield name, because

    def _alternatives(self, situation: Situation, chosen: Optimizer, choice: Rule) -> Iterator[Alternative]:
        for name, because in self._others(situation, chosen, choice):
            each = self.state_per_parameter(name, situation)
            other = None if situation.params is None else self.sizing.estimate(situation, name)
            state, fits = (None, None) if other is None else (other.optimizer, other.fits)
            yield Alternative(name, because, state, each, fits)

    def _bands(self, situation: Situation, chosen: Optimizer, choice: Rule) -> Iterator[MaxModelSize]:
        if situation.params is not None or situation.vram_bytes is None:
            return
        names = [chosen.id, *(name for name, _ in self._others(situation, chosen, choice))]
        for name in dict.fromkeys(names):
            if (found := self.sizing.band(situation, name)) is not None:
                yield found


def card_facts(optimizer: Optimizer, implementation: Implementation, axes: Mapping[str, Axis]) -> dict[str, Any]:
    """Return what a card says to the tables that come after the choice of an optimizer.

    Args:
        optimizer: The card.
        implementation: The implementation that is taken.
        axes: Every fact's axis, which says which packages are told apart.
    """
    betas = optimizer.hyperparameter("betas")
    known = implementation.package in (axes["package"].words or ())
    return {
        "optimizer": optimizer.id, "rates": optimizer.rates, "decay": optimizer.decay, "family": optimizer.family,
        "package": implementation.package if known else "other", "clips_update": optimizer.clips_update,
        "deviates": implementation.deviates is not None, "steps_sparse": optimizer.sparse_gradients,
        "over_zero1": _over(implementation, "zero1"), "over_fsdp": _over(implementation, "fsdp"),
        "betas_advised": betas is not None and betas.advised and optimizer.rates != "own",
    }  # fmt: skip


def _over(implementation: Implementation, shard: str) -> str:
    """Return what becomes of a step over several ranks, as a fact."""
    told = implementation.sharding.get(shard)
    return "unmeasured" if told is None else AGREES if told == AGREES else "breaks"


def _trace(rule: Rule) -> TraceEntry:
    return TraceEntry(rule.table, rule.id, rule.because, rule.cite, rule.layer)


def _constructor(
    implementation: Implementation,
    optimizer: Optimizer,
    numbers: Mapping[str, AdvisedHyperparameter],
    shard: str | None,
) -> dict[str, Value]:
    kwargs = {implementation.arguments.get(h.name, h.name): numbers[h.name].value for h in optimizer.hyperparameters}
    return {**kwargs, **implementation.kwargs, **implementation.on_shard.get(shard or "", {})}


def _schedule_advice(
    scheduler: Scheduler, rule: Rule, situation: Situation, numbers: Mapping[str, AdvisedHyperparameter]
) -> ScheduleAdvice:
    fraction = numbers["warmup_fraction"].value if "warmup_fraction" in numbers else 0.0
    peak = numbers["lr"].value
    assert isinstance(fraction, (int, float))
    assert isinstance(peak, (int, float))
    others = {k: v for k, v in rule.then.get("alternatives", {}).items() if k != scheduler.id}
    return schedules.advise(scheduler, peak, situation.steps, fraction, others)
