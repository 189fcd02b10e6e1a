"""Read every rule file against its shape, then check what they say about each other."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from optadvise.core.errors import InputError, RuleFileError, nearest
from optadvise.core.records import SHIPPED, UNKNOWN
from optadvise.core.units import parse_bytes, parse_count
from optadvise.core.yaml_reader import Context, Shape, parse, refer
from optadvise.rulebase import shapes
from optadvise.rulebase.catalog import spelling
from optadvise.rulebase.layers import apply_policy, merge_table

Documents = dict[str, Any]
_ORDER = (
    "facts", "sources", "gpus", "memory", "optimizers", "schedulers", "assume", "fixes", "decide", "adjust", "warn",
    "flowchart", "policy",
)  # fmt: skip
_MOST_ROWS = 2000  # of a table; the proofs look at pairs of rows


class _Reading:
    """What is known while all files are read."""

    def __init__(self, layers: Sequence[str]) -> None:
        self.layers = layers
        self.owners: dict[tuple[str, str], int] = {}  # which layer a thing is from
        self.policies: list[tuple[int, str, dict[str, Any]]] = []
        self.documents: Documents = {
            "facts": {}, "sources": {}, "gpus": [], "optimizers": {}, "schedulers": {}, "assume": [],
            "contradictions": [], "tables": {}, "memory": {}, "fixes": [], "disabled": {}, "disabled_rules": [],
            "flowchart": {},
        }  # fmt: skip

    def add(self, kind: str, key: str, value: Any, index: int, where: str) -> None:
        """Add a thing by its id; a later layer replaces what an earlier one has."""
        target = self.documents[kind]
        if self.owners.setdefault((kind, key), index) == index and key in target:
            first = target[key].get("at", "an earlier file")
            raise RuleFileError(f"{kind[:-1]} {key!r} is defined twice, first at {first}; rename or remove one", where)
        self.owners[kind, key] = index
        target[key] = value


def read_documents(contents: Sequence[tuple[int, Path, bytes]], layers: Sequence[str] = (SHIPPED,)) -> Documents:
    """Return every file's plain data by kind.

    Args:
        contents: Layer number, path and bytes of each file.
        layers: The layers' names.

    Raises:
        RuleFileError: A file is invalid, or two disagree.
    """
    reading = _Reading(layers)
    documents = reading.documents
    contexts: list[Context] = []
    for index, file, content in sorted(contents, key=lambda item: (_ORDER.index(_kind(item[1])), item[0], item[1])):
        node, context = parse(_decode(content, file), str(file))
        context.facts = documents["facts"]
        contexts.append(context)
        _READERS[_kind(file)](node, context, reading, index, file)
    _check_references(contexts, documents)
    apply_policy(documents, reading.policies)
    _check_names(documents)
    return documents


def _kind(file: Path) -> str:
    return file.parent.name if file.parent.name in ("optimizers", "schedulers", "decide") else file.stem


def _decode(content: bytes, file: Path) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RuleFileError("not UTF-8 text; save the file as UTF-8", str(file)) from error


def _facts(node: yaml.Node, context: Context, reading: _Reading, index: int, file: Path) -> None:
    if index:
        raise RuleFileError("the facts belong to the program; a layer cannot add any", str(file))
    for fact in shapes.facts(node, context)["facts"]:
        if fact["type"] == "flag":
            fact["values"] = {"true": "yes", "false": "no"}
        if fact["type"] == "choice" and "values" not in fact and "values_from" not in fact:
            raise RuleFileError(f"choice {fact['id']!r} has no `values`", fact["at"])
        reading.add("facts", fact["id"], fact, index, fact["at"])


def _sources(node: yaml.Node, context: Context, reading: _Reading, index: int, file: Path) -> None:
    for key, source in shapes.sources(node, context)["sources"].items():
        reading.add("sources", key, source, index, context.where(node))


def _gpus(node: yaml.Node, context: Context, reading: _Reading, index: int, file: Path) -> None:
    gpus = shapes.gpus(node, context)["gpus"]
    own = {gpu["id"] for gpu in gpus}
    reading.documents["gpus"] = [gpu for gpu in reading.documents["gpus"] if gpu["id"] not in own] + gpus


def _card(shape: Shape, kind: str) -> Any:
    def read(node: yaml.Node, context: Context, reading: _Reading, index: int, file: Path) -> None:
        card = shape(node, context)
        if card["id"] != file.stem:
            context.fail(node, f"the id {card['id']!r} and the file name differ; call the file {card['id']}.yaml")
        card["layer"] = reading.layers[index]
        reading.add(kind, card["id"], card, index, card["at"])
        if kind == "optimizers":
            _check_card(card)
            reading.documents["facts"]["optimizer"]["values"] = dict.fromkeys(reading.documents[kind], "")

    return read


def _check_card(card: dict[str, Any]) -> None:
    names = [h["name"] for h in card["hyperparameters"]]
    if "lr" not in names:
        raise RuleFileError(f"optimizer {card['id']!r} has no hyperparameter `lr`", card["at"])
    for step in card.get("adjust", []):
        _check_step(step, names)
    for hyperparameter in card["hyperparameters"]:
        low, high, default = (hyperparameter.get(k) for k in ("low", "high", "default"))
        outside = (
            isinstance(default, (int, float)) and low is not None and high is not None and not low <= default <= high
        )
        if outside:
            raise RuleFileError(f"default of {hyperparameter['name']!r} is outside {low} … {high}", card["at"])


def _check_step(step: dict[str, Any], names: Iterable[str]) -> None:
    where = step["at"]
    if ("scale" in step) == ("clamp" in step):
        raise RuleFileError("a step has either `scale: PARAMETER` or `clamp: PARAMETER`", where)
    parameter = str(step.get("scale") or step.get("clamp"))
    if parameter not in names:
        raise RuleFileError(f"a step names {parameter!r}; {nearest(parameter, names)}", where)
    if "scale" in step and ("factor" in step) == ("by" in step):
        raise RuleFileError("a scale step has either `factor`, or `by`, `reference` and `exponent`", where)


def _table(node: yaml.Node, context: Context, reading: _Reading, index: int, file: Path) -> None:
    documents = reading.documents
    existing = documents["tables"].get(_peek(node, "table"))
    kind = _peek(node, "kind") or (existing["kind"] if existing else "")
    if kind not in shapes.outcomes:
        context.fail(node, f"a table needs a `kind`; {nearest(kind, shapes.outcomes)}")
    table = shapes.table(kind, known=existing is not None)(node, context)
    rows = [*table["rules"], *([table["otherwise"]] if "otherwise" in table else [])]
    whole = {"gives": table.get("gives"), **(existing or {}), **table}
    for row in rows:
        row["layer"] = reading.layers[index]
        _check_rule(row, kind, whole, documents)
    if existing is None:
        documents["tables"][table["table"]] = table
    else:
        merge_table(existing, table, reading.layers[index])
    if len(documents["tables"][table["table"]]["rules"]) > _MOST_ROWS:
        raise RuleFileError(f"table {table['table']!r} has more than {_MOST_ROWS} rows; split it", str(file))


def _policy(node: yaml.Node, context: Context, reading: _Reading, index: int, file: Path) -> None:
    reading.policies.append((index, reading.layers[index], shapes.policy(node, context)["policy"]))


def _peek(node: yaml.Node, key: str) -> str:
    pairs = node.value if isinstance(node, yaml.MappingNode) else []
    return next((str(v.value) for k, v in pairs if k.value == key and isinstance(v, yaml.ScalarNode)), "")


def _check_rule(rule: dict[str, Any], kind: str, table: dict[str, Any], documents: Documents) -> None:
    then = rule["then"]
    if kind != "warn" and "because" not in rule:
        raise RuleFileError(f"rule {rule['id']!r} has no `because`", rule["at"])
    if kind == "derive":
        fact = documents["facts"].get(table.get("gives"))
        values = fact["values"] if fact else {}
        given = then.get(table.get("gives"))
        if given not in values:
            raise RuleFileError(f"`then` gives {given!r}; {nearest(str(given), values)}", rule["at"])
    if kind == "choose":
        _check_choice(rule, str(table.get("gives")), documents)
    if kind == "set":
        _check_set(rule, documents)
    for step in then.get("steps", []) if kind == "adjust" else []:
        _check_step(step, ("lr", "weight_decay", "warmup_fraction", "max_grad_norm", "eps"))


def _check_set(rule: dict[str, Any], documents: Documents) -> None:
    """A value that makes sense as a number, or points along a fact that is a number and known where the row applies."""
    then, at = rule["then"], rule["at"]
    if ("value" in then) == ("points" in then) or ("points" in then) != ("along" in then):
        raise RuleFileError("`then` has either a `value`, or `along` and `points`", at)
    value = then.get("value")
    parts = value if isinstance(value, list) else [value]
    if any(isinstance(part, (str, bool, list)) for part in parts):
        raise RuleFileError(f"`value` {value!r} is no number and no list of numbers", at)
    if "along" not in then:
        return
    fact = documents["facts"].get(then["along"], {})
    condition = rule.get("when", {}).get(then["along"], [UNKNOWN] if fact.get("unknown") else [])
    if fact.get("type") not in ("number", "bytes") or "flag" not in fact or UNKNOWN in condition:
        raise RuleFileError(f"`along` {then['along']!r} is no number that is known wherever this row applies", at)
    pairs = then["points"]
    if any(len(pair) != 2 or min(pair) <= 0 for pair in pairs) or then.get("spread", 1) <= 0:
        raise RuleFileError("`points` are pairs of numbers above zero, and `spread` is one", at)


def _check_choice(rule: dict[str, Any], gives: str, documents: Documents) -> None:
    known = documents.get(f"{gives}s") if gives in ("optimizer", "scheduler") else None
    if known is None:
        raise RuleFileError(f"a table that chooses `gives: optimizer` or `scheduler`, not {gives!r}", rule["at"])
    for name in (rule["then"].get(gives), *rule["then"].get("alternatives", {})):
        if name not in known:
            raise RuleFileError(f"unknown {gives} {name!r}; {nearest(str(name), known)}", rule["at"])


def _check_references(contexts: Iterable[Context], documents: Documents) -> None:
    rules = [rule["id"] for table in documents["tables"].values() for rule in table["rules"]]
    known: dict[str, Iterable[str]] = {
        "source": documents["sources"], "optimizer": documents["optimizers"], "scheduler": documents["schedulers"],
        "fact": documents["facts"], "rule": rules, "model": documents["facts"]["model"]["values"],
    }  # fmt: skip
    refer(contexts, known)


def _check_names(documents: Documents) -> None:
    seen: dict[str, str] = {}
    for table in documents["tables"].values():
        for rule in [*table["rules"], *([table["otherwise"]] if "otherwise" in table else [])]:
            if rule["id"] in seen:
                raise RuleFileError(f"rule id {rule['id']!r} is used twice, first at {seen[rule['id']]}", rule["at"])
            seen[rule["id"]] = rule["at"]
    for kind in ("optimizers", "schedulers"):
        spellings: dict[str, str] = {}
        for card in documents[kind].values():
            own = {spelling(name) for name in (card["id"], card["name"], *card.get("aliases", []))}
            for name in own:
                if name in spellings:
                    raise RuleFileError(f"the name {name!r} means {spellings[name]!r} already", card["at"])
                spellings[name] = card["id"]


def _fixes(node: yaml.Node, context: Context, reading: _Reading, index: int, file: Path) -> None:
    documents = reading.documents
    for fix in shapes.fixes(node, context)["fixes"]:
        for name, value in fix["change"].items():
            fact = documents["facts"].get(name)
            if fact is None:
                known = nearest(name, documents["facts"])
                raise RuleFileError(f"`change` sets {name!r}, which is no fact; {known}", fix["at"])
            words = [str(word).lower() for word in fact.get("values", ())]
            if words and str(value).lower() not in words:
                raise RuleFileError(f"`change` gives {value!r}; {nearest(str(value), words)}", fix["at"])
        documents["fixes"] = [known for known in documents["fixes"] if known["id"] != fix["id"]] + [fix]


def _memory(node: yaml.Node, context: Context, reading: _Reading, index: int, file: Path) -> None:
    reading.documents.update(shapes.memory(node, context))


def _assume(node: yaml.Node, context: Context, reading: _Reading, index: int, file: Path) -> None:
    documents = reading.documents
    read = shapes.assumptions(node, context)
    rows = read.get("assume", [])
    for row in rows:
        row["layer"] = reading.layers[index]
        _check_assumption(row, documents["facts"][row["fact"]])
    documents["assume"] = rows + documents["assume"]  # the first that applies counts
    documents["contradictions"] += read.get("contradictions", [])


def _check_assumption(row: dict[str, Any], fact: dict[str, Any]) -> None:
    """Read an assumed value as the fact's type has it."""
    value = row["value"]
    if "flag" not in fact and fact.get("derived") != "gpu":
        raise RuleFileError(f"nobody says {fact['id']!r}, so nothing can be assumed of it", row["at"])
    if isinstance(value, list) or value is None:
        raise RuleFileError(f"one value of {fact['id']!r} is assumed, not {value!r}", row["at"])
    if "values" in fact:
        word = str(value).lower() if isinstance(value, bool) else value
        if word not in fact["values"]:
            raise RuleFileError(
                f"{value!r} is no value of {fact['id']!r}; {nearest(str(value), fact['values'])}", row["at"]
            )
        row["value"] = word == "true" if fact["type"] == "flag" else word
        return
    try:
        read = parse_bytes if fact["type"] == "bytes" else parse_count
        row["value"] = read(str(value), f"`{fact['id']}:`")
    except InputError as error:
        raise RuleFileError(str(error), row["at"]) from error


def _flowchart(node: yaml.Node, context: Context, reading: _Reading, index: int, file: Path) -> None:
    chart = shapes.flowchart(node, context)["flowchart"]
    questions = chart["questions"]
    for answer in (answer for question in questions.values() for answer in question["answers"]):
        if ("to" in answer) == ("names" in answer):
            raise RuleFileError("an answer leads either `to` a question, or `names` what to take", answer["at"])
        if "to" in answer and answer["to"] not in questions:
            raise RuleFileError(f"no question {answer['to']!r}; {nearest(answer['to'], questions)}", answer["at"])
    if chart["start"] not in questions:
        raise RuleFileError(f"no question {chart['start']!r}; {nearest(chart['start'], questions)}", chart["at"])
    reading.documents["flowchart"] = chart


_READERS: dict[str, Any] = {
    "facts": _facts,
    "sources": _sources,
    "gpus": _gpus,
    "memory": _memory,
    "optimizers": _card(shapes.optimizer, "optimizers"),
    "schedulers": _card(shapes.scheduler, "schedulers"),
    "assume": _assume,
    "fixes": _fixes,
    "decide": _table,
    "adjust": _table,
    "warn": _table,
    "flowchart": _flowchart,
    "policy": _policy,
}
