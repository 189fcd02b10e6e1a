"""What the proofs find: defects sown into a copy of the shipped rules, at their line and where people meet them."""

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
from optadvise.rule_analysis.mutants import list_mutants, try_mutants
from optadvise.rule_analysis.reachability import find_read
from optadvise.rule_analysis.witnesses import ReportedFinding
from optadvise.rulebase import regions
from optadvise.rulebase.case_files import read_cases
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
from tests.conftest import ROOT, few, rotated
from tests.documents import fact_data, facts_of, table_data, table_of, with_rows, with_table
from tests.test_oracle import accepts, applies, beaten, decided

OPTIMIZER, CONCERN, SCHEDULE = "decide/optimizer.yaml", "decide/concern.yaml", "decide/schedule.yaml"
NUMBERS = {
    "params": (10**6, 10**8, 10**9, 8 * 10**9, 10**11), "vram_bytes": (2**30, 8 * 2**30, 24 * 2**30, 80 * 2**30),
    "batch_size": (1, 64, 128, 256, 512, 1024, 8192, 20_000), "gpus": (1, 2, 16), "lora_rank": (8, 64),
    "steps": (200, 5000, 10**5), "micro_batch": (1,), "seq_len": (2048,), "image_size": (224,),
}  # fmt: skip


DECIDING = (("concern", "concern"), ("choose_optimizer", "optimizer"))  # tables and what their rows give

# -- sowing --------------------------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A copy of the shipped rules, which is a base of its own as it has facts."""
    copy = tmp_path / "rules"
    shutil.copytree(ROOT / "rules", copy)
    return copy


class Sown:
    """A folder of rules to sow defects into, row by row, so that little is asked of what the rules say today."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def _block(self, file: str, row: str) -> tuple[str, re.Match[str]]:
        text = (self.folder / file).read_text(encoding="utf-8")
        start = r"^otherwise:\n(?:  .*\n)*" if row == "otherwise" else rf"^  - id: {row}\n(?:    .*\n)*"
        found = re.search(start, text, re.MULTILINE)
        assert found is not None, row
        return text, found

    def change(self, file: str, row: str, pattern: str, new: str) -> None:
        """Replace what a pattern matches within a row."""
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
        """Add a row, which is one line of JSON and so of YAML; to the end unless it comes after another."""
        whole = {"name": "sown", "because": "sown", "cite": ["measured"], "tests": [{"given": {}, "expect": {}}], **row}
        text = (self.folder / file).read_text(encoding="utf-8")
        end = len(text) if after is None else self._block(file, after)[1].end()
        line = f"  - {json.dumps(whole)}\n"
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

    def word(self, file: str, word: str) -> str:
        """Return `file:line:column` of a word that is there once."""
        text = (self.folder / file).read_text(encoding="utf-8")
        assert text.count(word) == 1
        before = text[: text.index(word)]
        return f"{self.folder / file}:{before.count(chr(10)) + 1}:{len(before) - before.rfind(chr(10))}"

    def rules(self) -> CompiledRules:
        return CompiledRules(load([self.folder]))


def rules_of(told: Sequence[ReportedFinding]) -> list[tuple[str, tuple[str, ...]]]:
    return [(each.finding.kind, each.finding.rules) for each in told]


@pytest.fixture
def unproven(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let rules answer that are known to be wrong, to see where a witness leads."""
    monkeypatch.setattr(rule_folders, "require_proof", lambda rules: rules)


def answer_by(rules: CompiledRules, patch: pytest.MonkeyPatch) -> None:
    """Let command lines answer by these rules, whatever folders they name."""
    patch.setattr(rule_folders, "load_rules", lambda option: rules)
    patch.setattr(rule_folders, "load_catalog", lambda option: rules.catalog)


def follow(witness: str) -> CommandResult:
    """Run a witness in this process, as JSON."""
    words = shlex.split(witness)
    assert words[0] == "optadvise"
    assert words[1] in ("recommend", "show")
    return optadvise(*words[1:], "--json")


def decided_by(said: CommandResult) -> set[str]:
    """Return every row that had a part in an answer."""
    assert said.code == 0, said.err
    data = json.loads(said.out)
    numbers = [*data["hyperparameters"], *(data["companion"] or {}).get("hyperparameters", [])]
    found = {entry["rule"] for entry in data["trace"]} | {warning["id"] for warning in data["warnings"]}
    return found | {entry["rule"] for number in numbers for entry in number["ledger"]}


def refused_for(said: CommandResult, code: ErrorCode | None, *names: str) -> bool:
    """Return whether a command failed with a code (None for any) and a message that contains the names."""
    is_failure = said.code == 3 and len(said.err.splitlines()) == 1 and (code is None or said.error == code)
    return is_failure and all(name in said.err for name in names)


# -- defects that proofs find --------------------------------------------------------------------------------------


def _gap_in_numbers(sown: Sown) -> None:
    sown.drop("decide/learning-rate.yaml", "otherwise")
    sown.drop("decide/learning-rate.yaml", "LRA043")


def _gap_in_schedules(sown: Sown) -> None:
    sown.drop(SCHEDULE, "otherwise")
    sown.drop(SCHEDULE, "SCH060")


