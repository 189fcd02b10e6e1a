"""Claims: experiments, verdicts, stored findings, and advice that mentions refuted claims."""

from __future__ import annotations

import json
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import torch
from msgspec import convert
from msgspec.structs import replace

import optadvise as library
from optadvise.benchmark import plan
from optadvise.benchmark.evidence import save_findings
from optadvise.benchmark.records import BenchmarkResult
from optadvise.core import findings
from optadvise.core.cards import Range
from optadvise.core.claim_cards import EXPERIMENTS as KNOWN
from optadvise.core.claim_cards import Claim
from optadvise.evidence import store, versions
from optadvise.rulebase.catalog import Catalog, load
from optadvise.verify import claims, experiments, results, training
from optadvise.verify.experiment_setup import ExperimentSetup, UndecidableError, exp_of_minimum
from optadvise.verify.experiments import EXPERIMENTS, run_experiment
from optadvise.verify.records import ArmAtRate, Side
from optadvise.verify.training import TrainingCache, cap_losses
from tests.cli import optadvise
from tests.conftest import ROOT
from tests.test_architecture import run_and_list_modules

SMALL = {"network": "mlp", "params": 20_000, "batch_size": 16, "steps": 12, "last": 4, "smooth": 3, "within": 0.1}
SPIKE = {**SMALL, "steps": 20, "spike_at": 8, "spike_steps": 1, "spike_times": 1000, "after": 12}


