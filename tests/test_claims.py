"""Claims as experiments, judged rightly; what was found is kept and quoted, and not repeated where it was refuted."""

from __future__ import annotations

import json
import math
import os
import signal
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
from optadvise.core.cards import EXPERIMENTS as KNOWN
from optadvise.core.cards import Range
from optadvise.core.claim_cards import Claim
from optadvise.evidence import store, versions
from optadvise.rulebase.catalog import Catalog, load
from optadvise.verify import claims, results, training
from optadvise.verify.experiment_setup import ExperimentSetup, UndecidableError, exp_of_minimum
from optadvise.verify.experiments import EXPERIMENTS, run_experiment
from optadvise.verify.records import ArmAtRate, Side
from optadvise.verify.training import TrainingCache, cap_losses
from tests.cli import optadvise
from tests.conftest import ROOT
from tests.test_architecture import loaded

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
    """A folder for what is found, with nothing in it."""
    monkeypatch.setenv("OPTADVISE_DATA_DIR", str(tmp_path / "data"))
    return tmp_path / "data"


def side(catalog: Catalog, name: str, rates: Sequence[float] = (), **numbers: Any) -> Side:
    card = catalog.optimizer(name)
    return Side(
        plan.plan_defaults(card, numbers),
        tuple(ArmAtRate(rate, plan.plan_defaults(card, {"lr": rate})) for rate in rates),
    )


def made(setting: Mapping[str, Any], *sides: Side, trainings: TrainingCache | None = None) -> ExperimentSetup:
    return ExperimentSetup(sides, setting, "cpu", trainings or TrainingCache())


# -- the data ---------------------------------------------------------------------------------------------------------


def test_every_experiment_that_a_claim_may_name_is_there() -> None:
    assert KNOWN.keys() == EXPERIMENTS.keys()


def test_every_shipped_claim_can_be_run_or_says_what_it_needs(catalog: Catalog) -> None:
    catalog.read_all()  # references to rules, sources and optimizers are looked up, those of cards too
    for claim in catalog.claims.values():
        assert (claim.experiment is None) is (claim.needs is not None), claim.id
        assert claim.quote or not claim.cite[0].startswith("guide#"), f"{claim.id}: the guide's own words are missing"


def test_the_issue_s_claims_are_all_there(catalog: Catalog) -> None:
    assert {
        "eight-bit-state-quarter", "eight-bit-curve", "lion-state-half", "stable-adamw-rides-out-a-spike",
        "momentum-leaves-saddle", "adam-decay-uneven", "adamw-decay-even", "lower-beta2-recovers", "lamb-large-batch",
        "warmup-keeps-from-diverging", "paged-costs-nothing",
    } <= catalog.claims.keys()  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("experiment: state-ration", "unknown value 'state-ration'; did you mean 'state-ratio'"),
        ("expected_range: about a half", "expected a number, a comparison such as '> 8192' or an interval"),
        ("trials: [{optimizer: lion}]", "the experiment state-ratio needs 2 trials and a setting with shape"),
        ("seeds: 0", "`seeds` is a whole number from 1 to 20"),
        ("supports: [OPT999]", "unknown rule 'OPT999'"),
        ("trials: [{optimizer: lion, implementation: nope}, {optimizer: adamw}]", "lion has no implementation 'nope'"),
        (
            "trials: [{optimizer: lion, hyperparameters: {lrr: 1}}, {optimizer: adamw}]",
            "lion has no hyperparameter 'lrr'",
        ),
        (
            "trials: [{optimizer: lion, learning_rates: [1, 2]}, {optimizer: adamw}]",
            "takes no `learning_rates` in each trial",
        ),
        ("setting: {shape: [64, 64], last: ten}", "`last` is a number above zero"),
        ("needs: a month", "a claim has experiment, trials, measures, expected_range, or else `needs`"),
    ],
)
def test_a_claim_that_is_written_wrong_is_one_line_with_its_place(change: str, message: str, tmp_path: Path) -> None:
    lines = {"id": "ours", "claim": "Ours.", "cite": "[measured]", "experiment": "state-ratio",
             "trials": "[{optimizer: lion}, {optimizer: adamw}]", "setting": "{shape: [64, 64]}", "measures": "state",
             "expected_range": '"> 2"'}  # fmt: skip
    key, _, value = change.partition(": ")
    text = "\n    ".join(f"{name}: {told}" for name, told in {**lines, key: value}.items())
    (tmp_path / "claims.yaml").write_text(f"claims:\n  - {text}\n", encoding="utf-8")
    said = optadvise("list", "--claims", "--rules", str(tmp_path))
    assert (said.code, said.out, len(said.err.splitlines())) == (3, "", 1), said
    assert message in said.err
    assert "claims.yaml:" in said.err


