"""Reading rule files: accepted content, positions of errors, and layers over the shipped rules."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.recommend import advise
from optadvise.core.cards import SHARDING_LABELS
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError, OptadviseWarning, RuleFileError, suggest_name
from optadvise.core.records import FactValues
from optadvise.memory.networks import load_networks
from optadvise.memory.optimizer_state import compute_state_bytes
from optadvise.render.labels import describe_variant
from optadvise.rulebase.cache import DiskCache
from optadvise.rulebase.catalog import load, load_shipped
from optadvise.rulebase.loading import load_rule_base
from optadvise.rulebase.rule_paths import find_shipped_rules
from tests.cli import optadvise
from tests.conftest import ROOT

CARD = """\
id: sgd-turbo
name: SGD turbo
aliases: [turbo]
family: sgd
parents: [sgd-momentum]
year: 2026
summary: SGD with momentum and steps of twice the length.
equation: [m ← momentum·m + g, θ ← θ − 2·lr·m]
effort: high
lr_scale: sgd
decay: coupled
sparse_gradients: false
model_types: [cnn]
hyperparameters:
  - {name: lr, default: 1e-1, low: 1e-3, high: 1.0, advised: true, meaning: Step size.}
  - {name: momentum, default: 0.9, advised: false, meaning: Momentum coefficient.}
  - {name: weight_decay, default: 1e-4, advised: true, meaning: L2 penalty.}
adjust:
  - {scale: lr, factor: 0.5, because: each step is twice as long, cite: [measured]}
state: [{name: momentum_buffer, per: element, dtype: parameter}]
implementations:
  - {id: torch, import: torch.optim.SGD, package: torch, devices: [cpu]}
use_when: [A test requires another optimizer.]
avoid_when: [Any other use.]
cite: [measured]
"""


@pytest.fixture
def layer(tmp_path: Path) -> Path:
    (tmp_path / "optimizers").mkdir()
    (tmp_path / "optimizers" / "sgd-turbo.yaml").write_text(CARD, encoding="utf-8")
    return tmp_path


def test_a_new_optimizer_is_one_file(layer: Path) -> None:
    rules = ["--rules", str(layer)]
    result = optadvise("recommend", "--model", "cnn", "--batch-size", "256", "--optimizer", "Turbo", *rules, "--json")
    assert result.code == 0, result.err
    data = json.loads(result.out)
    assert data["optimizer"]["id"] == "sgd-turbo"
    assert data["optimizer"]["kwargs"] == {"lr": 0.05, "momentum": 0.9, "weight_decay": 1e-4}
    assert data["rules"]["layers"] == ["shipped", str(layer)]
    assert "sgd-turbo" in optadvise("list", "--tree", *rules).out
    assert "twice the length" in optadvise("show", "sgd_turbo", *rules).out
    assert optadvise("show", "sgd-turbo").code == 2


def test_a_layer_adds_rules_to_a_table(layer: Path) -> None:
    (layer / "decide").mkdir()
    (layer / "decide" / "ours.yaml").write_text(
        """\
table: choose_optimizer
kind: choose
output: optimizer
hit_policy: unique
about: Ours.
rules:
  - id: OUR001
    name: our-convolutions
    when: {concern: tuning_budget, model: cnn, batch_size: "> 1000"}
    then: {optimizer: sgd-turbo}
    because: ours
    cite: [measured]
    overrides: [OPT122, OPT124, OPT125, OPT127]
    tests: [{given: {concern: tuning_budget, model: cnn, batch_size: 2048}, expect: {optimizer: sgd-turbo}}]
