"""Modules of the package and their imports, including those in functions, read from syntax trees."""

import ast
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PACKAGE, CLI = "optadvise", "optadvise.cli"
ENTRY_MODULES = {"__init__", "__main__", "__about__", "_version", "api"}  # allowed at the top level of the package
# Slow to import, or not installed by default: functions can import them.
HEAVY = set(
    "PIL bitsandbytes jinja2 lion_pytorch markupsafe matplotlib numpy optimi rich submitit torch transformers"
    " yaml".split()
)
# Suffixes of modules that read YAML, imported on a cache miss: importing PyYAML takes a tenth of the start-up time.
READERS = ("_files", ".validation")
TOP_LEVEL = "(top level)"


@dataclass(frozen=True)
class Module:
    """Source file. `package` is its first folder in optadvise/, or TOP_LEVEL; `path` is relative to optadvise/."""

    name: str
    package: str
    path: str
    is_package: bool
    text: str
    tree: ast.Module

    @property
    def line_count(self) -> int:
        """Return the number of lines."""
        return len(self.text.splitlines())


@dataclass(frozen=True)
class Import:
    """Imported module. `where` is path:line."""

    importer: Module
    target: str
    where: str
    in_function: bool


@cache
def read_modules(root: Path) -> tuple[Module, ...]:
    """Read and parse the files of the package in a checkout, once per process."""
    modules = []
    for file in sorted((root / PACKAGE).rglob("*.py")):
        path = file.relative_to(root / PACKAGE)
        name = ".".join([PACKAGE, *path.with_suffix("").parts]).removesuffix(".__init__")
        text = file.read_text(encoding="utf-8")
        package = path.parts[0] if len(path.parts) > 1 else TOP_LEVEL
        modules.append(Module(name, package, path.as_posix(), file.stem == "__init__", text, ast.parse(text)))
    return tuple(modules)


def is_function(node: ast.AST) -> bool:
    """Return whether a node defines a function."""
    return isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef))


def resolve_targets(node: ast.Import | ast.ImportFrom, module: Module, names: set[str]) -> list[str]:
    """Return the modules that a statement imports, one per imported name."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    base = node.module or ""
    if node.level:
        parts = module.name.split(".")
        parent = parts[: len(parts) - node.level + module.is_package]
        base = ".".join([*parent, base] if base else parent)
    submodules = [f"{base}.{alias.name}" for alias in node.names]
    return [submodule if submodule in names else base for submodule in submodules]


def collect_imports(module: Module, names: set[str]) -> list[Import]:
    """Return all imports of a module except those in `if TYPE_CHECKING`."""
    imports: list[Import] = []

    def visit(node: ast.AST, in_function: bool) -> None:
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.dump(node.test):
            return
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            where = f"{module.path}:{node.lineno}"
            imports.extend(Import(module, name, where, in_function) for name in resolve_targets(node, module, names))
        for child in ast.iter_child_nodes(node):
            visit(child, in_function or is_function(node))

    visit(module.tree, False)
    return imports


def classify_import(item: Import) -> str:
    """Return the reason for an import inside a function."""
    if item.target.split(".")[0] in HEAVY:
        return "heavy third party"
    if item.target.endswith(READERS) and item.importer.name.endswith((".loading", ".networks")):
        return "reads YAML on a cache miss"
    if not item.importer.name.startswith(CLI):
        return "other"
    return "command loads its module" if item.target.split(".")[0] == PACKAGE else "other in cli"


def compute_reachable(graph: dict[str, set[str]], start: str) -> set[str]:
    """Return the modules that a module imports directly or indirectly; includes itself only if it is in a cycle."""
    reached: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        name = waiting.pop()
        if name not in reached:
            reached.add(name)
            waiting.extend(graph[name])
    return reached


def find_cycles(modules: tuple[Module, ...], imports: list[Import]) -> list[list[str]]:
    """Return the strongly connected components of more than one module, largest first."""
    graph: dict[str, set[str]] = {module.name: set() for module in modules}
    for item in imports:
        if item.target in graph and item.target != item.importer.name:
            graph[item.importer.name].add(item.target)
    reachable = {name: compute_reachable(graph, name) for name in graph}
    cycles = {
        tuple(sorted(other for other in reached if name in reachable[other]))
        for name, reached in reachable.items()
        if name in reached
    }
    return sorted(map(list, cycles), key=lambda cycle: (-len(cycle), cycle))
