"""Generated code: programs run, configuration files parse, and values from rules cannot become code."""

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
from optadvise.core.advice_records import Recommendation
from optadvise.core.cards import Phase
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError, RuleFileError
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


def write_python(rules: CompiledRules, advice: Recommendation) -> str:
    return write_code(rules, advice, "python").text


def execute(code: str, folder: Path) -> dict[str, Any]:
    """Run a generated program, check that it prints a loss, and return its globals."""
    file = folder / "train.py"
    file.write_text(code, encoding="utf-8")
    out = io.StringIO()
    with contextlib.redirect_stdout(out), patch.object(sys, "argv", [str(file)]):
        names = runpy.run_path(str(file), run_name="__main__")
    assert "loss" in out.getvalue()
    return names


@pytest.mark.parametrize("answers", SITUATIONS, ids=str)
def test_program_runs(rules: CompiledRules, tmp_path: Path, answers: dict[str, Any]) -> None:
    execute(write_python(rules, advise(rules, answers)), tmp_path)


@pytest.mark.parametrize(
    ("optimizer", "count"), [("adamw", 1), ("muon", 1), ("soap", 1), ("sgd", 1), ("adagrad", 0), ("lion", 0)]
)
def test_fused_variants_that_every_version_supports(rules: CompiledRules, optimizer: str, count: int) -> None:
    """Adagrad's fused variant requires torch 2.12 on CUDA, and a program may run on another machine."""
    code = write_python(rules, advise(rules, {"model": "transformer", "optimizer": optimizer}))
    assert code.count("fused=True") == count
    assert "triton=True" not in code


@pytest.mark.parametrize("output_format", ["python", "hf", "axolotl"])
def test_paged_state_is_mentioned_where_runs_resume(rules: CompiledRules, output_format: str) -> None:
    for optimizer in ("paged-adamw8bit", "paged-adamw32bit", "adamw8bit"):
        advice = advise(rules, {"model": "transformer", "optimizer": optimizer})
        is_paged = rules.catalog.optimizer(optimizer).paged
        text = " ".join(write_code(rules, advice, output_format).text.replace("#", "").split())
        assert ("resumed run" in text) is is_paged
        assert any("resumed run" in warning.text for warning in advice.warnings) is is_paged


def test_companion_of_sparse_gradients_is_not_fused(rules: CompiledRules) -> None:
    advice = advise(rules, {"model": "recsys", "optimizer": "sparse-adam", "sparse_gradients": True})
    assert "fused" not in write_python(rules, advice)


def test_biases_and_norms_have_no_weight_decay(rules: CompiledRules, tmp_path: Path) -> None:
    names = execute(write_python(rules, advise(rules, {"model": "transformer"})), tmp_path)
    model, _ = names["make_example"]()
    optimizer, _ = names["configure"](model)
    matrices, vectors = optimizer.param_groups
    assert matrices["weight_decay"] == 0.1
    assert vectors["weight_decay"] == 0.0
    assert all(p.ndim >= 2 for p in matrices["params"])
    assert all(p.ndim == 1 for p in vectors["params"])
    assert len(matrices["params"]) + len(vectors["params"]) == len(list(model.parameters()))


@pytest.mark.parametrize("name", CATALOG.scheduler_ids)
def test_schedule_never_exceeds_its_peak(rules: CompiledRules, tmp_path: Path, name: str) -> None:
    advice = advise(rules, {"model": "transformer", "optimizer": "sgd", "precision": "fp32"})
    schedule = resolve_schedule(CATALOG.scheduler(name), 0.1, 20, 0.2, {})
    names = execute(
        write_python(rules, replace(advice, schedule=schedule, kwargs={**advice.kwargs, "lr": 0.1})), tmp_path
    )
    import torch

    weight = torch.nn.Parameter(torch.zeros(2))
    optimizer = torch.optim.SGD([weight], lr=0.1)
    scheduler = names["make_scheduler"](optimizer)
    learning_rates = []
    for _ in range(20):
        learning_rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        scheduler.step()
    assert max(learning_rates) == pytest.approx(0.1, rel=0.06)
    assert min(learning_rates) >= 0
    card = CATALOG.scheduler(name)
    if card.warmup:
        assert learning_rates[0] < 0.5 * max(learning_rates)
    if card.family == "hold":
        assert learning_rates[-1] == pytest.approx(0.1)
    elif card.family not in ("inverse",):
        assert learning_rates[-1] < 0.3 * max(learning_rates)


INJECTION = "1); import os; os.abort("


@pytest.mark.parametrize("framework", FRAMEWORKS)
def test_values_from_rules_cannot_become_code(rules: CompiledRules, framework: str) -> None:
    """Values from rule files become strings, one-line comments or errors."""
    advice = advise(rules, {"optimizer": "adamw"})
    line = "x\nimport os\r\u2028import os\x0cimport os {{ undefined }} {% raw %}"
    numbers = tuple(replace(h, value=INJECTION) if h.name == "eps" else h for h in advice.hyperparameters)
    trace = tuple(replace(entry, because=line) for entry in advice.trace)
    hostile = replace(advice, kwargs={**advice.kwargs, "eps": INJECTION}, hyperparameters=numbers, trace=trace,
                              optimizer=replace(advice.optimizer, name=line), fingerprint=line)  # fmt: skip
    text = write_code(rules, hostile, framework).text
    if CATALOG.frameworks[framework].output_format != "python":
        document = json.loads(text) if framework == "deepspeed" else yaml.safe_load(text)
        assert INJECTION in json.dumps(document)
        assert "import os" not in json.dumps(document).replace(INJECTION, "")
        return
    tree = ast.parse(text)
    assert not any(
        alias.name == "os" for node in ast.walk(tree) if isinstance(node, ast.Import) for alias in node.names
    )
    assert INJECTION in [node.value for node in ast.walk(tree) if isinstance(node, ast.Constant)]


