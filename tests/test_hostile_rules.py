"""Rule folders are untrusted input: no code runs, no hang, no memory exhaustion, no terminal escapes."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from random import Random

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.recommend import advise
from optadvise.benchmark.optimizer_builder import resolve
from optadvise.codegen import FRAMEWORKS
from optadvise.codegen.plan import make_plan
from optadvise.codegen.write import write_plan
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import CannotRunHereError, InputError, RuleFileError
from optadvise.core.yaml_reader import Context, parse
from optadvise.rulebase import validation
from optadvise.rulebase.catalog import load
from optadvise.rulebase.claim_files import read_claims
from optadvise.rulebase.framework_files import read_frameworks
from optadvise.rulebase.loading import collect_ids
from optadvise.rulebase.recipe_files import read_recipes
from optadvise.rulebase.rule_paths import find_shipped_rules
from optadvise.rulebase.surface_files import read_surfaces
from optadvise.rulebase.validation import read_rule_base
from optadvise.rulebase.word_files import read_words
from tests.cli import optadvise
from tests.conftest import examples, rotated

ROW = """table: warn
rules:
  - id: OUR010
    name: ours
    when: {model: cnn}
    then: {level: info, text: "TEXT"}
    cite: [measured]
    tests: [{given: {model: cnn}, expect: {fires: true}}]