# -- the verdict ------------------------------------------------------------------------------------------------------


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
def test_a_verdict_needs_the_whole_interval_on_one_side(span: Any, figures: list[float], verdict: str) -> None:
    claim = Claim(id="x", claim="X.", cite=("measured",), experiment="state-ratio", expected_range=Range(*span))
    assert claims.judge_claim(claim, figures).verdict == verdict


def test_what_could_not_be_measured_decides_nothing() -> None:
    claim = Claim(
        id="x", claim="X.", cite=("measured",), experiment="state-ratio", expected_range=Range(None, False, 1.0, False)
    )
    verdict = claims.judge_claim(claim, [0.1, 0.1], "2 of 5 seeds in 60 seconds")
    assert (verdict.verdict, verdict.why) == (findings.UNDECIDED, "2 of 5 seeds in 60 seconds")
    assert verdict.figures == (0.1, 0.1)


# -- the experiments --------------------------------------------------------------------------------------------------


def test_what_is_the_same_on_both_sides_differs_in_nothing(catalog: Catalog) -> None:
    both = [side(catalog, "adamw", (1e-3, 1e-2, 1.0), lr=1e-2)] * 2
    for name in ("final-loss-ratio", "best-loss-ratio", "best-rate-ratio"):
        assert run_experiment(name, made(SMALL, *both), 0) == 1, name
    assert run_experiment("damage-ratio", made(SPIKE, *both), 0) == 1
    for name in ("path-distance", "curve-distance"):
        assert run_experiment(name, made({**SMALL, "shape": [8, 8]}, *both), 0) == 0, name


def test_a_figure_comes_out_the_same_again(catalog: Catalog) -> None:
    both = side(catalog, "lion", lr=1e-3), side(catalog, "adamw", lr=1e-3)
    first, second = (run_experiment("final-loss-ratio", made(SMALL, *both), 3) for _ in range(2))
    assert first == second
    assert run_experiment("final-loss-ratio", made(SMALL, *both), 4) != first


def test_figures_that_can_be_worked_out_by_hand(catalog: Catalog) -> None:
    shape = {"shape": [64, 64]}
    buffers = made(shape, side(catalog, "sgd-momentum")), made(shape, side(catalog, "adamw"))
    assert [round(run_experiment("state-buffers", one, 0), 2) for one in buffers] == [1, 2]
    both = side(catalog, "sgd-momentum"), side(catalog, "adamw")
    assert run_experiment("state-ratio", made(shape, *both), 0) == pytest.approx(0.5, abs=0.01)
    # Without correction for its start RMSprop's first step is 1 / √(1 − 0.99) times as long as under an even gradient.
    first = run_experiment("first-step-ratio", made({**shape, "steps": 400}, side(catalog, "rmsprop")), 0)
    assert first == pytest.approx(10, rel=0.02)
    evenness = {"elements": 500, "steps": 20, "scales": [0.1, 10.0]}
    even, uneven = (
        run_experiment("decay-evenness", made(evenness, side(catalog, name, lr=1e-3, weight_decay=0.1)), 0)
        for name in ("adamw", "adam")
    )
    assert even == pytest.approx(1, abs=1e-3)
    assert uneven == pytest.approx(0.01, rel=0.5)  # the gradients are a hundred times as large


def test_a_spike_costs_what_clipping_takes_away(catalog: Catalog) -> None:
    plain = side(catalog, "adamw", lr=3e-3)
    clipped = replace(plain, arm=replace(plain.arm, max_grad_norm=0.1))
    assert run_experiment("damage-ratio", made(SPIKE, clipped, plain), 0) < 0.2
    with pytest.raises(UndecidableError, match="cost adamw nothing"):
        run_experiment("damage-ratio", made({**SPIKE, "spike_times": 1}, plain, plain), 0)


def test_the_best_rate_lies_between_those_tried() -> None:
    """At the bottom of the parabola through the lowest and its neighbours, whatever their distances."""
    for best in (0.7, 1.0, 1.4):
        xs = [0.0, 1.0, 2.5]
        assert math.log(exp_of_minimum(xs, [(x - best) ** 2 + 3 for x in xs])) == pytest.approx(best)
    assert math.log(exp_of_minimum([0.0, 1.0, 2.0], [3.0, 3.0, 3.0])) == pytest.approx(1.0)