def _gap_in_concerns(sown: Sown) -> None:
    sown.drop(CONCERN, "otherwise")
    sown.drop(CONCERN, "CON130")


def _overlap_of_choices(sown: Sown) -> None:
    sown.when(OPTIMIZER, "OPT080", "{concern: accuracy, model: [cnn, diffusion]}")


def _overlap_of_numbers(sown: Sown) -> None:
    sown.add("decide/learning-rate.yaml",
             {"id": "LRA950", "when": {"lr_scale": "adam", "model": "gan"}, "then": {"value": 1e-3}},
             after="LRA043")  # fmt: skip


def _shadowed_by_two(sown: Sown) -> None:
    when = {"method": ["lora", "qlora"], "stability": "spikes"}
    sown.add(CONCERN, {"id": "CON950", "when": when, "then": {"concern": "instability"}}, after="CON030")


def _shadowed_by_one(sown: Sown) -> None:
    when = {"stability": "spikes", "batch_size": "> 4096"}
    sown.add(CONCERN, {"id": "CON950", "when": when, "then": {"concern": "large-batch"}}, after="CON070")


def _nothing_left(sown: Sown) -> None:
    models = ["rl", "gan", "cnn", "rnn", "mlp", "gnn", "vit", "diffusion", "recsys", "transformer", "unknown"]
    sown.when("decide/eps.yaml", _only_row(sown, "decide/eps.yaml"), json.dumps({"model": models}))


def _only_row(sown: Sown, file: str) -> str:
    (found,) = re.findall(r"^  - id: (\w+)$", (sown.folder / file).read_text(encoding="utf-8"), re.MULTILINE)
    return str(found)


def _override_of_another_table(sown: Sown) -> None:
    sown.change(SCHEDULE, "SCH021", r"overrides: \[SCH020\]", "overrides: [SCH020, OPT010]")


def _override_from_outside(sown: Sown) -> None:
    sown.when(SCHEDULE, "SCH013", "{optimizer: adam, model: [transformer, unknown], method: full, task: pretrain}")


def _override_of_itself(sown: Sown) -> None:
    sown.change(SCHEDULE, "SCH010", r"^    tests:", "    overrides: [SCH011]\n    tests:")


def _override_in_an_ordered_table(sown: Sown) -> None:
    sown.change(CONCERN, "CON030", r"^    tests:", "    overrides: [CON020]\n    tests:")


def _number_outside_its_range(sown: Sown) -> None:
    sown.change("decide/warmup.yaml", "WUP030", r"value: [\d.]+", "value: 0.9")


def _points_that_fall(sown: Sown) -> None:
    sown.add("decide/warmup.yaml", {"id": "WUP950", "when": {"schedule": "cycle", "model": "gan"},
                                    "then": {"along": "steps", "points": [[1000, 0.1], [100, 0.2]]},
                                    "overrides": ["WUP010"]}, after="WUP030")  # fmt: skip


def _warning_that_no_card_leads_to(sown: Sown) -> None:
    sown.add("warn.yaml", {"id": "WRN950", "when": {"family": "sign", "lr_scale": "sgd"},
                           "then": {"level": "info", "text": "Sown."}})  # fmt: skip


def _warning_that_nobody_may_ask_for(sown: Sown) -> None:
    sown.add("warn.yaml", {"id": "WRN950", "when": {"optimizer": "paged-adamw8bit", "vendor": "amd"},
                           "then": {"level": "info", "text": "Sown."}})  # fmt: skip


def _choice_that_no_concern_leads_to(sown: Sown) -> None:
    sown.add(OPTIMIZER, {"id": "OPT950", "when": {"concern": "small-batch", "model": "transformer"},
                         "then": {"optimizer": "lion"}}, after="OPT100")  # fmt: skip


def _choice_that_nobody_may_say(sown: Sown) -> None:
    when = {"method": "full", "lora_rank": "known", "stability": "spikes"}
    sown.add(CONCERN, {"id": "CON950", "when": when, "then": {"concern": "lora"}}, after="CON060")


def _clamps_that_share_nothing(sown: Sown) -> None:
    step = {"clamp": "eps", "low": 1e-12, "high": 1e-11, "because": "sown", "cite": ["measured"]}
    sown.add("adjust.yaml", {"id": "ADJ950", "when": {"optimizer": "rmsprop"}, "then": {"steps": [step]}})


def _followed_twice(sown: Sown) -> None:
    step = {"scale": "lr", "by": "batch_size", "reference": 256, "exponent": 0.5, "because": "x", "cite": ["measured"]}
    when = {"lr_scale": "sgd", "model": "cnn", "batch_size": ">= 4096"}
    sown.add("adjust.yaml", {"id": "ADJ950", "when": when, "then": {"steps": [step]}})


class Defect(NamedTuple):
    sow: Callable[[Sown], None]
    kind: str
    rules: tuple[str, ...]
    at: tuple[str, str]  # file and row
    shows: Callable[[CommandResult], bool] | None  # at the end of its witness; None where it shows nowhere


