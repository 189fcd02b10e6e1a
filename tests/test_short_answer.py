"""The short answer of `recommend`: length, constructor call, suggested changes and relevant measurements."""

from __future__ import annotations

import ast
import json

import pytest
from msgspec.structs import replace

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.recommend import advise
from optadvise.benchmark.options import DTYPES, WORKLOADS
from optadvise.core.advice_records import Recommendation
from optadvise.core.findings import AuditFinding, BenchmarkFinding, Evidence, Throughput
from optadvise.core.records import FactValues
from optadvise.render import headings
from optadvise.render.evidence import list_sentences, select_relevant
from optadvise.render.labels import format_sentence
from optadvise.render.recommendation import (
    describe_schedule,
    format_bench_command,
    format_call,
    format_exact_bench_command,
    list_changes,
)
from optadvise.render.text.advice import render_text
from optadvise.rulebase.constructor import convert_lists
from tests.cli import optadvise

FITTING = [
    "--model transformer --vram 24GB",
    "--model transformer",
    "--model cnn --tuning high --batch-size 1024",
    "--arch resnet50 --gpu rtx4090 --batch-size 256",
    "--model transformer --optimizer muon --params 350M --vram 80GB",
    "--model recsys --sparse-gradients",
    "",
]
TOO_LARGE = [
    "--model transformer --vram 24GB --params 7B",
    "--model transformer --vram 24GB --params 8B --task finetune",
    "--model transformer --params 70B --gpu h100 --gpus 8",
    "--model transformer --params 65B --vram 48GB --method qlora",
    "--model transformer --params 7B --vram 24GB --optimizer muon",
]
TIGHT = [
    "--model transformer --params 1B --vram 16GB --optimizer muon",
    "--model transformer --params 7B --vram 24GB --method lora",
    "--model transformer --params 7B --vram 24GB --method lora --optimizer muon",
    "--model transformer --params 70B --vram 80GB --gpus 8 --method qlora",
]


def print_answer(line: str) -> str:
    result = optadvise("recommend", *line.split())
    assert result.code == 0, result.err
    return result.out


