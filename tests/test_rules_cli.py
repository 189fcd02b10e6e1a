"""Commands of `optadvise rules`, and files that are generated from the rules."""

from __future__ import annotations

import functools
import json
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

import jsonschema
import pytest
import yaml
from referencing import Registry, Resource

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.recommend import advise
from optadvise.core.cards import FactValue
from optadvise.core.error_codes import ErrorCode
from optadvise.rule_analysis.json_schema import DEFINITIONS, editor_line, schemas
from optadvise.rulebase.catalog import Catalog
from optadvise.rulebase.records import Flowchart
from tests.cli import optadvise
from tests.conftest import ROOT, rotated

RULES = ROOT / "rules"
FILES = sorted(RULES.rglob("*.yaml"))
TEAM = ROOT / "examples" / "team-rules"


class _Yaml12(yaml.CSafeLoader):
    """YAML 1.2 loader, as in editors: `1e-4` is a number and `no` is a string."""


_Yaml12.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag in ("tag:yaml.org,2002:null", "tag:yaml.org,2002:int")]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
_FLOAT = re.compile(r"[-+]?(\.\d+|\d+(\.\d*)?)([eE][-+]?\d+)?$")
_Yaml12.add_implicit_resolver("tag:yaml.org,2002:float", _FLOAT, list("-+.0123456789"))
_Yaml12.add_implicit_resolver("tag:yaml.org,2002:bool", re.compile("(true|false)$"), list("tf"))


@functools.cache
def _validator(catalog: Catalog, kind: str) -> jsonschema.Draft202012Validator:
    documents = schemas(catalog)
    shared = Resource.from_contents(documents[DEFINITIONS])
    return jsonschema.Draft202012Validator(
        documents[kind], registry=Registry().with_resource("definitions.json", shared)
    )


def _kind(file: Path, root: Path = RULES) -> tuple[PurePosixPath, str]:
    relative = PurePosixPath(file.relative_to(root).as_posix())
    folder = relative.parts[0] if len(relative.parts) > 1 else ""
    if folder == "networks":
        return relative, relative.stem if relative.stem in ("parts", "sources") else "network"
    if folder in ("optimizers", "schedulers", "frameworks"):
        return relative, folder.removesuffix("s")
    if folder == "decide" or (not folder and relative.stem in ("adjust", "warn")):
        return relative, "table"
    return relative, folder or relative.stem


@pytest.mark.parametrize("file", FILES, ids=lambda f: f.relative_to(RULES).as_posix())
def test_shipped_file_names_its_schema_and_is_valid(file: Path, catalog: Catalog) -> None:
    relative, kind = _kind(file)
    text = file.read_text(encoding="utf-8")
    assert text.splitlines()[0] == editor_line(relative, kind)
    assert (file.parent / text.split("$schema=")[1].splitlines()[0]).is_file()
    _validator(catalog, kind).validate(yaml.load(text, _Yaml12))


def test_schemas_are_up_to_date(catalog: Catalog) -> None:
    generated = {f"{name}.json": schema for name, schema in schemas(catalog).items()}
    stored = {file.name: json.loads(file.read_text(encoding="utf-8")) for file in (RULES / "schema").glob("*.json")}
    assert stored == generated, "run optadvise rules schema --out rules/schema"


@pytest.mark.parametrize(
    ("kind", "document"),
    [
        ("table", {"table": "warn", "rules": [{"id": "A", "name": "a"}]}),
        ("table", {"table": "warn", "kind": "warn", "rules": [{"id": "A", "name": "a", "when": {"modle": "cnn"}}]}),
        ("policy", {"policy": {"disable": [{"optimizer": "adamw"}]}}),
        ("optimizer", {"id": "x", "name": "X", "family": "magic"}),
        ("cases", {"table": "warn", "cases": [{"given": {"model": "cmn"}, "fire": []}]}),
    ],
)
def test_schema_rejects_what_the_reader_rejects(catalog: Catalog, kind: str, document: dict[str, Any]) -> None:
    if kind == "table" and "kind" not in document:  # a table of a layer; only the base declares its kind
        document = {**document, "kind": "warn"}
    assert list(_validator(catalog, kind).iter_errors(document))


def test_rules_page_is_up_to_date() -> None:
    result = optadvise("rules", "docs")
    assert result.code == 0
    assert result.out == (ROOT / "docs" / "rules.md").read_text(encoding="utf-8"), "run optadvise rules docs"


def _list_leaves(
    chart: Flowchart, question: str, inputs: Mapping[str, FactValue]
) -> Iterator[tuple[dict[str, FactValue], tuple[str, ...]]]:
    """Yield the inputs of each leaf and the optimizers and schedules that the guide recommends there."""
    for answer in chart.questions[question].answers:
        answer_inputs = {
            name: int(value) if isinstance(value, float) else value for name, value in answer.given.items()
        }
        if answer.next is None:
            yield {**inputs, **answer_inputs}, answer.recommends
        else:
            yield from _list_leaves(chart, answer.next, {**inputs, **answer_inputs})