@pytest.mark.parametrize("framework", [f for f in FRAMEWORKS if CATALOG.frameworks[f].output_format == "python"])
def test_invalid_names_in_rules_are_errors(rules: CompiledRules, framework: str) -> None:
    advice = advise(rules, {"optimizer": "adan"})
    for broken in (
        replace(advice, kwargs={**advice.kwargs, "x=1); import os #": 1}),
        replace(advice, implementation=replace(advice.implementation, path="os; import sys.x")),
        replace(advice, schedule=replace(advice.schedule, phases=(Phase(shape="linear", path="os;x.y", kwargs={}),))),
    ):
        with pytest.raises(RuleFileError) as caught:
            write_code(rules, broken, framework)
        assert caught.value.code is ErrorCode.INVALID_ENTRY


@pytest.mark.parametrize("expression", ["text", "number", "texts[0]", "[text, number]", "unset"])
def test_template_inserts_only_source(expression: str) -> None:
    """A value without a source filter and an undefined name are errors."""
    template = program_environment().from_string
    values = {"text": INJECTION, "number": 1, "texts": [INJECTION], "unset": None}
    with pytest.raises(TypeError):
        template("x = {{ " + expression + " }}").render(values)
    with pytest.raises(UndefinedError):
        template("{% if misspelt %}{% endif %}").render(values)
    assert ast.literal_eval(template("{{ text | py }}").render(values)) == INJECTION
    for name in ("name", "path", "module"):
        with pytest.raises(RuleFileError):
            template("{{ text | " + name + " }}").render(values)


@pytest.mark.parametrize("file", sorted(FOLDER.rglob("*.jinja")), ids=lambda file: file.name)
def test_template_does_not_concatenate_text(file: Path) -> None:
    """jinja2 marks concatenated text as source without a check, so only filters may produce output."""
    tree = program_environment().parse(file.read_text(encoding="utf-8"))
    assert not [*tree.find_all((nodes.Concat, nodes.Add, nodes.Mod))]
    for node in (node for output in tree.find_all(nodes.Output) for node in output.nodes):
        is_source = isinstance(node, nodes.Filter) and node.name in FILTERS
        assert is_source or isinstance(node, (nodes.TemplateData, nodes.Name, nodes.Call)), node


def test_unknown_format() -> None:
    result = optadvise("recommend", "--format", "pyhton")
    assert (result.code, result.out, result.error) == (2, "", "unknown-choice")
    assert result.failure is not None
    assert (result.failure.option, result.failure.value) == ("--format", "pyhton")
    assert "python" in result.err


def test_unknown_framework_in_the_library(rules: CompiledRules) -> None:
    with pytest.raises(InputError) as caught:
        write_code(rules, advise(rules, {}), "pyhton")
    assert (caught.value.code, caught.value.option) == (ErrorCode.UNKNOWN_CHOICE, "--format")


def test_output_file_and_notes_on_stderr(tmp_path: Path) -> None:
    file = tmp_path / "ds.json"
    result = optadvise("recommend", "--optimizer", "muon", "--format", "deepspeed", "-o", str(file))
    assert (result.code, result.out) == (0, "")
    assert "Muon" in result.err
    assert json.loads(file.read_text(encoding="utf-8"))["optimizer"]["type"] == "AdamW"
    plain = tmp_path / "advice.txt"
    assert optadvise("recommend", "-o", str(plain)).code == 0
    assert optadvise("recommend").out == plain.read_text(encoding="utf-8")
    failed = optadvise("recommend", "--format", "python", "-o", str(tmp_path / "no" / "x.py"))
    assert (failed.code, failed.err.count("\n")) == (2, 1)


def test_yaml_equals_json() -> None:
    line = ("recommend", "--model", "vit", "--params", "86M", "--vram", "24GB", "--explain")
    assert yaml.safe_load(optadvise(*line, "--format", "yaml").out) == json.loads(optadvise(*line, "--json").out)


def test_markdown_is_complete_and_escaped(rules: CompiledRules) -> None:
    advice = advise(rules, {"model": "transformer", "params": 10**9, "vram_bytes": 24 * 2**30})
    trace = (replace(advice.trace[0], because="<script>x</script> [y](javascript:z)\n# h | a"), *advice.trace[1:])
    text = render_recommendation(replace(advice, trace=trace), CATALOG)
    for number in advice.hyperparameters:
        assert number.value is None or number.name in text
    for rule in (*(entry.rule for entry in advice.trace), *(other.id for other in advice.alternatives)):
        assert f"**{rule}**" in text
    assert text.count("\n| ") > len(advice.memory.breakdown)
    assert "<script>" not in text.replace("\\<", "")
    assert "[y](javascript" not in text
    assert "\n# h" not in text