@pytest.fixture(autouse=True)
def _set_width(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


LIMITS = [
    (FITTING[0], 40), *((line, 48) for line in FITTING), *((line, 58) for line in TIGHT),
    *((line, 60) for line in TOO_LARGE),
]  # fmt: skip


@pytest.mark.parametrize(("line", "limit"), LIMITS)
def test_the_short_answer_is_short_and_has_80_columns(line: str, limit: int) -> None:
    lines = print_answer(line).splitlines()
    assert len(lines) <= limit
    assert all(len(text) <= 80 for text in lines)


@pytest.mark.parametrize("line", [*FITTING, *TOO_LARGE])
def test_the_short_answer_has_no_rule_ids_and_explain_has_all(line: str) -> None:
    data = json.loads(print_answer(f"{line} --json"))
    short, explained = print_answer(line), print_answer(f"{line} --explain")
    steps = [step["rule"] for number in data["hyperparameters"] for step in number["ledger"]]
    rules = {entry["rule"] for entry in (*data["trace"], *data["explain"])} if "explain" in data else set()
    rules |= {entry["rule"] for entry in data["trace"]} | set(steps)
    assert all(rule in explained.split() or f"{rule}" in explained for rule in rules)
    assert not any(entry["rule"] in short for entry in data["trace"])
    cites = {cite for entry in (*data["trace"], *data["warnings"]) for cite in entry["cite"]}
    assert all(cite in "".join(explained.split()) for cite in cites)
    assert not any(f"[{cite}" in short for cite in cites)
    assert all(alternative["id"] in explained for alternative in data["alternatives"])


def test_a_run_that_does_not_fit_has_the_verdict_below_the_name() -> None:
    lines = print_answer(TOO_LARGE[0]).splitlines()
    assert "(paged-adamw8bit)" in lines[0]
    assert lines[1].strip().startswith("Does not fit")


@pytest.mark.parametrize("name", ["muon", "adamw", "adamw8bit", "lion", "prodigy", "sgd-nesterov", "adafactor"])
def test_the_call_has_every_argument_and_the_table_the_values(name: str, rules: CompiledRules) -> None:
    advice = advise(rules, {"model": "transformer", "optimizer": name})
    call = format_call(advice)
    assert call.startswith(f"{advice.implementation.path}(params, ")
    assert all(f" {argument}=" in call for argument in advice.kwargs)
    text = render_text(advice, rules.catalog)
    assert all(f"{argument}=" in text for argument in advice.kwargs)


def test_every_call_is_python(rules: CompiledRules) -> None:
    for name in rules.catalog.optimizer_ids:
        advice = advise(rules, {"model": "transformer", "optimizer": name})
        call = ast.parse(format_call(advice), mode="eval").body
        assert isinstance(call, ast.Call)
        arguments = {keyword.arg: ast.literal_eval(keyword.value) for keyword in call.keywords}
        assert {name: type(value) for name, value in arguments.items() if not isinstance(value, (int, float))} == {
            name: type(value)
            for name, value in convert_lists(advice.kwargs).items()
            if not isinstance(value, (int, float))
        }


def test_the_call_of_muon_has_its_learning_rate_scale(rules: CompiledRules) -> None:
    call = format_call(advise(rules, {"model": "transformer", "optimizer": "muon"}))
    assert 'adjust_lr_fn="match_rms_adamw"' in call


@pytest.mark.parametrize(
    ("schedule", "description"),
    [
        ("warmup-cosine", "100,000 steps: 1,000 warmup, then cosine decay to 3e-5"),
        ("step", "100,000 steps: ×0.1 at steps 30,000, 60,000 and 80,000"),
        ("constant", "100,000 steps"),
        ("linear", "100,000 steps: linear decay to 0"),
        ("wsd", "100,000 steps: 1,000 warmup, constant to step 80,000, then linear decay to 0"),
        ("warmup-constant", "100,000 steps: 1,000 warmup, then constant"),
        ("inverse-sqrt", "100,000 steps: 1,000 warmup, then decay with 1/√step"),
    ],
)
def test_schedules_are_described_by_their_phases(schedule: str, description: str, rules: CompiledRules) -> None:
    from optadvise.core.schedules import resolve_schedule

    advice = advise(rules, {"model": "transformer"})
    resolved = resolve_schedule(rules.catalog.scheduler(schedule), 3e-4, 100_000, 0.01, {})
    assert describe_schedule(replace(advice, schedule=resolved)) == description


# -- reasons and assumptions -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("line", ["--params 7B --vram 24GB", "--stability spikes", "--batch-size 16384", "--gpu h100"])
def test_reasons_of_a_specified_optimizer_begin_with_the_option(line: str) -> None:
    answer = print_answer(f"--model transformer {line} --optimizer muon")
    reasons = answer.split(f"\n{headings.WHY}\n")[1].split("\n\n")[0]
    assert reasons.split()[1:4] == ["Specified", "with", "--optimizer;"]
    assert reasons.count("·") in (2, 3)  # of the optimizer, of its learning rate, and of the schedule if it fits


def test_reasons_of_the_recommended_optimizer_do_not_change_if_it_is_specified() -> None:
    line = "--model transformer --params 7B --vram 24GB"
    reasons = [
        print_answer(text).split(f"\n{headings.WHY}\n")[1].split("\n\n")[0]
        for text in (line, f"{line} --optimizer paged-adamw8bit")
    ]
    assert reasons[0] == reasons[1]


def test_assumptions_without_a_meaning_for_the_model_are_not_printed() -> None:
    assert "--task" in print_answer("--model transformer")
    assert not any("--task" in print_answer(f"--model {model}") for model in ("gan", "rl", "recsys"))


@pytest.mark.parametrize("line", ["--vram 24GB", "--gpu h100"])
def test_the_largest_model_size_states_its_run(line: str) -> None:
    sizes = json.loads(print_answer(f"--model transformer {line} --json"))["bands"]
    assert {(size["micro_batch"], size["seq_len"], size["checkpointing"]) for size in sizes} == {(1, 2048, "none")}


def test_sparse_gradients_have_no_range_of_weight_decay(rules: CompiledRules) -> None:
    advice = advise(rules, {"model": "recsys", "sparse_gradients": True})
    decay = next(number for number in advice.hyperparameters if number.name == "weight_decay")
    assert (decay.value, decay.low, decay.high) == (0, 0, 0)


def test_notes_about_cpus_are_not_for_gpus(rules: CompiledRules) -> None:
    limited = advise(rules, {"vram_bytes": 24 * 2**30, "optimizer": "adamw8bit"})
    unlimited = advise(rules, {"optimizer": "adamw8bit"})
    assert "WRN100" in {warning.id for warning in unlimited.warnings}
    assert "WRN100" not in {warning.id for warning in limited.warnings}


# -- suggested changes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("inputs", [{"model": "transformer"}, {"model": "cnn"}, {}])
def test_sparse_gradients_are_suggested_for_recommenders_alone(inputs: FactValues, rules: CompiledRules) -> None:
    advice = advise(rules, inputs)
    assert not any("--sparse-gradients" in option for option, _ in list_changes(advice, rules.catalog))
    recommender = advise(rules, {"model": "recsys"})
    assert any("--sparse-gradients" in option for option, _ in list_changes(recommender, rules.catalog))


def test_less_memory_is_not_suggested(rules: CompiledRules) -> None:
    advice = advise(rules, {"model": "transformer", "params": 100_000_000, "vram_bytes": 80 * 2**30})
    assert not any(option.startswith("--vram") for option, _ in list_changes(advice, rules.catalog))


def test_at_most_three_changes_are_printed() -> None:
    section = print_answer("").split(headings.CHANGES)[1].split("\n\n")[0]
    assert len(section.strip().splitlines()) == 3


# -- measurements -----------------------------------------------------------------------------------------------------


def make_benchmark(workload: str, parameters: int) -> BenchmarkFinding:
    return BenchmarkFinding(
        optimizer="adamw", path="torch.optim.AdamW", variant=None, device="cpu", workload=workload,
        parameters=parameters, dtype="fp32", state_bytes_per_parameter=8.0, optimizer_seconds=1e-3,
        peak_memory_bytes={}, throughput=Throughput(value=None, unit="samples/s", ci95=None), versus=None, ratio=None,
        ci95=None, date="2026-11-30", packages={},
    )  # fmt: skip


def with_evidence(rules: CompiledRules, evidence: Evidence, **inputs: object) -> Recommendation:
    advice = advise(rules, {"model": "transformer", "optimizer": "adamw", **inputs})  # type: ignore[dict-item]
    return replace(advice, evidence=evidence)


@pytest.mark.parametrize(
    ("workload", "parameters", "is_relevant"),
    [
        ("transformer", 350_000_000, True),
        ("transformer", 35_000_000, True),
        ("transformer", 3_500_000_000, True),
        ("transformer", 34_000_000, False),
        ("transformer", 830_000, False),
        ("cnn", 350_000_000, False),
    ],
)
def test_only_benchmarks_of_comparable_models_are_relevant(
    workload: str, parameters: int, is_relevant: bool, rules: CompiledRules
) -> None:
    evidence = Evidence(benchmarks=(make_benchmark(workload, parameters),))
    assert bool(select_relevant(with_evidence(rules, evidence, params=350_000_000)).benchmarks) is is_relevant
    assert not select_relevant(with_evidence(rules, evidence)).benchmarks


@pytest.mark.parametrize(
    ("ratio", "ci95", "has_interval"),
    [
        (1.27, (1.2, 1.33), True),
        (34.6, (0.00394, 3.04e5), False),
        (111_000.0, (1.1, 1.11e7), False),
        (2.0, None, False),
    ],
)
def test_an_interval_without_information_is_not_printed(
    ratio: float, ci95: tuple[float, float] | None, has_interval: bool
) -> None:
    benchmark = replace(make_benchmark("transformer", 830_000), versus="adamw", ratio=ratio, ci95=ci95)
    (sentence,) = list_sentences(Evidence(benchmarks=(benchmark,)))
    assert (" to 1.33)" in sentence) is has_interval
    assert ("too few rounds" in sentence) is not has_interval
    assert "e+" not in sentence


@pytest.mark.parametrize(
    ("path", "verdict", "is_relevant"),
    [
        ("torch.optim.AdamW", "conforms", False),
        ("torch.optim.AdamW", "deviates", True),
        ("torch.optim.AdamW", "fails", True),
        ("optimi.AdamW", "deviates", False),
    ],
)
def test_only_failed_audits_of_the_implementation_are_relevant(
    path: str, verdict: str, is_relevant: bool, rules: CompiledRules
) -> None:
    audit = AuditFinding(
        optimizer="adamw", path=path, package="torch", verdict=verdict, why=None, worst=0.1,  # type: ignore[arg-type]
        date="2026-11-30", packages={},
    )  # fmt: skip
    advice = with_evidence(rules, Evidence(audits=(audit,)))
    assert bool(select_relevant(advice).audits) is is_relevant
    assert (headings.MEASURED in render_text(advice, rules.catalog)) is is_relevant


def test_reasons_are_sentences() -> None:
    assert format_sentence("adapters alone carry state") == "Adapters alone carry state."
    assert format_sentence("The state is small.") == "The state is small."


# -- next command -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("inputs", "command"),
    [
        ({"model": "cnn", "optimizer": "ranger"}, "optadvise bench ranger --workload cnn --precision amp-bf16"),
        ({"model": "mlp", "optimizer": "lion", "precision": "fp32"}, "optadvise bench lion --workload mlp"),
        ({"model": "transformer", "optimizer": "lion", "precision": "bf16"}, "optadvise bench lion --precision bf16"),
        ({"model": "gnn", "optimizer": "adam", "precision": "fp32"}, "optadvise bench adam"),  # no such workload
    ],
)
def test_the_next_command_measures_the_model_and_precision(
    inputs: FactValues, command: str, rules: CompiledRules
) -> None:
    assert format_bench_command(advise(rules, inputs), rules.catalog) == command


