"""`optadvise bench` on the stand-in for CUDA: memory, time, devices and mixed precision."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import pytest

from optadvise.benchmark import workloads
from tests.bench import parse_result
from tests.cli import optadvise
from tests.cuda_stand_in.session import StandIn, cuda_stand_in
from tests.cuda_stand_in.settings import CONTEXT_BYTES, Call, Gpu

Start = Callable[..., StandIn]
QUICK = "--model-size tiny --threads 1 --rounds 1 --steps 2"
SMALL = f"{QUICK} --batch-size 1 --seq-len 16"
MIB = 2**20


class Session(NamedTuple):
    """Result of a benchmark, its arms by label, and the calls of its workers."""

    code: int
    result: dict[str, Any]
    arms: dict[str, dict[str, Any]]
    calls: list[Call]


def bench(cuda: StandIn, line: str) -> Session:
    run = optadvise("bench", *line.split(), "--json", "-")
    assert run.failure is None, run.err
    result = parse_result(run.out)
    return Session(run.code, result, {arm["label"]: arm for arm in result["arms"]}, cuda.list_calls())


@pytest.fixture(scope="module")
def session() -> Iterator[Session]:
    """Two optimizers, one of them by bitsandbytes, on a GPU with enough memory for both."""
    with cuda_stand_in(Gpu(name="NVIDIA A100", memory_gib=8)) as cuda:
        yield bench(cuda, f"lion adamw8bit --device cuda --control none {SMALL}")


def test_optimizers_run_on_the_gpu(session: Session) -> None:
    assert session.code == 0
    assert [arm["error"] for arm in session.arms.values()] == [None, None]
    environment = session.result["environment"]
    assert (environment["device"], environment["device_name"]) == ("cuda", "NVIDIA A100")
    for arm in session.arms.values():
        assert len(arm["optimizer_seconds"]["samples"]) == 2
        assert all(0 < arm[f"{part}_seconds"]["median"] < 60 for part in ("step", "forward", "backward", "optimizer"))
        assert arm["loss"]["finite"]


def test_peaks_of_the_allocator(session: Session) -> None:
    for arm in session.arms.values():
        peak = arm["peak_memory_bytes"]
        held_bytes = arm["parameter_bytes"] + arm["gradient_bytes"] + arm["state_bytes"]
        assert held_bytes < peak["allocated"] < 2 * held_bytes
        assert peak["allocated"] <= peak["reserved"] < peak["allocated"] + 4 * MIB
        assert peak["process"] >= peak["reserved"] + CONTEXT_BYTES
        assert arm["transient_bytes"] is not None


def test_times_are_those_of_events_after_a_synchronization(session: Session) -> None:
    """Each step begins and ends with an idle GPU, and all parts between are events of the same queue."""
    for pid in {call.pid for call in session.calls}:
        names = [call.name for call in session.calls if call.pid == pid and call.name in ("record", "synchronize")]
        starts = [second for first, second in pairwise(names) if first == "synchronize" and second == "record"]
        ends = [second for first, second in pairwise(names) if first == "record" and second == "synchronize"]
        assert len(starts) >= 1 + 3 + 2  # first step, warmup, measured steps
        assert len(ends) >= len(starts)


def test_out_of_memory_is_a_result_with_its_peak(cuda: Start) -> None:
    stand_in = cuda(Gpu(memory_gib=0.52))  # 32 MiB more than a context
    line = f"adamw --control none --device cuda --optimizer-only --params 4M {QUICK}"
    code, _, arms, _ = bench(stand_in, line)
    (arm,) = arms.values()
    assert (code, arm["status"], arm["error_code"]) == (4, "oom", "out-of-memory")
    assert 16 * MIB <= arm["peak_memory_bytes"]["allocated"] <= 32 * MIB  # weights, and at most the memory that is left


def test_managed_memory_of_paged_state(cuda: Start) -> None:
    """The allocator's counters do not include it, so its bytes are added to the peak that is compared."""
    line = f"paged-adamw8bit --control none --device cuda --optimizer-only --params 4M {QUICK}"
    _, result, arms, calls = bench(cuda(Gpu()), f"{line} --require peak_memory<=1GB")
    (arm,) = arms.values()
    assert arm["status"] == "ok", arm["error"]
    managed_bytes = sum(call.bytes for call in calls if call.name == "managed")
    assert 0.9 * arm["state_bytes"] < managed_bytes < arm["state_bytes"]  # small tensors are not paged
    weights_bytes = arm["parameter_bytes"] + arm["gradient_bytes"]
    peak = arm["peak_memory_bytes"]
    assert weights_bytes < peak["allocated"] < weights_bytes + 0.5 * managed_bytes
    assert arm["paged_bytes"] == peak["paged"] == managed_bytes
    assert result["requirements"][0]["measured"] == peak["allocated"] + managed_bytes