def test_rules_agree_with_the_flowchart_of_the_guide(rules: CompiledRules) -> None:
    leaves = list(_list_leaves(rules.catalog.flowchart, rules.catalog.flowchart.start, {}))
    assert len(leaves) == 8
    for inputs, names in leaves:
        advice = advise(rules, {"policy": "guide", **inputs})
        assert advice.optimizer.id in names, inputs
        assert all(name in (advice.optimizer.id, advice.schedule.id) for name in names if name == "cosine")


def test_graph_is_mermaid_or_a_picture(tmp_path: Path) -> None:
    result = optadvise("rules", "graph")
    assert (result.code, result.out.count("graph TD")) == (0, 2)
    for name, start in (("flow.svg", b"<?xml"), ("flow.png", b"\x89PNG")):
        assert optadvise("rules", "graph", "--out", str(tmp_path / name)).code == 0
        assert (tmp_path / name).read_bytes().startswith(start)
    wrong = optadvise("rules", "graph", "--out", str(tmp_path / "flow.doc"))
    assert (wrong.code, len(wrong.err.splitlines())) == (2, 1)


def test_check_reports_the_cells_of_each_table_and_its_otherwise() -> None:
    result = optadvise("rules", "check", "--json")
    data = json.loads(result.out)
    assert (result.code, data["sound"], data["proven"], data["findings"]) == (0, True, True, [])
    (concern,) = [table for table in data["tables"] if table["table"] == "concern"]
    assert concern["cells"] > concern["otherwise"] > 0


@pytest.mark.parametrize(
    "name", rotated(2, ["optimizers/adamw", "networks/own", "frameworks/hf", "surfaces", "claims"])
)
def test_check_reads_files_that_other_commands_read_lazily(name: str, tmp_path: Path) -> None:
    file = tmp_path / f"{name}.yaml"
    file.parent.mkdir(exist_ok=True)
    file.touch()
    result = optadvise("rules", "check", "--rules", str(tmp_path))
    assert (result.code, result.out, len(result.err.splitlines())) == (3, "", 1)
    assert (result.error, result.failure and result.failure.where) == (ErrorCode.INVALID_SYNTAX, str(file))


def test_finding_has_line_rows_and_a_command_that_reproduces_it(tmp_path: Path) -> None:
    (tmp_path / "decide").mkdir()
    (tmp_path / "decide" / "ours.yaml").write_text(
        "table: choose_optimizer\nrules:\n  - id: OUR010\n    name: ours\n"
        "    when: {concern: large-batch, model: [transformer, cnn]}\n"
        "    then: {optimizer: lion}\n    because: ours\n    cite: [measured]\n"
        "    tests: [{given: {concern: large-batch, model: cnn}, expect: {optimizer: lion}}]\n",
        encoding="utf-8",
    )
    result = optadvise("rules", "check", "--rules", str(tmp_path), "--json")
    assert result.code == 1
    findings = json.loads(result.out)["findings"]
    assert {finding["kind"] for finding in findings} == {"overlap"}
    for finding in findings:
        assert re.fullmatch(rf"{re.escape(str(tmp_path))}/decide/ours.yaml:3:5", finding["at"])
        assert "OUR010" in finding["rules"]
        arguments = finding["witness"].split()
        assert arguments[:2] == ["optadvise", "recommend"]
        assert arguments[-2:] == ["--rules", str(tmp_path)]
        rejected = optadvise(*arguments[1:])
        assert (rejected.code, rejected.out, len(rejected.err.splitlines())) == (3, "", 1)


def test_example_rule_layer_is_sound_and_applies(tmp_path: Path) -> None:
    for command in ("check", "test"):
        assert optadvise("rules", command, "--rules", str(TEAM)).code == 0
    result = optadvise("rules", "diff", "-", str(TEAM), "--out", str(tmp_path / "diff.md"))
    assert (result.code, result.out) == (0, "")
    diff = (tmp_path / "diff.md").read_text(encoding="utf-8")
    assert "batch_size >= 4,096 and <= 8,192" in diff
    assert "optimizer paged-adamw8bit disabled" in diff
    data = json.loads(optadvise("recommend", "--batch-size", "4096", "--params", "350M", "--model", "transformer",
                                "--rules", str(TEAM), "--json").out)  # fmt: skip
    assert data["optimizer"]["id"] == "lamb"
    assert data["situation"]["vram_bytes"] == 40 * 2**30
    assert data["rules"]["layers"] == ["shipped", str(TEAM)]
    assert {entry["layer"] for entry in data["trace"]} == {"shipped", str(TEAM)}


def test_rules_commands_do_not_import_torch() -> None:
    code = (
        "import sys; from optadvise.cli.app import run\n"
        "for name in ('torch', 'bitsandbytes', 'numpy'): sys.modules[name] = None\n"
        "assert run(['rules', 'check']) == 0 and run(['rules', 'test']) == 0\n"
    )
    process = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert process.returncode == 0, process.stderr


@pytest.mark.parametrize(
    "line", ["rules diff nowhere -", "rules schema nothing", "rules init /", "rules test --suggest", "rules chek"]
)
def test_invalid_command_line_is_one_line(line: str) -> None:
    result = optadvise(*line.split())
    assert (result.code, result.out, len(result.err.splitlines())) == (2, "", 1)