@pytest.fixture(autouse=True, scope="module")
def _one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Empty folder for findings."""
    monkeypatch.setenv("OPTADVISE_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


def make_side(catalog: Catalog, name: str, learning_rates: Sequence[float] = (), **hyperparameters: Any) -> Side:
    card = catalog.optimizer(name)
    return Side(
        plan.plan_defaults(card, hyperparameters),
        tuple(ArmAtRate(lr, plan.plan_defaults(card, {"lr": lr})) for lr in learning_rates),
    )


def make_setup(setting: Mapping[str, Any], *sides: Side, trainings: TrainingCache | None = None) -> ExperimentSetup:
    return ExperimentSetup(sides, setting, "cpu", trainings or TrainingCache())


# -- claim files ------------------------------------------------------------------------------------------------------


def test_every_declared_experiment_is_implemented() -> None:
    assert KNOWN.keys() == EXPERIMENTS.keys()


def test_every_claim_has_an_experiment_or_its_requirement(catalog: Catalog) -> None:
    catalog.read_all()  # checks all references
    for claim in catalog.claims.values():
        assert (claim.experiment is None) is (claim.needs is not None), claim.id
        assert claim.quote or not claim.cite[0].startswith("guide#"), f"{claim.id}: add the quote of the guide"


def test_required_claims_exist(catalog: Catalog) -> None:
    assert {
        "eight-bit-state-quarter", "eight-bit-curve", "lion-state-half", "stable-adamw-rides-out-a-spike",
        "momentum-leaves-saddle", "adam-decay-uneven", "adamw-decay-even", "lower-beta2-recovers", "lamb-large-batch",
        "warmup-keeps-from-diverging", "paged-costs-nothing",
    } <= catalog.claims.keys()  # fmt: skip


@pytest.mark.parametrize(
    ("change", "code", "detail"),
    [
        ("experiment: state-ration", "invalid-entry", "'state-ratio'"),
        ("expected_range: about a half", "invalid-entry", "about a half"),
        ("trials: [{optimizer: lion}]", "missing-key", "state-ratio"),
        ("seeds: 0", "invalid-entry", "seeds"),
        ("supports: [OPT999]", "unknown-reference", "'OPT999'"),
        ("trials: [{optimizer: lion, implementation: nope}, {optimizer: adamw}]", "unknown-reference", "'nope'"),
        (
            "trials: [{optimizer: lion, hyperparameters: {lrr: 1}}, {optimizer: adamw}]",
            "unknown-reference",
            "'lrr'",
        ),
        (
            "trials: [{optimizer: lion, learning_rates: [1, 2]}, {optimizer: adamw}]",
            "invalid-entry",
            "learning_rates",
        ),
        ("setting: {shape: [64, 64], last: ten}", "invalid-entry", "last"),
        ("needs: a month", "missing-key", "needs"),
    ],
)
def test_invalid_claim(change: str, code: str, detail: str, tmp_path: Path) -> None:
    lines = {"id": "ours", "claim": "Ours.", "cite": "[measured]", "experiment": "state-ratio",
             "trials": "[{optimizer: lion}, {optimizer: adamw}]", "setting": "{shape: [64, 64]}", "measures": "state",
             "expected_range": '"> 2"'}  # fmt: skip
    key, _, value = change.partition(": ")
    text = "\n    ".join(f"{name}: {entry}" for name, entry in {**lines, key: value}.items())
    (tmp_path / "claims.yaml").write_text(f"claims:\n  - {text}\n", encoding="utf-8")
    result = optadvise("list", "--claims", "--rules", str(tmp_path))
    assert (result.code, result.out, len(result.err.splitlines())) == (3, "", 1), result
    assert result.failure is not None
    assert result.failure.code == code
    assert detail in result.failure.message
    assert "claims.yaml:" in (result.failure.where or "")


# -- verdict ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("span", "figures", "verdict"),
    [
        ((0.4, True, 0.6, True), [0.5], findings.CONFIRMED),
        ((0.4, True, 0.6, True), [0.7], findings.REFUTED),
        ((0.4, True, 0.6, True), [0.6], findings.CONFIRMED),
        ((0.4, True, 0.6, False), [0.6], findings.REFUTED),
        ((None, False, 1.0, False), [0.5, 0.52, 0.48], findings.CONFIRMED),
        ((None, False, 1.0, False), [1.5, 1.52, 1.48], findings.REFUTED),
        ((None, False, 1.0, False), [0.5, 1.5, 0.9], findings.UNDECIDED),
        ((1.0, False, None, False), [0.1, 0.1, 0.2], findings.REFUTED),
        ((1.0, False, None, False), [1.0, 1.0, 1.0], findings.REFUTED),
        ((1.0, True, None, False), [1.0, 1.0, 1.0], findings.CONFIRMED),
    ],
)
def test_verdict_requires_the_whole_interval(span: Any, figures: list[float], verdict: str) -> None:
    claim = Claim(id="x", claim="X.", cite=("measured",), experiment="state-ratio", expected_range=Range(*span))
    assert claims.judge_claim(claim, figures).verdict == verdict


def test_missing_results_leave_a_claim_undecided() -> None:
    claim = Claim(
        id="x", claim="X.", cite=("measured",), experiment="state-ratio", expected_range=Range(None, False, 1.0, False)
    )
    verdict = claims.judge_claim(claim, [0.1, 0.1], "2 of 5 seeds in 60 seconds")
    assert (verdict.verdict, verdict.why) == (findings.UNDECIDED, "2 of 5 seeds in 60 seconds")
    assert verdict.figures == (0.1, 0.1)


# -- experiments ------------------------------------------------------------------------------------------------------


def test_equal_sides_have_equal_results(catalog: Catalog) -> None:
    sides = [make_side(catalog, "adamw", (1e-3, 1e-2, 1.0), lr=1e-2)] * 2
    for name in ("final-loss-ratio", "best-loss-ratio", "best-rate-ratio"):
        assert run_experiment(name, make_setup(SMALL, *sides), 0) == 1, name
    assert run_experiment("damage-ratio", make_setup(SPIKE, *sides), 0) == 1
    for name in ("path-distance", "curve-distance"):
        assert run_experiment(name, make_setup({**SMALL, "shape": [8, 8]}, *sides), 0) == 0, name


def test_results_are_reproducible(catalog: Catalog) -> None:
    sides = make_side(catalog, "lion", lr=1e-3), make_side(catalog, "adamw", lr=1e-3)
    first, second = (run_experiment("final-loss-ratio", make_setup(SMALL, *sides), 3) for _ in range(2))
    assert first == second
    assert run_experiment("final-loss-ratio", make_setup(SMALL, *sides), 4) != first


def test_results_equal_closed_forms(catalog: Catalog) -> None:
    shape = {"shape": [64, 64]}
    buffers = make_setup(shape, make_side(catalog, "sgd-momentum")), make_setup(shape, make_side(catalog, "adamw"))
    assert [round(run_experiment("state-buffers", one, 0), 2) for one in buffers] == [1, 2]
    sides = make_side(catalog, "sgd-momentum"), make_side(catalog, "adamw")
    assert run_experiment("state-ratio", make_setup(shape, *sides), 0) == pytest.approx(0.5, abs=0.01)
    # Without bias correction, RMSprop's first step is 1 / √(1 − 0.99) times longer than with a constant gradient.
    first = run_experiment("first-step-ratio", make_setup({**shape, "steps": 400}, make_side(catalog, "rmsprop")), 0)
    assert first == pytest.approx(10, rel=0.02)
    evenness = {"elements": 500, "steps": 20, "scales": [0.1, 10.0]}
    even, uneven = (
        run_experiment("decay-evenness", make_setup(evenness, make_side(catalog, name, lr=1e-3, weight_decay=0.1)), 0)
        for name in ("adamw", "adam")
    )
    assert even == pytest.approx(1, abs=1e-3)
    assert uneven == pytest.approx(0.01, rel=0.5)  # gradients are 100 times larger


def test_clipping_reduces_the_damage_of_a_spike(catalog: Catalog) -> None:
    plain = make_side(catalog, "adamw", lr=3e-3)
    clipped = replace(plain, arm=replace(plain.arm, max_grad_norm=0.1))
    assert run_experiment("damage-ratio", make_setup(SPIKE, clipped, plain), 0) < 0.2
    with pytest.raises(UndecidableError, match="adamw"):
        run_experiment("damage-ratio", make_setup({**SPIKE, "spike_times": 1}, plain, plain), 0)


def test_best_learning_rate_is_interpolated() -> None:
    """It is the minimum of the parabola through the lowest loss and its neighbors, at any spacing."""
    for best in (0.7, 1.0, 1.4):
        xs = [0.0, 1.0, 2.5]
        assert math.log(exp_of_minimum(xs, [(x - best) ** 2 + 3 for x in xs])) == pytest.approx(best)
    assert math.log(exp_of_minimum([0.0, 1.0, 2.0], [3.0, 3.0, 3.0])) == pytest.approx(1.0)


def test_best_learning_rate_at_the_edge_is_undecidable(catalog: Catalog) -> None:
    sides = [make_side(catalog, "adamw", (1e-7, 1e-6, 1e-5))] * 2
    with pytest.raises(UndecidableError, match="1e-05"):
        run_experiment("best-rate-ratio", make_setup(SMALL, *sides), 0)


def test_diverged_run_has_its_first_loss(catalog: Catalog) -> None:
    losses = TrainingCache().get_losses(make_side(catalog, "sgd", lr=1e4).arm, {**SMALL, "steps": 30}, 0, "cpu")
    assert len(losses) == 30
    assert losses[-1] == max(losses) == losses[0]
    assert cap_losses([2.0, 3.0], 3) == [2.0, 2.0, 2.0]


def test_claims_share_training_runs(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    trained: list[str] = []
    original_train = training.train

    def count_runs(arm: Any, *arguments: Any) -> list[float]:
        trained.append(arm.optimizer)
        return original_train(arm, *arguments)

    monkeypatch.setattr(training, "train", count_runs)
    trainings = TrainingCache()
    sides = make_side(catalog, "adamw", (1e-3, 1e-2, 1.0)), make_side(catalog, "sgd", (1e-2, 1e-1, 1.0))
    for name in ("best-loss-ratio", "best-rate-ratio"):
        run_experiment(name, make_setup(SMALL, *sides, trainings=trainings), 0)
    assert sorted(trained) == ["adamw"] * 3 + ["sgd"] * 3


# -- command ----------------------------------------------------------------------------------------------------------


def rules_with(folder: Path, *entries: str) -> str:
    """Write a rule layer with quick claims, and return its folder."""
    text = "".join(
        f"  - id: ours-{number}\n    cite: [measured]\n    experiment: state-ratio\n    setting: {{shape: [64, 64]}}\n"
        f"    measures: state\n    {entry}\n"
        for number, entry in enumerate(entries)
    )
    (folder / "claims.yaml").write_text(f"claims:\n{text}", encoding="utf-8")
    return str(folder)


TRUE = 'claim: Ours holds.\n    trials: [{optimizer: lion}, {optimizer: adamw}]\n    expected_range: "< 1"'
FALSE = (
    'claim: Ours does not.\n    trials: [{optimizer: lion}, {optimizer: adamw}]\n    expected_range: "> 1"\n'
    "    quote: Lion is larger.\n    supports: [OPT044, WRN020]"
)
ELSEWHERE = (
    'claim: Ours needs a GPU.\n    trials: [{optimizer: lion}, {optimizer: adamw}]\n    expected_range: "< 1"\n'
    "    devices: [cuda]"
)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the third claim would run on the GPU that is here")
def test_exit_code_of_a_claim(home: Path, tmp_path: Path) -> None:
    rules = rules_with(tmp_path, TRUE, FALSE, ELSEWHERE)
    confirmed, refuted, elsewhere = (optadvise("verify", "--claim", f"ours-{n}", "--rules", rules) for n in range(3))
    assert (confirmed.code, refuted.code, elsewhere.code) == (0, 1, 4)
    assert "ours-0" in confirmed.out
    assert "Lion is larger." in " ".join(refuted.out.split())
    assert "cuda" in elsewhere.out
    for result in (confirmed, refuted, elsewhere):
        assert max(map(len, result.out.splitlines())) <= 80


def test_json_and_markdown_of_claims(home: Path, tmp_path: Path) -> None:
    files = tmp_path / "claims.json", tmp_path / "claims.md"
    rules = rules_with(tmp_path, TRUE, FALSE)
    result = optadvise("verify", "--claim", "ours-0", "--claim", "ours-1", "--claim", "bert-in-76-minutes", "--rules",
                     rules, "--json", str(files[0]), "--markdown", str(files[1]))  # fmt: skip
    assert result.code == 1
    data = json.loads(files[0].read_text(encoding="utf-8"))
    jsonschema.validate(data, json.loads((ROOT / "docs" / "schema" / "verify.json").read_text(encoding="utf-8")))
    assert [one["verdict"] for one in data["claims"]] == ["confirmed", "refuted", "not decidable here"]
    assert [claim["measured"] for claim in data["claims"]] == [pytest.approx(0.5, abs=1e-3)] * 2 + [None]
    assert "| Ours does not. | 0.5 on cpu | above 1 |" in files[1].read_text(encoding="utf-8")


def test_optimizer_is_audited_and_its_claims_are_tested(home: Path, tmp_path: Path) -> None:
    result = optadvise("verify", "--optimizer", "adan", "--json", "-")
    data = json.loads(result.out)
    assert result.code == 0  # a refuted claim is not a failure of the optimizer
    assert {one["optimizer"] for one in data["audits"]} == {"adan"}
    assert {one["id"]: one["verdict"] for one in data["claims"]} == {
        "adan-three-buffers": "refuted", "adan-implementations-agree": "confirmed"}  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "code", "option"),
    [
        ("--claim lionrate", "unknown-name", "--claim"),
        ("--claim lion-rate --all", "option-conflict", "--all"),
        ("adamw --optimizer adamw", "option-conflict", "--optimizer"),
        ("--optimizer adamx", "unknown-name", "--optimizer"),
        ("--claim lion-state-half --timeout inf", "out-of-range", "--timeout"),
        ("--claim lion-state-half --timeout 0", "out-of-range", "--timeout"),
    ],
)
def test_invalid_command_line(arguments: str, code: str, option: str) -> None:
    result = optadvise("verify", *arguments.split())
    assert (result.code, result.out, len(result.err.splitlines())) == (2, "", 1), result
    assert result.failure is not None
    assert (result.failure.code, result.failure.option) == (code, option)


WORKER = """
import json, sys, time
for line in sys.stdin:
    request = json.loads(line)
    if request["request"] == "devices":
        answer = {"answer": "devices", "devices": ["cpu"]}
    elif request["seed"] < 2:
        answer = {"answer": "figure", "value": 0.5}
    else:
        %s
    print(json.dumps(answer), flush=True)
