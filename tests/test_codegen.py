"""Generated code runs as printed, and does what the advice says."""

from __future__ import annotations

import ast
import contextlib
import io
import json
import runpy
import sys
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
import yaml
from jinja2 import UndefinedError, nodes
from msgspec.structs import replace

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.recommend import advise
from optadvise.codegen import FRAMEWORKS
from optadvise.codegen.templating import FILTERS, FOLDER, program_environment
from optadvise.codegen.write import write_code
from optadvise.core.cards import Phase
from optadvise.core.errors import RuleFileError
from optadvise.core.records import Recommendation
from optadvise.core.schedules import resolve_schedule
from optadvise.render.markdown import render_recommendation
from optadvise.rulebase.catalog import load
from tests.cli import optadvise

CATALOG = load()
SITUATIONS: list[dict[str, Any]] = [
    {"model": "transformer"}, {"model": "cnn"}, {"model": "rnn"}, {"model": "rl"},
    {"model": "cnn", "priority": "speed"},
    {"model": "diffusion"}, {"precision": "fp32"}, {"precision": "bf16"}, {"precision": "amp-fp16"}, {"steps": 1},
    {"steps": 3}, {"model": "transformer", "optimizer": "adafactor"},
]  # fmt: skip


def plain_torch(rules: CompiledRules, advice: Recommendation) -> str:
    return write_code(rules, advice, "python").text


def execute(code: str, folder: Path) -> dict[str, Any]:
    """Run a generated program and return its globals; what it prints has to show a loss."""
    file = folder / "train.py"
    file.write_text(code, encoding="utf-8")
    out = io.StringIO()
    with contextlib.redirect_stdout(out), patch.object(sys, "argv", [str(file)]):
        names = runpy.run_path(str(file), run_name="__main__")
    assert "loss" in out.getvalue()
    return names


@pytest.mark.parametrize("answers", SITUATIONS, ids=str)
def test_the_snippet_runs_in_every_situation(rules: CompiledRules, tmp_path: Path, answers: dict[str, Any]) -> None:
    execute(plain_torch(rules, advise(rules, answers)), tmp_path)


def test_biases_and_norms_get_no_decay(rules: CompiledRules, tmp_path: Path) -> None:
    names = execute(plain_torch(rules, advise(rules, {"model": "transformer"})), tmp_path)
    model, _ = names["stand_in"]()
    optimizer, _ = names["configure"](model)
    decayed, free = optimizer.param_groups
    assert decayed["weight_decay"] == 0.1
    assert free["weight_decay"] == 0.0
    assert all(p.ndim >= 2 for p in decayed["params"])
    assert all(p.ndim == 1 for p in free["params"])
    assert len(decayed["params"]) + len(free["params"]) == len(list(model.parameters()))


@pytest.mark.parametrize("name", CATALOG.scheduler_ids)
def test_every_schedule_runs_to_its_end_and_never_above_its_peak(
    rules: CompiledRules, tmp_path: Path, name: str
) -> None:
    advice = advise(rules, {"model": "transformer", "optimizer": "sgd", "precision": "fp32"})
    schedule = resolve_schedule(CATALOG.scheduler(name), 0.1, 20, 0.2, {})
    names = execute(
        plain_torch(rules, replace(advice, schedule=schedule, kwargs={**advice.kwargs, "lr": 0.1})), tmp_path
    )
    import torch

    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    scheduler = names["schedule"](optimizer)
    rates = []
    for _ in range(20):
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert max(rates) == pytest.approx(0.1, rel=0.06)
    assert min(rates) >= 0
    card = CATALOG.scheduler(name)
    if card.warmup:
        assert rates[0] < 0.5 * max(rates)
    if card.family == "hold":
        assert rates[-1] == pytest.approx(0.1)
    elif card.family not in ("inverse",):
        assert rates[-1] < 0.3 * max(rates)


EVIL = "1); import os; os.abort("


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_values_from_rules_cannot_become_code(rules: CompiledRules, framework: str) -> None:
    """What a rules file says ends up in strings, in comments of one line, or in an error."""
    advice = advise(rules, {"optimizer": "adamw"})
    line = "x\nimport os\r\u2028import os\x0cimport os {{ undefined }} {% raw %}"
    numbers = tuple(replace(h, value=EVIL) if h.name == "eps" else h for h in advice.hyperparameters)
    trace = tuple(replace(entry, because=line) for entry in advice.trace)
    hostile = replace(advice, kwargs={**advice.kwargs, "eps": EVIL}, hyperparameters=numbers, trace=trace,
                              optimizer=replace(advice.optimizer, name=line), fingerprint=line)  # fmt: skip
    text = write_code(rules, hostile, framework).text
    if CATALOG.frameworks[framework].output_format != "python":
        told = json.loads(text) if framework == "deepspeed" else yaml.safe_load(text)
        assert EVIL in json.dumps(told)
        assert "import os" not in json.dumps(told).replace(EVIL, "")
        return
    tree = ast.parse(text)
    assert not any(
        alias.name == "os" for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    )
    assert EVIL in [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]


