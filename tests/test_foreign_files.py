"""Files that others wrote: every mutation gives an answer or one error line, and harmless output in every format."""

from __future__ import annotations

import csv
import io
import json
import os
import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import IO, Any, TypeAlias, cast

import jsonschema
import pytest
import yaml

from optadvise.benchmark import runner
from optadvise.benchmark.evidence import save_findings
from optadvise.benchmark.records import MAX_ARMS
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import CannotRunHereError
from optadvise.core.findings import AuditFinding, ClaimFinding
from optadvise.core.foreign import ForeignFileError, read_stream
from optadvise.evidence import store
from optadvise.rulebase.catalog import load
from optadvise.rulebase.rule_paths import find_shipped_rules
from tests.cli import CommandResult, optadvise
from tests.mutations import ESCAPES, Mutant, assert_harmless, mutate, parse_finite, write_json
from tests.results import SCHEMAS, loaded, result

Count: TypeAlias = "int | None"  # number of mutants, None for all


def sampled(count: int) -> pytest.MarkDecorator:
    """Return the parameters of a test with a sample of the mutants, and with all mutants (`slow`)."""
    return pytest.mark.parametrize("count", [count, pytest.param(None, marks=pytest.mark.slow)])


def run(mutant: Mutant, codes: Sequence[int], *arguments: str) -> CommandResult:
    """Run a command line, and check its exit code and what it prints."""
    try:
        done = optadvise(*arguments)
    except Exception as error:
        raise AssertionError(f"{mutant.change}: {type(error).__name__}: {error}"[:500]) from error
    assert done.code in codes, (mutant.change, done.code, done.err)
    if done.failure is not None:
        lines = [line for line in done.err.splitlines() if not line.startswith("optadvise: warning: ")]
        assert lines[-1].startswith("optadvise: "), (mutant.change, done.err)
        assert len(lines) == 1 or done.code == 4, (mutant.change, done.err)  # 4: after progress
        assert done.failure.code in [*ErrorCode]
    assert len(done.err) < 3000, (mutant.change, len(done.err))
    for text in (done.out, done.err):
        assert_harmless(text)
    return done


def check_tables(text: str) -> None:
    """Check that Markdown has no syntax of the foreign text, and that its tables are intact."""
    assert_harmless(text)
    assert not re.search(r"(?<!\\)<(?!!-- -->)(?=[\w/!?])", text)
    assert "[y](" not in text.replace("\\[y\\](", "")
    foreign = re.sub(r"\]\(https://[^)]*\)", "", text)  # without the links of shipped sources
    assert not re.search(r"@team|#1\b|GH-1|a@b|://|www\.|0123abc", foreign)
    for table in re.findall(r"(?m)(?:^\|.*\n)+", text):
        assert len({row.replace("\\|", "").count("|") for row in table.splitlines()}) == 1


def check_csv(text: str) -> None:
    assert_harmless(text)
    rows = list(csv.reader(text.splitlines()))
    assert len({len(row) for row in rows}) == 1
    cells = [cell for row in rows for cell in row if cell.lstrip()[:1] in {*"=+-@＝＋－＠"} or cell[:1] in {*"\t\r\n"}]
    assert all(re.fullmatch(r"[-+]?[\d.e+-]+", cell) for cell in cells)