DEFECTS = (
    Defect(_gap_in_numbers, GAP, (), ("decide/learning-rate.yaml", ""),
           lambda said: refused_for(said, ErrorCode.RULE_GAP, "'learning_rate'")),
    Defect(_gap_in_schedules, GAP, (), (SCHEDULE, "SCH062"),
           lambda said: refused_for(said, ErrorCode.RULE_GAP, "'choose_schedule'")),
    Defect(_gap_in_concerns, GAP, (), (CONCERN, "CON120"),
           lambda said: refused_for(said, ErrorCode.RULE_GAP, "'concern'")),
    Defect(_overlap_of_choices, OVERLAP, ("OPT130", "OPT080"), (OPTIMIZER, "OPT130"),
           lambda said: refused_for(said, ErrorCode.RULE_CONFLICT, "'choose_optimizer'", "OPT080", "OPT130")),
    Defect(_overlap_of_numbers, OVERLAP, ("", "LRA950"), ("decide/learning-rate.yaml", ""),
           lambda said: refused_for(said, ErrorCode.RULE_CONFLICT, "'learning_rate'", "LRA950")),
    Defect(_shadowed_by_two, SHADOWED, ("CON950", "CON020", "CON030"), (CONCERN, "CON950"), None),
    Defect(_shadowed_by_one, SHADOWED, ("CON950", "CON070"), (CONCERN, "CON950"), None),
    Defect(_nothing_left, SHADOWED, ("EPS001",), ("decide/eps.yaml", "EPS001"), None),
    Defect(_override_of_another_table, OVERRIDE, ("SCH021",), (SCHEDULE, "SCH021"), None),
    Defect(_override_from_outside, OVERRIDE, ("SCH013", "SCH010"), (SCHEDULE, "SCH013"),
           lambda said: refused_for(said, None, "SCH013") or "SCH013" in decided_by(said)),
    Defect(_override_of_itself, OVERRIDE, ("SCH010", "SCH011"), (SCHEDULE, "SCH010"), None),
    Defect(_override_in_an_ordered_table, OVERRIDE, ("CON030", "CON020"), (CONCERN, "CON030"), None),
    Defect(_number_outside_its_range, DOMAIN, ("WUP030",), ("decide/warmup.yaml", "WUP030"), None),
    Defect(_points_that_fall, DOMAIN, ("WUP950",), ("decide/warmup.yaml", "WUP950"), None),
    Defect(_warning_that_no_card_leads_to, UNREACHABLE, ("WRN950",), ("warn.yaml", "WRN950"), None),
    Defect(_warning_that_nobody_may_ask_for, UNREACHABLE, ("WRN950",), ("warn.yaml", "WRN950"), None),
    Defect(_choice_that_no_concern_leads_to, UNREACHABLE, ("OPT950",), (OPTIMIZER, "OPT950"), None),
    Defect(_choice_that_nobody_may_say, UNREACHABLE, ("CON950",), (CONCERN, "CON950"), None),
    Defect(_clamps_that_share_nothing, CONFLICT, ("ADJ950", "ADJ037"), ("adjust.yaml", "ADJ950"),
           lambda said: {"ADJ950", "ADJ037"} <= decided_by(said)),
    Defect(_followed_twice, CONFLICT, ("ADJ950", "ADJ010"), ("adjust.yaml", "ADJ950"),
           lambda said: {"ADJ950", "ADJ010"} <= decided_by(said)),
)  # fmt: skip


def _matches(told: ReportedFinding, defect: Defect) -> bool:
    """Is a finding the one that was sown? An empty name stands for any row."""
    found, wanted = told.finding.rules, defect.rules
    same = len(found) == len(wanted) and all(not name or name == row for name, row in zip(wanted, found, strict=True))
    return told.finding.kind == defect.kind and same


@pytest.mark.usefixtures("unproven")
@pytest.mark.parametrize("defect", DEFECTS, ids=lambda defect: defect.sow.__name__.strip("_"))
def test_a_defect_is_found_at_its_line_with_its_rows_and_where_people_meet_it(
    folder: Path, defect: Defect, monkeypatch: pytest.MonkeyPatch
) -> None:
    sown = Sown(folder)
    defect.sow(sown)
    rules = sown.rules()
    report = prove_rules(rules, (str(folder),))
    answer_by(rules, monkeypatch)
    assert not report.sound
    assert report.proven
    matching = [told for told in report.findings if _matches(told, defect)]
    assert matching, rules_of(report.findings)
    file, row = defect.at
    for told in matching:
        wanted = sown.at(file, row) if row else rf"{folder / file}:\d+:5"
        assert re.fullmatch(re.escape(wanted) if row else wanted, told.finding.at)
        assert all(rule in told.finding.text for rule in told.finding.rules)
        if defect.shows is None:
            assert told.witness is None
        else:
            assert told.where
            assert told.witness is not None, told
            assert told.witness.endswith(f" --rules {folder}")
            assert defect.shows(follow(told.witness)), told