""",
        encoding="utf-8",
    )
    rules = CompiledRules(load([layer]))
    answers: FactValues = {"model": "cnn", "tuning": "high", "batch_size": 2048}
    assert advise(rules, answers).optimizer.id == "sgd-turbo"
    advice = advise(rules, {**answers, "batch_size": 512})
    assert advice.optimizer.id == "sgd-momentum"
    assert ({"batch_size": "[1001 .. 8192]"}, "sgd-turbo") in [
        (dict(f.change), f.optimizer) for f in advice.sensitivities
    ]


BROKEN_CARDS = [
    ("an unknown key", "summary:", "sumary:", 7, ErrorCode.UNKNOWN_KEY),
    ("a duplicate key", "year: 2026", "year: 2026\nyear: 2027", 7, ErrorCode.DUPLICATE_ENTRY),
    ("a word for a number", "year: 2026", "year: soon", 6, ErrorCode.INVALID_ENTRY),
    ("an octal number", "year: 2026", "year: 017", 6, ErrorCode.INVALID_ENTRY),
    ("no for false", "sparse_gradients: false", "sparse_gradients: no", 12, ErrorCode.INVALID_ENTRY),
    ("an unknown family", "family: sgd", "family: sdg", 4, ErrorCode.INVALID_ENTRY),
    ("an unknown parent", "parents: [sgd-momentum]", "parents: [sgd-momentun]", 5, ErrorCode.UNKNOWN_REFERENCE),
    ("an unknown model", "model_types: [cnn]", "model_types: [cmn]", 13, ErrorCode.UNKNOWN_REFERENCE),
    ("an unknown source", "cite: [measured]\n", "cite: [mesured]\n", 25, ErrorCode.UNKNOWN_REFERENCE),
    ("an empty list", "avoid_when: [Any other use.]\ncite: [measured]",
     "avoid_when: [Any other use.]\ncite: []", 25, ErrorCode.INVALID_ENTRY),
    ("a missing key", "summary: SGD with momentum and steps of twice the length.\n", "", 1, ErrorCode.MISSING_KEY),
    ("an empty text", "name: SGD turbo", "name:", 2, ErrorCode.INVALID_ENTRY),
    ("a list for a text", "name: SGD turbo", "name: [a, b]", 2, ErrorCode.INVALID_ENTRY),
    ("a text for a list", "aliases: [turbo]", "aliases: turbo", 3, ErrorCode.INVALID_ENTRY),
    ("a duplicate alias", "aliases: [turbo]", "aliases: [adam_w]", 1, ErrorCode.DUPLICATE_ENTRY),
    ("a scalar document", CARD, "just a text", 1, ErrorCode.INVALID_ENTRY),
    ("an unfinished list", "aliases: [turbo]", "aliases: [turbo", 4, ErrorCode.INVALID_SYNTAX),
    ("an unknown hyperparameter", "{scale: lr,", "{scale: momentun,", 19, ErrorCode.UNKNOWN_REFERENCE),
    ("requirements of an unknown variant", "devices: [cpu]}",
     "devices: [cpu], variant_requirements: {fused: {devices: [cpu], cite: [measured]}}}", 1,
     ErrorCode.UNKNOWN_REFERENCE),
    ("a default outside its range", "default: 1e-1, low", "default: 7.0, low", 1, ErrorCode.INVALID_ENTRY),
    ("a different file name", "id: sgd-turbo", "id: sgd-turbos", 1, ErrorCode.INVALID_ENTRY),
]  # fmt: skip


@pytest.mark.parametrize(
    ("old", "new", "line", "code"), [case[1:] for case in BROKEN_CARDS], ids=[case[0] for case in BROKEN_CARDS]
)
def test_an_invalid_card_is_an_error_at_its_line(layer: Path, old: str, new: str, line: int, code: ErrorCode) -> None:
    file = layer / "optimizers" / "sgd-turbo.yaml"
    assert old in CARD
    head, tail = CARD.rsplit(old, 1)  # the last match, because steps have a `cite` as well
    file.write_text(head + new + tail, encoding="utf-8")
    result = optadvise("list", "--rules", str(layer))
    assert (result.code, result.error, len(result.err.splitlines())) == (3, code, 1), result.err
    assert result.failure is not None
    assert str(result.failure.where).startswith(f"{file}:{line}:")


def test_a_similar_name_is_suggested() -> None:
    assert "'sgd-momentum'" in suggest_name("sgd-momentun", load().optimizer_ids)
    assert suggest_name("qqqq", load().optimizer_ids) == ""


RULE = """\
table: choose_optimizer
kind: choose
output: optimizer
hit_policy: unique
about: Ours.
rules:
  - id: OUR001
    name: ours
    when: {concern: tuning_budget, model: cnn, batch_size: "> 1000"}
    then: {optimizer: adamw}
    because: ours
    cite: [measured]
    overrides: [OPT122, OPT124, OPT125, OPT127]
    tests: [{given: {concern: tuning_budget, model: cnn, batch_size: 2048}, expect: {optimizer: adamw}}]
