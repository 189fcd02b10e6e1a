"""Two results against each other: what the ratios are, which verdict is honest, and what is refused."""

from __future__ import annotations

import contextlib
import copy
import math
import random
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec.structs import astuple

from optadvise.benchmark.comparison.ratios import compare, quotient
from optadvise.benchmark.records import Figure, Interval
from optadvise.benchmark.statistics import ratio_ci
from optadvise.core.errors import InputError, RuleFileError
from optadvise.core.json_text import encode_json
from tests.results import SCHEMAS, compared, loaded, ratio, result


@pytest.mark.parametrize("name", SCHEMAS)
def test_schemas_are_schemas(name: str) -> None:
    jsonschema.Draft202012Validator.check_schema(SCHEMAS[name])


def test_what_slows_a_whole_run_cancels() -> None:
    found = compared(result(2.0), result(2.0, drift=1.5, seed=5), "optimizer_seconds <= 1.05x")
    assert ratio(found, "optimizer_seconds", relative=False)["ratio"] == pytest.approx(1.5, rel=0.01)
    assert ratio(found, "optimizer_seconds", relative=True)["ratio"] == pytest.approx(1, rel=0.01)
    assert ratio(found, "throughput", relative=True)["ratio"] == pytest.approx(1, rel=0.01)
    assert ratio(found, "step_seconds", relative=False, label="adamw (control)")["ratio"] == pytest.approx(1.5, 0.01)
    assert found["verdict"] == "pass"
    assert found["requirements"][0]["relative_to_control"] is True
    assert found["warnings"] == []


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
        ("forward_seconds <= 1.1x", "inconclusive"),  # was not measured
    ],
)
def test_verdicts_of_a_step_that_became_a_tenth_slower(requirement: str, verdict: str) -> None:
    found = compared(result(2.0), result(2.2, seed=5, state=808), requirement)
    assert found["verdict"] == verdict, found["requirements"]


def test_the_worst_verdict_counts_and_there_is_none_without_requirements() -> None:
    base, new = result(), result(seed=5, state=801)
    assert compared(base, new)["verdict"] is None
    assert compared(base, new, "state_bytes <= 2x", "state_bytes <= 1x")["verdict"] == "fail"


@pytest.mark.parametrize(("noise", "verdict"), [(0.001, "pass"), (0.9, "inconclusive")])
def test_a_result_against_itself_is_one_and_passes_only_where_its_noise_allows(noise: float, verdict: str) -> None:
    same = result(noise=noise)
    found = compared(same, copy.deepcopy(same), "optimizer_seconds <= 1.5x")
    assert all(r["ratio"] == 1 for r in found["ratios"])
    assert found["verdict"] == verdict
    assert "one and the same" in found["warnings"][-1]
    # Whether nothing at all was lost, no finite measurement can say; of exact figures it can.
    assert compared(same, same, "optimizer_seconds <= 1x")["verdict"] == "inconclusive"
    assert compared(same, same, "state_bytes <= 1x", "peak_memory <= 1x")["verdict"] == "pass"


def test_without_a_common_control_times_are_compared_plainly_and_that_is_said() -> None:
    found = compared(result(control=False), result(2.2, control=False, seed=5), "optimizer_seconds <= 1.05x")
    assert not any(r["relative_to_control"] for r in found["ratios"])
    assert found["verdict"] == "fail"
    assert "no control that both have" in found["warnings"][0]
    other = result(seed=5)
    other["arms"][1]["implementation"]["variant"] = "foreach"
    found = compared(result(), other)
    assert not any(r["relative_to_control"] for r in found["ratios"])
    assert any("torch.optim.adamw (fused) in BASE and torch.optim.adamw (foreach) in NEW" in w
               for w in found["warnings"])  # fmt: skip


