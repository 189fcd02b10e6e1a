"""Comparison of two results: ratios, verdicts, differences and warnings."""

from __future__ import annotations

import contextlib
import copy
import math
import random
import re
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import astuple

from optadvise.benchmark.comparison.ratios import compare, quotient
from optadvise.benchmark.field_labels import SPEC
from optadvise.benchmark.records import Figure, Interval
from optadvise.benchmark.statistics import ratio_ci
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError, RuleFileError
from optadvise.core.json_text import encode_json
from tests.results import SCHEMAS, compared, loaded, ratio, result


@pytest.mark.parametrize("name", SCHEMAS)
def test_schemas_are_valid(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMAS[name])


def test_slowdown_of_a_whole_run_cancels() -> None:
    comparison = compared(result(2.0), result(2.0, drift=1.5, seed=5), "optimizer_seconds <= 1.05x")
    assert ratio(comparison, "optimizer_seconds", relative=False)["ratio"] == pytest.approx(1.5, rel=0.01)
    assert ratio(comparison, "optimizer_seconds", relative=True)["ratio"] == pytest.approx(1, rel=0.01)
    assert ratio(comparison, "throughput", relative=True)["ratio"] == pytest.approx(1, rel=0.01)
    assert ratio(comparison, "step_seconds", relative=False, label="adamw (control)")["ratio"] == pytest.approx(
        1.5, 0.01
    )
    assert comparison["verdict"] == "pass"
    assert comparison["requirements"][0]["relative_to_control"] is True
    assert comparison["warnings"] == []


@pytest.mark.parametrize(
    ("requirement", "verdict"),
    [
        ("optimizer_seconds <= 1.2x", "pass"),
        ("optimizer_seconds <= 1.05x", "fail"),
        ("optimizer_seconds <= 1.1x", "inconclusive"),
        ("step_seconds <= 1.05x", "fail"),
        ("throughput >= 0.95x", "fail"),
        ("throughput >= 0.85x", "pass"),
        ("state_bytes <= 1x", "fail"),
        ("state_bytes <= 1.01x", "pass"),
        ("peak_memory <= 1x", "pass"),
        ("state_bytes_per_parameter <= 8.08", "pass"),
        ("state_bytes_per_parameter <= 8", "fail"),
        ("peak_memory <= 256MB", "pass"),
        ("optimizer_seconds <= 1", "pass"),
        ("optimizer_seconds <= 100ms", "fail"),
        ("optimizer_seconds <= 0.55", "inconclusive"),
        ("bandwidth_fraction >= 1e-9", "pass"),
        ("loss_last < 1.5", "pass"),
        ("forward_seconds <= 1.1x", "inconclusive"),  # not measured
    ],
)
def test_verdicts_of_a_step_that_is_ten_percent_slower(requirement: str, verdict: str) -> None:
    comparison = compared(result(2.0), result(2.2, seed=5, state=808), requirement)
    assert comparison["verdict"] == verdict, comparison["requirements"]


def test_worst_verdict_counts_and_no_requirements_give_none() -> None:
    base, new = result(), result(seed=5, state=801)
    assert compared(base, new)["verdict"] is None
    assert compared(base, new, "state_bytes <= 2x", "state_bytes <= 1x")["verdict"] == "fail"


@pytest.mark.parametrize(("noise", "verdict"), [(0.001, "pass"), (0.9, "inconclusive")])
def test_result_compared_with_itself(noise: float, verdict: str) -> None:
    same = result(noise=noise)
    comparison = compared(same, copy.deepcopy(same), "optimizer_seconds <= 1.5x")
    assert all(r["ratio"] == 1 for r in comparison["ratios"])
    assert comparison["verdict"] == verdict
    assert len(comparison["warnings"]) == 1 + 2 * len(same["warnings"])
    # No measurement with noise can show that nothing at all was lost; exact figures can.
    assert compared(same, same, "optimizer_seconds <= 1x")["verdict"] == "inconclusive"
    assert compared(same, same, "state_bytes <= 1x", "peak_memory <= 1x")["verdict"] == "pass"


def test_times_without_a_common_control() -> None:
    comparison = compared(result(control=False), result(2.2, control=False, seed=5), "optimizer_seconds <= 1.05x")
    assert not any(r["relative_to_control"] for r in comparison["ratios"])
    assert comparison["verdict"] == "fail"
    assert len(comparison["warnings"]) == 1
    assert "lion" in comparison["warnings"][0]
    other = result(seed=5)
    other["arms"][1]["implementation"]["variant"] = "foreach"
    comparison = compared(result(), other)
    assert not any(r["relative_to_control"] for r in comparison["ratios"])
    assert any("(fused)" in warning and "(foreach)" in warning for warning in comparison["warnings"])


