"""Write `docs/errors.md` from the error codes and where the package uses them: python -m tests.error_table."""

from __future__ import annotations

import ast
import inspect
import re
from collections import defaultdict
from collections.abc import Iterator
from functools import cache
from typing import TypeAlias

from optadvise.core import error_codes, errors, foreign
from optadvise.core.error_codes import ErrorCode
from optadvise.core.markdown import Markdown, format_code, format_table
from tests.conftest import ROOT
from tests.source import Module, read_modules

PAGE = ROOT / "docs" / "errors.md"
INTRODUCTION = """# Error codes

Every error has a stable code. Scripts should compare codes: messages may change between versions.

- **Command line, `--json`**: a command that fails prints an error object on stdout instead of its result, and the
  message on stderr. Keys: `kind` (`"error"`), `code`, `exit_code`, `message`, and `option`, `value` and `where`
  (`file:line:column`), which are null where they do not apply. Schema: `docs/schema/error.json`.
- **Command line, `--debug`**: `optadvise --debug COMMAND …` prints the traceback, and the code in brackets after the
  message.
- **Python**: `optadvise.recommend`, `estimate` and `bench` raise a subclass of `optadvise.core.errors.OptadviseError`.
  Its attributes are `code` (an `ErrorCode`, equal to the text in the table), `exit_code`, `option` and `value`.
- **Benchmark results**: each optimizer that failed has its code in `error_code`.

```sh
optadvise recommend --model transformer --vram lots --json | jq -r .code   # invalid-number
```

`python -m tests.error_table` writes this page. A code without an exit code only appears in `error_code` of a benchmark
result.
"""
# What to do about each code.
REMEDIES = {
    "unknown-option": "Run `optadvise COMMAND --help` for the options of the command.",
    "missing-option": "Add the option, argument or value that the message names.",
    "option-conflict": "Remove one of the options, or add the one that is required.",
    "unknown-choice": "Use one of the choices in the message.",
    "unknown-name": "Use the suggested name; `optadvise list` prints optimizers and schedules.",
    "invalid-number": "Write a number with a supported unit, such as `7B`, `64K`, `24GB` or `1e-4`.",
    "out-of-range": "Use a number in the range that the message gives.",
    "not-divisible": "Change one of the two numbers so that the division has no remainder.",
    "invalid-value": "Write the value in the form that the message gives.",
    "disabled-optimizer": "Use another optimizer, or remove the rule from the layer.",
    "network-conflict": "Remove one of the two options.",
    "network-unknown": "Add `--arch`, `--hf-config` or `--params`.",
    "invalid-network": "Correct the dimension or the key of `config.json` that the message names.",
    "invalid-requirement": "Write `METRIC <= LIMIT`, such as `--require 'optimizer_seconds <= 1.3x'`.",
    "invalid-workload": "Correct the function that `--workload module:function` names.",
    "invalid-recommendation": "Use the output of `optadvise recommend --json`.",
    "import-not-allowed": "If you trust the code, add `--allow-imports PACKAGE` or set `OPTADVISE_ALLOW_IMPORTS`.",
    "not-comparable": "Measure both results with the same settings on the same machine.",
    "file-not-found": "Correct the path, or create the file.",
    "file-unreadable": "Check the type, the size and the permissions of the file.",
    "file-not-writable": "Write to another folder, or change its permissions.",
    "wrong-file-type": "Use a file with the ending or of the kind that the message gives.",
    "invalid-syntax": "Correct the file at the line and column of `where`.",
    "unknown-key": "Remove the key, or use the suggested one.",
    "missing-key": "Add the key.",
    "invalid-entry": "Correct the entry; `rules/schema/` has the schemas of rule files.",
    "unknown-reference": "Correct the id, or add the entry that it refers to.",
    "duplicate-entry": "Rename or remove one of the two entries.",
    "rule-conflict": "Narrow a rule, or let one override the other; `optadvise rules check` shows both.",
    "rule-gap": "Add a rule or an `otherwise`; `optadvise rules check` shows the situation.",
    "rules-not-proven": "Correct the layer until `optadvise rules check --rules DIR` passes.",
    "missing-package": "Install the package with the command in the message.",
    "missing-device": "Use another device or machine; `optadvise doctor` shows what is available.",
    "unsupported": "Change one of the options in the message; `optadvise doctor` shows the versions.",
    "worker-failed": "Run the command again with `--debug` for the traceback of the worker process.",
    "worker-timeout": "Increase the time limit, or reduce the work.",
    "out-of-memory": "Reduce the micro-batch or the model, or close other programs.",
    "nothing-measured": "Correct the failures of the individual optimizers, which the message lists.",
    "inconclusive": "Measure longer, or on a machine without other load.",
    "interrupted": "Start the command again; completed rounds and sweep results are kept.",
    "library-error": "See the message of the package that raised the error; `optadvise doctor` shows its version.",
    "internal": "Report the command line and the traceback of `--debug`.",
}

Uses: TypeAlias = "dict[str, set[int]]"  # exit codes by the name of the code


def list_groups() -> Iterator[tuple[str, list[ErrorCode]]]:
    """Yield the title of each group of codes and its codes, as comments separate them in the source."""
    source = inspect.getsource(error_codes.ErrorCode)
    _, *parts = re.split(r"(?m)^    # (.+)\.$", source)
    for title, text in zip(parts[::2], parts[1::2], strict=True):
        yield title, [ErrorCode[name] for name in re.findall(r"(?m)^    ([A-Z_]+) = ", text)]