"""


@pytest.mark.parametrize(
    ("old", "new", "line", "code"),
    [
        ("model: cnn, batch_size: \"> 1000\"", "modle: cnn", 9, ErrorCode.UNKNOWN_REFERENCE),
        ("model: cnn, batch_size: \"> 1000\"", "model: cmn", 9, ErrorCode.INVALID_ENTRY),
        (
            "when: {concern: tuning_budget, model: cnn, batch_size: \"> 1000\"}",
            "when:\n      params: > 1000", 10, ErrorCode.INVALID_SYNTAX,
        ),
        ("\"> 1000\"", "\"~ 1000\"", 9, ErrorCode.INVALID_ENTRY),
        ("\"> 1000\"", "\"[9..3]\"", 9, ErrorCode.INVALID_ENTRY),
        ("\"> 1000\"", "[]", 9, ErrorCode.INVALID_ENTRY),
        ("model: cnn, batch", "model: [], batch", 9, ErrorCode.INVALID_ENTRY),
        ("then: {optimizer: adamw}", "then: {optimizer: adamww}", 7, ErrorCode.UNKNOWN_REFERENCE),
        ("overrides: [OPT122", "overrides: [OPT12", 13, ErrorCode.UNKNOWN_REFERENCE),
        ("tests: [{given", "tests: []\n    texts: [{given", 14, ErrorCode.INVALID_ENTRY),
        ("kind: choose", "kind: chose", 1, ErrorCode.INVALID_ENTRY),
        ("expect: {optimizer: adamw}", "expects: {optimizer: adamw}", 14, ErrorCode.UNKNOWN_KEY),
        ("    because: ours\n", "", 7, ErrorCode.MISSING_KEY),
    ],
)  # fmt: skip
def test_an_invalid_rule_is_an_error_at_its_line(
    tmp_path: Path, old: str, new: str, line: int, code: ErrorCode
) -> None:
    (tmp_path / "decide").mkdir()
    assert old in RULE
    (tmp_path / "decide" / "ours.yaml").write_text(RULE.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(RuleFileError) as caught:
        load([tmp_path])
    assert caught.value.where.startswith(f"{tmp_path}/decide/ours.yaml:{line}:")
    assert caught.value.code is code


def test_two_rules_that_overlap_without_override_are_an_error(tmp_path: Path) -> None:
    (tmp_path / "decide").mkdir()
    text = RULE.replace("    overrides: [OPT122, OPT124, OPT125, OPT127]\n", "")
    (tmp_path / "decide" / "ours.yaml").write_text(text, encoding="utf-8")
    result = optadvise(*f"recommend --model cnn --tuning high --batch-size 2048 --rules {tmp_path}".split())
    assert (result.code, result.error) == (3, ErrorCode.RULES_NOT_PROVEN)
    assert result.failure is not None
    assert {"OPT122", "OUR001"} <= {*result.failure.message.split()}


@pytest.mark.parametrize(
    ("content", "where"), [(b"", "warn.yaml"), (b"\xff\xfe\x00", "warn.yaml"), (b"a: 1\n---\nb: 2\n", "warn.yaml:2:1")]
)
def test_a_file_must_contain_one_document(tmp_path: Path, content: bytes, where: str) -> None:
    (tmp_path / "warn.yaml").write_bytes(content)
    with pytest.raises(RuleFileError) as caught:
        load([tmp_path])
    assert (caught.value.code, caught.value.where) == (ErrorCode.INVALID_SYNTAX, str(tmp_path / where))


def test_a_file_with_an_unsupported_name_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "warnings.yaml").write_text("a: 1\n", encoding="utf-8")
    with pytest.raises(RuleFileError) as caught:
        load([tmp_path])
    assert (caught.value.code, caught.value.where) == (ErrorCode.WRONG_FILE_TYPE, str(tmp_path / "warnings.yaml"))


def test_a_pipe_among_the_rules_does_not_hang(tmp_path: Path) -> None:
    (tmp_path / "optimizers").mkdir()
    os.mkfifo(tmp_path / "optimizers" / "pipe.yaml")
    with pytest.raises(RuleFileError) as caught:
        load([tmp_path])
    assert caught.value.code is ErrorCode.FILE_UNREADABLE


def test_the_cache_is_never_stale(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTADVISE_CACHE_DIR", str(tmp_path / "cache"))
    rules = tmp_path / "rules"
    shutil.copytree(find_shipped_rules(), rules)
    first, fingerprint, _ = load_rule_base([rules])
    assert load_rule_base([rules])[:2] == (first, fingerprint)  # from the cache
    card = rules / "optimizers" / "adamw.yaml"
    before = card.stat()
    card.write_text(card.read_text(encoding="utf-8").replace("year: 2017", "year: 2018"), encoding="utf-8")
    os.utime(card, ns=(before.st_atime_ns, before.st_mtime_ns))  # same size, same time: only the content differs
    second, changed, _ = load_rule_base([rules])
    assert second.optimizers["adamw"].year == 2018
    assert changed != fingerprint


@pytest.mark.parametrize("damage", ["", "{", "[]", '{"key": "other", "documents": {}}'])
def test_a_damaged_cache_is_ignored(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, damage: str) -> None:
    monkeypatch.setenv("OPTADVISE_CACHE_DIR", str(tmp_path))
    expected, *_ = load_rule_base([find_shipped_rules()])
    (entry,) = tmp_path.glob("rules-*.json")
    content = entry.read_bytes()
    for damaged in (damage.encode(), content[:-1], content.replace(b"adamw", b"adamx", 1)):
        entry.write_bytes(damaged)
        with pytest.warns(OptadviseWarning):
            assert load_rule_base([find_shipped_rules()])[0] == expected
        assert entry.read_bytes() == content


def test_the_card_of_an_optimizer_with_a_companion_is_json() -> None:
    result = optadvise("show", "muon", "--json")
    assert (result.code, json.loads(result.out)["companion"].keys()) == (0, {"optimizer", "for"}), result.err


def test_an_unwritable_cache_is_not_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("", encoding="utf-8")
    monkeypatch.setenv("OPTADVISE_CACHE_DIR", str(tmp_path / "file" / "below"))
    assert load_rule_base([find_shipped_rules()])[0].facts


def test_the_disk_cache_keeps_the_latest_entries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPTADVISE_CACHE_DIR", str(tmp_path))
    memo = DiskCache("figures-of-a-test")
    for number in range(1500):
        memo.get(str(number), partial(list, (number,)))
    memo._save()
    again = DiskCache("figures-of-a-test")
    assert again.get("1499", lambda: [-1]) == [1499]
    assert again.get("0", lambda: [-1]) == [-1]


def test_catalogs_of_a_process_share_computed_values(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The proof of a rule layer is not repeated if a program loads its rules again."""
    for folder, computed, expected in (("one", 1, 1), ("one", 2, 1), ("two", 3, 3)):
        monkeypatch.setenv("OPTADVISE_CACHE_DIR", str(tmp_path / folder))
        assert load().figures.get("value of a test", partial(list, (computed,))) == [expected]