@pytest.mark.parametrize(
    ("spec", "parts"),
    [
        ({"workload": "cnn"}, ("workload", "transformer", "cnn")),
        ({"size": "small"}, ("size", "tiny", "small")),
        ({"params": 5}, (SPEC["params"], "not specified", "5")),
        ({"batch_size": 4}, (SPEC["batch_size"], "not specified", "4")),
        ({"seq_len": 4}, (SPEC["seq_len"], "not specified", "4")),
        ({"dtype": "bf16"}, ("precision", "fp32", "bf16")),
        ({"device": "cuda"}, ("device", "cpu", "cuda")),
        ({"compile": True}, ("compile", "off", "on")),
        ({"optimizer_only": True}, (SPEC["optimizer_only"], "off", "on")),
    ],
)
def test_different_settings_require_force(spec: dict[str, Any], parts: tuple[str, str, str]) -> None:
    with pytest.raises(InputError) as caught:
        compared(result(), result(seed=5, **spec))
    assert caught.value.code is ErrorCode.NOT_COMPARABLE
    warning = compared(result(), result(seed=5, **spec), force=True)["warnings"][0]
    assert warning in str(caught.value)
    check_difference(warning, *parts)


def check_difference(text: str, name: str, base: str, new: str) -> None:
    """Check that a text names a field and its values on both sides."""
    assert re.fullmatch(rf".*\b{re.escape(name)}\b.*\b{re.escape(base)} in BASE\b.*\b{re.escape(new)} in NEW\b.*", text)


def test_different_processor_and_network() -> None:
    new = result(seed=5)
    new["environment"]["processor"] = "B CPU"
    new["arms"][0]["parameters"] = 1000
    with pytest.raises(InputError) as caught:
        compared(result(), new)
    assert caught.value.code is ErrorCode.NOT_COMPARABLE
    processor, parameters, *_ = compared(result(), new, force=True)["warnings"]
    check_difference(processor, "processor", "A CPU", "B CPU")
    check_difference(parameters, "lion", "100", "1,000")


@pytest.mark.parametrize(
    ("section", "key", "value", "parts"),
    [
        ("environment", "optadvise", "0.2.0", ("optadvise", "0.1.0", "0.2.0")),
        ("environment", "packages", {"torch": "2.14.0"}, ("torch", "2.13.0", "2.14.0")),
        ("environment", "threads", 8, ("threads", "1", "8")),
        ("environment", "load", 9.0, ("load", "0.1", "9.0")),
        ("environment", "platform", "Windows", ("platform", "Linux", "Windows")),
        ("spec", "seed", 3, ("seed", "0", "3")),
        ("spec", "rounds", 3, ("rounds", "7", "3")),
    ],
)
def test_warnings_about_the_environment(section: str, key: str, value: Any, parts: tuple[str, str, str]) -> None:
    new = result(seed=5)
    new[section][key] = value
    (warning,) = compared(result(), new)["warnings"]
    check_difference(warning, *parts)


def test_results_that_are_not_interleaved_have_a_warning() -> None:
    plain = compared(result(), result(seed=5))["warnings"]
    apart = compared(result(), {**result(seed=5), "interleaved": False})["warnings"]
    assert len(apart) == len(plain) + 1


def test_interrupted_results_have_a_warning() -> None:
    assert compared(result(complete=False), result(seed=5))["warnings"][0].startswith("BASE was interrupted")
    assert compared(result(), result(complete=False, seed=5))["warnings"][0].startswith("NEW was interrupted")


def test_failed_and_missing_arms() -> None:
    new = result(seed=5)
    new["arms"][0].update(status="oom", error="out of memory")
    comparison = compared(result(), new, "state_bytes <= 1x")
    assert comparison["verdict"] == "fail"
    (warning,) = comparison["warnings"]
    assert all(part in warning for part in ("lion", "oom", "NEW", "out of memory"))
    assert compared(new, result(seed=5), "state_bytes <= 1x")["verdict"] == "inconclusive"
    shorter = result(seed=5)
    shorter["arms"] = shorter["arms"][1:]
    comparison = compared(result(), shorter, "state_bytes <= 1x")
    assert (comparison["verdict"], comparison["warnings"]) == ("inconclusive", ["only in BASE: lion"])
    comparison = compared(shorter, result(), "state_bytes <= 1x", "state_bytes <= 800")
    assert [r["verdict"] for r in comparison["requirements"]] == ["inconclusive", "pass"]
    shorter["arms"][0]["label"] = "another"
    with pytest.raises(InputError) as caught:
        compared(result(), shorter)
    assert caught.value.code is ErrorCode.NOT_COMPARABLE
    assert "lion, adamw" in str(caught.value)


def test_state_that_was_zero_has_no_ratio_and_fails() -> None:
    comparison = compared(result(state=0), result(state=8, seed=5), "state_bytes <= 1.5x")
    assert comparison["verdict"] == "fail"
    assert ratio(comparison, "state_bytes", relative=False)["ratio"] is None
    assert compared(result(state=0), result(state=0, seed=5), "state_bytes <= 1x")["verdict"] == "pass"


