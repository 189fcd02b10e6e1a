"""Findings of the proofs: defects in a copy of the shipped rules, with line, rows and witness."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

import pytest
from msgspec.structs import replace

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.complete import complete_situation
from optadvise.advice.decide import choose_optimizer, decide
from optadvise.advice.memory_pressure import classify_pressure
from optadvise.advice.recommend import advise
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError, RuleFileError
from optadvise.rule_analysis import rule_folders
from optadvise.rule_analysis.check import prove_rules
from optadvise.rule_analysis.diff import compare_catalogs
from optadvise.rule_analysis.diff_records import RuleChange
from optadvise.rule_analysis.mutants import list_mutants
from optadvise.rule_analysis.reachability import find_read
from optadvise.rule_analysis.witnesses import ReportedFinding
from optadvise.rulebase import regions
from optadvise.rulebase.catalog import Catalog, load
from optadvise.rulebase.proofs import (
    CONFLICT,
    DOMAIN,
    GAP,
    OVERLAP,
    OVERRIDE,
    SHADOWED,
    UNPROVEN,
    UNREACHABLE,
    check_table,
)
from optadvise.rulebase.regions import make_box
from optadvise.rulebase.tables import Table, cut_axes
from tests.cli import CommandResult, optadvise
from tests.conftest import IS_WHOLE, ROOT, rotated
from tests.documents import fact_data, facts_of, table_data, table_of, with_rows, with_table
from tests.test_oracle import accepts, applies, beaten, decided

OPTIMIZER, CONCERN, SCHEDULE = "decide/optimizer.yaml", "decide/concern.yaml", "decide/schedule.yaml"
NUMBERS = {
    "params": (10**6, 10**8, 10**9, 8 * 10**9, 10**11), "vram_bytes": (2**30, 8 * 2**30, 24 * 2**30, 80 * 2**30),
    "batch_size": (1, 64, 128, 256, 512, 1024, 8192, 20_000), "gpus": (1, 2, 16), "lora_rank": (8, 64),
    "steps": (200, 5000, 10**5), "micro_batch": (1,), "seq_len": (2048,), "image_size": (224,),
    "grad_accum": (4,), "epochs": (3,), "samples": (10**6,), "tokens": (10**9,),
}  # fmt: skip


DECIDING = (("concern", "concern"), ("choose_optimizer", "optimizer"))  # tables and the keys of their outcomes

# -- editing rules --------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a copy of the shipped rules; it replaces the base because it has facts."""
    copy = tmp_path / "rules"
    shutil.copytree(ROOT / "rules", copy)
    return copy