def test_a_best_rate_at_the_end_of_those_tried_decides_nothing(catalog: Catalog) -> None:
    both = [side(catalog, "adamw", (1e-7, 1e-6, 1e-5))] * 2
    with pytest.raises(UndecidableError, match="lies at the end of those tried, at 1e-05"):
        run_experiment("best-rate-ratio", made(SMALL, *both), 0)


def test_a_training_that_diverges_learned_nothing(catalog: Catalog) -> None:
    losses = TrainingCache().get_losses(side(catalog, "sgd", lr=1e4).arm, {**SMALL, "steps": 30}, 0, "cpu")
    assert len(losses) == 30
    assert losses[-1] == max(losses) == losses[0]
    assert cap_losses([2.0, 3.0], 3) == [2.0, 2.0, 2.0]


def test_several_claims_share_a_training(catalog: Catalog, monkeypatch: pytest.MonkeyPatch) -> None:
    ran: list[str] = []
    real = training.train

    def counted(arm: Any, *rest: Any) -> list[float]:
        ran.append(arm.optimizer)
        return real(arm, *rest)

    monkeypatch.setattr(training, "train", counted)
    trainings = TrainingCache()
    both = side(catalog, "adamw", (1e-3, 1e-2, 1.0)), side(catalog, "sgd", (1e-2, 1e-1, 1.0))
    for name in ("best-loss-ratio", "best-rate-ratio"):
        run_experiment(name, made(SMALL, *both, trainings=trainings), 0)
    assert sorted(ran) == ["adamw"] * 3 + ["sgd"] * 3


# -- the command ------------------------------------------------------------------------------------------------------


def rules_with(folder: Path, *entries: str) -> str:
    """Return a layer with claims of our own, each quick."""
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
    "    quote: Lion is larger.\n    supports: [OPT070, WRN020]"
)
ELSEWHERE = (
    'claim: Ours needs a GPU.\n    trials: [{optimizer: lion}, {optimizer: adamw}]\n    expected_range: "< 1"\n'
    "    devices: [cuda]"
)


@pytest.mark.skipif(torch.cuda.is_available(), reason="the third claim would run on the GPU that is here")
def test_a_named_claim_says_by_its_exit_code_what_became_of_it(home: Path, tmp_path: Path) -> None:
    rules = rules_with(tmp_path, TRUE, FALSE, ELSEWHERE)
    confirmed, refuted, elsewhere = (optadvise("verify", "--claim", f"ours-{n}", "--rules", rules) for n in range(3))
    assert (confirmed.code, refuted.code, elsewhere.code) == (0, 1, 4)
    assert "Confirmed\n  ·  Ours holds. ours-0\n     State: 0.5 on cpu, claimed < 1.\n" in confirmed.out
    assert "measured says: “Lion is larger.”" in refuted.out
    assert "Needs cuda, which torch does not find here." in elsewhere.out
    for said in (confirmed, refuted, elsewhere):
        assert max(map(len, said.out.splitlines())) <= 80


def test_the_json_and_the_page_of_claims(home: Path, tmp_path: Path) -> None:
    files = tmp_path / "claims.json", tmp_path / "claims.md"
    rules = rules_with(tmp_path, TRUE, FALSE)
    said = optadvise("verify", "--claim", "ours-0", "--claim", "ours-1", "--claim", "bert-in-76-minutes", "--rules",
                     rules, "--json", str(files[0]), "--markdown", str(files[1]))  # fmt: skip
    assert said.code == 1
    data = json.loads(files[0].read_text(encoding="utf-8"))
    jsonschema.validate(data, json.loads((ROOT / "docs" / "schema" / "verify.json").read_text(encoding="utf-8")))
    assert [one["verdict"] for one in data["claims"]] == ["confirmed", "refuted", "not decidable here"]
    page = files[1].read_text(encoding="utf-8")
    assert (
        "## Refuted\n\n| claim | measured | claimed | |\n|---|---|---|---|\n| Ours does not. | 0.5 on cpu | > 1 |"
        in page
    )