@cache
def collect_uses(modules: tuple[Module, ...]) -> Uses:
    """Return the exit codes with which each code is raised in the package.

    A code that is passed through a function or a variable has the exit codes of the errors that its module raises with
    codes of variables; the set is empty where the code only goes into a result.
    """
    types = read_error_types(modules)
    uses: Uses = defaultdict(set)
    in_handlers = _collect_handlers(modules, types)
    for module in modules:
        if module.name in (error_codes.__name__, errors.__name__):
            continue
        direct: set[int] = set()  # ids of nodes
        for paired, node in _pair_codes(module, types):
            uses[str(_read_code_name(node))].add(paired)
            direct.add(id(node))
        indirect: set[int] = set()  # exit codes
        for call in ast.walk(module.tree):
            exit_code = _read_exit_code(call, types)
            if exit_code is None or not isinstance(call, ast.Call):
                continue
            nodes = [node for word in call.keywords if word.arg == "code" for node in ast.walk(word.value)]
            names = [name for node in nodes if (name := _read_code_name(node))]
            for name in names:
                uses[name].add(exit_code)
            direct.update(map(id, nodes))
            indirect.update([] if names or not nodes else [exit_code])
        for node in ast.walk(module.tree):
            name = _read_code_name(node)
            if name and id(node) not in direct:
                uses[name] |= in_handlers if module.name == foreign.__name__ else indirect
    return uses


def _collect_handlers(modules: tuple[Module, ...], types: dict[str, int]) -> set[int]:
    """Return the exit codes of the errors that are raised in handlers of `ForeignFileError`, with its code."""
    handlers = [
        node
        for module in modules
        for node in ast.walk(module.tree)
        if isinstance(node, ast.ExceptHandler)
        and node.type
        and foreign.ForeignFileError.__name__ in ast.dump(node.type)
    ]
    exit_codes = (_read_exit_code(node, types) for handler in handlers for node in ast.walk(handler))
    return {code for code in exit_codes if code is not None}


def _pair_codes(module: Module, types: dict[str, int]) -> Iterator[tuple[int, ast.AST]]:
    """Yield exit codes with the nodes of codes in the constructors of errors, and in pairs of an error and a code."""
    for node in ast.walk(module.tree):
        exit_code: int | None = None
        if isinstance(node, ast.ClassDef):
            exit_code = types.get(node.name)
        elif isinstance(node, ast.Tuple) and isinstance(node.elts[:1] and node.elts[0], ast.Name):
            exit_code = types.get(getattr(node.elts[0], "id", ""))
        if exit_code is not None:
            yield from ((exit_code, inner) for inner in ast.walk(node) if _read_code_name(inner))


def list_errors_without_code(modules: tuple[Module, ...]) -> list[str]:
    """Return path:line of each error that is constructed without a code."""
    types = read_error_types(modules)
    return [
        f"{module.path}:{call.lineno}"
        for module in modules
        for call in ast.walk(module.tree)
        if isinstance(call, ast.Call)
        and _read_exit_code(call, types) is not None
        and not any(word.arg in ("code", None) for word in call.keywords)
    ]


def read_error_types(modules: tuple[Module, ...]) -> dict[str, int]:
    """Return the exit code of OptadviseError and of each class derived from it."""
    exit_codes = {errors.OptadviseError.__name__: errors.OptadviseError.exit_code}
    classes = [node for module in modules for node in ast.walk(module.tree) if isinstance(node, ast.ClassDef)]
    count = 0
    while count < len(exit_codes):
        count = len(exit_codes)
        for node in classes:
            for base in node.bases:
                if isinstance(base, ast.Name) and base.id in exit_codes and node.name not in exit_codes:
                    exit_codes[node.name] = _read_assigned_exit_code(node) or exit_codes[base.id]
    return exit_codes


def _read_assigned_exit_code(node: ast.ClassDef) -> int | None:
    for line in node.body:
        if isinstance(line, ast.Assign) and ast.unparse(line.targets[0]) == "exit_code":
            return int(ast.unparse(line.value))
    return None


def _read_exit_code(node: ast.AST, types: dict[str, int]) -> int | None:
    """Return the exit code of an error, or of the record of an error, that a node constructs; None for other nodes."""
    if not isinstance(node, ast.Call) or not isinstance(node.func, ast.Name):
        return None
    if node.func.id == "Failure":
        text = next((ast.unparse(word.value) for word in node.keywords if word.arg == "exit_code"), "")
        return int(text) if text.isdecimal() else types.get(text.removesuffix(".exit_code"))
    return types.get(node.func.id)


def _read_code_name(node: ast.AST) -> str:
    is_code = isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name) and node.value.id == "ErrorCode"
    return node.attr if is_code and isinstance(node, ast.Attribute) else ""


def format_page() -> str:
    """Return the page."""
    uses = collect_uses(read_modules(ROOT))
    lines = [INTRODUCTION]
    for title, codes in list_groups():
        rows = [
            (format_code(code.value), ", ".join(map(str, sorted(uses[code.name]))) or "–", code.description,
             Markdown(REMEDIES[code.value]))
            for code in codes
        ]  # fmt: skip
        lines += [f"## {title}", "", *format_table(("code", "exit code", "meaning", "what to do"), rows), ""]
    return "\n".join(lines)


if __name__ == "__main__":
    PAGE.write_text(format_page(), encoding="utf-8")