class EditedRules:
    """Folder of rules whose rows are edited one by one, independent of most of their content."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _block(self, file: str, row: str) -> tuple[str, re.Match[str]]:
        text = (self.folder / file).read_text(encoding="utf-8")
        start = r"^otherwise:\n(?:  .*\n)*" if row == "otherwise" else rf"^  - id: {row}\n(?:    .*\n)*"
        found = re.search(start, text, re.MULTILINE)
        assert found is not None, row
        return text, found

    def change(self, file: str, row: str, pattern: str, new: str) -> None:
        """Replace the match of a pattern within a row."""
        text, found = self._block(file, row)
        block, times = re.subn(pattern, new, found[0], count=1, flags=re.MULTILINE)
        assert times == 1, (row, pattern)
        (self.folder / file).write_text(text[: found.start()] + block + text[found.end() :], encoding="utf-8")

    def when(self, file: str, row: str, when: str) -> None:
        self.change(file, row, r"^    when: .*$", f"    when: {when}")

    def drop(self, file: str, row: str) -> None:
        text, found = self._block(file, row)
        (self.folder / file).write_text(text[: found.start()] + text[found.end() :], encoding="utf-8")

    def add(self, file: str, row: Mapping[str, Any], after: str | None = None) -> None:
        """Add a row as one line of JSON, at the end or after another row."""
        complete = {
            "name": "added",
            "because": "Added.",
            "cite": ["measured"],
            "tests": [{"given": {}, "expect": {}}],
            **row,
        }
        text = (self.folder / file).read_text(encoding="utf-8")
        end = len(text) if after is None else self._block(file, after)[1].end()
        line = f"  - {json.dumps(complete)}\n"
        (self.folder / file).write_text(text[:end].rstrip("\n") + "\n" + line + text[end:], encoding="utf-8")

    def at(self, file: str, row: str) -> str:
        """Return `file:line:column` of a row."""
        lines = (self.folder / file).read_text(encoding="utf-8").splitlines()
        starts = (f"  - id: {row}", "  - {", "  id: ")
        for number, line in enumerate(lines, 1):
            if line == starts[0] or (line.startswith(starts[1]) and f'"id": "{row}"' in line):
                return f"{self.folder / file}:{number}:5"
            if line == f"  id: {row}":
                return f"{self.folder / file}:{number}:3"
        raise AssertionError(row)

    def find(self, file: str, string: str) -> str:
        """Return `file:line:column` of a string that occurs once."""
        text = (self.folder / file).read_text(encoding="utf-8")
        assert text.count(string) == 1
        before = text[: text.index(string)]
        return f"{self.folder / file}:{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}"

    def compile(self) -> CompiledRules:
        return CompiledRules(load([self.folder]))


def rules_of(reported: Sequence[ReportedFinding]) -> list[tuple[str, tuple[str, ...]]]:
    return [(each.finding.kind, each.finding.rules) for each in reported]


@pytest.fixture
def unproven(monkeypatch: pytest.MonkeyPatch) -> None:
    """Allow unsound rules, to run witnesses with them."""
    monkeypatch.setattr(rule_folders, "require_proof", lambda rules: rules)


def answer_by(rules: CompiledRules, patch: pytest.MonkeyPatch) -> None:
    """Make command lines use these rules, whatever folders they name."""
    patch.setattr(rule_folders, "load_rules", lambda option: rules)
    patch.setattr(rule_folders, "load_catalog", lambda option: rules.catalog)


def follow(witness: str) -> CommandResult:
    """Run a witness in this process with --json."""
    arguments = shlex.split(witness)
    assert arguments[0] == "optadvise"
    assert arguments[1] in ("recommend", "show")
    return optadvise(*arguments[1:], "--json")


def decided_by(result: CommandResult) -> set[str]:
    """Return every rule that contributed to a recommendation."""
    assert result.code == 0, result.err
    data = json.loads(result.out)
    numbers = [*data["hyperparameters"], *(data["companion"] or {}).get("hyperparameters", [])]
    found = {entry["rule"] for entry in data["trace"]} | {warning["id"] for warning in data["warnings"]}
    return found | {entry["rule"] for number in numbers for entry in number["ledger"]}


def is_rejected_for(result: CommandResult, code: ErrorCode | None, *names: str) -> bool:
    """Return whether a command failed with a code (None for any) and a message that contains the names."""
    is_failure = result.code == 3 and len(result.err.splitlines()) == 1 and (code is None or result.error == code)
    return is_failure and all(name in result.err for name in names)


# -- defects found by proofs ---------------------------------------------------------------------------------------


def _gap_in_numbers(edited: EditedRules) -> None:
    edited.drop("decide/learning-rate.yaml", "otherwise")
    edited.drop("decide/learning-rate.yaml", "LRA043")


def _gap_in_schedules(edited: EditedRules) -> None:
    edited.drop(SCHEDULE, "otherwise")
    edited.drop(SCHEDULE, "SCH060")


def _gap_in_concerns(edited: EditedRules) -> None:
    edited.drop(CONCERN, "otherwise")
    edited.drop(CONCERN, "CON130")


def _overlap_of_choices(edited: EditedRules) -> None:
    edited.when(OPTIMIZER, "OPT082", "{concern: accuracy, model: [transformer, vit, diffusion]}")


def _overlap_of_numbers(edited: EditedRules) -> None:
    edited.add("decide/learning-rate.yaml",
             {"id": "LRA950", "when": {"lr_scale": "adam", "model": "gan"}, "then": {"value": 1e-3}},
             after="LRA043")  # fmt: skip


def _shadowed_by_two(edited: EditedRules) -> None:
    when = {"method": ["lora", "qlora"], "stability": "spikes"}
    edited.add(CONCERN, {"id": "CON950", "when": when, "then": {"concern": "instability"}}, after="CON030")


def _shadowed_by_one(edited: EditedRules) -> None:
    when = {"stability": "spikes", "batch_size": "> 4096"}
    edited.add(CONCERN, {"id": "CON950", "when": when, "then": {"concern": "large-batch"}}, after="CON070")


def _unused_otherwise(edited: EditedRules) -> None:
    models = ["rl", "gan", "cnn", "rnn", "mlp", "gnn", "vit", "diffusion", "recsys", "transformer", "unknown"]
    edited.drop("decide/eps.yaml", "EPS020")
    edited.when("decide/eps.yaml", "EPS010", json.dumps({"model": models}))


def _override_of_another_table(edited: EditedRules) -> None:
    edited.change(SCHEDULE, "SCH011", r"overrides: \[SCH010\]", "overrides: [SCH010, OPT010]")


def _override_from_outside(edited: EditedRules) -> None:
    edited.change(SCHEDULE, "SCH019", "when: {model: transformer,", "when: {model: [transformer, unknown],")


def _override_of_itself(edited: EditedRules) -> None:
    edited.change(SCHEDULE, "SCH010", r"^    tests:", "    overrides: [SCH011]\n    tests:")


def _override_in_an_ordered_table(edited: EditedRules) -> None:
    edited.change(CONCERN, "CON030", r"^    tests:", "    overrides: [CON020]\n    tests:")


def _number_outside_its_range(edited: EditedRules) -> None:
    edited.change("decide/warmup.yaml", "WUP030", r"value: [\d.]+", "value: 0.9")


def _decreasing_points(edited: EditedRules) -> None:
    edited.add("decide/warmup.yaml", {"id": "WUP950", "when": {"schedule": "cycle", "model": "gan"},
                                    "then": {"along": "steps", "points": [[1000, 0.1], [100, 0.2]]},
                                    "overrides": ["WUP010"]}, after="WUP030")  # fmt: skip


def _warning_that_no_card_reaches(edited: EditedRules) -> None:
    edited.add("warn.yaml", {"id": "WRN950", "when": {"family": "sign", "lr_scale": "sgd"},
                           "then": {"level": "info", "text": "Added."}})  # fmt: skip


def _warning_for_contradictory_inputs(edited: EditedRules) -> None:
    edited.add("warn.yaml", {"id": "WRN950", "when": {"optimizer": "paged-adamw8bit", "vendor": "amd"},
                           "then": {"level": "info", "text": "Added."}})  # fmt: skip


def _choice_that_no_concern_reaches(edited: EditedRules) -> None:
    edited.add(OPTIMIZER, {"id": "OPT950", "when": {"concern": "small-batch", "model": "transformer"},
                         "then": {"optimizer": "lion"}}, after="OPT110")  # fmt: skip


def _choice_for_contradictory_inputs(edited: EditedRules) -> None:
    when = {"method": "full", "lora_rank": "known", "stability": "spikes"}
    edited.add(CONCERN, {"id": "CON950", "when": when, "then": {"concern": "lora"}}, after="CON050")


def _disjoint_clamps(edited: EditedRules) -> None:
    step = {"clamp": "eps", "low": 1e-12, "high": 1e-11, "because": "Added.", "cite": ["measured"]}
    edited.add("adjust.yaml", {"id": "ADJ950", "when": {"optimizer": "rmsprop"}, "then": {"steps": [step]}})


def _scaled_twice(edited: EditedRules) -> None:
    step = {"scale": "lr", "by": "batch_size", "reference": 256, "exponent": 0.5, "because": "x", "cite": ["measured"]}
    when = {"lr_scale": "sgd", "model": "cnn", "batch_size": ">= 4096"}
    edited.add("adjust.yaml", {"id": "ADJ950", "when": when, "then": {"steps": [step]}})


class Defect(NamedTuple):
    apply: Callable[[EditedRules], None]
    kind: str
    rules: tuple[str, ...]
    at: tuple[str, str]  # file and row
    shows: Callable[[CommandResult], bool] | None  # in the result of its witness; None without a witness


DEFECTS = (
    Defect(_gap_in_numbers, GAP, (), ("decide/learning-rate-guide.yaml", "GLR020"),
           lambda result: is_rejected_for(result, ErrorCode.RULE_GAP, "'learning_rate'")),
    Defect(_gap_in_schedules, GAP, (), ("decide/schedule-guide.yaml", "GSC030"),
           lambda result: is_rejected_for(result, ErrorCode.RULE_GAP, "'choose_schedule'")),
    Defect(_gap_in_concerns, GAP, (), (CONCERN, "CON120"),
           lambda result: is_rejected_for(result, ErrorCode.RULE_GAP, "'concern'")),
    Defect(_overlap_of_choices, OVERLAP, ("OPT130", "OPT082"), (OPTIMIZER, "OPT130"),
           lambda result: is_rejected_for(result, ErrorCode.RULE_CONFLICT, "'choose_optimizer'", "OPT082", "OPT130")),
    Defect(_overlap_of_numbers, OVERLAP, ("", "LRA950"), ("decide/learning-rate.yaml", ""),
           lambda result: is_rejected_for(result, ErrorCode.RULE_CONFLICT, "'learning_rate'", "LRA950")),
    Defect(_shadowed_by_two, SHADOWED, ("CON950", "CON020", "CON030"), (CONCERN, "CON950"), None),
    Defect(_shadowed_by_one, SHADOWED, ("CON950", "CON070"), (CONCERN, "CON950"), None),
    Defect(_unused_otherwise, SHADOWED, ("EPS001",), ("decide/eps.yaml", "EPS001"), None),
    Defect(_override_of_another_table, OVERRIDE, ("SCH011",), (SCHEDULE, "SCH011"), None),
    Defect(_override_from_outside, OVERRIDE, ("SCH019", "SCH014"), (SCHEDULE, "SCH019"),
           lambda result: is_rejected_for(result, None, "SCH019") or "SCH019" in decided_by(result)),
    Defect(_override_of_itself, OVERRIDE, ("SCH010", "SCH011"), (SCHEDULE, "SCH010"), None),
    Defect(_override_in_an_ordered_table, OVERRIDE, ("CON030", "CON020"), (CONCERN, "CON030"), None),
    Defect(_number_outside_its_range, DOMAIN, ("WUP030",), ("decide/warmup.yaml", "WUP030"), None),
    Defect(_decreasing_points, DOMAIN, ("WUP950",), ("decide/warmup.yaml", "WUP950"), None),
    Defect(_warning_that_no_card_reaches, UNREACHABLE, ("WRN950",), ("warn.yaml", "WRN950"), None),
    Defect(_warning_for_contradictory_inputs, UNREACHABLE, ("WRN950",), ("warn.yaml", "WRN950"), None),
    Defect(_choice_that_no_concern_reaches, UNREACHABLE, ("OPT950",), (OPTIMIZER, "OPT950"), None),
    Defect(_choice_for_contradictory_inputs, UNREACHABLE, ("CON950",), (CONCERN, "CON950"), None),
    Defect(_disjoint_clamps, CONFLICT, ("ADJ950", "ADJ037"), ("adjust.yaml", "ADJ950"),
           lambda result: {"ADJ950", "ADJ037"} <= decided_by(result)),
    Defect(_scaled_twice, CONFLICT, ("ADJ950", "ADJ010"), ("adjust.yaml", "ADJ950"),
           lambda result: {"ADJ950", "ADJ010"} <= decided_by(result)),
)  # fmt: skip


def _matches(reported: ReportedFinding, defect: Defect) -> bool:
    """Return whether a finding is the expected defect; an empty name matches any row."""
    actual, expected = reported.finding.rules, defect.rules
    same = len(actual) == len(expected) and all(
        not name or name == row for name, row in zip(expected, actual, strict=True)
    )
    return reported.finding.kind == defect.kind and same


@pytest.mark.usefixtures("unproven")
@pytest.mark.parametrize("defect", rotated(8, DEFECTS), ids=lambda defect: defect.apply.__name__.strip("_"))
def test_defect_is_found_with_line_rows_and_witness(
    folder: Path, defect: Defect, monkeypatch: pytest.MonkeyPatch
) -> None:
    edited = EditedRules(folder)
    defect.apply(edited)
    rules = edited.compile()
    report = prove_rules(rules, (str(folder),))
    answer_by(rules, monkeypatch)
    assert not report.sound
    assert report.proven
    matching = [reported for reported in report.findings if _matches(reported, defect)]
    assert matching, rules_of(report.findings)
    file, row = defect.at
    for reported in matching:
        expected = edited.at(file, row) if row else rf"{folder / file}:\d+:5"
        assert re.fullmatch(re.escape(expected) if row else expected, reported.finding.at)
        assert all(rule in reported.finding.text for rule in reported.finding.rules)
        if defect.shows is None:
            assert reported.witness is None
        else:
            assert reported.where
            assert reported.witness is not None, reported
            assert reported.witness.endswith(f" --rules {folder}")
            assert defect.shows(follow(reported.witness)), reported


@pytest.mark.usefixtures("unproven")
@pytest.mark.parametrize("defect", rotated(2, DEFECTS), ids=lambda defect: defect.apply.__name__.strip("_"))
def test_check_reports_a_defect_and_its_witness_uses_the_folder(folder: Path, defect: Defect) -> None:
    defect.apply(EditedRules(folder))
    result = optadvise("rules", "check", "--rules", str(folder), "--json")
    data = json.loads(result.out)
    assert (result.code, data["sound"], data["proven"]) == (1, False, True)
    reported = prove_rules(CompiledRules(load([folder])), (str(folder),)).findings
    matching = [each for each in reported if _matches(each, defect)]
    assert matching
    listed = {(finding["kind"], tuple(finding["rules"]), finding["at"]) for finding in data["findings"]}
    assert {(defect.kind, each.finding.rules, each.finding.at) for each in matching} <= listed
    for each in matching:
        assert each.witness is None or (defect.shows is not None and defect.shows(follow(each.witness)))


def test_sound_rows_have_no_findings(folder: Path) -> None:
    edited = EditedRules(folder)
    edited.add("warn.yaml", {"id": "WRN950", "when": {"family": "sign", "lr_scale": "adam"},
                           "then": {"level": "info", "text": "Added."}})  # fmt: skip
    step = {"clamp": "eps", "low": 0.01, "high": 1, "because": "Added.", "cite": ["measured"]}
    edited.add(
        "adjust.yaml", {"id": "ADJ950", "when": {"optimizer": "rmsprop", "model": "rl"}, "then": {"steps": [step]}}
    )
    # It contradicts the previous row, but no card reaches both.
    step = {"clamp": "eps", "low": 1e-12, "high": 1e-11, "because": "Added.", "cite": ["measured"]}
    edited.add("adjust.yaml", {"id": "ADJ951", "when": {"optimizer": "rmsprop", "lr_scale": "sgd", "model": "rl"},
                             "then": {"steps": [step]}})  # fmt: skip
    report = prove_rules(edited.compile())
    assert rules_of(report.findings) == [(UNREACHABLE, ("ADJ951",))]


def test_row_shadowed_by_two_rows_never_decides(folder: Path) -> None:
    edited = EditedRules(folder)
    _shadowed_by_two(edited)
    rules = edited.compile()
    met = set()
    for answers in _situations(Random(1), rules, 600):
        met.add(decide(rules, complete_situation(rules, answers)).rules.concern.id)
    assert {"CON020", "CON030", "CON070"} <= met
    assert "CON950" not in met


def test_gap_has_a_reachable_witness(folder: Path) -> None:
    """The first uncovered cell can be unreachable while others are reachable."""
    edited = EditedRules(folder)
    edited.drop(OPTIMIZER, "otherwise")
    edited.drop(OPTIMIZER, "OPT122")
    (gap,) = (reported for reported in prove_rules(edited.compile()).findings if reported.finding.kind == GAP)
    with pytest.raises(RuleFileError) as caught:
        choose_optimizer(edited.compile(), complete_situation(edited.compile(), {"model": "cnn"}))
    assert caught.value.code is ErrorCode.RULE_GAP
    assert gap.witness is not None, gap


def test_override_from_outside_has_a_reachable_witness(folder: Path) -> None:
    """A row for cnn is widened to recsys: small batches of recsys are unreachable, other batches are reachable."""
    edited = EditedRules(folder)
    edited.change(SCHEDULE, "SCH033", "when: {model: cnn,", "when: {model: [cnn, recsys],")
    found = [reported for reported in prove_rules(edited.compile()).findings if reported.finding.kind == OVERRIDE]
    assert [reported.finding.rules for reported in found] == [("SCH033", "SCH030")]
    assert found[0].witness is not None, found[0]


@pytest.mark.parametrize(
    ("file", "row"),
    [
        ("decide/learning-rate.yaml", {"when": {"lr_scale": "custom"}, "then": {"value": 0.1}}),
        ("decide/betas.yaml", {"when": {"betas_advised": "false", "model": "unknown"}, "then": {"value": [0.9, 0.9]}}),
    ],
)
def test_number_for_optimizers_with_custom_values_is_unreachable(folder: Path, file: str, row: dict[str, Any]) -> None:
    """Such cards use their defaults, and no table is evaluated."""
    edited = EditedRules(folder)
    first = re.search(r"^  - id: (\w+)$", (folder / file).read_text(encoding="utf-8"), re.MULTILINE)
    assert first is not None
    edited.add(file, {"id": "OWN950", **row}, after=first[1])
    assert (UNREACHABLE, ("OWN950",)) in rules_of(prove_rules(edited.compile()).findings)


# -- defects found while reading -----------------------------------------------------------------------------------


def _misspelled_concern(edited: EditedRules) -> str:
    edited.change(CONCERN, "CON070", "concern: instability", "concern: instabilty")
    return edited.at(CONCERN, "CON070")


def _no_concern_otherwise(edited: EditedRules) -> str:
    edited.change(CONCERN, "otherwise", "concern: ordinary", "concern: none")
    return edited.at(CONCERN, "CON999")


def _no_such_source(edited: EditedRules) -> str:
    edited.change(OPTIMIZER, "OPT041", r"cite: \[", "cite: [paper:nowhere, ")
    return edited.find(OPTIMIZER, "paper:nowhere")


def _no_such_optimizer(edited: EditedRules) -> str:
    edited.change(OPTIMIZER, "OPT041", "optimizer: sgd-momentum", "optimizer: sgd-momentun")
    return edited.at(OPTIMIZER, "OPT041")


def _no_such_alternative(edited: EditedRules) -> str:
    edited.change(OPTIMIZER, "OPT041", r"        sgd: ", "        sgdd: ")
    return edited.at(OPTIMIZER, "OPT041")


def _no_such_schedule(edited: EditedRules) -> str:
    edited.change(SCHEDULE, "SCH060", "scheduler: constant", "scheduler: konstant")
    return edited.at(SCHEDULE, "SCH060")


def _override_of_nothing(edited: EditedRules) -> str:
    edited.change(SCHEDULE, "SCH011", r"overrides: \[SCH010\]", "overrides: [SCH998]")
    return edited.find(SCHEDULE, "SCH998")


def _no_such_choice(edited: EditedRules) -> str:
    edited.when(CONCERN, "CON070", "{stability: spikey}")
    return edited.find(CONCERN, "spikey")


def _no_such_fact(edited: EditedRules) -> str:
    edited.when(CONCERN, "CON070", "{stabilitee: spikes}")
    return edited.find(CONCERN, "stabilitee")


def _step_of_nothing(edited: EditedRules) -> str:
    step = {"clamp": "epps", "low": 1e-12, "high": 1e-11, "because": "Added.", "cite": ["measured"]}
    edited.add("adjust.yaml", {"id": "ADJ950", "when": {"optimizer": "rmsprop"}, "then": {"steps": [step]}})
    return edited.find("adjust.yaml", '{"clamp": "epps"')


@pytest.mark.parametrize(
    ("break_rules", "code"),
    rotated(4, [
        (_misspelled_concern, ErrorCode.INVALID_ENTRY), (_no_concern_otherwise, ErrorCode.INVALID_ENTRY),
        (_no_such_source, ErrorCode.UNKNOWN_REFERENCE), (_no_such_optimizer, ErrorCode.UNKNOWN_REFERENCE),
        (_no_such_alternative, ErrorCode.UNKNOWN_REFERENCE), (_no_such_schedule, ErrorCode.UNKNOWN_REFERENCE),
        (_override_of_nothing, ErrorCode.UNKNOWN_REFERENCE), (_no_such_choice, ErrorCode.INVALID_ENTRY),
        (_no_such_fact, ErrorCode.UNKNOWN_REFERENCE), (_step_of_nothing, ErrorCode.UNKNOWN_REFERENCE),
    ]),
)  # fmt: skip
def test_unknown_name_is_an_error_at_its_line(
    folder: Path, break_rules: Callable[[EditedRules], str], code: ErrorCode
) -> None:
    at = break_rules(EditedRules(folder))
    with pytest.raises(RuleFileError) as caught:
        load([folder])
    assert (caught.value.where, caught.value.code) == (at, code)
    for command in ("check", "test"):
        result = optadvise("rules", command, "--rules", str(folder))
        assert (result.code, result.out, len(result.err.splitlines()), result.error) == (3, "", 1, code)


# -- changes of single rows ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def evaluated(catalog: Catalog) -> dict[str, set[tuple[int, ...]]]:
    """Return, by table, the points at which it was evaluated for random command lines."""
    found: dict[str, set[tuple[int, ...]]] = {}
    matching = Table.matching

    def record(table: Table, cells: Mapping[str, int]) -> Any:
        found.setdefault(table.id, set()).add(tuple(cells[name] for name in table.columns))
        return matching(table, cells)

    rules = CompiledRules(catalog)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Table, "matching", record)
        patch.setattr(
            "optadvise.advice.recommend.find_sensitivities", lambda *_: ()
        )  # they evaluate points that no command line reaches
        for answers in _situations(Random(2), rules, 250):
            advise(rules, answers)
    return found


def _meets(reported: ReportedFinding, rules: CompiledRules, table: Table, points: Iterable[tuple[int, ...]]) -> bool:
    """Return whether any of these points shows a finding about a table."""
    rule_ids = reported.finding.rules
    for point in points:
        cells = dict(zip(rules.tables[table.id].columns, point, strict=True))
        if not all(name in cells for name in table.columns):  # the widened row reads a fact that was not recorded
            return False
        try:
            names = {rule.id for rule in table.matching(cells)}
        except RuleFileError as error:
            names = {*re.findall(r"\b[A-Z]{3}\d{3}\b", str(error))}
            if reported.finding.kind == (OVERLAP if names else GAP) and names >= set(rule_ids):
                return True
            continue
        boxes = {rule.id: make_box(rule, rules.axes) for rule in table.rules if rule.id in rule_ids}
        inside = [name for name, box in boxes.items() if all(mask >> cells[fact] & 1 for fact, mask in box.items())]
        if reported.finding.kind == OVERRIDE and inside == [rule_ids[0]] and rule_ids[0] in names:
            return True
    return False


def _shows(reported: ReportedFinding, result: CommandResult) -> bool:
    kind, table, rules = reported.finding.kind, reported.finding.table, reported.finding.rules
    if kind == GAP:
        return is_rejected_for(result, ErrorCode.RULE_GAP, repr(table))
    if kind == OVERLAP:
        return is_rejected_for(result, ErrorCode.RULE_CONFLICT, repr(table), *rules)
    if kind == CONFLICT:  # steps of a card have its id
        return set(rules) <= decided_by(result)
    return is_rejected_for(result, None, rules[0]) or rules[0] in decided_by(result)


@pytest.mark.parametrize("seed", rotated(1, range(12)))
def test_witnesses_of_changed_rows_reproduce_their_findings(
    rules: CompiledRules, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    changes = [mutant for table in rules.tables.values() for mutant in list_mutants(rules, table)]
    followed = 0
    for mutant in Random(seed).sample(changes, 14):
        changed = CompiledRules(with_table(rules.catalog, mutant.file))
        answer_by(changed, monkeypatch)
        found = [reported for reported in prove_rules(changed).findings if reported.witness is not None]
        for reported in Random(seed).sample(found, min(len(found), 4)):
            case = (mutant.rule, mutant.change, reported)
            assert _shows(reported, follow(str(reported.witness))), case
            followed += 1
        if followed >= 6 and not IS_WHOLE:
            break
    assert followed >= 3


@pytest.mark.parametrize("seed", rotated(1, range(3, 6)))
def test_reachable_findings_are_not_reported_as_unreachable(
    rules: CompiledRules, evaluated: Mapping[str, set[tuple[int, ...]]], monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """A finding without a witness may be reachable, so the report must not deny it."""
    changes = [mutant for name in evaluated for mutant in list_mutants(rules, rules.tables[name])]
    met = 0
    for mutant in Random(seed).sample(changes, 24):
        changed = CompiledRules(with_table(rules.catalog, mutant.file))
        table = Table(mutant.file, rules.axes)
        found = [
            reported for reported in prove_rules(changed).findings if reported.finding.kind in (GAP, OVERLAP, OVERRIDE)
        ]
        found = [reported for reported in found if reported.finding.point is not None]
        meets = [reported for reported in found if _meets(reported, rules, table, evaluated[mutant.table])]
        met += len(meets)
        if len(meets) == len(found) and any(reported.witness is None for reported in meets):
            answer_by(changed, monkeypatch)
            result = optadvise("rules", "check")
            assert "no situation leads there" not in result.out, [
                reported for reported in meets if reported.witness is None
            ]
        if met >= 6 and not IS_WHOLE:
            break
    assert met >= 3


def test_row_for_a_vendor_without_listed_gpus_is_checked(rules: CompiledRules) -> None:
    """Its findings have no command line, because `--gpu` has no GPU of this vendor."""
    gpus = tuple(gpu for gpu in rules.catalog.gpus if gpu.vendor != "intel")
    catalog = rules.catalog.with_base(replace(rules.catalog.base, gpus=gpus))
    document = table_data(catalog.base.tables["choose_optimizer"])
    rows = [
        {**row, "when": {**row["when"], "vendor": [*row["when"]["vendor"], "intel"]}} if row["id"] == "OPT030" else row
        for row in document["rules"]
    ]
    findings = prove_rules(CompiledRules(with_rows(catalog, {**document, "rules": rows}))).findings
    (found,) = [each for each in findings if each.finding.rules == ("OPT031", "OPT030")]
    assert (found.finding.kind, found.witness) == (OVERLAP, None)


def test_witness_names_a_gpu_without_bf16_if_needed(rules: CompiledRules, monkeypatch: pytest.MonkeyPatch) -> None:
    document = table_data(rules.catalog.base.tables["eps"])
    row = document["rules"][0]
    rows = [row, {**row, "id": "EPS950", "when": {"bf16": ["false"]}}]
    changed = CompiledRules(with_rows(rules.catalog, {**document, "rules": rows}))
    (reported,) = prove_rules(changed).findings
    assert reported.finding.kind == OVERLAP
    assert reported.witness is not None
    answer_by(changed, monkeypatch)
    assert _shows(reported, follow(reported.witness)), reported


def _situations(random: Random, rules: CompiledRules, count: int) -> Iterator[dict[str, Any]]:
    """Yield random inputs without contradictions."""
    facts = {name: fact_data(fact) for name, fact in rules.catalog.facts.items() if fact.flag is not None}
    while count:
        answers: dict[str, Any] = {}
        for name, fact in facts.items():
            if random.random() < 0.35:
                words = (True, False) if fact["type"] == "flag" else tuple(fact.get("values", ())) or NUMBERS[name]
                answers[name] = random.choice(words)
        if random.random() < 0.3:
            answers["optimizer"] = random.choice(rules.catalog.optimizer_ids)
        if random.random() < 0.3:
            gpu = random.choice(rules.catalog.gpus)
            answers |= {"gpu": gpu.name, "vendor": gpu.vendor, "vram_bytes": round(gpu.memory_gib * 2**30)}
            answers |= {} if gpu.bf16 else {"bf16": False}
        try:
            complete_situation(rules, answers)
        except InputError:
            continue
        count -= 1
        yield answers


def test_reached_points_are_not_classified_as_unreachable(
    rules: CompiledRules, evaluated: Mapping[str, set[tuple[int, ...]]]
) -> None:
    """Every point at which a table was evaluated must be reachable in the chain of regions."""
    assert set(evaluated) >= set(rules.tables) - {"memory_notation"}
    for name, points in evaluated.items():
        for point in sorted(points):
            box = {fact: 1 << cell for fact, cell in zip(rules.tables[name].columns, point, strict=True)}
            assert find_read(rules, name, box) is not None, (name, box)


def test_shipped_rules_are_sound(rules: CompiledRules) -> None:
    """The README shows how many of their mutants are detected; `test_docs.py` compares it with the command."""
    assert prove_rules(rules).sound


# -- proofs over budget --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [0, 1, 5, 20])
def test_proof_over_budget_is_reported_as_not_proven(monkeypatch: pytest.MonkeyPatch, budget: int) -> None:
    monkeypatch.setattr(regions, "BUDGET", budget)
    result = optadvise("rules", "check")
    assert result.code == 1
    assert "Not proven" in result.out
    result = optadvise("rules", "check", "--json")
    data = json.loads(result.out)
    assert (result.code, data["proven"], data["sound"]) == (1, False, False)
    assert {finding["kind"] for finding in data["findings"]} == {UNPROVEN}
    (concern,) = (table for table in data["tables"] if table["table"] == "concern")
    assert budget == 20 or concern["otherwise"] is None  # the budget is too small to count it
    with pytest.raises(InputError) as caught:
        compare_catalogs(load(), load())
    assert caught.value.code is ErrorCode.INCONCLUSIVE


@pytest.mark.parametrize("budget", rotated(2, [0, 1, 5, 20]))
def test_defects_are_reported_if_the_witness_search_exceeds_the_budget(
    folder: Path, monkeypatch: pytest.MonkeyPatch, budget: int
) -> None:
    edited = EditedRules(folder)
    _overlap_of_choices(edited)
    _number_outside_its_range(edited)
    rules = edited.compile()
    monkeypatch.setattr(regions, "BUDGET", budget)
    report = prove_rules(rules)
    kinds = {reported.finding.kind for reported in report.findings}
    assert DOMAIN in kinds
    assert kinds & {OVERLAP, UNPROVEN}
    assert not report.sound


def test_mutant_search_over_budget_is_one_error_line(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(regions, "BUDGET", 5)
    result = optadvise("rules", "test", "--mutants")
    assert result.code != 0
    assert len(result.err.splitlines()) <= 1


def test_unproven_otherwise_is_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    row = {"id": "R1", "name": "r", "when": {"a": ["x"]}, "then": {}, "because": "b", "cite": [], "at": "t.yaml:1:1"}
    facts = {"a": {"id": "a", "type": "choice", "values": {"x": "", "y": ""}}}
    document = {"table": "t", "kind": "set", "hit_policy": "first", "about": "A.", "rules": [row],
                "otherwise": {**row, "id": "R2", "at": "t.yaml:2:1"}}  # fmt: skip
    axes = cut_axes(facts_of(facts), [{"a": ["x"]}])
    assert list(check_table(Table(table_of(document), axes), axes)) == []
    monkeypatch.setattr(regions, "BUDGET", 0)
    assert [finding.kind for finding in check_table(Table(table_of(document), axes), axes)] == [UNPROVEN]


def test_cached_proof_of_an_older_prover_is_not_used(tmp_path: Path) -> None:
    """Proofs are cached between processes; a changed prover must prove the rules again."""
    shutil.copytree(ROOT / "optadvise", tmp_path / "optadvise")
    shutil.copytree(ROOT / "rules", tmp_path / "rules")
    layer = tmp_path / "layer" / "decide" / "ours.yaml"
    layer.parent.mkdir(parents=True)
    row = {"id": "OUR010", "name": "ours", "when": {"concern": "ordinary", "model": "gan"},
           "then": {"optimizer": "lion"}, "because": "ours", "cite": ["measured"],
           "tests": [{"given": {}, "expect": {}}]}  # fmt: skip
    layer.write_text(json.dumps({"table": "choose_optimizer", "rules": [row]}), encoding="utf-8")
    prover = tmp_path / "optadvise" / "rulebase" / "proofs.py"
    current = prover.read_text(encoding="utf-8")
    older = f"{current}\n\ndef check_table(table, axes):\n    return iter(())\n"
    codes = []
    for text in (older, current):
        prover.write_text(text, encoding="utf-8")
        line = [sys.executable, "-m", "optadvise", "recommend", "--model", "cnn", "--rules", "layer"]
        environment = {**os.environ, "OPTADVISE_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": str(tmp_path)}
        codes.append(subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, check=False).returncode)
    assert codes == [0, 3]


# -- differences between two sets of rules -------------------------------------------------------------------------


def holds(where: str, values: Mapping[str, Any]) -> bool:
    """Return whether the text of a difference describes these values."""
    if where == "any situation":
        return True
    for part in where.split(", "):
        name, _, condition = part.partition(" ")
        value = values[name]
        if isinstance(value, (bool, str)) or (value is None and not re.search(r"\d|known", condition)):
            value = "unknown" if value is None else str(value).lower() if isinstance(value, bool) else value
            is_negated = condition.startswith("not ")
            if (value in condition.removeprefix("not ").split(" or ")) == is_negated:
                return False
        elif value is None and condition.startswith("not "):
            if "unknown" in condition.removeprefix("not ").split(" or "):
                return False
        elif not any(_span_holds(span, value) for span in condition.split(" or ")):
            return False
    return True


def _span_holds(span: str, value: float | None) -> bool:
    if value is None or span in ("known", "unknown"):
        return (span == "unknown") == (value is None)
    tests: dict[str, Callable[[float, float], bool]] = {
        ">": float.__gt__, ">=": float.__ge__, "<": float.__lt__, "<=": float.__le__, "=": float.__eq__,
    }  # fmt: skip
    for bound in span.split(" and "):
        sign, _, number = bound.rpartition(" ")
        if not tests[sign or "="](float(value), float(number.replace(",", ""))):
            return False
    return True


def reader(catalog: Catalog) -> Callable[[Mapping[str, Any]], str]:
    """Return a function that evaluates both deciding tables: the optimizer, or `no rule` if none or two rows apply."""
    tables = [(table_data(catalog.base.tables[name]), gives) for name, gives in DECIDING]
    read = [(table, gives, [*table["rules"]], beaten(table["rules"])) for table, gives in tables]

    def answer(values: Mapping[str, Any]) -> str:
        facts = dict(values)
        for table, gives, rows, overridden in read:
            found = decided(table, overridden, [row["id"] for row in rows if applies(row, facts)])
            if found is None:
                return "no rule"
            row = next(row for row in (*rows, table.get("otherwise", {})) if row.get("id") == found[0])
            facts[gives] = row["then"][gives]
        return str(facts["optimizer"])

    return answer


def _one_row_changed(random: Random, catalog: Catalog) -> Mapping[str, Any]:
    """Return one of the two deciding tables with a deleted row or a changed threshold."""
    name = random.choice(("concern", "choose_optimizer"))
    document = table_data(catalog.base.tables[name])
    rows = list(document["rules"])
    sized = [number for number, row in enumerate(rows) if "batch_size" in row["when"]]
    if sized and random.random() < 0.4:
        row, edge = rows[(number := random.choice(sized))], float(random.choice((100, 300, 1024, 4096, 10_000)))
        ranges = [[item[0] and edge, item[1], item[2] and edge, item[3]] for item in row["when"]["batch_size"]]
        rows[number] = {**row, "when": {**row["when"], "batch_size": ranges}}
    else:
        rows.pop(random.randrange(len(rows)))
    return {**document, "rules": rows}


def _deciding_values(rules: CompiledRules, random: Random) -> Iterator[tuple[bool, dict[str, Any]]]:
    """Yield points of the deciding facts (False), then points of situations from valid inputs (True)."""
    facts = {name: fact_data(fact) for name, fact in rules.catalog.facts.items()}
    batches = [None, *(edge + step for edge in (100, 300, 512, 1024, 4096, 8192, 10_000) for step in (-1, 0, 1))]
    for _ in range(400):
        point: dict[str, Any] = {}
        for name in rules.deciding_facts:
            fact = facts[name]
            words: list[Any] = [True, False] if fact["type"] == "flag" else [*fact.get("values", ())]
            point[name] = random.choice(words + ([None] if fact.get("unknown") else []) if words else batches)
        yield False, point
    for answers in _situations(random, rules, 150):
        situation = complete_situation(rules, answers)
        values = {n: getattr(situation, n, None) for n in rules.deciding_facts}
        yield True, {**values, "memory": classify_pressure(rules, situation)}


def _is_reachable(rules: CompiledRules, values: Mapping[str, Any]) -> bool:
    box = {name: 1 << rules.axes[name].cell(value) for name, value in values.items()}
    return find_read(rules, "concern", box) is not None


def _optimizer_by(rules: CompiledRules, witness: str, monkeypatch: pytest.MonkeyPatch) -> str:
    answer_by(rules, monkeypatch)
    result = follow(witness)
    if result.code == 3:
        return "no rule"
    assert result.code == 0, result.err
    return str(json.loads(result.out)["optimizer"]["id"])


@pytest.mark.usefixtures("without_sensitivities")
@pytest.mark.parametrize("seed", rotated(1, range(8)))
def test_differences_are_where_recommendations_differ(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
    random = Random(seed)
    met: Counter[bool] = Counter()
    for _ in range(3):
        old = load()
        new = with_rows(old, _one_row_changed(random, old))
        difference = compare_catalogs(old, new)
        assert difference.cards == ()
        assert {section.title for section in difference.sections} <= {"Optimizer"}
        changes: Sequence[RuleChange] = [change for section in difference.sections for change in section.changes]
        before, after = CompiledRules(old), CompiledRules(new)
        readers = reader(old), reader(new)
        for typed, values in _deciding_values(before, random):
            ends = readers[0](values), readers[1](values)
            there = [change for change in changes if holds(change.where, values)]
            reported = [(change.old, change.new) for change in there]
            if ends[0] == ends[1]:
                assert reported == [], values
            elif reported != [ends]:
                assert (reported, typed) == ([], False), (values, ends)
                assert not _is_reachable(before, values), values
                assert not _is_reachable(after, values), values
            elif typed:
                met[there[0].witness is not None] += 1
        shown = [change for change in changes if change.witness is not None]
        for change in Random(seed).sample(shown, min(len(shown), 8)):
            for rules, end in ((before, change.old), (after, change.new)):
                assert _optimizer_by(rules, str(change.witness), monkeypatch) == end, change
        if met[True] >= max(10, met[False] * 5) and not IS_WHOLE:
            break
    # A few differences need a combination of inputs that the witness search does not try.
    assert met[False] * 5 <= met[True] or met.total() < 10, met


def _near(random: Random, row: Mapping[str, Any], name: str, fact: Mapping[str, Any]) -> Any:
    """Return a value of a fact, usually one that a row accepts."""
    edges = (127, 128, 255, 256, 511, 512, 1024, 4096, 8192, 8193, 10**8, 10**9, 10**9 + 1, 16, 17, 64)
    words: Sequence[Any] = (True, False) if fact["type"] == "flag" else [*fact.get("values", ())]
    values = [*(words or edges), *([None] if fact.get("unknown") else [])]
    accepted = [value for value in values if accepts(row["when"].get(name, []), value)]
    return random.choice(accepted if accepted and random.random() < 0.95 else values)


def _rows_at(document: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the outcomes of the deciding rows by id; empty if none or two rows apply."""
    rows = [{"overrides": [], **row} for row in document["rules"]]
    found = decided(document, beaten(rows), [row["id"] for row in rows if applies(row, values)])
    whole = {row["id"]: row["then"] for row in (*rows, document.get("otherwise", {})) if row}
    return {name: whole[name] for name in found or ()}