@pytest.mark.usefixtures("unproven")
@pytest.mark.parametrize("defect", rotated(4, DEFECTS), ids=lambda defect: defect.sow.__name__.strip("_"))
def test_the_command_tells_a_defect_and_its_witness_reads_the_folder(folder: Path, defect: Defect) -> None:
    defect.sow(Sown(folder))
    said = optadvise("rules", "check", "--rules", str(folder), "--json")
    data = json.loads(said.out)
    assert (said.code, data["sound"], data["proven"]) == (1, False, True)
    told = prove_rules(CompiledRules(load([folder])), (str(folder),)).findings
    matching = [each for each in told if _matches(each, defect)]
    assert matching
    listed = {(finding["kind"], tuple(finding["rules"]), finding["at"]) for finding in data["findings"]}
    assert {(defect.kind, each.finding.rules, each.finding.at) for each in matching} <= listed
    for each in matching:
        assert each.witness is None or (defect.shows is not None and defect.shows(follow(each.witness)))


def test_sound_rows_in_the_places_of_defects_are_not_found_wrong(folder: Path) -> None:
    sown = Sown(folder)
    sown.add("warn.yaml", {"id": "WRN950", "when": {"family": "sign", "lr_scale": "adam"},
                           "then": {"level": "info", "text": "Sown."}})  # fmt: skip
    step = {"clamp": "eps", "low": 0.01, "high": 1, "because": "sown", "cite": ["measured"]}
    sown.add(
        "adjust.yaml", {"id": "ADJ950", "when": {"optimizer": "rmsprop", "model": "rl"}, "then": {"steps": [step]}}
    )
    # It would contradict the one before, but no card leads to both.
    step = {"clamp": "eps", "low": 1e-12, "high": 1e-11, "because": "sown", "cite": ["measured"]}
    sown.add("adjust.yaml", {"id": "ADJ951", "when": {"optimizer": "rmsprop", "lr_scale": "sgd", "model": "rl"},
                             "then": {"steps": [step]}})  # fmt: skip
    report = prove_rules(sown.rules())
    assert rules_of(report.findings) == [(UNREACHABLE, ("ADJ951",))]


def test_a_row_that_two_others_shadow_together_decides_in_no_situation(folder: Path) -> None:
    sown = Sown(folder)
    _shadowed_by_two(sown)
    rules = sown.rules()
    met = set()
    for answers in _situations(Random(1), rules, 600):
        met.add(decide(rules, complete_situation(rules, answers)).rules.concern.id)
    assert {"CON020", "CON030", "CON070"} <= met
    assert "CON950" not in met


def test_a_gap_is_shown_where_people_meet_it(folder: Path) -> None:
    """The first cell that no row answers may be one that no situation leads to; others may not."""
    sown = Sown(folder)
    sown.drop(OPTIMIZER, "otherwise")
    sown.drop(OPTIMIZER, "OPT122")
    (gap,) = (told for told in prove_rules(sown.rules()).findings if told.finding.kind == GAP)
    with pytest.raises(RuleFileError) as caught:
        choose_optimizer(sown.rules(), complete_situation(sown.rules(), {"model": "cnn"}))
    assert caught.value.code is ErrorCode.RULE_GAP
    assert gap.witness is not None, gap


def test_an_override_from_outside_is_shown_where_people_meet_it(folder: Path) -> None:
    """A row for convolutions is widened to recommenders; small batches of them decide nothing, the usual ones do."""
    sown = Sown(folder)
    sown.when(SCHEDULE, "SCH033", '{model: [cnn, recsys], batch_size: ["< 1024", unknown], concern: [small-batch, '
                                  "ordinary], optimizer: [sgd, sgd-momentum, sgd-nesterov, rmsprop]}")  # fmt: skip
    found = [told for told in prove_rules(sown.rules()).findings if told.finding.kind == OVERRIDE]
    assert [told.finding.rules for told in found] == [("SCH033", "SCH030")]
    assert found[0].witness is not None, found[0]


@pytest.mark.parametrize(
    ("file", "row"),
    [
        ("decide/learning-rate.yaml", {"when": {"lr_scale": "custom"}, "then": {"value": 0.1}}),
        ("decide/betas.yaml", {"when": {"betas_advised": "false", "model": "unknown"}, "then": {"value": [0.9, 0.9]}}),
    ],
)
def test_a_number_for_optimizers_that_bring_their_own_can_never_be_reached(
    folder: Path, file: str, row: dict[str, Any]
) -> None:
    """The numbers of such a card are its defaults, and no table is asked."""
    sown = Sown(folder)
    first = re.search(r"^  - id: (\w+)$", (folder / file).read_text(encoding="utf-8"), re.MULTILINE)
    assert first is not None
    sown.add(file, {"id": "OWN950", **row}, after=first[1])
    assert (UNREACHABLE, ("OWN950",)) in rules_of(prove_rules(sown.rules()).findings)


# -- defects that reading finds ------------------------------------------------------------------------------------


def _misspelt_concern(sown: Sown) -> str:
    sown.change(CONCERN, "CON070", "concern: instability", "concern: instabilty")
    return sown.at(CONCERN, "CON070")


def _no_concern_otherwise(sown: Sown) -> str:
    sown.change(CONCERN, "otherwise", "concern: ordinary", "concern: none")
    return sown.at(CONCERN, "CON999")


def _no_such_source(sown: Sown) -> str:
    sown.change(OPTIMIZER, "OPT041", r"cite: \[", "cite: [paper:nowhere, ")
    return sown.word(OPTIMIZER, "paper:nowhere")