"""


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("time.sleep(60)", "2 of 5 seeds"),
        ("sys.exit(3)", "code 3"),
        ('answer = {"answer": "undecided", "reason": "RuntimeError: broken"}', "RuntimeError: broken"),
    ],
)
def test_faulty_worker_leaves_a_claim_undecided(catalog: Catalog, fault: str, why: str) -> None:
    names = ["eight-bit-path", "lion-state-half"]
    command = (sys.executable, "-c", WORKER % fault)
    outcomes = list(claims.evaluate_claims(catalog, [catalog.claims[n] for n in names], command=command, timeout=1.0))
    assert [outcome.verdict for outcome in outcomes] == ["not decidable here", "confirmed"]
    assert why in str(outcomes[0].why)
    assert outcomes[0].figures == (0.5, 0.5)


# -- advice -----------------------------------------------------------------------------------------------------------

LEAN = ("recommend", "--model", "transformer", "--priority", "memory", "--gpu", "m3 max")


def test_refuted_claim_is_not_repeated_as_advice(home: Path, tmp_path: Path) -> None:
    rules = rules_with(tmp_path, FALSE)
    before = json.loads(optadvise(*LEAN, "--json", "--rules", rules).out)
    assert before["optimizer"]["id"] == "lion"
    row = next(entry for entry in before["trace"] if entry["rule"] == "OPT044")
    assert row["refuted"] is None
    assert "WRN020" in {warning["id"] for warning in before["warnings"]}

    assert optadvise("verify", "--claim", "ours-0", "--rules", rules).code == 1
    after = json.loads(optadvise(*LEAN, "--json", "--rules", rules).out)
    schema = json.loads((ROOT / "docs" / "schema" / "recommendation.json").read_text(encoding="utf-8"))
    jsonschema.validate(after, schema)
    assert after["optimizer"] == before["optimizer"]  # findings do not change the choice
    text = next(entry for entry in after["trace"] if entry["rule"] == "OPT044")
    assert text["refuted"] == "ours-0"
    assert row["because"] not in json.dumps(after)
    assert "measured 0.5 on cpu; the claim is above 1" in text["because"]
    texts_before, texts_after = ({w["id"]: w["text"] for w in answer["warnings"]} for answer in (before, after))
    assert texts_before["WRN020"] not in texts_after["WRN020"]
    assert texts_before["WRN022"] == texts_after["WRN022"]  # no claim of this warning is refuted
    warning = next(warning for warning in after["warnings"] if warning["id"] == "refuted:ours-0")
    assert warning["level"] == "warning"
    assert f"--optimizer {after['alternatives'][0]['id']}" in warning["text"]
    assert [claim["id"] for claim in after["evidence"]["claims"]] == ["ours-0"]

    page = optadvise(*LEAN, "--rules", rules).out
    assert "Lion is larger." in " ".join(page.split())
    assert "Ours does not." in optadvise(*LEAN, "--rules", rules, "--format", "markdown").out
    library.recommend(model="transformer")  # must not be served for rules with other claims
    advice = library.recommend(model="transformer", priority="memory", gpu="m3 max", rules=rules)
    assert {entry.refuted for entry in advice.trace} == {None, "ours-0"}


def test_card_omits_refuted_advice(home: Path) -> None:
    claimed = [advice.text for advice in load().optimizer("stable-adamw").use_when if advice.claim]
    (sentence,) = claimed
    assert sentence in " ".join(optadvise("show", "stable-adamw").out.split())
    keep("stable-adamw-outgrown", "refuted")
    result = " ".join(optadvise("show", "stable-adamw").out.split())
    assert sentence not in result
    assert load().claims["stable-adamw-outgrown"].claim in result
    data = json.loads(optadvise("show", "stable-adamw", "--json").out)
    assert sentence not in data["use_when"]
    assert [claim["verdict"] for claim in data["evidence"]["claims"]] == ["refuted"]


def test_hyperparameter_with_a_refuted_reason(home: Path) -> None:
    line = ("recommend", "--model", "mlp", "--optimizer", "stable-adamw")
    rule = load().rule("CLP010")
    assert rule is not None
    reason = rule.because
    assert reason in " ".join(optadvise(*line, "--explain").out.split())
    keep("stable-adamw-replaces-clipping", "refuted")
    explanation = " ".join(optadvise(*line, "--explain").out.split())
    assert reason not in explanation
    assert load().claims["stable-adamw-replaces-clipping"].claim in explanation
    data = json.loads(optadvise(*line, "--json").out)
    clipping = next(number for number in data["hyperparameters"] if number["name"] == "max_grad_norm")
    assert [entry["refuted"] for entry in clipping["ledger"]] == ["stable-adamw-replaces-clipping"]
    shown = " ".join(optadvise("show", "CLP010").out.split())
    assert reason not in shown
    assert "2026-11-26" in shown
    assert load().claims["stable-adamw-replaces-clipping"].claim in shown


def test_undecided_run_keeps_earlier_findings(home: Path) -> None:
    keep("lion-state-half", "refuted")
    file = store.find_folder() / store.CLAIMS / "lion-state-half.json"
    before = file.read_text(encoding="utf-8")
    keep("lion-state-half", findings.UNDECIDED)
    assert file.read_text(encoding="utf-8") == before
    optadvise("verify", "adamw", "--timeout", "0.01")
    assert not (store.find_folder() / store.AUDITS).exists()


def test_audits_are_stored_by_optimizer(home: Path) -> None:
    """Three cards have the implementation torch.optim.SGD."""
    optadvise("verify", "sgd", "sgd-momentum")
    for name in ("sgd", "sgd-momentum"):
        audits = json.loads(optadvise("show", name, "--json").out)["evidence"]["audits"]
        assert {audit["optimizer"] for audit in audits} == {name}
    assert json.loads(optadvise("show", "sgd-nesterov", "--json").out)["evidence"]["audits"] == []


SHAPELESS: list[Any] = [{}, [], None, {"id": 1}]


def test_invalid_findings_do_not_break_answers(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    envelope = {"optadvise": "0.1.0", "packages": {}, "date": "2026-11-26"}
    contents = [json.dumps({**envelope, "finding": finding}) for finding in SHAPELESS]
    contents += ["[" * 100_000, json.dumps({**envelope, "date": 3, "finding": {}}), "\x00", "{"]
    names = {store.CLAIMS: "a.json", store.AUDITS: "adamw@torch.optim.AdamW.json",
             store.BENCHMARKS: "adamw@cpu.json"}  # fmt: skip
    for kind, name in names.items():
        (store.find_folder() / kind).mkdir(parents=True)
        for content in contents:
            (store.find_folder() / kind / name).write_text(content, encoding="utf-8")
            for number, command in enumerate(("recommend --model transformer", "recommend --json", "show CLP010")):
                result = optadvise(*command.split())
                warnings = len(result.err.splitlines())
                assert (result.code, warnings) == (0, number == 0), (kind, content[:60], command)
            assert [file.name for file in (store.find_folder() / kind).iterdir()] == [f"{name}.damaged"]
        os.mkfifo(store.find_folder() / kind / name)
    assert optadvise("recommend", "--model", "transformer").code == 0

    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(Path, "home", homeless)
    monkeypatch.delenv("OPTADVISE_DATA_DIR")
    assert optadvise("recommend", "--model", "transformer").code == 0


def keep(name: str, verdict: str, figures: Sequence[float] = (0.9, 1.0, 1.1), **changes: Any) -> None:
    """Keep an outcome of a claim without running it."""
    catalog = load()
    claim = catalog.claims[name]
    judged = replace(claims.judge_claim(claim, figures), verdict=verdict)
    outcome = claims._make_outcome(claim, judged, "cpu", seconds=1.0)
    result = replace(results.make_result((), (outcome,)), date="2026-11-26")
    results.save_findings(result, {name: replace(claim, **changes)})


def test_only_valid_findings_are_quoted(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def quoted() -> list[str]:
        data = json.loads(optadvise("show", "lion", "--json").out)
        return [claim["id"] for claim in data["evidence"]["claims"]]

    assert quoted() == []
    keep("lion-state-half", "confirmed", [0.5], seeds=7)  # from an experiment with other settings
    assert quoted() == []
    keep("lion-state-half", "confirmed", [0.5])
    assert quoted() == ["lion-state-half"]
    file = store.find_folder() / store.CLAIMS / "lion-state-half.json"
    good = file.read_text(encoding="utf-8")
    for bad in ("", "[]", "{}", "null", good.replace('"optadvise":"', '"optadvise":"0'),
                good.replace(f'"torch":"{versions.find_version("torch")}"', '"torch":"1.0"')):  # fmt: skip
        file.write_text(bad, encoding="utf-8")
        assert quoted() == [], bad[:60]
    file.write_text(good, encoding="utf-8")
    assert quoted() == ["lion-state-half"]
    monkeypatch.setattr("os.cpu_count", lambda: 1024)  # another machine with the same home folder
    assert quoted() == []


def test_deviations_are_quoted_from_audit_or_card(home: Path) -> None:
    line = ("recommend", "--optimizer", "lars", "--model", "cnn")
    assert json.loads(optadvise(*line, "--json").out)["evidence"]["deviates"]["basis"] == "card"
    optadvise("verify", "lars")
    data = json.loads(optadvise(*line, "--json").out)
    assert data["evidence"]["deviates"]["basis"] == "audit"
    assert data["evidence"]["audits"][0]["import"] == data["optimizer"]["import"]
    assert "eviates" in optadvise(*line).out
    assert "PytorchLARS" in optadvise("show", "lars").out


def test_benchmark_is_quoted_with_its_date(home: Path) -> None:
    from tests.results import result

    measured = convert(result(2.2), BenchmarkResult)
    name = measured.arms[0].optimizer
    save_findings(measured, "2026-11-25")
    shown = json.loads(optadvise("show", name, "--json").out)["evidence"]["benches"]
    assert [bench["date"] for bench in shown] == ["2026-11-25"]
    assert "(bench of 2026-11-25)" in " ".join(optadvise("show", name).out.split())


def test_times_of_a_busy_machine_are_no_evidence(home: Path) -> None:
    from tests.results import result

    data = result(2.2)
    data["warnings"] = [{"id": "busy-processor", "text": "The machine was busy."}]
    save_findings(convert(data, BenchmarkResult), "2026-11-25")
    (bench,) = json.loads(optadvise("show", data["arms"][0]["optimizer"], "--json").out)["evidence"]["benches"]
    assert bench["optimizer_seconds"] is bench["ratio"] is bench["ci95"] is bench["throughput"]["value"] is None
    assert bench["state_bytes_per_parameter"] == data["arms"][0]["state_bytes_per_parameter"]


def test_benchmark_is_stored_for_later_advice(home: Path) -> None:
    result = optadvise(*"bench sgd --control none --rounds 2 --steps 1 --params 100K --json -".split())
    assert result.code == 0, result.err
    (bench,) = json.loads(optadvise("recommend", "--optimizer", "sgd", "--json").out)["evidence"]["benches"]
    assert bench["state_bytes_per_parameter"] == 0
    assert (bench["optimizer_seconds"] is None) == bool(json.loads(result.out)["warnings"])  # if the machine is busy


def test_unwritable_home_loses_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("OPTADVISE_DATA_DIR", str(tmp_path / "file"))
    result = optadvise("verify", "--claim", "lion-state-half")
    assert result.code == 0
    assert load().claims["lion-state-half"].claim in result.out
    assert len(result.err.splitlines()) == 1  # a warning that the finding is not stored
    assert "OPTADVISE_DATA_DIR" in result.err
    assert optadvise("recommend").code == 0


def test_quoting_does_not_import_torch(home: Path) -> None:
    keep("lion-state-half", "confirmed", [0.5])
    for command in (["recommend", "--optimizer", "lion", "--json"], ["show", "lion"], ["list", "--claims"]):
        code, names = run_and_list_modules(command, block_torch=True)
        assert code == 0
        assert not {"torch.nn", "importlib.metadata"} & names, command


def test_version_of_a_package() -> None:
    from importlib import metadata

    for package in ("torch", "torch-optimi", "pytorch-optimizer", "PyYAML"):
        assert versions.find_version(package) == metadata.version(package)
    assert versions.find_version("no-such-package") is None


def test_other_variants_are_not_stored(home: Path) -> None:
    """`--implementation foreach` does not measure the recommended implementation."""
    from tests.results import result

    data = result(2.2)
    data["arms"][0]["label"] += ":foreach"
    save_findings(convert(data, BenchmarkResult), "2026-11-25")
    files = {file.name for file in (store.find_folder() / store.BENCHMARKS).glob("*.json")}
    assert not any(name.startswith(f"{data['arms'][0]['optimizer']}@") for name in files)


# -- GPUs -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("device", "expected"), [("cuda", 180_000_000), ("cpu", 4_000_000)])
def test_step_times_are_compared_at_a_size_that_fills_the_gpu(
    device: str, expected: int, catalog: Catalog, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []

    def time_step(setup: ExperimentSetup, side: Side, shapes: Sequence[tuple[int, ...]]) -> float:
        sizes.append(sum(map(math.prod, shapes)))
        return 1.0

    monkeypatch.setattr(experiments, "_time_step", time_step)
    monkeypatch.setattr(experiments, "measure_device_bandwidth", lambda _: 1e12)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda: (2**40, 2**40))
    side = Side(plan.plan_defaults(catalog.optimizer("sgd"), {}))
    setup = ExperimentSetup((side, side), {"params": 4_000_000, "steps": 1}, device, TrainingCache())
    assert run_experiment("step-time-ratio", setup, 0) == 1.0
    assert sizes == pytest.approx([expected] * 2, rel=0.1)
