"""Stand-in for CUDA: devices, memory, time and errors, as torch reports them on a GPU."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

from tests.cuda_stand_in.session import StandIn
from tests.cuda_stand_in.settings import BUSY, CONTEXT_BYTES, GPU_LOST, NO_KERNEL_IMAGE, Gpu

Start = Callable[..., StandIn]
MIB = 2**20


def run(cuda: StandIn, folder: Path, code: str) -> Any:
    """Run a program that stores its answer in `answer`."""
    file = folder / "program.py"
    head = "import json, time\nimport torch\n"
    file.write_text(f"{head}{dedent(code)}\nprint(json.dumps(answer))\n", encoding="utf-8")
    process = cuda.run_program(file)
    assert process.returncode == 0, process.stderr
    return json.loads(process.stdout)


def find_error(cuda: StandIn, folder: Path, code: str) -> list[str]:
    """Return the type and the message of the error that a program raises."""
    handled = "\n".join(["try:", *(f"    {line}" for line in dedent(code).splitlines()), "    answer = []"])
    error: list[str] = run(
        cuda, folder, f"{handled}\nexcept Exception as error:\n    answer = [type(error).__name__, str(error)]"
    )
    return error


def test_tensors_are_on_the_current_device(cuda: Start, tmp_path: Path) -> None:
    answer = run(
        cuda(Gpu(), Gpu(name="second", capability=(9, 0))), tmp_path,
        """
        first = torch.ones(1000, device="cuda")
        torch.cuda.set_device(1)
        second, copy = torch.ones(1000, device="cuda"), first.to("cuda:1")
        host, module = copy.cpu(), torch.nn.Linear(2, 2).cuda()
        tensors = first, second, copy, first + 1, second[None], host, module.weight, torch.zeros_like(first)
        answer = [[str(t.device) for t in tensors], [t.is_cuda for t in tensors], torch.cuda.current_device(),
                  torch.cuda.device_count(), torch.cuda.get_device_name(), torch.cuda.get_device_capability("cuda:1"),
                  torch.cuda.memory_allocated(0), torch.version.cuda]
        """,
    )  # fmt: skip
    places = [0, 1, 1, 0, 1, None, 1, 0]
    assert answer[0] == ["cpu" if index is None else f"cuda:{index}" for index in places]
    assert answer[1] == [index is not None for index in places]
    assert answer[2:] == [1, 2, "second", [9, 0], 3 * 4096, "12.8"]  # three tensors of 4000 bytes in blocks of 512


@pytest.mark.parametrize("device", ["'cuda'", "torch.device('cuda')"])
def test_the_current_device_is_set_by_its_index(cuda: Start, tmp_path: Path, device: str) -> None:
    assert find_error(cuda(Gpu()), tmp_path, f"torch.cuda.set_device({device})")[0] == "ValueError"


@pytest.mark.parametrize(
    "operation", ["first + second", "first + host", "torch.stack([first, second])", "host.copy_(first) + first"]
)
def test_operands_must_be_on_one_device(cuda: Start, tmp_path: Path, operation: str) -> None:
    create = "first, second, host = torch.ones(2, device=0), torch.ones(2, device='cuda:1'), torch.ones(2)"
    kind, message = find_error(cuda(Gpu(), Gpu()), tmp_path, f"{create}\n{operation}")
    assert kind == "RuntimeError"
    assert "at least two devices, cuda:0 and " in message


def test_memory_counters(cuda: Start, tmp_path: Path) -> None:
    answer = run(
        cuda(Gpu(memory_gib=1)), tmp_path,
        """
        def read():
            free, total = torch.cuda.mem_get_info()
            return [*(f() / 2**20 for f in (torch.cuda.memory_allocated, torch.cuda.max_memory_allocated,
                    torch.cuda.memory_reserved)), (total - free) / 2**20]
        answer = [read()]
        tensor = torch.empty(10, 2**20, dtype=torch.uint8, device="cuda")
        view = tensor[:5]
        del tensor
        answer += [read()]
        del view
        answer += [read()]
        torch.cuda.reset_peak_memory_stats()
        torch.cuda.empty_cache()
        answer += [read()]
        """,
    )  # fmt: skip
    context = CONTEXT_BYTES / MIB
    assert answer == [[0, 0, 0, context], [10, 10, 10, context + 10], [0, 10, 10, context + 10], [0, 0, 0, context]]


@contextmanager
def hold_memory(cuda: StandIn, folder: Path, size: int) -> Iterator[None]:
    """Allocate bytes in another process, within the context."""
    file = folder / "other.py"
    code = f"import torch; t = torch.empty({size}, dtype=torch.uint8, device='cuda'); print(flush=True); input()"
    file.write_text(code, encoding="utf-8")
    with cuda.start_program(file) as process:
        assert process.stdout is not None
        process.stdout.readline()
        yield
        process.kill()


def test_memory_is_shared_between_processes(cuda: Start, tmp_path: Path) -> None:
    stand_in = cuda(Gpu(memory_gib=1.5))
    code = """
        answer = [torch.cuda.mem_get_info()[0] / 2**20, torch.cuda.list_gpu_processes().count("uses")]
        try:
            torch.empty(2**29, dtype=torch.uint8, device="cuda")
        except torch.OutOfMemoryError as error:
            answer += [str(error), torch.cuda.max_memory_allocated()]
        """
    alone = 1536 - CONTEXT_BYTES / MIB
    with hold_memory(stand_in, tmp_path, 2**28):
        free, processes, message, peak = run(stand_in, tmp_path, code)
    assert (free, processes, peak) == (alone - 256 - CONTEXT_BYTES / MIB, 2, 0)
    assert message.startswith(
        "CUDA out of memory. Tried to allocate 512.00 MiB. GPU 0 has a total capacity of 1.50 GiB"
    )
    assert run(stand_in, tmp_path, code) == [alone, 1]  # the other process was killed


@pytest.mark.parametrize(
    ("gpus", "code", "message"),
    [
        ([], "torch.ones(1, device='cuda')", "No CUDA GPUs are available"),
        ([Gpu()], "torch.ones(1, device='cuda:1')", "CUDA error: invalid device ordinal"),
        ([Gpu(error=NO_KERNEL_IMAGE)], "torch.ones(1, device='cuda')", NO_KERNEL_IMAGE),
        ([Gpu(error=GPU_LOST, error_at=3)], "t = torch.ones(1, device='cuda')\nt += 1\nt += 1", GPU_LOST),
        ([Gpu(error=GPU_LOST, error_at=3)], "t = torch.ones(1, device='cuda')\nt += 1", None),
        ([Gpu(error=GPU_LOST, error_in="mul")], "t = torch.ones(1, device='cuda')\nt += 1\nt *= 2", GPU_LOST),
        ([Gpu(memory_gib=0.4)], "torch.ones(1, device='cuda')", "CUDA error: out of memory"),
    ],
)
def test_errors(cuda: Start, tmp_path: Path, gpus: list[Gpu], code: str, message: str | None) -> None:
    assert find_error(cuda(*gpus), tmp_path, code)[1:] == ([] if message is None else [message])


def test_exclusive_compute_mode(cuda: Start, tmp_path: Path) -> None:
    stand_in = cuda(Gpu(exclusive=True))
    code = "torch.ones(1, device='cuda')"
    with hold_memory(stand_in, tmp_path, 1):
        assert find_error(stand_in, tmp_path, code)[1:] == [BUSY]
    assert find_error(stand_in, tmp_path, code) == []


TIMED = """
tensor = torch.empty(2**20, dtype=torch.uint8, device="cuda")
begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
torch.cuda.synchronize()
begin.record()
started = time.perf_counter()
for _ in range(20):
    tensor += 1