def _no_such_optimizer(sown: Sown) -> str:
    sown.change(OPTIMIZER, "OPT041", "optimizer: sgd-momentum", "optimizer: sgd-momentun")
    return sown.at(OPTIMIZER, "OPT041")


def _no_such_alternative(sown: Sown) -> str:
    sown.change(OPTIMIZER, "OPT041", r"        sgd: ", "        sgdd: ")
    return sown.at(OPTIMIZER, "OPT041")


def _no_such_schedule(sown: Sown) -> str:
    sown.change(SCHEDULE, "SCH060", "scheduler: constant", "scheduler: konstant")
    return sown.at(SCHEDULE, "SCH060")


def _override_of_nothing(sown: Sown) -> str:
    sown.change(SCHEDULE, "SCH021", r"overrides: \[SCH020\]", "overrides: [SCH998]")
    return sown.word(SCHEDULE, "SCH998")


def _no_such_word(sown: Sown) -> str:
    sown.when(CONCERN, "CON070", "{stability: spikey}")
    return sown.word(CONCERN, "spikey")


def _no_such_fact(sown: Sown) -> str:
    sown.when(CONCERN, "CON070", "{stabilitee: spikes}")
    return sown.word(CONCERN, "stabilitee")


def _step_of_nothing(sown: Sown) -> str:
    step = {"clamp": "epps", "low": 1e-12, "high": 1e-11, "because": "sown", "cite": ["measured"]}
    sown.add("adjust.yaml", {"id": "ADJ950", "when": {"optimizer": "rmsprop"}, "then": {"steps": [step]}})
    return sown.word("adjust.yaml", '{"clamp": "epps"')


@pytest.mark.parametrize(
    ("sow", "code"),
    [
        (_misspelt_concern, ErrorCode.INVALID_ENTRY), (_no_concern_otherwise, ErrorCode.INVALID_ENTRY),
        (_no_such_source, ErrorCode.UNKNOWN_REFERENCE), (_no_such_optimizer, ErrorCode.UNKNOWN_REFERENCE),
        (_no_such_alternative, ErrorCode.UNKNOWN_REFERENCE), (_no_such_schedule, ErrorCode.UNKNOWN_REFERENCE),
        (_override_of_nothing, ErrorCode.UNKNOWN_REFERENCE), (_no_such_word, ErrorCode.INVALID_ENTRY),
        (_no_such_fact, ErrorCode.UNKNOWN_REFERENCE), (_step_of_nothing, ErrorCode.UNKNOWN_REFERENCE),
    ],
)  # fmt: skip
def test_an_unknown_name_is_an_error_at_its_line(folder: Path, sow: Callable[[Sown], str], code: ErrorCode) -> None:
    at = sow(Sown(folder))
    with pytest.raises(RuleFileError) as caught:
        load([folder])
    assert (caught.value.where, caught.value.code) == (at, code)
    for command in ("check", "test"):
        result = optadvise("rules", command, "--rules", str(folder))
        assert (result.code, result.out, len(result.err.splitlines()), result.error) == (3, "", 1, code)


# -- every change of one row ---------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def asked(catalog: Catalog) -> dict[str, set[tuple[int, ...]]]:
    """Every point of its columns at which a table was asked, while answers to what people can type were made."""
    found: dict[str, set[tuple[int, ...]]] = {}
    matching = Table.matching

    def noted(table: Table, cells: Mapping[str, int]) -> Any:
        found.setdefault(table.id, set()).add(tuple(cells[name] for name in table.columns))
        return matching(table, cells)

    rules = CompiledRules(catalog)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Table, "matching", noted)
        patch.setattr(
            "optadvise.advice.recommend.find_sensitivities", lambda *_: ()
        )  # they try what no command line says
        for answers in _situations(Random(2), rules, 400):
            advise(rules, answers)
    return found


def _meets(told: ReportedFinding, rules: CompiledRules, table: Table, points: Iterable[tuple[int, ...]]) -> bool:
    """Does any of these points show what was found wrong with a table?"""
    rule_ids = told.finding.rules
    for point in points:
        cells = dict(zip(rules.tables[table.id].columns, point, strict=True))
        if not all(name in cells for name in table.columns):  # what a widened row reads beside was not asked for
            return False
        try:
            names = {rule.id for rule in table.matching(cells)}
        except RuleFileError as error:
            names = {*re.findall(r"\b[A-Z]{3}\d{3}\b", str(error))}
            if told.finding.kind == (OVERLAP if names else GAP) and names >= set(rule_ids):
                return True
            continue
        boxes = {rule.id: make_box(rule, rules.axes) for rule in table.rules if rule.id in rule_ids}
        inside = [name for name, box in boxes.items() if all(mask >> cells[fact] & 1 for fact, mask in box.items())]
        if told.finding.kind == OVERRIDE and inside == [rule_ids[0]] and rule_ids[0] in names:
            return True
    return False


def _shows(told: ReportedFinding, said: CommandResult) -> bool:
    kind, table, rules = told.finding.kind, told.finding.table, told.finding.rules
    if kind == GAP:
        return refused_for(said, ErrorCode.RULE_GAP, repr(table))
    if kind == OVERLAP:
        return refused_for(said, ErrorCode.RULE_CONFLICT, repr(table), *rules)
    if kind == CONFLICT:  # what a card does has its name in the ledger
        return set(rules) <= decided_by(said)
    return refused_for(said, None, rules[0]) or rules[0] in decided_by(said)


