"""Pages of `--report`: complete, standalone, and safe with hostile rules and results."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from msgspec import convert
from msgspec.structs import replace

from optadvise import __version__
from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.recommend import advise
from optadvise.benchmark.records import BenchmarkResult
from optadvise.core.advice_records import ScheduleAdvice
from optadvise.core.records import FactValues, Interval, MemoryEstimate, MemoryLine
from optadvise.core.schedules import compute_lr
from optadvise.core.units import show_bytes
from optadvise.render import headings
from optadvise.render.benchmark import format_interval, list_settings
from optadvise.render.benchmark_files import render_markdown
from optadvise.render.html import charts
from optadvise.render.html.benchmark import render_benchmark
from optadvise.render.html.page import PageOrigin, link
from optadvise.render.labels import format_sentence
from optadvise.render.text.benchmark import print_benchmark
from optadvise.rulebase.catalog import Catalog
from optadvise.rulebase.hyperparameters import format_value
from tests import chromium, results
from tests.cli import optadvise
from tests.pages import Page

RUNS = {
    "does not fit": "--model transformer --vram 24GB --params 7B --stability spikes --clipping",
    "may fit": "--arch llama-3-8b --gpu h100 --method lora --micro-batch 2 --steps 1000",
    "size unknown": "--model cnn --tuning high",
    "size unknown with a limit": "--model transformer --vram 24GB",
    "with a companion": "--model transformer --optimizer muon --params 350M",
    "one step": "--model mlp --steps 1 --optimizer lamb",
    "no options": "",
}
ORIGIN = PageOrigin(__version__, "optadvise bench lion")


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("pages")


@pytest.fixture(scope="module", params=RUNS)
def written_run(request: pytest.FixtureRequest, folder: Path) -> tuple[dict[str, Any], Page]:
    return recommend_page(RUNS[request.param], folder / f"{request.param}.html".replace(" ", "-"))


def recommend_page(line: str, file: Path) -> tuple[dict[str, Any], Page]:
    result = optadvise("recommend", *shlex.split(line), "--json", "--report", str(file))
    assert result.code == 0, result.err
    return json.loads(result.out), Page(file.read_text(encoding="utf-8"))


def make_result(**changes: Any) -> dict[str, Any]:
    """Return a result with a failed arm, an arm without figures, and requirements."""
    result = results.result()
    failed, empty = (json.loads(json.dumps(result["arms"][0])) for _ in range(2))
    failed.update(label="soap", optimizer="soap", status="oom", error="no room for <b>this</b>", parameters=None)
    empty.update(label="sgd", optimizer="sgd", state_bytes_per_parameter=None)
    empty["peak_memory_bytes"] = {"allocated": None, "reserved": None, "process": None}
    empty["throughput"] = {"value": None, "unit": "samples/s", "ci95": None}
    result["arms"] += [failed, empty]
    requirement = {"text": "step_seconds <= 1.3x", "metric": "step_seconds", "relative": True, "optimizer": "lion"}
    verdicts = [(2.0, [1.9, 2.1], "fail"), (None, None, "inconclusive")]
    result["requirements"] = [
        {**requirement, "label": f"lion {n}", "measured": m, "ci95": c, "verdict": v}
        for n, (m, c, v) in enumerate(verdicts)
    ]
    return {**result, "verdict": "fail", **changes}


def test_a_page_has_the_whole_recommendation(written_run: tuple[dict[str, Any], Page], catalog: Catalog) -> None:
    data, page = written_run
    for text in (data["optimizer"]["name"], data["optimizer"]["import"], data["scheduler"]["id"], __version__,
                 data["rules"]["fingerprint"]):  # fmt: skip
        assert page.says(text), text
    for number in data["hyperparameters"]:
        assert page.says(f"{number['name']} = {format_value(number['value'])}")
        for step in number["ledger"]:
            assert page.says(f"{step['step']} {step['rule']}: {format_sentence(step['because'])}")
    for entry in (*data["trace"], *data["alternatives"]):
        assert page.says(format_sentence(entry["because"]))
    for warning in data["warnings"]:
        assert page.says(warning["text"])
    for line in data["memory"]["ledger"] if data["memory"]["known_bytes"] is not None else ():
        assert page.says(line["part"])
        assert page.says(line["how"])
    for chain in data["fixes"]:
        for fix in chain:
            assert page.says(fix["costs"])
    for flip in data["flips"]:
        assert page.says(flip["optimizer"])
    cited = {cite for entry in (*data["trace"], *data["warnings"]) for cite in entry["cite"]}
    cited |= {cite for number in data["hyperparameters"] for step in number["ledger"] for cite in step["cite"]}
    for cite in cited:
        source = catalog.sources[cite]
        assert page.says(source.title)
        assert source.url in page.links or link(source.url) is None


def test_a_page_separates_specified_from_assumed_options(folder: Path) -> None:
    data, page = recommend_page("--model cnn --task pretrain --gpus 4", folder / "specified.html")
    specified, assumed = page.text.split(headings.ASSUMED)
    specified = specified.split(headings.SPECIFIED)[-1]
    assert all(flag in specified for flag in ("--model", "--task", "--gpus"))
    assert "--checkpointing" not in specified
    assert data["situation"]["assumed"]
    assert "--params unknown" in assumed
    assert "optadvise recommend --model cnn --task pretrain --gpus 4" in page.text


def test_a_page_is_well_formed_and_standalone(written_run: tuple[dict[str, Any], Page]) -> None:
    check_page(written_run[1])


@pytest.mark.parametrize(
    "result", [make_result(), make_result(complete=False, verdict=None), results.result(control=False),
               results.result(optimizer_only=True)], ids=["all", "partial", "alone", "step() only"]
)  # fmt: skip
def test_a_page_has_the_whole_benchmark(result: dict[str, Any]) -> None:
    page = Page(render_benchmark(convert(result, BenchmarkResult), ORIGIN))
    check_page(page)
    for arm in result["arms"]:
        assert page.says(arm["label"])
        assert page.says(arm["implementation"]["import"])
        assert arm["error"] is None or page.says(arm["error"])
    for requirement in result["requirements"]:
        assert page.says(requirement["text"])
        assert page.says(requirement["label"])
    assert ("Incomplete" in page.text) is not result["complete"]
    assert "optadvise bench lion" in page.text


@pytest.mark.parametrize(
    ("spec", "settings"),
    [
        ({}, {"batch size": "8 samples per step", "sequence length": "64 tokens"}),
        ({"nproc": 2}, {"batch size": "16 samples per step"}),
        ({"batch_size": 3, "seq_len": 20}, {"batch size": "3 samples per step", "sequence length": "20 tokens"}),
        ({"workload": "cnn", "size": "small"}, {"batch size": "16 samples per step", "image size": "32 x 32 pixels"}),
        ({"workload": "a:b", "user": True}, {"batch size": "set by the workload"}),
    ],
)
def test_settings_have_the_defaults_that_were_used(spec: dict[str, Any], settings: dict[str, str]) -> None:
    result = convert(results.result(**spec), BenchmarkResult)
    assert settings.items() <= dict(list_settings(result)).items()


def test_an_interval_is_written_alike_in_all_formats(capsys: pytest.CaptureFixture[str]) -> None:
    result = convert(results.result(), BenchmarkResult)
    ratio = result.find_ratio("lion", "optimizer_seconds")
    assert ratio is not None
    interval = format_interval(ratio.ci95)
    print_benchmark(result)
    for text in (capsys.readouterr().out, render_markdown(result), Page(render_benchmark(result, ORIGIN)).text):
        assert interval in text


def test_a_page_has_the_warnings() -> None:
    data = results.result()
    data["warnings"] = [{"id": "busy-processor", "text": "The machine was busy."}]
    assert Page(render_benchmark(convert(data, BenchmarkResult), ORIGIN)).says("The machine was busy.")


def check_page(page: Page) -> None:
    """Assert the structure, the policy and the labels that every page must have."""
    assert page.wrong == []
    assert page.reaches_out == []
    (html,), headings = page.all("html"), page.all("h1")
    assert html.attributes["lang"] == "en"
    assert len(headings) == len(page.all("main")) == len(page.all("header")) == len(page.all("footer")) == 1
    policy = [e.attributes["content"] for e in page.all("meta") if "http-equiv" in e.attributes]
    assert policy == ["default-src 'none'; style-src 'unsafe-inline'; img-src data:"]
    assert len(page.all("table")) == len(page.all("caption"))
    assert all(e.attributes.get("scope") in ("row", "col") for e in page.all("th"))
    ids = [e.attributes["id"] for e in page.elements if "id" in e.attributes]
    assert len(ids) == len(set(ids))
    labels = [str(e.attributes[key]) for e in page.elements for key in ("aria-labelledby",) if key in e.attributes]
    assert {label_id for label in labels for label_id in label.split()} <= set(ids)
    assert {link[1:] for link in page.links if link.startswith("#")} <= set(ids)
    for figure in [e for e in page.all("svg") if "role" in e.attributes]:
        assert figure.attributes["role"] == "img"
        assert len(str(figure.attributes["aria-labelledby"]).split()) == 2
    assert not re.search(r"(?<!=)\b(None|nan|Undefined|inf)\b", page.prose)  # but for arguments of a call


def test_stdout_is_the_same_with_a_page(tmp_path: Path) -> None:
    for more in ([], ["--json"], ["--format", "python"]):
        line = ["recommend", "--model", "cnn", "--vram", "8GB", "--params", "60M", *more]
        assert optadvise(*line, "--report", str(tmp_path / "page.html")) == optadvise(*line)
        assert Page((tmp_path / "page.html").read_text(encoding="utf-8")).wrong == []


@pytest.mark.parametrize("command", ["recommend --model cnn", "bench lion"])
def test_a_page_that_cannot_be_written_is_reported_before_any_output(command: str, tmp_path: Path) -> None:
    for place in (tmp_path / "missing" / "page.html", tmp_path, "-"):
        result = optadvise(*command.split(), "--report", str(place))
        assert (result.code, result.out, len(result.err.splitlines())) == (2, "", 1)
        assert result.failure is not None
        assert result.failure.option == "--report"


def test_the_command_line_on_a_page_reproduces_the_page(folder: Path) -> None:
    line = "--gpu 'rtx 4090' --params 1.5B --sparse-gradients --seq-len 1K"
    first, page = recommend_page(line, folder / "first.html")
    command = re.search(r"optadvise recommend (.*?) Compare optimizers", page.text)
    assert command is not None
    second, _ = recommend_page(command[1], folder / "second.html")
    assert first == second
    assert "--report" not in page.text


HOSTILE = "<script>alert(1)</script> <img src=x onerror=alert(2)> \"quoted\" 'single' </pre> {{ 7*7 }} &amp;"


def test_a_hostile_rule_layer_stays_text(tmp_path: Path, folder: Path) -> None:
    pack = tmp_path / "pack"
    pack.mkdir()
    quoted = json.dumps(HOSTILE)
    (pack / "warn.yaml").write_text(
        f"table: warn\nrules:\n  - id: OUR010\n    name: ours\n    when: {{model: cnn}}\n"
        f"    then: {{level: warning, text: {quoted}}}\n    cite: [\"our:bad\", \"our:worse\", \"our:web\"]\n"
        "    tests: [{given: {model: cnn}, expect: {fires: true}}]\n", encoding="utf-8",
    )  # fmt: skip
    (pack / "sources.yaml").write_text(
        "sources:\n"
        f'  "our:bad": {{title: {quoted}, url: "javascript:alert(3)"}}\n'
        '  "our:worse": {title: ours, url: "https://example.com/\\" onclick=\\"alert(4)"}\n'
        '  "our:web": {title: ours, url: "https://example.com/?a=1&b=<c>"}\n', encoding="utf-8",
    )  # fmt: skip
    data, page = recommend_page(f"--model cnn --rules {pack}", folder / "hostile.html")
    assert any(warning["text"] == HOSTILE for warning in data["warnings"])
    check_page(page)
    assert HOSTILE in page.text
    assert page.text.count(HOSTILE) >= 2  # as a warning and as a source's title
    assert "javascript:alert(3)" in page.text
    assert not any("example.com" in link or "javascript" in link for link in page.links)


def test_a_hostile_benchmark_stays_text() -> None:
    result = make_result()
    result["arms"][-1]["label"] = result["arms"][-2]["error"] = HOSTILE
    result["environment"]["processor"] = result["requirements"][0]["text"] = HOSTILE + "\x1b[31m\x00\ud800"
    page = Page(render_benchmark(convert(result, BenchmarkResult), ORIGIN))
    check_page(page)
    assert page.text.count(HOSTILE) >= 4
    assert "\\x1b[31m\\x00\\ud800" in page.text


@pytest.mark.parametrize(
    ("url", "linked"),
    [("https://arxiv.org/abs/1711.05101", True), ("HTTP://example.com/a?b=c#d", True), ("docs/design.md", False),
     ("javascript:alert(1)", False), ("data:text/html,x", False), ("java\nscript:x", False), ("//example.com", False),
     ("https://a b", False), ('https://a"b', False), (" https://a", False), ("https://a\n", False), ("", False),
     ("file:///etc/passwd", False)],
)  # fmt: skip
def test_only_web_addresses_become_links(url: str, linked: bool) -> None:
    assert link(url) == (url if linked else None)


def test_the_curve_is_the_schedule(rules: CompiledRules) -> None:
    """Every point of the polyline is a learning rate of the schedule, also at phase changes."""
    for name in rules.catalog.scheduler_ids:
        schedule = scheduled(rules, name, steps=1000)
        points = charts.layout_curve(schedule, 0.5, 1000).points.split()
        drawn = [tuple(map(float, point.split(","))) for point in points]
        top = max(compute_lr(schedule, 0.5, step) for step in range(1000))
        for x, y in drawn:
            step = round(x * 999 / 1000)
            assert (1 - y / 1000) * top == pytest.approx(compute_lr(schedule, 0.5, step), abs=2e-5)
        assert [drawn[0][0], drawn[-1][0]] == [0, 1000]


def scheduled(rules: CompiledRules, name: str, steps: int) -> ScheduleAdvice:
    from optadvise.core import schedules

    return schedules.resolve_schedule(rules.catalog.scheduler(name), 0.5, steps, 0.1, {})


def test_the_bar_has_the_sizes_of_the_breakdown(rules: CompiledRules) -> None:
    inputs: FactValues = {"model": "transformer", "params": 7 * 10**9, "vram_bytes": 24 * 2**30}
    memory = advise(rules, inputs).memory
    bar = charts.layout_bar(memory)
    assert bar is not None
    assert bar.limit is not None
    assert memory.interval is not None
    width = sum(part.width for part in bar.segments) / 100 * memory.interval.high
    assert width == pytest.approx(memory.total, rel=1e-3)
    assert bar.limit.at == pytest.approx(100 * 24 * 2**30 / memory.interval.high, abs=0.01)
    assert all(part.text == show_bytes(memory.breakdown[part.number - 1].at_peak or 0) for part in bar.segments)


def test_unknown_figures_are_not_drawn() -> None:
    lines = (MemoryLine("weights", 2**30, "4 B"), MemoryLine("activations", None, "need the shape"))
    unknown = MemoryEstimate(None, None, None, None, None, None, None, None, None, lines)
    assert charts.layout_bar(unknown) is None
    bar = charts.layout_bar(replace(unknown, model_states=2**30))
    assert bar is not None
    assert (bar.limit, bar.span, [part.name for part in bar.segments]) == (None, None, ["weights"])
    half = [charts.ScatterArm(1, "a", False, None, 1.0, None), charts.ScatterArm(2, "b", True, 1.0, None, None)]
    assert charts.layout_scatter(half, str) is None
    same = charts.layout_scatter([charts.ScatterArm(n, "a", False, 5.0, 0.0, None) for n in range(9)], str)
    assert same is not None
    assert len({dot.line for dot in same.dots}) == 9
    whole = replace(unknown, model_states=1, total=1, interval=Interval(1, 1, 2), breakdown=())
    assert charts.layout_bar(whole) is None


@pytest.fixture(scope="module")
def pages(folder: Path) -> dict[str, Path]:
    """Return three pages for the browser tests."""
    for name in ("does not fit", "size unknown"):
        recommend_page(RUNS[name], folder / f"{name.replace(' ', '-')}.html")
    (folder / "bench.html").write_text(
        render_benchmark(convert(make_result(), BenchmarkResult), ORIGIN), encoding="utf-8"
    )
    return {name: folder / f"{name}.html" for name in ("does-not-fit", "size-unknown", "bench")}


@pytest.fixture(scope="module")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[chromium.Browser]:
    with chromium.browser(tmp_path_factory.mktemp("chromium")) as started:
        yield started


@pytest.mark.skipif(chromium.MISSING is not None, reason=str(chromium.MISSING))
@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 1200])
@pytest.mark.parametrize("name", ["does-not-fit", "size-unknown", "bench"])
def test_a_browser_shows_a_page_completely_readably_and_without_requests(
    browser: chromium.Browser, pages: dict[str, Path], name: str, width: int, scheme: str
) -> None:
    browser.show(pages[name], width=width, scheme=scheme)
    assert browser.run("return innerWidth") == width
    assert browser.run("return document.documentElement.scrollWidth") <= width
    red = int(re.findall(r"\d+", browser.run("return getComputedStyle(document.body).backgroundColor"))[0])
    contrasts = browser.contrasts()
    assert len(contrasts) > 50
    assert contrasts[0][0] >= 4.5, contrasts[:3]
    assert (red < 128) is (scheme == "dark")
    assert browser.complaints() == []
    assert browser.requests() == [pages[name].as_uri()]


@pytest.mark.skipif(chromium.MISSING is not None, reason=str(chromium.MISSING))
def test_the_browser_detects_a_bad_page(browser: chromium.Browser, tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    wide = '<p style="width: 500px; color: #999; background: #fff">x</p><img src="http://127.0.0.1:9/a.png" alt="">'
    page.write_text(f"<!DOCTYPE html><title>bad</title>{wide}<script>console.error('no')</script>", encoding="utf-8")
    browser.show(page, width=375, scheme="light")
    assert browser.run("return document.documentElement.scrollWidth") > 375
    assert browser.contrasts()[0][0] < 4.5
    assert len(browser.complaints()) >= 1
    assert len(browser.requests()) == 2