@sampled(12)
def test_mutated_results_are_compared_or_rejected(count: Count, tmp_path: Path) -> None:
    good, bad = tmp_path / "good.json", tmp_path / "bad.json"
    markdown, page = tmp_path / "out.md", tmp_path / "out.html"
    good.write_text(json.dumps(result()), encoding="utf-8")
    for number, mutant in enumerate(mutate(result(2.2, seed=5), count)):
        bad.write_text(write_json(mutant.data), encoding="utf-8")
        files = (good, bad) if number % 2 else (bad, good)
        options = (
            "--force",
            "--require",
            "optimizer_seconds <= 2x",
            "--require",
            "bandwidth_fraction <= 1",
            "--markdown",
            str(markdown),
        )
        done = run(mutant, (0, 1, 2, 3, 5), "compare", *map(str, files), *options)
        if done.code not in (2, 3):
            check_tables(markdown.read_text(encoding="utf-8"))
            data = parse_finite(run(mutant, (0, 1, 5), "compare", *map(str, files), "--force", "--json", "-").out)
            jsonschema.validate(data, SCHEMAS["comparison"])
        elif done.code == 3:
            assert "bad.json" in done.err, mutant.change
        # The merged arms need different labels.
        data = json.loads(good.read_text(encoding="utf-8"))
        data["arms"] = [{**data["arms"][0], "label": "other", "optimizer": "other"}]
        (tmp_path / "other.json").write_text(json.dumps(data), encoding="utf-8")
        outputs = {"--csv": tmp_path / "out.csv", "--markdown": markdown, "--report": page,
                   "--json": tmp_path / "out.json", "--dashboard": tmp_path / "dash.json"}  # fmt: skip
        named = [text for flag, file in outputs.items() for text in (flag, str(file))]
        done = run(mutant, (0, 2, 3, 4), "bench", "--merge", str(bad), str(tmp_path / "other.json"), *named)
        if done.code in (0, 4):
            check_csv(outputs["--csv"].read_text(encoding="utf-8"))
            check_tables(markdown.read_text(encoding="utf-8"))
            assert_harmless(page.read_text(encoding="utf-8"))
            assert "<img" not in page.read_text(encoding="utf-8")
            parse_finite(outputs["--dashboard"].read_text(encoding="utf-8"))
            jsonschema.validate(parse_finite(outputs["--json"].read_text(encoding="utf-8")), SCHEMAS["bench"])


def test_text_of_a_result_is_escaped_in_every_format(tmp_path: Path) -> None:
    data = result()
    data["arms"][0]["label"] = "=1+1"
    data["arms"][1] |= {"label": ESCAPES, "status": "error", "error": ESCAPES}
    data["environment"]["processor"] = ESCAPES
    data["environment"]["packages"] = {ESCAPES: ESCAPES}
    file, other = tmp_path / "a.json", tmp_path / "b.json"
    file.write_text(write_json(data), encoding="utf-8")
    other.write_text(write_json({**data, "arms": [{**data["arms"][0], "label": "other"}]}), encoding="utf-8")
    outputs = [tmp_path / name for name in ("out.csv", "out.md", "out.html", "out.json")]
    options = [
        text
        for pair in zip(("--csv", "--markdown", "--report", "--json"), map(str, outputs), strict=True)
        for text in pair
    ]
    done = run(Mutant("escapes", data), (0,), "bench", "--merge", str(file), str(other), *options)
    written = [output.read_text(encoding="utf-8") for output in outputs]
    assert all("\\x1b" in text for text in (done.out, *written))
    check_csv(written[0])
    assert "'=1+1" in written[0]
    check_tables(written[1])
    assert "<img" not in written[2]
    assert_harmless(written[2] + written[3])
    check_tables(run(Mutant("escapes", data), (0,), "compare", str(file), str(file), "--markdown", "-").out)


def test_text_in_a_picture_is_not_a_formula(tmp_path: Path) -> None:
    data = result(control=False)
    data["arms"][0] |= {"label": r"$\frac{", "throughput": {"value": 1.0, "unit": r"$\bad$", "ci95": None}}
    data["spec"]["workload"] = r"$\bad$"
    file, picture = tmp_path / "result.json", tmp_path / "out.svg"
    file.write_text(json.dumps(data), encoding="utf-8")
    assert optadvise("compare", str(file), str(file), "--plot", str(picture)).code == 0
    assert_harmless(picture.read_text(encoding="utf-8"))