def test_a_missing_folder_is_an_input_error() -> None:
    with pytest.raises(InputError) as caught:
        load([Path("/does/not/exist")])
    assert (caught.value.code, caught.value.option) == (ErrorCode.FILE_NOT_FOUND, "--rules")
    assert str(caught.value.value) == "/does/not/exist"


def test_the_checkout_reads_its_live_rules() -> None:
    assert find_shipped_rules() == ROOT / "rules"


def test_every_source_is_used_and_every_guide_section_has_the_guides_address() -> None:
    catalog = load()
    text = "".join(f.read_text(encoding="utf-8") for f in (ROOT / "rules").rglob("*.yaml") if f.stem != "sources")
    for name, source in catalog.sources.items():
        assert name in text, name
        assert source.url.startswith("https://") or name in ("measured", "recipes")


def test_each_kind_of_file_can_be_read_after_the_rules_came_from_the_cache(tmp_path: Path) -> None:
    environment = {**os.environ, "OPTADVISE_CACHE_DIR": str(tmp_path)}
    readers = (
        "from optadvise.rulebase.catalog import load; load()",
        "from optadvise.rulebase.catalog import load; load().read_all()",
        "from optadvise.rulebase.catalog import load; from optadvise.rulebase.case_files import read_cases; "
        "rules = load(); assert read_cases(rules.folders, rules.facts)",
    )
    for reader in readers:
        subprocess.run([sys.executable, "-c", reader], env=environment, check=True)