def _read_ids(change: RuleChange) -> tuple[str, str]:
    """Return the ids of the old and the new row."""
    before, after = (re.sub(r".*\[(\w+)\]$", r"\1", end) for end in (change.old, change.new))
    return before, after


@pytest.mark.parametrize("seed", rotated(1, range(4)))
def test_differences_of_other_tables_are_where_their_rows_differ(rules: CompiledRules, seed: int) -> None:
    random = Random(seed)
    names = sorted({*rules.tables} - {"concern", "choose_optimizer", "memory_notation"})
    changes = [mutant for name in names for mutant in list_mutants(rules, rules.tables[name])]
    met = 0
    for mutant in random.sample(changes, 12):
        old = load()
        new = with_table(old, mutant.file)
        documents = [table_data(catalog.base.tables[mutant.table]) for catalog in (old, new)]
        rows = [row for document in documents for row in document["rules"] if row["id"] == mutant.rule]
        sections = compare_catalogs(old, new).sections
        assert all(section.title.endswith(f"({mutant.table})") for section in sections)
        reported = [change for section in sections for change in section.changes]
        read = sorted({name for document in documents for each in document["rules"] for name in each["when"]})
        compiled = [CompiledRules(catalog) for catalog in (old, new)]
        for _ in range(120):
            row = random.choice(rows)
            values = {name: _near(random, row, name, fact_data(old.facts[name])) for name in read}
            before, after = (_rows_at(document, values) for document in documents)
            if documents[0]["hit_policy"] == "collect":
                gone = [(name, "no rule") for name in before if name not in after]
                expected = gone + [("no rule", name) for name in after if name not in before]
            else:
                ends = next(iter(before), "no rule"), next(iter(after), "no rule")
                expected = [ends] if [*before.values()] != [*after.values()] else []
            there = sorted(_read_ids(change) for change in reported if holds(change.where, values))
            met += bool(there)
            if there != sorted(expected):
                assert there == [], (mutant.rule, mutant.change, values, expected)
                for compiled_rules in compiled:
                    box = {name: 1 << compiled_rules.axes[name].cell(value) for name, value in values.items()}
                    assert find_read(compiled_rules, mutant.table, box) is None, (
                        mutant.rule,
                        mutant.change,
                        values,
                        expected,
                    )
        if met >= 100 and not IS_WHOLE:
            break
    assert met >= 50


