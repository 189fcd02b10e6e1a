"""Code metrics of a checkout, from its syntax trees: python -m tests.metrics [CHECKOUT] [--json]."""

import argparse
import ast
import json
import re
import statistics
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from textwrap import wrap
from typing import TypeAlias

from tests.source import (
    ENTRY_MODULES,
    PACKAGE,
    TOP_LEVEL,
    Module,
    classify_import,
    collect_imports,
    find_cycles,
    is_function,
    read_modules,
)

FORBIDDEN_NAMES = set("found made told said own given known words both rest share placed bare".split())
ANY_DICT = re.compile(r"(?:dict|Mapping|MutableMapping)\[str, Any\]")
QUESTION = re.compile(r"(What|Which|Where|How|Is|Does|Whether|Who|As|From)\b")
# First words that are not imperative verbs. Applies to functions only; classes and modules can begin with a noun.
NO_VERBS = set(
    "A After All An And Any Are As At Attention Both By Can Did Do Each Every Everything For Has He How If In It Its"
    " Length Loss Max Median No None Not Nothing Number On One Or Same State Such That The There These They This Those"
    " Three To True Two What When Why With Without You".split()
)
NO_VERB_ENDING = re.compile(r"\w+[^s\W]s|\w+'s|\w+[^e\W]ed|\w{2,}ing")
VERBS = set("Assert Bring Check Embed Ensure Prove Require Shed Verify".split())  # verbs that the patterns would reject
FILE_LIMIT, FUNCTION_LIMIT, LISTED, SHOWN_DOCSTRINGS, WIDTH = 400, 60, 10, 20, 80

Function: TypeAlias = "ast.FunctionDef | ast.AsyncFunctionDef"
Counts: TypeAlias = "dict[str, int]"
Measured: TypeAlias = "tuple[str, int]"  # location and number of lines


@dataclass(frozen=True)
class Metrics:
    """All metrics. Counts begin with "total", followed by counts per package or name."""

    lines: Counts
    top_level_modules: list[str]
    cycles: list[list[str]]
    function_imports: Counts
    function_imports_to_fix: list[str]
    any_dicts: Counts
    any_annotations: Counts
    forbidden_names: Counts
    forbidden_names_by_name: Counts
    docstrings: int
    question_docstrings: int
    docstrings_without_verb: list[str]
    longest_files: list[Measured]
    files_over_limit: int
    functions: int
    median_function_lines: int
    longest_functions: list[Measured]
    functions_over_limit: int
    schema_lines: int


def walk_functions(module: Module) -> Iterator[Function]:
    """Yield all function definitions of a module, including nested functions."""
    for node in ast.walk(module.tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            yield node


def count_any_annotations(module: Module) -> int:
    """Count annotations of arguments, results and variables that are just Any."""
    annotations: list[ast.expr | None] = []
    for node in ast.walk(module.tree):
        if isinstance(node, (ast.arg, ast.AnnAssign)):
            annotations.append(node.annotation)
        elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
            annotations.append(node.returns)
    return sum(isinstance(annotation, ast.Name) and annotation.id == "Any" for annotation in annotations)


def collect_docstrings(module: Module) -> Iterator[tuple[str, ast.AST, str]]:
    """Yield path:line, node and first line of all docstrings."""
    for node in ast.walk(module.tree):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef, ast.Module)):
            text = ast.get_docstring(node)
            if text:
                yield f"{module.path}:{getattr(node, 'lineno', 1)}", node, text.strip().splitlines()[0]


def begins_with_verb(line: str) -> bool:
    """Return whether a line probably begins with an imperative verb."""
    first, second, *_ = [*re.findall(r"[^\s,;:.]+", line), "", ""]
    if first in VERBS:
        return True
    is_noun = second in ("of", "that", "et") or second.isdecimal() or not first[:1].isupper()
    return not (is_noun or first in NO_VERBS or NO_VERB_ENDING.fullmatch(first))


def lacks_verb(node: ast.AST, line: str) -> bool:
    """Return whether a docstring is a question or, for a function, does not begin with an imperative verb."""
    return bool(QUESTION.match(line)) or (is_function(node) and not begins_with_verb(line))


def collect_forbidden_names(module: Module) -> list[str]:
    """Return the forbidden names that a module assigns to variables, one per assignment."""
    return [
        node.id
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store) and node.id in FORBIDDEN_NAMES
    ]


def count_schema_lines(root: Path) -> int:
    """Count the lines of committed JSON schemas."""
    files = [file for folder in ("rules/schema", "docs/schema") for file in (root / folder).rglob("*.json")]
    return sum(len(file.read_text(encoding="utf-8").splitlines()) for file in files)


def total_counts(counts: Counter[str]) -> Counts:
    """Return the total and all non-zero counts, the largest first."""
    return {"total": sum(counts.values()), **{key: count for key, count in counts.most_common() if count}}


def count_by_package(modules: tuple[Module, ...], count: Callable[[Module], int]) -> Counts:
    """Return the total and the sums per package of a count of modules."""
    counts: Counter[str] = Counter()
    for module in modules:
        counts[module.package] += count(module)
    return total_counts(counts)


def take_longest(items: Iterable[Measured]) -> list[Measured]:
    """Return the longest items, the longest first."""
    return sorted(items, key=lambda item: (-item[1], item[0]))[:LISTED]


def measure_functions(modules: tuple[Module, ...]) -> list[Measured]:
    """Return all functions with their number of lines, without decorators."""
    return [
        (f"{module.path}:{node.lineno} {node.name}", (node.end_lineno or node.lineno) - node.lineno + 1)
        for module in modules
        for node in walk_functions(module)
    ]


