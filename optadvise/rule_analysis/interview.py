"""Which question to ask next: the one that splits the answers that are still possible best."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.complete import complete_situation
from optadvise.advice.memory_pressure import classify_pressure
from optadvise.advice.probes import find_equivalent_ranges
from optadvise.rule_analysis.reachability import Chain
from optadvise.rulebase.regions import meet, uncovered


class Interview:
    """What was said so far, and which optimizers are still possible.

    Example:
        >>> from optadvise.rulebase.catalog import load
        >>> interview = Interview(CompiledRules(load()), {"model": "cnn", "tuning": "high", "batch_size": 128})
        >>> "lamb" in interview.possible()
        False
    """

    def __init__(self, advisor: CompiledRules, said: Mapping[str, Any]) -> None:
        """Start with what was said already.

        Args:
            advisor: The rules.
            said: Facts by name.
        """
        self.advisor = advisor
        self.said = dict(said)
        self._chain = Chain(advisor)
        self._passed: set[str] = set()  # asked, and left to what is assumed

    def possible(self, more: Mapping[str, int] | None = None) -> frozenset[str]:
        """Return the optimizers that the rules may still choose.

        Args:
            more: Cells of further facts, as masks.
        """
        known = meet(self._known(), more or {})
        if known is None:
            return frozenset()
        found = set()
        for rule, link in self._chain.choices:
            name = rule.choice.chosen
            if name in found:
                continue
            box = meet(link.box, known)
            if box is not None and uncovered(box, link.against, self.advisor.axes) is not None:
                found.add(name)
        return frozenset(found)

    def _known(self) -> dict[str, int]:
        axes, filled = self.advisor.axes, self.advisor.completer.fill(self.said)
        settled = {name: filled.get(name) for name in self._passed}
        box = {name: 1 << axes[name].cell(value) for name, value in {**settled, **self.said}.items() if name in axes}
        box.setdefault("vendor", 1 << axes["vendor"].cell(filled.get("vendor", "nvidia")))
        sized = {"params", "vram_bytes"} <= self.said.keys()
        if sized:  # the arithmetic can be done
            box["memory"] = 1 << axes["memory"].cell(
                classify_pressure(self.advisor, complete_situation(self.advisor, self.said))
            )
        return box

    def question(self) -> str | None:
        """Return the fact to ask for next: of those that rule something out, the one that leaves the fewest answers.

        Returns:
            None where nothing that could be said would change the answer.
        """
        now = len(self.possible())
        if now <= 1:
            return None
        best: tuple[float, str] | None = None
        for name in self._askable():
            left = [len(answers) for answers in self._splits(name) if answers]
            expected = sum(left) / len(left) if left else float(now)
            if expected < now and (best is None or expected < best[0] - 1e-9):
                best = expected, name
        return None if best is None else best[1]

    def _askable(self) -> Iterator[str]:
        """Yield what may be asked, in the order of the guide's flowchart and then of the facts."""
        facts = self.advisor.catalog.facts
        order = [*self.advisor.catalog.flowchart.order, *facts]
        for name in dict.fromkeys(order):
            decides = name in self.advisor.deciding_facts or name in ("params", "vram_bytes")
            if decides and facts[name].flag is not None and name not in self.said and name not in self._passed:
                yield name

    def _splits(self, name: str) -> Iterator[frozenset[str]]:
        """Yield what each answer would leave."""
        axis = self.advisor.axes[name]
        if name == "params":
            if "vram_bytes" not in self.said:
                return
            for word in self._pressures():
                yield self.possible(self._pressed(word))
        elif name == "vram_bytes":
            for word in ("unlimited", *(self._pressures() if "params" in self.said else ("limited",))):
                yield self.possible(self._pressed(word))
        elif axis.words is not None:
            for cell in range(len(axis.words)):
                yield self.possible({name: 1 << cell})
        else:
            for cells in find_equivalent_ranges(self.advisor, name):
                yield self.possible({name: (1 << cells.stop) - (1 << cells.start)})

    def _pressures(self) -> list[str]:
        """Return how a limit can press where the size is known."""
        return [word for word in self.advisor.axes["memory"].words or () if word not in ("unlimited", "limited")]

    def _pressed(self, word: str) -> dict[str, int]:
        return {"memory": 1 << self.advisor.axes["memory"].cell(word)}

    def tell(self, answers: Mapping[str, Any]) -> None:
        """Take an answer.

        Args:
            answers: Facts by name; one answer may settle several, as a GPU does.

        Raises:
            InputError: It contradicts what was said before.
        """
        complete_situation(self.advisor, {**self.said, **answers})
        self.said |= answers

    def leave(self, name: str) -> None:
        """Leave a question to what is assumed."""
        self._passed.add(name)