"""


def with_text(text: str) -> bytes:
    return ROW.replace('"TEXT"', text).encode()


def with_condition(condition: str) -> bytes:
    return ROW.replace("model: cnn}\n    then", f"{condition}}}\n    then").encode()


REJECTED: dict[str, tuple[bytes, str]] = {
    "a tag that runs code": (with_text("!!python/object/apply:os.system [exit]"), "6:31"),
    "a standard YAML tag": (with_text("!!binary aGVsbG8="), "6:31"),
    "a custom tag": (with_text("!team x"), "6:31"),
    "an anchor": (with_text("&a x"), "6:31"),
    "an alias bomb": (b"a: &a [x, x]\nb: &b [*a, *a]\nc: [*b, *b]\n", "1:4"),
    "a merge key": (ROW.replace("name: ours", "<<: {name: x}").encode(), "4:5"),
    "nested brackets": (b"table: " + b"[" * 10_000, "1:"),
    "nested dashes": (b"- " * 10_000 + b"x", "1:"),
    "nested lines": (b"".join(b" " * i + b"a:\n" for i in range(1000)), "25:25"),
    "random bytes": (bytes(range(256)) * 20, "warn.yaml"),
    "a NUL": (b"table: a\0b\n", "warn.yaml"),
    "UTF-16": (ROW.encode("utf-16"), "warn.yaml"),
    "a raw escape sequence": (with_text('"\x1b[31mred"'), "warn.yaml"),
    "an escaped escape sequence": (with_text('"\\e[31mred"'), "6:31"),
    "a one-byte escape sequence": (with_text('"\\x9b31mred"'), "6:31"),
    "a right-to-left override": (with_text('"\u202eabc"'), "6:31"),
    "an escape sequence in an id": (ROW.replace("OUR010", '"OUR\\e[31m"').encode(), "3:9"),
    "a duplicate key": (ROW.replace("name: ours", "name: ours\n    name: mine").encode(), "5:5"),
    "a key that is a list": (ROW.replace("name: ours", "? [a, b]\n    : c").encode(), "4:7"),
    "a number that overflows": (with_condition('params: "> 1e999999"'), "5:20"),
    "an interval that overflows": (with_condition('params: "[1..1e999]"'), "5:20"),
    "ten thousand digits": (with_condition("params: " + "9" * 10_000), "5:20"),
    "NaN": (with_condition("params: .nan"), "5:20"),
    "a table with too many rows": (
        ROW.encode() + b"".join(ROW.split("rules:\n")[1].replace("OUR010", f"R{i}").encode() for i in range(2500)),
        "2000 rules",
    ),
}


@pytest.mark.parametrize("case", REJECTED)
def test_hostile_content_is_one_error_line(case: str, tmp_path: Path) -> None:
    content, location = REJECTED[case]
    (tmp_path / "warn.yaml").write_bytes(content)
    result = optadvise("recommend", "--rules", str(tmp_path))
    assert (result.code, result.out, len(result.err.splitlines())) == (3, "", 1)
    assert "warn.yaml" in result.err
    assert location in result.err
    assert "\x1b" not in result.err
    assert "Traceback" not in result.err


def test_fact_without_a_field_in_situation_is_rejected(tmp_path: Path) -> None:
    text = (find_shipped_rules() / "facts.yaml").read_text(encoding="utf-8")
    dropout = (
        "  - {id: dropout, type: number, ask: How much?, flag: --dropout, help: Share in percent., unknown: true}\n"
    )
    content = text.replace("facts:\n", f"facts:\n{dropout}", 1).encode()
    with pytest.raises(RuleFileError) as caught:
        read_rule_base([(0, Path("facts.yaml"), content)])
    assert caught.value.code is ErrorCode.UNKNOWN_REFERENCE
    assert "'dropout'" in str(caught.value)


def _large(folder: Path) -> None:
    with (folder / "warn.yaml").open("wb") as file:
        file.truncate(100 * 2**20)


def _many(folder: Path) -> None:
    (folder / "optimizers").mkdir()
    for number in range(6):
        (folder / "optimizers" / f"o{number}.yaml").write_bytes(b"x: " + b"y" * 900_000)


def _escaped_name(folder: Path) -> None:
    (folder / "optimizers").mkdir()
    (folder / "optimizers" / "a\x1b[31m.yaml").write_text("x", encoding="utf-8")


@pytest.mark.parametrize(
    "make",
    [
        _large, _many, _escaped_name,
        lambda folder: (folder / "warn.yaml").symlink_to("warn.yaml"),
        lambda folder: (folder / "warn.yaml").symlink_to("nowhere"),
        lambda folder: (folder / "optimizers").symlink_to("optimizers"),
        lambda folder: os.mkfifo(folder / "warn.yaml"),
    ],
)  # fmt: skip
def test_special_files_are_one_error_line(make: Callable[[Path], None], tmp_path: Path) -> None:
    make(tmp_path)
    result = optadvise("rules", "check", "--rules", str(tmp_path))
    assert (result.code, result.out, len(result.err.splitlines())) == (3, "", 1)
    assert "\x1b" not in result.err


def test_markup_and_format_strings_are_printed_literally(tmp_path: Path) -> None:
    text = "[red]a[/red] [link=http://x]b[/link] [/c] {0.__class__} %s ${HOME} {advice}"
    (tmp_path / "warn.yaml").write_bytes(with_text(f'"{text}"'))
    for line in ("recommend --model cnn --explain", "show OUR010", "rules docs"):
        shown = re.sub(r"\s+", " ", optadvise(*line.split(), "--rules", str(tmp_path)).out)
        assert text in shown.replace("\\", "").replace("<!-- -->", "")  # which breaks links in Markdown


def test_import_path_is_not_imported_by_recommend(tmp_path: Path) -> None:
    card = (find_shipped_rules() / "optimizers" / "adamw.yaml").read_text(encoding="utf-8")
    (tmp_path / "optimizers").mkdir()
    file = tmp_path / "optimizers" / "adamw.yaml"
    for path in ("os.system", "os; print(1)", "a.b\\nimport os", "x.__import__('os')"):
        file.write_text(card.replace("import: torch.optim.AdamW", f'import: "{path}"', 1), encoding="utf-8")
        for form in ("text", "json", "python"):
            result = optadvise("recommend", "--model", "transformer", "--format", form, "--rules", str(tmp_path))
            if path == "os.system":
                assert result.code == 0
            else:
                assert (result.code, result.error) == (3, ErrorCode.INVALID_ENTRY), path
                assert (bool(result.out), len(result.err.splitlines())) == (form == "json", 1), path


@pytest.mark.parametrize(
    "missing", rotated(2, ["memory.yaml", "assume.yaml", "flowchart.yaml", "adjust.yaml", "decide/betas.yaml"])
)
def test_base_rules_without_a_file_are_one_error_line(missing: str, tmp_path: Path) -> None:
    shutil.copytree(find_shipped_rules(), tmp_path / "rules")
    (tmp_path / "rules" / missing).unlink()
    result = optadvise("rules", "docs", "--rules", str(tmp_path / "rules"))
    assert (result.code, result.out, len(result.err.splitlines())) == (3, "", 1), result
    assert str(tmp_path / "rules") in result.err


def test_option_that_the_rules_do_not_declare_is_rejected(tmp_path: Path) -> None:
    shutil.copytree(find_shipped_rules(), tmp_path / "rules")
    facts = tmp_path / "rules" / "facts.yaml"
    without_inputs = facts.read_text(encoding="utf-8").partition("\ninputs:")[0]
    facts.write_text(without_inputs, encoding="utf-8")
    result = optadvise("recommend", "--hidden", "64", "--layers", "2", "--rules", str(tmp_path / "rules"))
    assert (result.code, result.out) == (2, "")
    assert (result.error, result.failure and result.failure.option) == (ErrorCode.UNKNOWN_OPTION, "--hidden")


def test_only_optimizer_classes_are_resolved() -> None:
    with pytest.raises(CannotRunHereError) as caught:
        resolve("os.system", None)
    assert (caught.value.code, caught.value.value) == (ErrorCode.INVALID_ENTRY, "os.system")


FILES = [file for file in sorted(find_shipped_rules().rglob("*.yaml")) if file.parent.name not in ("networks", "cases")]
FRAMEWORK_FILES = [file for file in FILES if file.parent.name == "frameworks"]
SURFACE_FILES = [file for file in FILES if file.stem == "surfaces"]
CLAIM_FILES = [file for file in FILES if file.stem == "claims"]
RECIPE_FILES = [file for file in FILES if file.parent.name == "recipes"]
WORD_FILES = [file for file in FILES if file.stem == "words"]
FILES_APART = (*FRAMEWORK_FILES, *SURFACE_FILES, *CLAIM_FILES, *RECIPE_FILES, *WORD_FILES)
FILES = [file for file in FILES if file not in FILES_APART]
ADVISOR = CompiledRules(load())


@settings(max_examples=examples(60))
@given(st.integers(0, 2**32))
def test_damaged_file_raises_only_rule_file_errors(seed: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(validation, "parse", _parse_again)
        for damaged in damage(FILES, Random(seed), 3):
            with contextlib.suppress(RuleFileError, InputError):
                read_rule_base(damaged)


@cache
def _parse(text: str, path: str) -> yaml.Node:
    return parse(text, path)[0]


def _parse_again(text: str, path: str) -> tuple[yaml.Node, Context]:
    """Return the result of `parse`, with cached nodes: undamaged files take most of the time."""
    return _parse(text, path), Context(path, text.splitlines())


@settings(max_examples=examples(60))
@given(st.integers(0, 2**32), st.sampled_from(["adamw", "lion", "muon", "rmsprop"]))
def test_damaged_files_read_on_first_access_raise_only_rule_file_errors(seed: int, name: str) -> None:
    base = ADVISOR.catalog.base
    ids = collect_ids(base)
    advice, random = advise(ADVISOR, {"optimizer": name, "model": "transformer"}), Random(seed)
    for damaged in damage(FRAMEWORK_FILES, Random(seed), 2):
        with contextlib.suppress(RuleFileError, InputError):
            for key, entry in read_frameworks(damaged, ids).items():
                if key in FRAMEWORKS:
                    write_plan(make_plan(ADVISOR, advice, entry))
    for damaged in damage(SURFACE_FILES, Random(seed), 1):
        with contextlib.suppress(RuleFileError):
            read_surfaces(damaged, ids)
    rules = [rule.id for table in base.tables.values() for rule in table.rules]
    for damaged in damage(CLAIM_FILES, Random(seed), 1):
        with contextlib.suppress(RuleFileError):
            read_claims(damaged, {**ids, "rule": rules}, base.optimizers)
    for damaged in damage([random.choice(RECIPE_FILES)], random, 1):
        with contextlib.suppress(RuleFileError):
            read_recipes(damaged, ids, base)
    for damaged in damage(WORD_FILES, random, 1):
        with contextlib.suppress(RuleFileError):
            read_words(damaged, base.facts)


def damage(files: list[Path], random: Random, times: int) -> Iterator[list[tuple[int, Path, bytes]]]:
    """Yield the files, one of them damaged at random."""
    contents = [(0, file, file.read_bytes()) for file in files]
    for _ in range(times):
        number = random.randrange(len(contents))
        _, file, content = contents[number]
        lines = content.split(b"\n")
        for _ in range(random.randint(1, 4)):
            at = random.randrange(len(lines))
            kind = random.randrange(5)
            if kind == 0:
                del lines[at:at + random.randint(1, 3)]  # fmt: skip
                lines = lines or [b""]
            elif kind == 1:
                lines.insert(at, random.choice(lines))
            elif kind == 2:
                lines[at] = bytes(random.randrange(256) for _ in range(random.randint(1, 20)))
            elif kind == 3 and lines[at]:
                column = random.randrange(len(lines[at]))
                lines[at] = lines[at][:column] + random.choice(HOSTILE) + lines[at][column:]
            else:
                lines[at] = lines[at].replace(b": ", random.choice(HOSTILE), 1)
        damaged = list(contents)
        damaged[number] = 0, file, b"\n".join(lines)
        yield damaged


HOSTILE = [b": [", b"}", b"{", b"- ", b"'", b'"', b"&a ", b"*a", b"!!str ", b"1e999", b"null", b"\t", b": {a: ", b"#",
           b"unknown", b"> 5", b"[1..2)", b"-1", b"0", b"true", b"? ", b"|", b"%", b"[]", b"{}"]  # fmt: skip


@pytest.mark.parametrize("name", ["x[link=https://evil.example]y", "[/dim]x", "<script>", "a\\nb", "a b", "```"])
def test_ids_of_sources_have_no_markup(name: str, tmp_path: Path) -> None:
    text = f'sources: {{"{name}": {{title: t, url: "https://team.example/"}}}}\n'
    (tmp_path / "sources.yaml").write_text(text, encoding="utf-8")
    result = optadvise("recommend", "--rules", str(tmp_path))
    assert (result.code, result.error) == (3, ErrorCode.INVALID_ENTRY)


@pytest.mark.parametrize(
    "url", ["https://a.example/)<script>", "https://a.example/[x](https://b.example", "javascript:x"]
)
def test_addresses_of_published_runs_have_no_markup(url: str, tmp_path: Path) -> None:
    (tmp_path / "recipes").mkdir()
    text = (
        f'recipes: [{{id: evil, source: s, url: "{url}", model: transformer, architecture: decoder, '
        "objective: language, task: pretrain, params: 1B, batch_size: 512, seq_len: 2048, optimizer: adamw}]\n"
    )
    (tmp_path / "recipes" / "x.yaml").write_text(text, encoding="utf-8")
    line = "recommend --model transformer --params 1B --batch-size 512 --seq-len 2048 --format markdown --rules"
    result = optadvise(*line.split(), str(tmp_path))
    assert (result.code, result.out) == (3, "")


def test_names_of_questions_stay_inside_a_graph(tmp_path: Path) -> None:
    text = (find_shipped_rules() / "flowchart.yaml").read_text(encoding="utf-8")
    name = r'"t\n```\n<b>x</b>"'
    text = text.replace("start: transformer", f"start: {name}").replace("    transformer:\n", f"    {name}:\n")
    (tmp_path / "flowchart.yaml").write_text(text, encoding="utf-8")
    for command in ("graph", "docs"):
        result = optadvise("rules", command, "--rules", str(tmp_path))
        assert result.code == 0
        assert "<b>" not in result.out