def test_allocator_and_process_memory_are_not_compared() -> None:
    new = result(seed=5)
    for arm in new["arms"]:
        arm["peak_memory_bytes"]["allocated"] = 2**20
    comparison = compared(result(), new, "peak_memory <= 1x")
    assert comparison["verdict"] == "inconclusive"
    assert "peak_memory" not in {r["metric"] for r in comparison["ratios"]}


def test_process_memory_has_a_warning() -> None:
    base, new = result(), result(seed=5)
    (warning,) = compared(base, new, "peak_memory <= 1x")["warnings"]
    assert "peak_memory" in warning
    assert compared(base, new, "peak_memory <= 1GB")["warnings"] == []


@pytest.mark.parametrize("text", ["loss_last <= 1.1x", "first_step_seconds <= 2x", "bandwidth_fraction >= 1x"])
def test_metrics_without_ratio_require_an_absolute_bound(text: str) -> None:
    with pytest.raises(InputError) as caught:
        compared(result(), result(), text)
    assert caught.value.code is ErrorCode.INVALID_REQUIREMENT
    assert (caught.value.option, caught.value.value) == ("--require", text)
    compared(result(), result(), text.removesuffix("x"))


positive = st.floats(1e-6, 1e6)


@st.composite
def figures(draw: st.DrawFn) -> Figure:
    value, down, up = draw(positive), draw(st.floats(1, 10)), draw(st.floats(1, 10))
    return Figure(value, Interval(value / down, value * up))


@given(figures(), figures())
def test_quotient_is_invertible_and_wider_than_its_parts(above: Figure, below: Figure) -> None:
    ratio_figure, inverse = quotient(above, below), quotient(below, above)
    assert ratio_figure is not None
    assert inverse is not None
    assert ratio_figure.interval is not None
    assert inverse.interval is not None
    assert ratio_figure.value == pytest.approx(1 / inverse.value)
    assert ratio_figure.interval.low == pytest.approx(1 / inverse.interval.high)
    assert ratio_figure.interval.low <= ratio_figure.value * (1 + 1e-12)
    assert ratio_figure.interval.high >= ratio_figure.value * (1 - 1e-12)
    for part in (above, below):
        assert part.interval is not None
        width = math.log(part.interval.high / part.interval.low)
        assert math.log(ratio_figure.interval.high / ratio_figure.interval.low) >= width * (1 - 1e-9) - 1e-9


@given(figures())
def test_quotient_with_an_exact_figure_and_without_interval(figure: Figure) -> None:
    assert quotient(figure, Figure(2.0)) == Figure(figure.value / 2)
    exact = quotient(figure, Figure(2.0, Interval(2.0, 2.0)))
    assert exact is not None
    assert exact.interval is not None
    assert figure.interval is not None
    assert astuple(exact.interval) == pytest.approx([end / 2 for end in astuple(figure.interval)])
    assert quotient(figure, Figure(0.0)) is None


@pytest.mark.parametrize("count", [2, 3, 7])
def test_coverage_of_the_interval_of_a_ratio_of_ratios(count: int) -> None:
    """Compare two runs of log-normal rounds with a true ratio of 1, the second with ten times the noise."""
    rng, hits, runs = random.Random(count), 0, 1500
    for _ in range(runs):
        sides = []
        for spread in (0.02, 0.2):
            medians = [[math.exp(rng.gauss(0, spread))] for _ in range(count)]
            sides.append(ratio_ci(medians, [[1.0]] * count))
        ratio_figure = quotient(*sides)
        assert ratio_figure is not None
        assert ratio_figure.interval is not None
        hits += ratio_figure.interval.low <= 1 <= ratio_figure.interval.high
    assert hits / runs >= 0.935


@settings(max_examples=100)
@given(st.data())
def test_corrupted_files_raise_expected_errors(data: st.DataObject) -> None:
    corrupted = result(control=False)
    at: Any = corrupted
    for _ in range(data.draw(st.integers(0, 3))):
        deeper = [k for k in (at if isinstance(at, dict) else range(len(at))) if isinstance(at[k], (dict, list))
                  and at[k]]  # fmt: skip
        if not deeper:
            break
        at = at[data.draw(st.sampled_from(deeper))]
    key = data.draw(st.sampled_from(list(at) if isinstance(at, dict) else range(len(at))))
    at[key] = data.draw(st.sampled_from([None, "x", -1, math.nan, [], {}, [1], {"a": 1}, True]))
    for base, new in ((corrupted, result(control=False)), (result(control=False), corrupted)):
        with contextlib.suppress(InputError, RuleFileError):
            encode_json(compare(loaded(base), loaded(new)))