@pytest.mark.usefixtures("unproven", "without_sensitivities")
def test_diff_command_reports_differences_between_folders(folder: Path) -> None:
    edited = EditedRules(folder)
    edited.when(
        CONCERN, "CON080", '{policy: guide, batch_size: "> 4096", model: [transformer, vit, cnn, rnn, mlp, unknown]}'
    )
    result = optadvise("rules", "diff", "-", str(folder))
    assert result.code == 0
    lines = [line.split(" | ") for line in result.out.splitlines() if line.startswith("| batch_size")]
    assert lines
    for where, old, new, command in lines:
        assert "batch_size > 4,096 and <= 8,192" in where
        witness = command.removesuffix(" |").strip("`")
        assert json.loads(follow(witness).out)["optimizer"]["id"] == old
        assert json.loads(follow(f"{witness} --rules {folder}").out)["optimizer"]["id"] == new
    assert optadvise("rules", "diff", str(folder), str(folder)).out == (
        "The two sets of rules give the same answer in every situation.\n"
    )


def test_holds_reads_the_text_of_a_difference() -> None:
    for where, batch, held in (
        ("batch_size > 512 and <= 8,192 or unknown", 8192, True),
        ("batch_size > 512 and <= 8,192 or unknown", None, True),
        ("batch_size > 512 and <= 8,192 or unknown", 512, False),
        ("batch_size 8,192", 8192, True),
        ("batch_size known", None, False),
    ):
        assert holds(where, {"batch_size": batch}) is held
    assert accepts(["unknown", [512.0, False, 8192.0, True]], None)
    assert holds("model not cnn or recsys, sparse_gradients true", {"model": None, "sparse_gradients": True})
    assert not holds("model not cnn or unknown", {"model": None})
    assert not holds("model cnn", {"model": None})