@pytest.mark.slow
def test_mutated_results_are_drawn_or_rejected(tmp_path: Path) -> None:
    file, picture = tmp_path / "result.json", tmp_path / "out.svg"
    for mutant in mutate(result(), 300):
        file.write_text(write_json(mutant.data), encoding="utf-8")
        run(mutant, (0, 2, 3, 4), "compare", str(file), str(file), "--plot", str(picture))


@pytest.fixture
def _stop_before_measuring(monkeypatch: pytest.MonkeyPatch) -> None:
    """End each benchmark with exit code 4 where it would start its workers."""

    def stop(*arguments: object, **options: object) -> None:
        raise CannotRunHereError("stopped", code=ErrorCode.UNSUPPORTED)

    monkeypatch.setattr(runner, "run_arms", stop)


@pytest.mark.usefixtures("_stop_before_measuring")
@sampled(15)
def test_mutated_recommendations_are_accepted_or_rejected(count: Count, tmp_path: Path) -> None:
    data = json.loads(optadvise("recommend", "--model", "transformer", "--optimizer", "muon", "--json").out)
    used = {
        key: data[key] for key in ("kind", "schema_version", "optimizer", "scheduler", "hyperparameters", "companion")
    }
    file = tmp_path / "rec.json"
    for mutant in mutate(used, count):
        file.write_text(write_json(mutant.data), encoding="utf-8")
        done = run(mutant, (2, 3, 4), "bench", "--from", str(file))
        assert done.failure is not None
        assert done.code == 4 or done.failure.option == "--from", mutant.change


@pytest.mark.usefixtures("_stop_before_measuring")
@sampled(20)
def test_mutated_sweep_files_are_run_or_rejected(count: Count, tmp_path: Path) -> None:
    data = {"optimizers": ["adamw", "lion"], "precision": ["fp32", "bf16"], "rounds": 2, "slurm": {"timeout_min": 5}}
    file = tmp_path / "sweep.yaml"
    for mutant in mutate(data, count):
        file.write_text(yaml.safe_dump(mutant.data, allow_unicode=False), encoding="utf-8")
        run(mutant, (2, 3, 4), "sweep", str(file))


@pytest.mark.usefixtures("_stop_before_measuring")
@sampled(20)
def test_mutated_cells_are_shown_or_set_aside(count: Count, tmp_path: Path) -> None:
    file, folder, markdown = tmp_path / "sweep.yaml", tmp_path / "cells", tmp_path / "out.md"
    file.write_text("optimizers: [lion]\nrounds: 7\n", encoding="utf-8")
    folder.mkdir()
    cell = {"options": {"rounds": "7"}, "result": result()}
    for mutant in mutate(cell, count):
        (folder / "lion.json").write_text(write_json(mutant.data), encoding="utf-8")
        options = ("--folder", str(folder), "--markdown", str(markdown), "--json", str(tmp_path / "out.json"))
        if run(mutant, (0, 4, 5), "sweep", str(file), *options).code != 4:
            check_tables(markdown.read_text(encoding="utf-8"))
            parse_finite((tmp_path / "out.json").read_text(encoding="utf-8"))


CONFIG = {
    "model_type": "llama", "_name_or_path": "team/net", "architectures": ["LlamaForCausalLM"], "hidden_size": 64,
    "num_hidden_layers": 2, "num_attention_heads": 4, "num_key_value_heads": 4, "intermediate_size": 96,
    "vocab_size": 101, "hidden_act": "silu", "tie_word_embeddings": False, "unused": {"key": [1]},
}  # fmt: skip


@sampled(6)
def test_mutated_configs_are_estimated_or_rejected(count: Count, tmp_path: Path) -> None:
    file, program = tmp_path / "config.json", tmp_path / "out.py"
    for mutant in mutate(CONFIG, count):
        file.write_text(write_json(mutant.data), encoding="utf-8")
        done = run(mutant, (0, 2), "estimate", "--hf-config", str(file), "--vram", "24GB", "--json")
        if done.code == 0:
            parse_finite(done.out)
            run(mutant, (0,), "estimate", "--hf-config", str(file), "--vram", "24GB")
            run(mutant, (0,), "recommend", "--hf-config", str(file), "--format", "python", "-o", str(program))
            compile(program.read_text(encoding="utf-8"), "out.py", "exec")
            check_tables(run(mutant, (0,), "recommend", "--hf-config", str(file), "--format", "markdown").out)
        else:
            assert done.failure is not None
            assert done.failure.option == "--hf-config"


