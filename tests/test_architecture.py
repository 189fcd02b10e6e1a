"""The floors: what may import what, and what a command may load."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import ROOT

PACKAGE = ROOT / "optadvise"

# Each module group, lowest first, and the groups it may import. A module that belongs to none fails the test.
FLOORS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "errors": (("optadvise.errors",), ()),
    "domain": (("optadvise.domain", "optadvise.tuples", "optadvise.units"), ("errors",)),
    "arithmetic": (("optadvise.memory", "optadvise.schedules"), ("errors", "domain")),
    "catalog": (("optadvise.catalog",), ("errors", "domain", "arithmetic")),
    "sizing": (("optadvise.architecture", "optadvise.scaling", "optadvise.sizing"),
               ("errors", "domain", "arithmetic", "catalog")),
    "engine": (("optadvise.engine",), ("errors", "domain", "arithmetic")),
    "advisor": (("optadvise.advisor", "optadvise.fitting"),
                ("errors", "domain", "catalog", "arithmetic", "sizing", "engine")),
    "rulebook": (("optadvise.rulebook",), ("errors", "domain", "catalog", "arithmetic", "sizing", "engine", "advisor")),
    "asking": (("optadvise.answers", "optadvise.ruleset"),
               ("errors", "domain", "catalog", "arithmetic", "sizing", "advisor", "rulebook", "machine", "root")),
    "codegen": (("optadvise.codegen",), ("errors", "domain", "catalog", "arithmetic", "advisor", "root")),
    "machine": (("optadvise.machine",), ("errors", "domain")),
    "evidence": (("optadvise.evidence", "optadvise.quoting"), ("domain", "root")),
    "bench": (("optadvise.bench",), ("errors", "domain", "catalog", "arithmetic", "engine", "advisor", "machine",
                                     "evidence", "root")),
    "verify": (("optadvise.verify",),
               ("errors", "domain", "catalog", "arithmetic", "machine", "evidence", "bench", "root")),
    "doctor": (("optadvise.doctor",), ("errors", "domain", "catalog", "machine", "bench", "root")),
    "render": (("optadvise.render",),
               ("errors", "domain", "catalog", "arithmetic", "engine", "rulebook", "evidence", "bench", "verify",
                "root")),
    "cli": (("optadvise.cli", "optadvise.__main__"),
            ("errors", "domain", "catalog", "arithmetic", "sizing", "engine", "advisor", "rulebook", "codegen",
             "machine", "asking", "evidence", "bench", "verify", "doctor", "render", "root")),
    "api": (("optadvise.api",),
            ("errors", "domain", "catalog", "advisor", "codegen", "asking", "evidence", "bench", "render", "root")),
    "root": (("optadvise",), ()),
}  # fmt: skip
THIRD_PARTY = {
    "yaml": ("catalog", "codegen", "render"),
    "rich": ("render",),
    "jinja2": ("render",),
    "typer": ("cli",),
}
# What people import names the library that stands above it, and loads it when it is called.
FACES = {("optadvise", "optadvise.api"), ("optadvise.bench", "optadvise.api")}
DRAWING = ("matplotlib", "PIL", "mpl_toolkits")
HEAVY = ("torch", "numpy", "bitsandbytes", "lion_pytorch", "optimi", "pytorch_optimizer")
MAY_IMPORT_TORCH = {
    "worker", "factory", "walks", "workloads", "networks", "data", "user", "measure", "probe",
    "fakestep", "fakemode", "fakevalues", "tracking", "ascuda",
    "reference", "scenes", "suspects", "audit", "maker", "usage", "experiments", "training",
    "sharding", "ranks", "launch", "together", "peaks",
}  # under bench/ and verify/  # fmt: skip
CLOCKS = {"time", "datetime"}
PURE = {"domain", "catalog", "arithmetic", "sizing", "engine", "advisor", "rulebook", "codegen"}


def modules() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def name_of(file: Path) -> str:
    parts = file.relative_to(ROOT).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def floor_of(module: str) -> str:
    if module == "optadvise":
        return "root"
    for floor, (members, _) in FLOORS.items():
        if floor != "root" and any(module == m or module.startswith(m + ".") for m in members):
            return floor
    raise AssertionError(f"{module} stands on no floor: place it in tests/test_architecture.py")


def imports(file: Path) -> list[str]:
    found = []
    for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            own = node.module.split(".")[0] == "optadvise"
            below = ROOT / node.module.replace(".", "/")
            whole = [f"{node.module}.{a.name}" for a in node.names if own and (below / f"{a.name}.py").exists()]
            found += whole or [node.module]
    return found


@pytest.mark.parametrize("file", modules(), ids=name_of)
def test_imports_point_down(file: Path) -> None:
    module = name_of(file)
    floor = floor_of(module)
    for imported in imports(file):
        top = imported.split(".")[0]
        if (module, imported) in FACES:
            continue
        if top == "optadvise":
            other = floor_of(imported)
            assert other == floor or other in FLOORS[floor][1], f"{module} imports {imported}"
        elif top in DRAWING:
            assert module == "optadvise.render.pictures", f"{module} imports {imported}"
        elif top in THIRD_PARTY:
            assert floor in THIRD_PARTY[top], f"{module} imports {imported}"
        elif top in HEAVY:
            assert module.rsplit(".", 1)[1] in MAY_IMPORT_TORCH, f"{module} imports {imported}"
            assert floor in ("bench", "verify"), f"{module} imports {imported}"
        elif top in CLOCKS:
            assert floor not in PURE, f"{module} imports {imported}"


def test_no_optimizer_is_named_in_code() -> None:
    """Knowledge lives in rules/: a condition on a name means that the data model misses a field."""
    from optadvise.catalog import load

    catalog = load()
    names = {*catalog.optimizer_ids, *catalog.scheduler_ids, *(gpu.id for gpu in catalog.gpus)}
    # A phase's shape is a word of the data model, though some schedules are called like theirs.
    names -= {phase.shape for name in catalog.scheduler_ids for phase in catalog.scheduler(name).phases}
    for file in modules():
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, (ast.If, ast.IfExp, ast.Compare, ast.Match)):
                for inner in ast.walk(node):
                    if isinstance(inner, ast.Constant) and isinstance(inner.value, str):
                        assert inner.value not in names, f"{file}:{inner.lineno} names {inner.value}"


LOADED = """
import json, sys
sys.argv = ["optadvise", *{arguments!r}]
from optadvise.cli.app import run
code = run(sys.argv[1:])
print(json.dumps([code, sorted(sys.modules)]), file=sys.stderr)
"""


def loaded(arguments: list[str], *, block_torch: bool = False) -> tuple[int, set[str]]:
    block = (
        "import sys\nfor name in ('torch', 'bitsandbytes', 'numpy'): sys.modules[name] = None\n" if block_torch else ""
    )
    command = [sys.executable, "-c", block + LOADED.format(arguments=arguments)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=ROOT)
    code, names = json.loads(done.stderr.strip().splitlines()[-1])
    return code, set(names)


COMMANDS = [
    ["recommend", "--model", "transformer", "--vram", "24GB"],
    ["recommend", "--model", "transformer", "--vram", "24GB", "--json"],
    ["recommend", "--model", "cnn", "--format", "python"],
    ["schedule", "wsd"], ["schedule", "wsd", "--json"],
    ["list"], ["list", "--tree"], ["show", "adamw8bit"], ["show", "OPT040"],
]  # fmt: skip


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_advice_never_loads_torch(arguments: list[str]) -> None:
    code, names = loaded(arguments)
    assert code == 0
    assert {n.split(".")[0] for n in names}.isdisjoint((*HEAVY, *DRAWING))


@pytest.mark.parametrize("arguments", COMMANDS, ids=" ".join)
def test_advice_works_where_torch_cannot_be_imported(arguments: list[str]) -> None:
    code, _ = loaded(arguments, block_torch=True)
    assert code == 0


def test_json_loads_neither_rich_nor_yaml_once_the_rules_are_cached() -> None:
    loaded(COMMANDS[1])
    _, names = loaded(COMMANDS[1])
    assert {"rich", "yaml"}.isdisjoint(names)