def test_all_that_is_said_of_an_optimizer_is_audited_and_tested(home: Path, tmp_path: Path) -> None:
    said = optadvise("verify", "--optimizer", "adan", "--json", "-")
    data = json.loads(said.out)
    assert said.code == 0  # a refuted claim is a finding, and no failure of the optimizer's
    assert {one["optimizer"] for one in data["audits"]} == {"adan"}
    assert {one["id"]: one["verdict"] for one in data["claims"]} == {
        "adan-three-buffers": "refuted", "adan-implementations-agree": "confirmed"}  # fmt: skip


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("--claim lionrate", "--claim 'lionrate': no such claim; did you mean 'lion-rate'"),
        ("--claim lion-rate --all", "--claim and --all: each says what is looked at"),
        ("adamw --optimizer adamw", "names and --optimizer: each says what is looked at"),
        ("--optimizer adamx", "--optimizer 'adamx': not known; did you mean 'adam'"),
        ("--claim lion-state-half --timeout inf", "--timeout inf: must be above 0 seconds, and a number"),
        ("--claim lion-state-half --timeout 0", "--timeout 0: must be above 0 seconds, and a number"),
    ],
)
def test_what_cannot_be_meant_is_one_line(arguments: str, message: str) -> None:
    said = optadvise("verify", *arguments.split())
    assert (said.code, said.out, len(said.err.splitlines())) == (2, "", 1), said
    assert message in said.err


