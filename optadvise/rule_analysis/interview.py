"""Interview: the next question is the one that leaves the fewest possible optimizers."""

from __future__ import annotations

from collections.abc import Iterator

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.complete import complete_situation
from optadvise.advice.memory_pressure import classify_pressure
from optadvise.advice.probes import MEMORY_FACTS, find_equivalent_ranges
from optadvise.core.records import FactValues
from optadvise.rule_analysis.table_regions import Region, intersect, list_choice_regions
from optadvise.rulebase.regions import Box

_TOLERANCE = 1e-9  # among equally good questions, the first is used
_WITHOUT_SIZE = ("unlimited", "limited")  # memory pressures without a model size


class Interview:
    """Inputs so far, and the optimizers that are still possible.

    Example:
        >>> from optadvise.rulebase.catalog import load
        >>> inputs = {"model": "cnn", "tuning": "high", "batch_size": 128}
        >>> "lamb" in Interview(CompiledRules(load()), inputs).list_possible()
        False
    """

    def __init__(self, rules: CompiledRules, inputs: FactValues) -> None:
        """Start with stated inputs."""
        self.rules = rules
        self.inputs = dict(inputs)
        self._skipped: set[str] = set()  # facts that keep their defaults
        self._regions: list[tuple[str, Region]] | None = None  # of the possible optimizers; None until they are listed

    def list_possible(self, box: Box | None = None) -> frozenset[str]:
        """Return the optimizers that the rules can still choose, inside a box if one is given."""
        regions = self._list_regions()
        if box is None:
            return frozenset(name for name, _ in regions)
        answer, possible = Region(box=box, excluded=()), set[str]()
        for name, region in regions:
            if name not in possible and intersect(self.rules, region, answer) is not None:
                possible.add(name)
        return frozenset(possible)

    def _list_regions(self) -> list[tuple[str, Region]]:
        """Return the regions that the inputs leave, each with the optimizer that is chosen there."""
        if self._regions is None:
            inputs = Region(box=self._locate_inputs(), excluded=())
            self._regions = [
                (entry.rule.choice.chosen, region)
                for entry in list_choice_regions(self.rules)
                if (region := intersect(self.rules, entry.region, inputs)) is not None
            ]
        return self._regions

    def _locate_inputs(self) -> dict[str, int]:
        """Return the cells of the inputs, of skipped facts, and of the memory pressure if it can be computed."""
        axes, defaults = self.rules.axes, self.rules.defaults.fill(self.inputs)
        values = {**{name: defaults.get(name) for name in self._skipped}, **self.inputs}
        box = {name: 1 << axes[name].cell(value) for name, value in values.items() if name in axes}
        box.setdefault("vendor", 1 << axes["vendor"].cell(defaults.get("vendor", "nvidia")))
        if self.inputs.keys() >= set(MEMORY_FACTS):
            pressure = classify_pressure(self.rules, complete_situation(self.rules, self.inputs))
            box["memory"] = 1 << axes["memory"].cell(pressure)
        return box

    def choose_question(self) -> str | None:
        """Return the fact whose answers leave the fewest optimizers; None if no answer changes the optimizer."""
        possible = len(self.list_possible())
        if possible <= 1:
            return None
        best, fewest = None, float(possible)
        for name in self._list_askable():
            counts = [len(answers) for answers in self._list_answers(name) if answers]
            expected = sum(counts) / len(counts) if counts else float(possible)
            if expected < (fewest if best is None else fewest - _TOLERANCE):
                best, fewest = name, expected
        return best

    def _list_askable(self) -> Iterator[str]:
        """Yield the facts for possible questions, in the order of the guide's flowchart and then of `facts.yaml`."""
        facts = self.rules.catalog.facts
        for name in dict.fromkeys((*self.rules.catalog.flowchart.order, *facts)):
            is_deciding = name in self.rules.deciding_facts or name in MEMORY_FACTS
            is_open = name not in self.inputs and name not in self._skipped
            if is_deciding and is_open and facts[name].flag is not None:
                yield name

    def _list_answers(self, fact: str) -> Iterator[frozenset[str]]:
        """Yield the optimizers that remain after each answer to a question."""
        for box in self._list_boxes(fact):
            yield self.list_possible(box)

    def _list_boxes(self, fact: str) -> Iterator[Box]:
        """Yield the box of each answer that the deciding tables distinguish."""
        memory, axis = self.rules.axes["memory"], self.rules.axes[fact]
        if fact in MEMORY_FACTS:
            for pressure in self._list_pressures(fact):
                yield {"memory": 1 << memory.cell(pressure)}
        elif axis.choices is not None:
            for cell in range(len(axis.choices)):
                yield {fact: 1 << cell}
        else:
            for cells in find_equivalent_ranges(self.rules, fact):
                yield {fact: (1 << cells.stop) - (1 << cells.start)}

    def _list_pressures(self, fact: str) -> list[str]:
        """Return the memory pressures that a model size or a memory limit can lead to."""
        pressures = self.rules.axes["memory"].choices or ()
        sized = [pressure for pressure in pressures if pressure not in _WITHOUT_SIZE]
        if fact == "params":
            return sized if "vram_bytes" in self.inputs else []
        return ["unlimited", *(sized if "params" in self.inputs else ["limited"])]

    def add_inputs(self, inputs: FactValues) -> None:
        """Add the inputs of an answer.

        Args:
            inputs: Values by fact; the name of a GPU states several facts.

        Raises:
            InputError: The inputs contradict earlier inputs.
        """
        complete_situation(self.rules, {**self.inputs, **inputs})
        self.inputs |= inputs
        self._regions = None

    def skip(self, fact: str) -> None:
        """Keep the default of a fact."""
        self._skipped.add(fact)
        self._regions = None