@pytest.mark.parametrize(
    ("typed", "name"),
    [("config.json", "config.json"), (".", "config.json"), ("mine", "mine"), ("mine/config.json", "mine"),
     ("net-1.5b", "net-1.5b"), ("net-1.5b.json", "net-1.5b"), ("\x1b[31m/config.json", "\\x1b[31m")],
)  # fmt: skip
def test_config_is_named_by_its_path(typed: str, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    file = Path(typed) if typed.endswith(".json") else Path(typed) / "config.json"
    file.parent.mkdir(exist_ok=True)
    file.write_text(json.dumps({**CONFIG, "_name_or_path": "llama-3-8b"}), encoding="utf-8")
    done = run(Mutant(typed, None), (0,), "estimate", "--hf-config", typed, "--json")
    assert parse_finite(done.out)["situation"]["shape"]["name"] == name


@pytest.mark.parametrize("claim", [f"llama-3-8b\r\n{ESCAPES}", "llama-3-8b " + "x" * 10**6, ["llama-3-8b"]])
def test_name_that_a_config_claims_is_not_shown(claim: object, tmp_path: Path) -> None:
    file = tmp_path / "config.json"
    file.write_text(json.dumps({**CONFIG, "_name_or_path": claim}), encoding="utf-8")
    commands = ("estimate", "estimate --json", "recommend --explain", "recommend --format markdown", "recommend --json")
    for command in commands:
        name, *options = command.split()
        out = run(Mutant(command, claim), (0,), name, "--hf-config", str(file), "--vram", "24GB", *options).out
        assert not re.search(r"llama-3|x{100}|\\u202e|\\x1b", out), command


EVIDENCE = {"audits": "audit", "claims": "claim", "benches": "benchmark"}  # kind by folder


def save_evidence() -> dict[str, Path]:
    """Save a finding of each kind about lion, and return their files by kind."""
    catalog = load()
    claim = catalog.claims["lion-state-half"]
    implementation = catalog.optimizer("lion").implementations[0]
    store.save_audit(AuditFinding(optimizer="lion", path=implementation.path, package=None, verdict="deviates",
                                  why="another update", worst=0.1, date="2026-11-26", packages={}))  # fmt: skip
    store.save_claim(ClaimFinding(
        id=claim.id, claim=claim.claim, quote=claim.quote, cite=claim.cite, optimizers=("lion",), experiment="state",
        setting={"a": [1]}, measures="state", expected_range="< 1", seeds=(0, 1), limits=None, supports=("OPT001",),
        device="cpu", implementations=(), seconds=1.0, verdict="refuted", why=None, measured=2.0, ci95=(1.5, 2.5),
        figures=(2.0,), date="2026-11-26", packages={}), claim)  # fmt: skip
    data = result()
    data["arms"][0]["implementation"]["import"] = implementation.path
    save_findings(loaded(data), "2026-11-26")
    return {EVIDENCE[file.parent.name]: file for file in store.find_folder().rglob("*@*.json")} | {
        "claim": next(store.find_folder().rglob("lion-state-half.json"))
    }


@sampled(3)
@pytest.mark.parametrize("kind", EVIDENCE.values())
def test_mutated_evidence_never_stops_an_answer(kind: str, count: Count, tmp_path: Path) -> None:
    file, page = save_evidence()[kind], tmp_path / "out.html"
    assert '"date":"2026-11-26"' in file.read_text(encoding="utf-8")
    commands = ("recommend", "--optimizer", "lion", "--params", "1K"), ("show", "lion")
    data = json.loads(file.read_text(encoding="utf-8"))
    for mutant in mutate(data, count):
        file.write_text(write_json(mutant.data), encoding="utf-8")
        warnings = len(run(mutant, (0,), *commands[0], "--explain", "--report", str(page)).err.splitlines())
        assert warnings == (not file.exists()), mutant.change
        assert_harmless(page.read_text(encoding="utf-8"))
        assert "<img" not in page.read_text(encoding="utf-8")
        check_tables(run(mutant, (0,), *commands[0], "--format", "markdown").out)
        parse_finite(run(mutant, (0,), *commands[0], "--json").out)
        assert run(mutant, (0,), *commands[1]).err == ""


LAYER = {
    "table": "warn",
    "rules": [{"id": "OUR010", "name": "ours", "when": {"model": "cnn"}, "then": {"level": "info", "text": "Ours."},
               "cite": ["measured"], "tests": [{"given": {"model": "cnn"}, "expect": {"fires": True}}]}],
}  # fmt: skip


@sampled(1)
@pytest.mark.parametrize("name", ["warn.yaml", "claims.yaml", "optimizers/lion.yaml"])
def test_mutated_rules_are_used_or_rejected(name: str, count: Count, tmp_path: Path) -> None:
    shipped = yaml.load((find_shipped_rules() / name).read_text(encoding="utf-8"), yaml.BaseLoader)
    data = {"claims": shipped["claims"][:2]} if name == "claims.yaml" else LAYER if name == "warn.yaml" else shipped
    file = tmp_path / "rules" / name
    file.parent.mkdir(parents=True)
    for mutant in mutate(data, count):
        file.write_text(yaml.safe_dump(mutant.data), encoding="utf-8")
        rules = ("--rules", str(tmp_path / "rules"))
        if name == "claims.yaml":
            run(mutant, (0, 3), "show", "lion", *rules)
            continue
        done = run(mutant, (0, 2, 3), "recommend", "--model", "cnn", "--optimizer", "lion", "--explain", *rules)
        if done.code == 0:
            check_tables(run(mutant, (0,), "recommend", "--model", "cnn", "--format", "markdown", *rules).out)


GOOD = json.dumps(result()).encode()
CONTENTS: dict[str, tuple[Any, int, str]] = {  # maker, exit code of compare, error
    "byte order mark": (lambda path: path.write_bytes(b"\xef\xbb\xbf" + GOOD), 0, ""),
    "UTF-16": (lambda path: path.write_bytes(GOOD.decode().encode("utf-16")), 0, ""),
    "empty": (lambda path: path.touch(), 3, "invalid-syntax"),
    "truncated": (lambda path: path.write_bytes(GOOD[:-2]), 3, "invalid-syntax"),
    "not UTF-8": (lambda path: path.write_bytes(b"\xff" + GOOD), 3, "invalid-syntax"),
    "duplicate key": (lambda path: path.write_bytes(b'{"kind": "bench", ' + GOOD[1:]), 3, "invalid-syntax"),
    "deep": (lambda path: path.write_bytes(b"[" * 100_000), 3, "invalid-syntax"),
    "many digits": (lambda path: path.write_bytes(b'{"kind": ' + b"1" * 10_000 + b"}"), 3, "invalid-syntax"),
    "folder": (lambda path: path.mkdir(), 2, "file-unreadable"),
    "missing": (lambda path: None, 2, "file-not-found"),
    "device": (lambda path: path.symlink_to("/dev/zero"), 2, "file-unreadable"),
    "loop": (lambda path: path.symlink_to(path), 2, "file-unreadable"),
    "pipe without a writer": (os.mkfifo, 3, "invalid-syntax"),
    "large": (lambda path: path.write_bytes(GOOD + b" " * 2**26), 2, "file-unreadable"),
}  # fmt: skip


@pytest.mark.parametrize("case", CONTENTS)
def test_special_files(case: str, tmp_path: Path) -> None:
    make, code, error = CONTENTS[case]
    good, file = tmp_path / "good.json", tmp_path / "special.json"
    good.write_text(json.dumps(result(seed=5)), encoding="utf-8")
    make(file)
    for command in (("compare", str(good), str(file)), ("bench", "--merge", str(file), str(good))):
        done = optadvise(*command)
        expected = (code, error) if code or command[0] == "compare" else (2, "duplicate-entry")
        assert (done.code, done.error) == expected, done.err
        assert len(done.err.splitlines()) == bool(error or done.code)
    for name, option in (("bench", "--from"), ("estimate", "--hf-config")):
        done = optadvise(name, option, str(file))
        assert done.failure is not None
        assert (done.code, done.failure.option, len(done.err.splitlines())) == (2, option, 1), done.err
        assert done.error == error or not error or option == "--hf-config", done.err
    done = optadvise("sweep", str(file))
    assert (done.code in (2, 3), len(done.err.splitlines())) == (True, 1)


def test_a_pipe_is_read(tmp_path: Path) -> None:
    good = tmp_path / "good.json"
    good.write_bytes(GOOD)
    read, write = os.pipe()
    os.write(write, GOOD[:4000])

    def finish() -> None:
        os.write(write, GOOD[4000:])
        os.close(write)

    threading.Timer(0.2, finish).start()
    assert optadvise("compare", str(good), f"/dev/fd/{read}").code == 0
    os.close(read)


@pytest.mark.parametrize("name", ["x" * 300, "a\0b", "\udcff.json", "x/" * 3000])
def test_invalid_paths(name: str, tmp_path: Path) -> None:
    for arguments in (("compare", name, name), ("bench", "--merge", name, name), ("bench", "--from", name),
                      ("estimate", "--hf-config", name), ("sweep", name),
                      ("recommend", "--rules", name)):  # fmt: skip
        done = optadvise(*arguments)
        assert (done.code, len(done.err.splitlines())) == (2, 1), (arguments[0], done.err)
        assert done.error.startswith("file-") or done.error == "invalid-value", done.err
        assert_harmless(done.err)


@pytest.mark.parametrize(
    "text",
    ["[tool.optadvise]\nrules = " + "[" * 5000, "# [tool.optadvise\n[tool]\noptadvise = 3",
     '[tool.optadvise]\nrules = ["\\u001b[31m\\u202e"]', "[tool.optadvise]\nrules = [3]"],
)  # fmt: skip
def test_invalid_project_files(text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "pyproject.toml").write_text(text, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    done = optadvise("recommend")
    assert (done.code, len(done.err.splitlines())) == (2, 1)
    assert_harmless(done.err)


def test_a_device_without_data_is_unreadable() -> None:
    """/proc/kmsg is a regular file by its type, and an empty read that does not wait returns None."""

    class Empty(io.RawIOBase):
        def readable(self) -> bool:
            return True

        def readinto(self, buffer: object) -> None:
            return None

    with pytest.raises(ForeignFileError) as caught:
        read_stream(cast("IO[bytes]", Empty()))
    assert caught.value.code is ErrorCode.FILE_UNREADABLE


def test_results_with_too_many_optimizers_are_rejected(tmp_path: Path) -> None:
    data = result()
    arms = [{**data["arms"][0], "label": str(number), "role": "candidate"} for number in range(MAX_ARMS + 1)]
    for name, part in (("all", arms), ("some", arms[:MAX_ARMS]), ("rest", arms[MAX_ARMS:])):
        (tmp_path / f"{name}.json").write_text(json.dumps({**data, "arms": part, "ratios": []}), encoding="utf-8")
    files = {name: str(tmp_path / f"{name}.json") for name in ("all", "some", "rest")}
    done = optadvise("compare", files["all"], files["rest"])
    assert (done.code, done.error) == (3, "invalid-entry"), done.err
    done = optadvise("bench", "--merge", files["some"], files["rest"])
    assert (done.code, done.error) == (2, "out-of-range"), done.err