WORKER = """
import json, sys, time
for line in sys.stdin:
    told = json.loads(line)
    if told["request"] == "devices":
        answer = {"answer": "devices", "devices": ["cpu"]}
    elif told["seed"] < 2:
        answer = {"answer": "figure", "value": 0.5}
    else:
        %s
    print(json.dumps(answer), flush=True)
"""


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("time.sleep(60)", "2 of 5 seeds in 1 seconds"),
        ("sys.exit(3)", "ended its process with code 3"),
        ('answer = {"answer": "undecided", "reason": "RuntimeError: broken"}', "RuntimeError: broken"),
    ],
)
def test_a_worker_that_hangs_or_dies_leaves_the_claim_open_and_the_next_goes_on(
    catalog: Catalog, fault: str, why: str
) -> None:
    names = ["eight-bit-path", "lion-state-half"]
    command = (sys.executable, "-c", WORKER % fault)
    outcomes = list(claims.evaluate_claims(catalog, [catalog.claims[n] for n in names], command=command, timeout=1.0))
    assert [outcome.verdict for outcome in outcomes] == ["not decidable here", "confirmed"]
    assert (outcomes[0].why, outcomes[0].figures) == (why, (0.5, 0.5))


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_what_was_tested_before_an_interruption_is_written(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    real = claims.evaluate_claims

    def interrupted(*arguments: Any, **options: Any) -> Iterator[findings.ClaimOutcome]:
        yield next(real(*arguments, **options))
        signal.raise_signal(number)

    monkeypatch.setattr(claims, "evaluate_claims", interrupted)
    file = tmp_path / "claims.json"
    said = optadvise("verify", "--claim", "lion-state-half", "--claim", "eight-bit-curve", "--json", str(file))
    assert (said.code, said.err) == (130, "optadvise: interrupted\n")
    assert "Lion's state is half of AdamW's." in said.out
    assert [one["id"] for one in json.loads(file.read_text(encoding="utf-8"))["claims"]] == ["lion-state-half"]
    assert (store.find_folder() / store.CLAIMS / "lion-state-half.json").is_file()


# -- the loop ---------------------------------------------------------------------------------------------------------

LEAN = ("recommend", "--model", "transformer", "--priority", "memory")


def test_what_was_refuted_here_is_not_repeated_as_advice(home: Path, tmp_path: Path) -> None:
    rules = rules_with(tmp_path, FALSE)
    before = json.loads(optadvise(*LEAN, "--json", "--rules", rules).out)
    assert before["optimizer"]["id"] == "lion"
    row = next(entry for entry in before["trace"] if entry["rule"] == "OPT070")
    assert row["refuted"] is None
    assert "WRN020" in {warning["id"] for warning in before["warnings"]}

    assert optadvise("verify", "--claim", "ours-0", "--rules", rules).code == 1
    after = json.loads(optadvise(*LEAN, "--json", "--rules", rules).out)
    schema = json.loads((ROOT / "docs" / "schema" / "recommendation.json").read_text(encoding="utf-8"))
    jsonschema.validate(after, schema)
    assert after["optimizer"] == before["optimizer"]  # the choice is the rules'
    text = next(entry for entry in after["trace"] if entry["rule"] == "OPT070")
    assert text["refuted"] == "ours-0"
    assert row["because"] not in json.dumps(after)
    assert "refuted on this machine on" in text["because"]
    assert "State: 0.5 on cpu, claimed > 1." in text["because"]
    said = {warning["id"]: warning["text"] for warning in after["warnings"]}
    assert said["WRN020"].startswith("Refuted on this machine on")
    assert "decay does not carry over" in said["WRN022"]  # which nothing was found against
    told = next(warning for warning in after["warnings"] if warning["id"] == "refuted:ours-0")
    assert told["level"] == "warning"
    assert f"--optimizer {after['alternatives'][0]['id']}" in told["text"]
    assert [claim["id"] for claim in after["evidence"]["claims"]] == ["ours-0"]

    page = optadvise(*LEAN, "--rules", rules).out
    assert "The reason for this optimizer was refuted on this machine:" in " ".join(page.split())
    assert "Found on this machine" in page
    assert "measured says: “Lion is larger.”" in " ".join(page.split())
    assert "Found on this machine" in optadvise(*LEAN, "--rules", rules, "--format", "markdown").out
    library.recommend(model="transformer")  # over rules that are alike but for the claims
    advice = library.recommend(model="transformer", priority="memory", rules=rules)
    assert {entry.refuted for entry in advice.trace} == {None, "ours-0"}


def test_a_card_keeps_silent_of_what_was_refuted_here(home: Path) -> None:
    sentence = "The loss spikes, or gradient clipping has to be tuned again and again."
    assert sentence in " ".join(optadvise("show", "stable-adamw").out.split())
    keep("stable-adamw-outgrown", "refuted")
    said = " ".join(optadvise("show", "stable-adamw").out.split())
    assert sentence not in said
    assert "· refuted: StableAdamW shortens its steps" in said
    data = json.loads(optadvise("show", "stable-adamw", "--json").out)
    assert sentence not in data["use_when"]
    assert [claim["verdict"] for claim in data["evidence"]["claims"]] == ["refuted"]


def test_a_number_whose_reason_was_refuted_here_is_told(home: Path) -> None:
    line = ("recommend", "--model", "mlp", "--optimizer", "stable-adamw")
    assert "takes the place of gradient clipping" in " ".join(optadvise(*line, "--explain").out.split())
    keep("stable-adamw-replaces-clipping", "refuted")
    said = " ".join(optadvise(*line, "--explain").out.split())
    assert "takes the place of gradient clipping" not in said
    assert "The reason for no max_grad_norm was refuted on this machine" in said
    data = json.loads(optadvise(*line, "--json").out)
    clipping = next(number for number in data["hyperparameters"] if number["name"] == "max_grad_norm")
    assert [entry["refuted"] for entry in clipping["ledger"]] == ["stable-adamw-replaces-clipping"]
    shown = " ".join(optadvise("show", "CLP010").out.split())
    assert "takes the place of gradient clipping" not in shown
    assert "refuted on this machine on 2026-11-26: StableAdamW needs no gradient clipping." in shown


def test_a_run_that_decides_nothing_takes_nothing_away(home: Path) -> None:
    keep("lion-state-half", "refuted")
    file = store.find_folder() / store.CLAIMS / "lion-state-half.json"
    before = file.read_text(encoding="utf-8")
    keep("lion-state-half", findings.UNDECIDED)
    assert file.read_text(encoding="utf-8") == before
    optadvise("verify", "adamw", "--timeout", "0.01")
    assert not (store.find_folder() / store.AUDITS).exists()


def test_every_card_has_an_audit_of_its_own(home: Path) -> None:
    """torch.optim.SGD is on three cards."""
    optadvise("verify", "sgd", "sgd-momentum")
    for name in ("sgd", "sgd-momentum"):
        audits = json.loads(optadvise("show", name, "--json").out)["evidence"]["audits"]
        assert {audit["optimizer"] for audit in audits} == {name}
    assert json.loads(optadvise("show", "sgd-nesterov", "--json").out)["evidence"]["audits"] == []


SHAPELESS: list[Any] = [{}, [], None, {"id": 1}]


def test_whatever_lies_in_the_folder_breaks_no_answer(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    envelope = {"optadvise": "0.1.0", "packages": {}, "date": "2026-11-26"}
    contents = [json.dumps({**envelope, "finding": finding}) for finding in SHAPELESS]
    contents += ["[" * 100_000, json.dumps({**envelope, "date": 3, "finding": {}}), "\x00", "{"]
    names = {store.CLAIMS: "a.json", store.AUDITS: "adamw@torch.optim.AdamW.json",
             store.BENCHMARKS: "adamw@cpu.json"}  # fmt: skip
    for kind, name in names.items():
        (store.find_folder() / kind).mkdir(parents=True)
        for content in contents:
            (store.find_folder() / kind / name).write_text(content, encoding="utf-8")
            for command in ("recommend --model transformer", "recommend --json", "show adamw", "show CLP010"):
                assert optadvise(*command.split()).code == 0, (kind, content[:60], command)
        (store.find_folder() / kind / name).unlink()
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


def test_only_what_was_found_here_and_now_is_quoted(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def quoted() -> list[str]:
        data = json.loads(optadvise("show", "lion", "--json").out)
        return [claim["id"] for claim in data["evidence"]["claims"]]

    assert quoted() == []
    keep("lion-state-half", "confirmed", [0.5], seeds=7)  # of another experiment than is written now
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
    monkeypatch.setattr("os.cpu_count", lambda: 1024)  # another machine that shares the home
    assert quoted() == []


def test_an_audit_is_quoted_and_a_deviation_always(home: Path) -> None:
    """By the card where nothing was audited, by the audit where one was."""
    line = ("recommend", "--optimizer", "lars", "--model", "cnn")
    assert "deviates, as its card tells:" in " ".join(optadvise(*line).out.split())
    assert json.loads(optadvise(*line, "--json").out)["evidence"]["deviates"]["basis"] == "card"
    optadvise("verify", "lars")
    data = json.loads(optadvise(*line, "--json").out)
    assert data["evidence"]["deviates"]["basis"] == "audit"
    assert data["evidence"]["audits"][0]["import"] == data["optimizer"]["import"]
    assert "deviates, as an audit here found on" in " ".join(optadvise(*line).out.split())
    assert "PytorchLARS" in optadvise("show", "lars").out


def test_a_bench_is_quoted_with_its_date(home: Path) -> None:
    from tests.results import result

    measured = convert(result(2.2), BenchmarkResult)
    name = measured.arms[0].optimizer
    save_findings(measured, "2026-11-25")
    shown = json.loads(optadvise("show", name, "--json").out)["evidence"]["benches"]
    assert [bench["date"] for bench in shown] == ["2026-11-25"]
    assert "(bench of 2026-11-25)" in " ".join(optadvise("show", name).out.split())


def test_a_measurement_is_kept_for_the_next_advice(home: Path) -> None:
    said = optadvise(*"bench sgd --control none --rounds 2 --steps 1 --params 100K --json -".split())
    assert said.code == 0, said.err
    (bench,) = json.loads(optadvise("recommend", "--optimizer", "sgd", "--json").out)["evidence"]["benches"]
    assert bench["state_bytes_per_parameter"] == 0
    assert bench["optimizer_seconds"] > 0


def test_a_home_that_cannot_be_written_loses_no_result(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("OPTADVISE_DATA_DIR", str(tmp_path / "file"))
    said = optadvise("verify", "--claim", "lion-state-half")
    assert said.code == 0
    assert "Lion's state is half of AdamW's." in said.out
    assert said.err.startswith("optadvise: not kept for later answers (")
    assert optadvise("recommend").code == 0


def test_quoting_imports_no_torch(home: Path) -> None:
    keep("lion-state-half", "confirmed", [0.5])
    for command in (["recommend", "--optimizer", "lion", "--json"], ["show", "lion"], ["list", "--claims"]):
        code, names = loaded(command, block_torch=True)
        assert code == 0
        assert not {"torch.nn", "importlib.metadata"} & names, command


def test_the_version_of_a_package_is_what_it_says_itself() -> None:
    from importlib import metadata

    for package in ("torch", "torch-optimi", "pytorch-optimizer", "PyYAML"):
        assert versions.find_version(package) == metadata.version(package)
    assert versions.find_version("no-such-package") is None


def test_an_arm_of_its_own_is_not_kept_for_the_optimizer(home: Path) -> None:
    """`--implementation foreach` measures something else than what is advised."""
    from tests.results import result

    data = result(2.2)
    data["arms"][0]["label"] += ":foreach"
    save_findings(convert(data, BenchmarkResult), "2026-11-25")
    files = {file.name for file in (store.find_folder() / store.BENCHMARKS).glob("*.json")}
    assert not any(name.startswith(f"{data['arms'][0]['optimizer']}@") for name in files)