@pytest.mark.parametrize(
    ("spec", "named"),
    [
        ({"workload": "cnn"}, "workload is transformer in BASE and cnn in NEW"),
        ({"size": "small"}, "size"),
        ({"params": 5}, "params is not said in BASE and 5 in NEW"),
        ({"batch_size": 4}, "batch_size"),
        ({"seq_len": 4}, "seq_len"),
        ({"dtype": "bf16"}, "dtype"),
        ({"device": "cuda"}, "device"),
        ({"compile": True}, "compile is off in BASE and on in NEW"),
        ({"optimizer_only": True}, "optimizer_only"),
    ],
)
def test_other_conditions_are_refused_unless_forced(spec: dict[str, Any], named: str) -> None:
    with pytest.raises(InputError, match=named):
        compared(result(), result(seed=5, **spec))
    assert named in compared(result(), result(seed=5, **spec), force=True)["warnings"][0]


def test_another_processor_and_another_network_are_refused() -> None:
    new = result(seed=5)
    new["environment"]["processor"] = "B CPU"
    new["arms"][0]["parameters"] = 1000
    with pytest.raises(InputError, match=r"processor is A CPU .* B CPU .* the parameters of lion are 100 .* 1,000"):
        compared(result(), new)


@pytest.mark.parametrize(
    ("section", "key", "value", "warning"),
    [
        ("environment", "optadvise", "0.2.0", "optadvise is 0.1.0 in BASE and 0.2.0 in NEW"),
        ("environment", "packages", {"torch": "2.14.0"}, "torch is 2.13.0 in BASE and 2.14.0 in NEW"),
        ("environment", "threads", 8, "threads is 1 in BASE and 8 in NEW"),
        ("environment", "load", 9.0, "load is 0.1 in BASE and 9.0 in NEW: other work ran beside one of them"),
        ("environment", "platform", "Windows", "platform is Linux in BASE and Windows in NEW"),
        ("spec", "seed", 3, "seed is 0 in BASE and 3 in NEW"),
        ("spec", "rounds", 3, "rounds is 7 in BASE and 3 in NEW"),
    ],
)
def test_other_versions_threads_and_load_are_warned_of(section: str, key: str, value: Any, warning: str) -> None:
    new = result(seed=5)
    new[section][key] = value
    assert compared(result(), new)["warnings"] == [warning]


def test_an_interrupted_result_is_compared_and_warned_of() -> None:
    assert "BASE was interrupted" in compared(result(complete=False), result(seed=5))["warnings"][0]
    assert "NEW was interrupted" in compared(result(), result(complete=False, seed=5))["warnings"][0]


def test_an_arm_that_failed_or_has_gone_keeps_nothing() -> None:
    new = result(seed=5)
    new["arms"][0].update(status="oom", error="out of memory")
    found = compared(result(), new, "state_bytes <= 1x")
    assert found["verdict"] == "fail"
    assert found["warnings"] == ["lion is oom in NEW: out of memory"]
    assert compared(new, result(seed=5), "state_bytes <= 1x")["verdict"] == "inconclusive"
    gone = result(seed=5)
    gone["arms"] = gone["arms"][1:]
    found = compared(result(), gone, "state_bytes <= 1x")
    assert (found["verdict"], found["warnings"]) == ("inconclusive", ["only in BASE: lion"])
    found = compared(gone, result(), "state_bytes <= 1x", "state_bytes <= 800")
    assert [r["verdict"] for r in found["requirements"]] == ["inconclusive", "pass"]
    gone["arms"][0]["label"] = "another"
    with pytest.raises(InputError, match="no optimizer is in both: lion, adamw"):
        compared(result(), gone)


def test_bytes_out_of_nothing_fail_and_have_no_ratio() -> None:
    found = compared(result(state=0), result(state=8, seed=5), "state_bytes <= 1.5x")
    assert found["verdict"] == "fail"
    assert ratio(found, "state_bytes", relative=False)["ratio"] is None
    assert compared(result(state=0), result(state=0, seed=5), "state_bytes <= 1x")["verdict"] == "pass"