@pytest.mark.parametrize("model", ["transformer", "cnn", "mlp", "rnn", "gan", "vit"])
def test_the_control_is_not_compared_with_itself(model: str, rules: CompiledRules) -> None:
    advice = advise(rules, {"model": model, "optimizer": "adamw"})
    assert advice.alternatives
    words = format_bench_command(advice, rules.catalog).split()
    assert words[2] in {other.id for other in advice.alternatives}
    assert f"--control {words[2]}" in format_exact_bench_command(advice, rules.catalog, "optadvise recommend")
    alone = replace(advice, alternatives=())
    assert " adamw --control none" in format_bench_command(alone, rules.catalog)


def test_the_next_command_names_no_optimizer_of_little_interest(rules: CompiledRules) -> None:
    advice = advise(rules, {"model": "transformer", "params": 8 * 10**9, "task": "finetune"})
    lion = [other for other in advice.alternatives if other.id == "lion"]
    assert lion
    assert " adamw8bit" in format_bench_command(advice, rules.catalog)
    assert " adamw --control none" in format_bench_command(replace(advice, alternatives=tuple(lion)), rules.catalog)


def test_every_next_command_fits_80_columns_and_has_a_precision_of_bench(rules: CompiledRules) -> None:
    for name in rules.catalog.optimizer_ids:
        for model in WORKLOADS:
            advice = advise(rules, {"model": model, "optimizer": name, "precision": "amp-bf16"})
            command = format_bench_command(advice, rules.catalog)
            assert len(f"{headings.NEXT}  {command}") <= 80
    assert set(rules.catalog.facts["precision"].values or ()) == set(DTYPES)  # each is a --precision of bench