@pytest.mark.parametrize("name", ["warmup-cosine", "adamw8bit", "OPT040"])
def test_addresses_of_sources_are_on_lines_of_their_own(name: str) -> None:
    lines = {line.strip() for line in optadvise("show", name).out.splitlines()}
    cites = json.loads(optadvise("show", name, "--json").out)["cite"]
    assert {load().sources[cite].url for cite in cites} <= lines


def test_ids_in_lists_are_not_broken() -> None:
    claims = re.split(r"[\s\[\],]+", optadvise("list", "--claims").out)
    assert {cite for claim in load().claims.values() for cite in (claim.id, *claim.cite)} <= set(claims)
    names = re.split(r"[\s,]+", optadvise("list", "--archs").out)
    assert {name for shape in load_networks(load()).shapes.values() for name in shape.aliases} <= set(names)


def test_show_prints_a_claim_and_the_list_its_outcome() -> None:
    for name in ("ranger-small-batches", "Adan_three_buffers"):
        card = json.loads(optadvise("show", name, "--json").out)
        claim = load().claims[card["id"]]
        assert (card["kind"], card["claim"], card["needs"]) == ("claim", claim.claim, claim.needs)
        assert claim.claim in " ".join(optadvise("show", name).out.split())
    text = optadvise("list", "--claims").out
    outcomes = re.findall(r"^  (?:Confirmed|Refuted|Not tested|Not testable)\b", text, re.MULTILINE)
    assert len(outcomes) == len(load().claims)
    assert load().sources["measured"].title in " ".join(text.split())


@pytest.mark.parametrize(
    ("name", "gpu"),
    [
        ("rtx 3060 12gb", "rtx-3060"),
        ("3080 Ti 12 GB", "rtx-3080-ti"),
        ("V100 32GB", "v100-32gb"),
        ("mi300x 192gb", "mi300x"),
    ],
)
def test_a_gpu_may_be_named_with_its_memory(name: str, gpu: str) -> None:
    assert load_shipped().find_gpu(name).id == gpu


def test_a_gpu_is_not_sold_with_any_memory() -> None:
    with pytest.raises(InputError):
        load_shipped().find_gpu("rtx 3060 8gb")


def test_the_list_marks_state_that_depends_on_shapes() -> None:
    lines = [line.split() for line in optadvise("list").out.splitlines()]
    marked = {words[0] for words in lines if "*" in words[1:4]}
    for card in load_shipped().base.optimizers.values():
        state = [compute_state_bytes(card.state, shape) for shape in ((4096, 4096), (512, 32_768))]
        assert card.id in marked or state[0] == state[1], card.id
    assert "adamw" not in marked
    assert "adamw8bit" not in marked


def test_a_variant_is_shown_with_the_sharding_that_it_does_not_support() -> None:
    requirements = [
        (implementation, name, requirement.sharding)
        for card in load_shipped().base.optimizers.values()
        for implementation in card.implementations
        for name, requirement in implementation.variant_requirements.items() if requirement.sharding
    ]  # fmt: skip
    assert requirements
    for implementation, name, supported in requirements:
        shown = describe_variant(implementation, name)
        assert [shard for shard, label in SHARDING_LABELS.items() if label in shown] == [
            shard for shard in SHARDING_LABELS if shard not in supported
        ]