def test_memory_of_the_allocator_and_of_the_process_are_not_mixed() -> None:
    new = result(seed=5)
    for arm in new["arms"]:
        arm["peak_memory_bytes"]["allocated"] = 2**20
    found = compared(result(), new, "peak_memory <= 1x")
    assert found["verdict"] == "inconclusive"
    assert "peak_memory" not in {r["metric"] for r in found["ratios"]}


def test_a_process_s_memory_is_called_noisy() -> None:
    assert "varies by a percent" in compared(result(), result(seed=5), "peak_memory <= 1x")["warnings"][-1]


def test_what_has_no_ratio_to_base_is_no_requirement() -> None:
    for text in ("loss_last <= 1.1x", "first_step_seconds <= 2x", "bandwidth_fraction >= 1x"):
        with pytest.raises(InputError, match="has no ratio"):
            compared(result(), result(), text)


positive = st.floats(1e-6, 1e6)


@st.composite
def figures(draw: st.DrawFn) -> Figure:
    value, down, up = draw(positive), draw(st.floats(1, 10)), draw(st.floats(1, 10))
    return Figure(value, Interval(value / down, value * up))


@given(figures(), figures())
def test_a_quotient_turns_over_and_is_wider_than_its_parts(above: Figure, below: Figure) -> None:
    found, turned = quotient(above, below), quotient(below, above)
    assert found is not None
    assert turned is not None
    assert found.interval is not None
    assert turned.interval is not None
    assert found.value == pytest.approx(1 / turned.value)
    assert found.interval.low == pytest.approx(1 / turned.interval.high)
    assert found.interval.low <= found.value * (1 + 1e-12)
    assert found.interval.high >= found.value * (1 - 1e-12)
    for part in (above, below):
        assert part.interval is not None
        width = math.log(part.interval.high / part.interval.low)
        assert math.log(found.interval.high / found.interval.low) >= width * (1 - 1e-9) - 1e-9


@given(figures())
def test_an_exact_part_adds_no_width_and_a_missing_interval_stays_missing(figure: Figure) -> None:
    assert quotient(figure, Figure(2.0)) == Figure(figure.value / 2)
    exact = quotient(figure, Figure(2.0, Interval(2.0, 2.0)))
    assert exact is not None
    assert exact.interval is not None
    assert figure.interval is not None
    assert astuple(exact.interval) == pytest.approx([end / 2 for end in astuple(figure.interval)])
    assert quotient(figure, Figure(0.0)) is None


@pytest.mark.parametrize("count", [2, 3, 7])
def test_the_interval_of_a_ratio_of_ratios_covers(count: int) -> None:
    """Two runs of log-normal rounds whose true ratio is one, of which the second is ten times as noisy."""
    rng, hits, runs = random.Random(count), 0, 1500
    for _ in range(runs):
        sides = []
        for spread in (0.02, 0.2):
            medians = [[math.exp(rng.gauss(0, spread))] for _ in range(count)]
            sides.append(ratio_ci(medians, [[1.0]] * count))
        found = quotient(*sides)
        assert found is not None
        assert found.interval is not None
        hits += found.interval.low <= 1 <= found.interval.high
    assert hits / runs >= 0.935


@settings(max_examples=100, deadline=None)
@given(st.data())
def test_a_broken_file_is_refused_and_never_a_traceback(data: st.DataObject) -> None:
    broken = result(control=False)
    at: Any = broken
    for _ in range(data.draw(st.integers(0, 3))):
        deeper = [k for k in (at if isinstance(at, dict) else range(len(at))) if isinstance(at[k], (dict, list))
                  and at[k]]  # fmt: skip
        if not deeper:
            break
        at = at[data.draw(st.sampled_from(deeper))]
    key = data.draw(st.sampled_from(list(at) if isinstance(at, dict) else range(len(at))))
    at[key] = data.draw(st.sampled_from([None, "x", -1, math.nan, [], {}, [1], {"a": 1}, True]))
    for base, new in ((broken, result(control=False)), (result(control=False), broken)):
        with contextlib.suppress(InputError, RuleFileError):
            encode_json(compare(loaded(base), loaded(new)))