def test_a_published_rate_is_that_of_the_advised_optimizer() -> None:
    """Lion's rate is a fraction of AdamW's, so the published rate of AdamW is not shown beside it."""
    line = "recommend --model llm --params 1B --optimizer".split()
    assert "published runs use" in optadvise(*line, "adamw").out
    assert "published runs use" not in optadvise(*line, "lion").out


def test_published_runs_of_other_kinds_of_models_do_not_support_an_answer() -> None:
    trained = json.loads(optadvise("recommend", "--model", "cnn", "--method", "lora", "--json").out)
    assert all(entry["support"] is None for entry in trained["trace"])


@pytest.mark.parametrize(("model", "floor"), [("vit", 0.0), ("cnn", 0.0), ("llm", 0.1)])
def test_cosine_decay_ends_where_the_field_ends_it(model: str, floor: float) -> None:
    data = json.loads(optadvise("recommend", "--model", model, "--schedule", "warmup-cosine", "--json").out)
    (rate,) = (number["value"] for number in data["hyperparameters"] if number["name"] == "lr")
    assert data["scheduler"]["floor_lr"] == pytest.approx(floor * rate)


@pytest.mark.parametrize("task", ["finetune", "dpo", "grpo"])
def test_muon_is_no_alternative_for_weights_trained_with_another_optimizer(task: str) -> None:
    line = f"recommend --model llm --params 8B --task {task}"
    assert "muon" not in {other["id"] for other in json.loads(optadvise(*line.split(), "--json").out)["alternatives"]}
    warned = json.loads(optadvise(*line.split(), "--optimizer", "muon", "--json").out)
    assert "WRN104" in {warning["id"] for warning in warned["warnings"]}