@pytest.mark.parametrize("seed", few(1, range(12)))
def test_every_witness_of_a_changed_row_leads_to_what_was_found(
    rules: CompiledRules, monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    changes = [mutant for table in rules.tables.values() for mutant in list_mutants(rules, table)]
    followed = 0
    for mutant in Random(seed).sample(changes, 14):
        changed = CompiledRules(with_table(rules.catalog, mutant.file))
        answer_by(changed, monkeypatch)
        for told in prove_rules(changed).findings:
            if told.witness is not None:
                case = (mutant.rule, mutant.change, told)
                assert _shows(told, follow(told.witness)), case
                followed += 1
    assert followed >= 3


@pytest.mark.parametrize("seed", few(1, range(3, 6)))
def test_nobody_is_told_that_no_situation_leads_to_what_answers_meet(
    rules: CompiledRules, asked: Mapping[str, set[tuple[int, ...]]], monkeypatch: pytest.MonkeyPatch, seed: int
) -> None:
    """Where no command line was found that leads there, that is all there is to say."""
    changes = [mutant for name in asked for mutant in list_mutants(rules, rules.tables[name])]
    met = 0
    for mutant in Random(seed).sample(changes, 12):
        changed = CompiledRules(with_table(rules.catalog, mutant.file))
        table = Table(mutant.file, rules.axes)
        found = [told for told in prove_rules(changed).findings if told.finding.kind in (GAP, OVERLAP, OVERRIDE)]
        found = [told for told in found if told.finding.point is not None]
        meets = [told for told in found if _meets(told, rules, table, asked[mutant.table])]
        met += len(meets)
        if len(meets) == len(found) and any(told.witness is None for told in meets):
            answer_by(changed, monkeypatch)
            said = optadvise("rules", "check")
            assert "no situation leads there" not in said.out, [told for told in meets if told.witness is None]
    assert met >= 3


def test_a_row_for_a_maker_whose_gpus_are_not_listed_is_checked_to_the_end(rules: CompiledRules) -> None:
    """What shows only there has no command line, as `--gpu` knows none of its GPUs."""
    unlisted = {*(rules.catalog.facts["vendor"].values or ())} - {gpu.vendor for gpu in rules.catalog.gpus}
    assert unlisted == {"intel"}
    document = table_data(rules.catalog.base.tables["choose_optimizer"])
    rows = [
        {**row, "when": {**row["when"], "vendor": [*row["when"]["vendor"], "intel"]}} if row["id"] == "OPT030" else row
        for row in document["rules"]
    ]
    changed = CompiledRules(with_rows(rules.catalog, {**document, "rules": rows}))
    assert (OVERLAP, ("OPT031", "OPT030")) in rules_of(prove_rules(changed).findings)


def test_a_witness_names_a_gpu_without_bf16_where_that_matters(
    rules: CompiledRules, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = table_data(rules.catalog.base.tables["eps"])
    (row,) = document["rules"]
    rows = [row, {**row, "id": "EPS950", "when": {"bf16": ["false"]}}]
    changed = CompiledRules(with_rows(rules.catalog, {**document, "rules": rows}))
    (told,) = prove_rules(changed).findings
    assert told.finding.kind == OVERLAP
    assert told.witness is not None
    answer_by(changed, monkeypatch)
    assert _shows(told, follow(told.witness)), told


def _situations(random: Random, rules: CompiledRules, wanted: int) -> Iterator[dict[str, Any]]:
    """Yield what people may say, without what contradicts itself."""
    facts = {name: fact_data(fact) for name, fact in rules.catalog.facts.items() if fact.flag is not None}
    while wanted:
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
        wanted -= 1
        yield answers


def test_no_place_that_a_situation_leads_to_is_taken_for_unreachable(
    rules: CompiledRules, asked: Mapping[str, set[tuple[int, ...]]]
) -> None:
    """Whatever a table was asked while answers were made, the chain of regions has to know as reachable."""
    assert set(asked) >= set(rules.tables) - {"memory_notation"}
    for name, points in asked.items():
        for point in sorted(points):
            box = {fact: 1 << cell for fact, cell in zip(rules.tables[name].columns, point, strict=True)}
            assert find_read(rules, name, box) is not None, (name, box)


def test_the_shipped_rules_are_sound_and_changes_of_one_row_are_noticed(rules: CompiledRules) -> None:
    report = prove_rules(rules)
    assert report.sound
    found = try_mutants(rules, read_cases(rules.catalog.folders, rules.catalog.facts))
    assert found.tried >= 2000
    assert found.tried == found.killed + found.equivalent + len(found.survivors)
    assert found.noticed_share >= 0.95, [(survivor.rule, survivor.change) for survivor in found.survivors]


# -- what takes too long -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("budget", [0, 1, 5, 20])
def test_what_takes_too_long_is_said_to_be_not_proven(monkeypatch: pytest.MonkeyPatch, budget: int) -> None:
    monkeypatch.setattr(regions, "BUDGET", budget)
    said = optadvise("rules", "check")
    assert said.code == 1
    assert "Not proven" in said.out
    said = optadvise("rules", "check", "--json")
    data = json.loads(said.out)
    assert (said.code, data["proven"], data["sound"]) == (1, False, False)
    assert {finding["kind"] for finding in data["findings"]} == {UNPROVEN}
    (concern,) = (table for table in data["tables"] if table["table"] == "concern")
    assert budget == 20 or concern["otherwise"] is None  # that few states are not enough to count it
    with pytest.raises(InputError) as caught:
        compare_catalogs(load(), load())
    assert caught.value.code is ErrorCode.INCONCLUSIVE


@pytest.mark.parametrize("budget", [0, 1, 5, 20])
def test_defects_are_told_where_looking_for_their_witness_takes_too_long(
    folder: Path, monkeypatch: pytest.MonkeyPatch, budget: int
) -> None:
    sown = Sown(folder)
    _overlap_of_choices(sown)
    _number_outside_its_range(sown)
    rules = sown.rules()
    monkeypatch.setattr(regions, "BUDGET", budget)
    report = prove_rules(rules)
    kinds = {told.finding.kind for told in report.findings}
    assert DOMAIN in kinds
    assert kinds & {OVERLAP, UNPROVEN}
    assert not report.sound


def test_hunting_for_changes_that_nothing_notices_ends_in_one_line_where_it_takes_too_long(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(regions, "BUDGET", 5)
    said = optadvise("rules", "test", "--mutants")
    assert said.code != 0
    assert len(said.err.splitlines()) <= 1


def test_whether_anything_is_left_for_otherwise_is_not_passed_over_in_silence(
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


def test_a_proof_by_an_older_prover_is_not_trusted(tmp_path: Path) -> None:
    """Proofs are kept between processes, and whoever mends a prover wants the rules proven by it."""
    shutil.copytree(ROOT / "optadvise", tmp_path / "optadvise", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copytree(ROOT / "rules", tmp_path / "rules")
    layer = tmp_path / "layer" / "decide" / "ours.yaml"
    layer.parent.mkdir(parents=True)
    row = {"id": "OUR010", "name": "ours", "when": {"concern": "ordinary", "model": "gan"},
           "then": {"optimizer": "lion"}, "because": "ours", "cite": ["measured"],
           "tests": [{"given": {}, "expect": {}}]}  # fmt: skip
    layer.write_text(json.dumps({"table": "choose_optimizer", "rules": [row]}), encoding="utf-8")
    prover = tmp_path / "optadvise" / "rulebase" / "proofs.py"
    right = prover.read_text(encoding="utf-8")
    older = f"{right}\n\ndef check_table(table, axes):\n    return iter(())\n"
    codes = []
    for text in (older, right):
        prover.write_text(text, encoding="utf-8")
        line = [sys.executable, "-m", "optadvise", "recommend", "--model", "cnn", "--rules", "layer"]
        environment = {**os.environ, "OPTADVISE_CACHE_DIR": str(tmp_path / "cache"), "PYTHONPATH": str(tmp_path)}
        codes.append(subprocess.run(line, cwd=tmp_path, env=environment, capture_output=True, check=False).returncode)
    assert codes == [0, 3]


# -- two sets of rules against each other --------------------------------------------------------------------------


def holds(where: str, values: Mapping[str, Any]) -> bool:
    """Does what a difference says of situations, in words, hold for plain values? Reads what people read."""
    if where == "any situation":
        return True
    for part in where.split(", "):
        name, _, words = part.partition(" ")
        value = values[name]
        if isinstance(value, (bool, str)) or (value is None and not re.search(r"\d|known", words)):
            value = "unknown" if value is None else str(value).lower() if isinstance(value, bool) else value
            denied = words.startswith("not ")
            if (value in words.removeprefix("not ").split(" or ")) == denied:
                return False
        elif value is None and words.startswith("not "):
            if "unknown" in words.removeprefix("not ").split(" or "):
                return False
        elif not any(_span_holds(span, value) for span in words.split(" or ")):
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
    """Return what reads the rows of both deciding tables: the optimizer, `no row` where none or two apply."""
    tables = [(table_data(catalog.base.tables[name]), gives) for name, gives in DECIDING]
    read = [(table, gives, [*table["rules"]], beaten(table["rules"])) for table, gives in tables]

    def answer(values: Mapping[str, Any]) -> str:
        facts = dict(values)
        for table, gives, rows, overridden in read:
            found = decided(table, overridden, [row["id"] for row in rows if applies(row, facts)])
            if found is None:
                return "no row"
            row = next(row for row in (*rows, table.get("otherwise", {})) if row.get("id") == found[0])
            facts[gives] = row["then"][gives]
        return str(facts["optimizer"])

    return answer


def _one_row_changed(random: Random, catalog: Catalog) -> Mapping[str, Any]:
    """Return one of the two deciding tables with a row deleted, or a threshold moved."""
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
    """Yield points of the deciding facts, and then, with true, what situations that people can type come to."""
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


def _leads_there(rules: CompiledRules, values: Mapping[str, Any]) -> bool:
    box = {name: 1 << rules.axes[name].cell(value) for name, value in values.items()}
    return find_read(rules, "concern", box) is not None


def _optimizer_by(rules: CompiledRules, witness: str, monkeypatch: pytest.MonkeyPatch) -> str:
    answer_by(rules, monkeypatch)
    said = follow(witness)
    if said.code == 3:
        return "no row"
    assert said.code == 0, said.err
    return str(json.loads(said.out)["optimizer"]["id"])


@pytest.mark.parametrize("seed", few(1, range(8)))
def test_a_difference_is_exactly_where_answers_differ(monkeypatch: pytest.MonkeyPatch, seed: int) -> None:
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
            told = [(change.old, change.new) for change in there]
            if ends[0] == ends[1]:
                assert told == [], values
            elif told != [ends]:
                assert (told, typed) == ([], False), (values, ends)
                assert not _leads_there(before, values), values
                assert not _leads_there(after, values), values
            elif typed:
                met[there[0].witness is not None] += 1
        for change in changes:
            if change.witness is not None:
                for rules, end in ((before, change.old), (after, change.new)):
                    assert _optimizer_by(rules, change.witness, monkeypatch) == end, change
    # What takes a size, a limit and more that nobody tried together has no command, and is rare.
    assert met[False] * 5 <= met[True], met


def _near(random: Random, row: Mapping[str, Any], name: str, fact: Mapping[str, Any]) -> Any:
    """Return a value of a fact, more often than not one that a row accepts."""
    edges = (127, 128, 255, 256, 511, 512, 1024, 4096, 8192, 8193, 10**8, 10**9, 10**9 + 1, 16, 17, 64)
    words: Sequence[Any] = (True, False) if fact["type"] == "flag" else [*fact.get("values", ())]
    values = [*(words or edges), *([None] if fact.get("unknown") else [])]
    accepted = [value for value in values if accepts(row["when"].get(name, []), value)]
    return random.choice(accepted if accepted and random.random() < 0.95 else values)


def _rows_at(document: Mapping[str, Any], values: Mapping[str, Any]) -> dict[str, Any]:
    """Return what the rows give that decide at plain values, by their ids; nothing where none or two would."""
    rows = [{"overrides": [], **row} for row in document["rules"]]
    found = decided(document, beaten(rows), [row["id"] for row in rows if applies(row, values)])
    whole = {row["id"]: row["then"] for row in (*rows, document.get("otherwise", {})) if row}
    return {name: whole[name] for name in found or ()}


def _told_at(change: RuleChange) -> tuple[str, str]:
    """Return the ids of the rows before and after."""
    before, after = (re.sub(r".*\[(\w+)\]$", r"\1", end) for end in (change.old, change.new))
    return before, after


@pytest.mark.parametrize("seed", few(1, range(4)))
def test_a_difference_of_any_other_table_is_exactly_where_its_rows_differ(rules: CompiledRules, seed: int) -> None:
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
        told = [change for section in sections for change in section.changes]
        read = sorted({name for document in documents for each in document["rules"] for name in each["when"]})
        compiled = [CompiledRules(catalog) for catalog in (old, new)]
        for _ in range(120):
            row = random.choice(rows)
            values = {name: _near(random, row, name, fact_data(old.facts[name])) for name in read}
            before, after = (_rows_at(document, values) for document in documents)
            if documents[0]["hit_policy"] == "collect":
                gone = [(name, "no row") for name in before if name not in after]
                wanted = gone + [("no row", name) for name in after if name not in before]
            else:
                ends = next(iter(before), "no row"), next(iter(after), "no row")
                wanted = [ends] if [*before.values()] != [*after.values()] else []
            there = sorted(_told_at(change) for change in told if holds(change.where, values))
            met += bool(there)
            if there != sorted(wanted):
                assert there == [], (mutant.rule, mutant.change, values, wanted)
                for compiled_rules in compiled:
                    box = {name: 1 << compiled_rules.axes[name].cell(value) for name, value in values.items()}
                    assert find_read(compiled_rules, mutant.table, box) is None, (
                        mutant.rule,
                        mutant.change,
                        values,
                        wanted,
                    )
    assert met >= 50


@pytest.mark.usefixtures("unproven")
def test_the_command_tells_the_same_differences_between_folders(folder: Path) -> None:
    sown = Sown(folder)
    sown.when(CONCERN, "CON080", '{batch_size: "> 4096", model: [transformer, vit, cnn, rnn, mlp, unknown]}')
    said = optadvise("rules", "diff", "-", str(folder))
    assert said.code == 0
    lines = [line.split(" | ") for line in said.out.splitlines() if line.startswith("| batch_size")]
    assert lines
    for where, old, new, command in lines:
        assert "batch_size > 4,096 and <= 8,192" in where
        witness = command.removesuffix(" |").strip("`")
        assert json.loads(follow(witness).out)["optimizer"]["id"] == old
        assert json.loads(follow(f"{witness} --rules {folder}").out)["optimizer"]["id"] == new
    assert optadvise("rules", "diff", str(folder), str(folder)).out == (
        "The two sets of rules give the same answer in every situation.\n"
    )


def test_the_words_of_a_difference_are_read_as_they_are_meant() -> None:
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