def measure_checkout(root: Path) -> Metrics:
    """Compute the metrics of a checkout."""
    modules = read_modules(root)
    names = {module.name for module in modules}
    imports = [item for module in modules for item in collect_imports(module, names)]
    reasons = [(classify_import(item), item) for item in imports if item.in_function]
    functions = measure_functions(modules)
    docstrings = [item for module in modules for item in collect_docstrings(module)]
    top_level = [module for module in modules if module.package == TOP_LEVEL]
    forbidden = Counter(name for module in modules for name in collect_forbidden_names(module))
    return Metrics(
        lines=count_by_package(modules, lambda module: module.line_count),
        top_level_modules=[module.name for module in top_level if Path(module.path).stem not in ENTRY_MODULES],
        cycles=find_cycles(modules, imports),
        function_imports=total_counts(Counter(reason for reason, _ in reasons)),
        function_imports_to_fix=[f"{item.where} {item.target}" for reason, item in reasons if "other" in reason],
        any_dicts=count_by_package(modules, lambda module: len(ANY_DICT.findall(module.text))),
        any_annotations=count_by_package(modules, count_any_annotations),
        forbidden_names=count_by_package(modules, lambda module: len(collect_forbidden_names(module))),
        forbidden_names_by_name=total_counts(forbidden),
        docstrings=len(docstrings),
        question_docstrings=sum(bool(QUESTION.match(line)) for _, _, line in docstrings),
        docstrings_without_verb=[f"{where} {line}" for where, node, line in docstrings if lacks_verb(node, line)],
        longest_files=take_longest((module.path, module.line_count) for module in modules),
        files_over_limit=sum(module.line_count > FILE_LIMIT for module in modules),
        functions=len(functions),
        median_function_lines=statistics.median_high(length for _, length in functions),
        longest_functions=take_longest(functions),
        functions_over_limit=sum(length > FUNCTION_LIMIT for _, length in functions),
        schema_lines=count_schema_lines(root),
    )


def format_counts(title: str, counts: Counts) -> list[str]:
    """Return a title with the total, followed by the other counts."""
    parts = [f"{key} {count:,}" for key, count in counts.items() if key != "total"]
    return [
        f"{title}: {counts['total']:,}",
        *wrap(", ".join(parts), WIDTH, initial_indent="  ", subsequent_indent="  "),
    ]


def format_list(title: str, items: list[str], shown: int | None = None) -> list[str]:
    """Return a title with the number of items, followed by the first `shown` items (None for all), one per line."""
    lines = [shorten(f"  {item}") for item in items[:shown]]
    hidden = len(items) - len(lines)
    return [f"{title}: {len(items)}", *lines, *([f"  and {hidden} more"] if hidden else [])]


def shorten(line: str) -> str:
    """Shorten a line to the width of the output."""
    return line if len(line) <= WIDTH else line[: WIDTH - 1] + "…"


def format_metrics(metrics: Metrics) -> str:
    """Return the metrics as text for a terminal with 80 columns."""
    cycles = [f"{len(cycle)} modules: {', '.join(cycle)}" for cycle in metrics.cycles]
    cycle_lines = [line for text in cycles for line in wrap(text, WIDTH, initial_indent="  ", subsequent_indent="    ")]
    blocks = [
        format_counts("Lines", metrics.lines),
        format_list("Modules at the top level", metrics.top_level_modules),
        [f"Import cycles: {len(cycles)}", *cycle_lines],
        format_counts("Imports in functions, by reason", metrics.function_imports),
        format_list("Imports in functions, to be fixed", metrics.function_imports_to_fix),
        format_counts("Any dictionaries", metrics.any_dicts),
        format_counts("Annotations with Any", metrics.any_annotations),
        format_counts("Forbidden names assigned, by package", metrics.forbidden_names),
        format_counts("Forbidden names assigned, by name", metrics.forbidden_names_by_name),
        [f"Docstrings: {metrics.docstrings:,}, questions: {metrics.question_docstrings}"],
        format_list("Docstrings without a verb", metrics.docstrings_without_verb, SHOWN_DOCSTRINGS),
        [f"Files over {FILE_LIMIT} lines: {metrics.files_over_limit}; longest:"],
        [shorten(f"  {length:4} {where}") for where, length in metrics.longest_files],
        [f"Functions: {metrics.functions:,}, median {metrics.median_function_lines} lines"],
        [f"Functions over {FUNCTION_LIMIT} lines: {metrics.functions_over_limit}; longest:"],
        [shorten(f"  {length:4} {where}") for where, length in metrics.longest_functions],
        [f"Lines of JSON schemas: {metrics.schema_lines:,}"],
    ]
    return "\n".join(line for block in blocks for line in block)


def main() -> None:
    """Print the metrics of the checkout of the command line."""
    parser = argparse.ArgumentParser(prog="python -m tests.metrics", description=__doc__)
    parser.add_argument(
        "checkout",
        nargs="?",
        type=Path,
        default=Path(__file__).parents[1],
        help="folder of a checkout (default: this one)",
    )
    parser.add_argument("--json", action="store_true", help="print JSON")
    arguments = parser.parse_args()
    if not (arguments.checkout / PACKAGE).is_dir():
        parser.error(f"{arguments.checkout} has no folder {PACKAGE}/; use a checkout of the project")
    metrics = measure_checkout(arguments.checkout)
    print(json.dumps(asdict(metrics), indent=1) if arguments.json else format_metrics(metrics))


if __name__ == "__main__":
    main()