def test_small_tensors_of_paged_state_are_not_paged(cuda: Start) -> None:
    line = f"paged-adamw8bit --control none --device cuda --optimizer-only --params 100K {QUICK}"
    _, _, arms, calls = bench(cuda(Gpu()), line)
    (arm,) = arms.values()
    assert (arm["status"], arm["paged_bytes"]) == ("ok", 0)
    assert not any(call.name == "managed" for call in calls)


def test_peak_of_the_step_alone_has_no_temporaries_of_building_the_tensors(cuda: Start) -> None:
    line = f"sgd --control none --device cuda --optimizer-only --params 4M {QUICK}"
    _, _, arms, _ = bench(cuda(Gpu()), line)
    (arm,) = arms.values()
    assert arm["implementation"]["variant"] == "fused"  # which has no temporaries
    held_bytes = arm["parameter_bytes"] + arm["gradient_bytes"]
    assert held_bytes <= arm["peak_memory_bytes"]["allocated"] < 1.01 * held_bytes


def test_arms_that_do_not_fit_together(cuda: Start) -> None:
    stand_in = cuda(Gpu(memory_gib=1.06))  # two contexts and 85 MiB; the arms need 48 MiB and 64 MiB
    line = f"lion --device cuda --optimizer-only --params 4M {QUICK}"
    _, _, arms, _ = bench(stand_in, line)
    assert {arm["status"] for arm in arms.values()} == {"ok"}


def test_device_with_an_index(cuda: Start) -> None:
    stand_in = cuda(Gpu(name="first"), Gpu(name="second"))
    _, result, arms, calls = bench(stand_in, f"lion --control none --device cuda:1 {SMALL}")
    (arm,) = arms.values()
    assert result["environment"]["device_name"] == "second"
    peak = arm["peak_memory_bytes"]
    assert peak["allocated"] > arm["parameter_bytes"] + arm["state_bytes"]
    assert peak["process"] >= peak["reserved"] + CONTEXT_BYTES
    assert {call.device for call in calls if call.name in ("record", "synchronize", "kernel")} == {1}
    assert {call.device for call in calls if call.name == "max_memory_allocated"} == {1}


@pytest.mark.parametrize("device", ["cuda:foo", "cuda:-1", "cuda:"])
def test_invalid_device_index(cuda: Start, device: str) -> None:
    cuda(Gpu())
    assert optadvise("bench", "lion", "--device", device, *SMALL.split()).code == 2


def test_state_is_counted_after_skipped_steps(cuda: Start) -> None:
    stand_in = cuda(Gpu(), skipped_steps=2)
    # Fused variants create their state in a skipped step, too; this implementation has none.
    _, _, arms, _ = bench(stand_in, f"lion --control none --device cuda --precision amp-fp16 {SMALL}")
    (arm,) = arms.values()
    assert arm["status"] == "ok", arm["error"]
    assert arm["state_bytes_per_parameter"] == pytest.approx(4, rel=0.01)


def test_transient_bytes_are_the_largest_of_several_optimizers(cuda: Start) -> None:
    _, _, arms, _ = bench(cuda(Gpu()), f"muon --control none --device cuda {SMALL}")
    (arm,) = arms.values()
    module = workloads.build("transformer", batch_size=1, seq_len=16).module
    largest_matrix = max(p.numel() for name, p in module.named_parameters() if "blocks" in name)
    assert arm["transient_bytes"] >= 4 * largest_matrix  # Muon's update of one matrix


def test_bandwidth_is_that_of_queued_copies_larger_than_the_cache(cuda: Start) -> None:
    gpu = Gpu(l2_bytes=MIB, bandwidth=1e8)  # slow, so that the time of the launches does not matter
    _, _, arms, calls = bench(cuda(gpu), f"lion --control none --device cuda {SMALL}")
    (arm,) = arms.values()
    assert arm["bandwidth"]["device"] == pytest.approx(gpu.bandwidth, rel=0.03)
    words = "".join(_abbreviate(call, min_bytes=2 * 8 * gpu.l2_bytes) for call in calls)  # a copy reads and writes
    assert "r" + 8 * "c" in words


def _abbreviate(call: Call, min_bytes: int) -> str:
    """Return `c` for a large copy, the first letter of other calls, and nothing for other kernels."""
    if call.name == "kernel":
        return "c" if "copy_" in call.operation and call.bytes >= min_bytes else ""
    return call.name[0]