end.record()
host = time.perf_counter() - started
torch.cuda.synchronize()
answer = [begin.elapsed_time(end) / 1e3, host]
"""


def test_events_of_a_device_bound_program_have_the_time_of_the_bandwidth(cuda: Start, tmp_path: Path) -> None:
    device_seconds, host_seconds = run(cuda(Gpu(bandwidth=MIB / 10)), tmp_path, TIMED)  # 10 s for each kernel
    assert device_seconds == pytest.approx(200, abs=1)  # the first kernel starts when it is launched
    assert host_seconds < 100


def test_events_of_a_launch_bound_program_have_the_time_of_the_host(cuda: Start, tmp_path: Path) -> None:
    device_seconds, host_seconds = run(cuda(Gpu(bandwidth=1e15), seconds_per_launch=0.01), tmp_path, TIMED)
    assert device_seconds == pytest.approx(host_seconds, rel=0.1)
    assert host_seconds >= 0.2


def test_visible_devices(cuda: Start, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = cuda(Gpu(name="a"), Gpu(name="b", uuid="GPU-bbb"), Gpu(name="c"))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,GPU-b,9,0")
    names = run(
        stand_in, tmp_path, "answer = [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]"
    )
    assert names == ["c", "b"]


def test_nvidia_smi_lists_the_devices(cuda: Start) -> None:
    cuda(Gpu(memory_gib=2, exclusive=True), Gpu(name="second", uuid="GPU-bbb", capability=(7, 5)))
    query = [
        "nvidia-smi",
        "--query-gpu=name,uuid,memory.total,compute_cap,compute_mode",
        "--format=csv,noheader,nounits",
    ]
    process = subprocess.run(query, capture_output=True, text=True, check=True)
    assert process.stdout.splitlines() == [
        "NVIDIA Stand-In, GPU-00000000-0000-0000-0000-000000000000, 2048, 8.0, Exclusive_Process",
        "second, GPU-bbb, 4096, 7.5, Default",
    ]
    query[1] = "--query-gpu=shoe_size"
    assert subprocess.run(query, capture_output=True, check=False).returncode == 2