@pytest.mark.parametrize("framework", [f for f in FRAMEWORKS if CATALOG.frameworks[f].output_format == "python"])
def test_names_from_rules_have_to_be_names(rules: CompiledRules, framework: str) -> None:
    advice = advise(rules, {"optimizer": "adan"})
    for broken in (
        replace(advice, kwargs={**advice.kwargs, "x=1); import os #": 1}),
        replace(advice, implementation=replace(advice.implementation, path="os; import sys.x")),
        replace(advice, schedule=replace(advice.schedule, phases=(Phase(shape="linear", path="os;x.y", kwargs={}),))),
    ):
        with pytest.raises(RuleFileError):
            write_code(rules, broken, framework)


@pytest.mark.parametrize("expression", ["text", "number", "texts[0]", "[text, number]", "unset"])
def test_a_template_inserts_nothing_but_source(expression: str) -> None:
    """Without a filter that makes source, a value is an error, as is a name that the record does not have."""
    template = program_environment().from_string
    values = {"text": EVIL, "number": 1, "texts": [EVIL], "unset": None}
    with pytest.raises(TypeError, match="without a filter"):
        template("x = {{ " + expression + " }}").render(values)
    with pytest.raises(UndefinedError):
        template("{% if misspelt %}{% endif %}").render(values)
    assert ast.literal_eval(template("{{ text | py }}").render(values)) == EVIL
    for name in ("name", "path", "module"):
        with pytest.raises(RuleFileError):
            template("{{ text | " + name + " }}").render(values)


@pytest.mark.parametrize("file", sorted(FOLDER.rglob("*.jinja")), ids=lambda file: file.name)
def test_a_template_joins_no_texts(file: Path) -> None:
    """What jinja2 joins counts as source, whatever it was; what a filter makes last is checked."""
    tree = program_environment().parse(file.read_text(encoding="utf-8"))
    assert not [*tree.find_all((nodes.Concat, nodes.Add, nodes.Mod))]
    for node in (node for output in tree.find_all(nodes.Output) for node in output.nodes):
        is_source = isinstance(node, nodes.Filter) and node.name in FILTERS
        assert is_source or isinstance(node, (nodes.TemplateData, nodes.Name, nodes.Call)), node


def test_an_unknown_format_is_told_with_the_nearest() -> None:
    said = optadvise("recommend", "--format", "pyhton")
    assert (said.code, said.out) == (2, "")
    assert "python" in said.err


def test_a_file_is_written_whole_and_notes_go_to_stderr(tmp_path: Path) -> None:
    file = tmp_path / "ds.json"
    said = optadvise("recommend", "--optimizer", "muon", "--format", "deepspeed", "-o", str(file))
    assert (said.code, said.out) == (0, "")
    assert "Muon" in said.err
    assert json.loads(file.read_text(encoding="utf-8"))["optimizer"]["type"] == "AdamW"
    plain = tmp_path / "advice.txt"
    assert optadvise("recommend", "-o", str(plain)).code == 0
    assert optadvise("recommend").out == plain.read_text(encoding="utf-8")
    lost = optadvise("recommend", "--format", "python", "-o", str(tmp_path / "no" / "x.py"))
    assert (lost.code, lost.err.count("\n")) == (2, 1)


def test_yaml_says_what_json_says() -> None:
    line = ("recommend", "--model", "vit", "--params", "86M", "--vram", "24GB", "--explain")
    assert yaml.safe_load(optadvise(*line, "--format", "yaml").out) == json.loads(optadvise(*line, "--json").out)


def test_markdown_has_every_number_reason_and_warning_and_no_markup_of_the_rules(rules: CompiledRules) -> None:
    advice = advise(rules, {"model": "transformer", "params": 10**9, "vram_bytes": 24 * 2**30})
    trace = (replace(advice.trace[0], because="<script>x</script> [y](javascript:z)\n# h | a"), *advice.trace[1:])
    text = render_recommendation(replace(advice, trace=trace), CATALOG)
    for number in advice.hyperparameters:
        assert number.value is None or number.name.replace("_", "\\_") in text
    for rule in (*(entry.rule for entry in advice.trace), *(other.id for other in advice.alternatives)):
        assert f"**{rule}**" in text
    assert text.count("\n| ") > len(advice.memory.breakdown)
    assert "<script>" not in text
    assert "[y](javascript" not in text
    assert "\n# h" not in text
