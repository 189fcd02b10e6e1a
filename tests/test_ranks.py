"""`bench --nproc`: several ranks on this machine, including ranks that fail or hang; sharded recommendations."""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import jsonschema
import msgspec
import pytest
from msgspec import convert

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.memory_answer import find_remedies
from optadvise.advice.recommend import advise
from optadvise.benchmark import plan, variants
from optadvise.benchmark.distributed import launch, rank_files, torchrun_entry
from optadvise.benchmark.distributed.arm import RankedArm
from optadvise.benchmark.measurement import ArmFailure
from optadvise.benchmark.spec import Sharding, Spec
from optadvise.core.cards import AGREES
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import CannotRunHereError, InputError
from optadvise.rulebase.catalog import Catalog
from tests import sharding
from tests.bench import await_end_of_processes_in
from tests.cli import optadvise
from tests.conftest import ROOT, rotated

SMALL = "--params 100K --rounds 2 --steps 1 --control none --json -".split()

WORKLOADS = """
import os, signal, sys, time
import torch

def _with_fault(fault):
    def batches():
        for step in range(10_000):
            if step == 5 and os.environ.get("RANK") == "1":
                fault()
            yield torch.randn(4, 8), torch.randn(4, 8)
    return torch.nn.Linear(8, 8), batches()

def dies():
    return _with_fault(lambda: os.kill(os.getpid(), signal.SIGKILL))

def sleeps():
    def fault():
        open("sleeping", "w").close()
        time.sleep(1000)
    return _with_fault(fault)

def raises():
    def fault():
        print("about to fail", file=sys.stderr)
        raise ValueError("a bad batch")
    return _with_fault(fault)

def draws():
    import random
    batches = [(torch.full((4, 8), random.random()), torch.rand(4, 8)) for _ in range(3)]
    module = torch.nn.Linear(8, 8)
    def loss(net, batch):
        with open(f"drawn{os.environ['RANK']}.txt", "a") as file:
            print(batch[0][0, 0].item(), batch[1][0, 0].item(), file=file)
        return (net(batch[0]) - batch[1]).square().mean()
    return module, batches, loss

def calls():
    class Net(torch.nn.Linear):
        def encode(self, x):
            return self(x)
    is_faulty = os.environ.get("RANK") == "1"
    return Net(8, 8), [torch.randn(4, 8)], lambda net, batch: (net.encode if is_faulty else net)(batch).sum()

def leaves():
    return _with_fault(lambda: os._exit(7))
"""


@pytest.fixture(autouse=True)
def _use_one_thread(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


@pytest.fixture
def faulty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    (tmp_path / "faulty.py").write_text(WORKLOADS, encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("faulty", None)


def bench_one(*arguments: str) -> tuple[int, dict[str, Any]]:
    """Return the exit code and the only arm of a benchmark."""
    command = optadvise("bench", *arguments, *SMALL)
    data = json.loads(command.out)
    jsonschema.validate(data, json.loads((ROOT / "docs" / "schema" / "bench.json").read_text(encoding="utf-8")))
    return command.code, data["arms"][0]


@pytest.fixture
def _ports_are_taken(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Occupy the port of the environment and torchrun's default port: ranks must use a free port."""
    with socket.socket() as taken, socket.socket() as default:
        taken.bind(("localhost", 0))
        taken.listen()
        with contextlib.suppress(OSError):  # another process uses it
            default.bind(("localhost", 29500))
            default.listen()
        monkeypatch.setenv("MASTER_ADDR", "localhost")
        monkeypatch.setenv("MASTER_PORT", str(taken.getsockname()[1]))
        yield


@pytest.mark.usefixtures("_ports_are_taken")
@pytest.mark.parametrize(
    ("shard", "strategy", "state_share"),
    rotated(
        2,
        [
            ("none", "none", 1.0),
            ("zero1", "zero1", None),
            ("ddp", "none", 1.0),
            ("fsdp", "fsdp", 0.5),
            ("zero3", "fsdp", 0.5),
        ],
    ),
)
def test_state_and_weights_per_rank(shard: str, strategy: str, state_share: float | None) -> None:
    """AdamW's state is 8 bytes per parameter in total for every strategy but DDP."""
    code, arm = bench_one("adamw", "--nproc", "2", "--shard", shard)
    assert (code, arm["status"]) == (0, "ok"), arm["error"]
    states = [rank["state_bytes"] for rank in arm["ranks"]]
    total_bytes = 8 * arm["parameters"]
    assert sum(states) == arm["total_state_bytes"]
    assert max(states) == arm["state_bytes"]
    assert sum(states) == pytest.approx(total_bytes * (2 if strategy == "none" else 1), rel=0.01)  # plus step counters
    if state_share is not None:
        assert states == pytest.approx([state_share * total_bytes] * 2, rel=0.01)
    weights = [rank["parameter_bytes"] for rank in arm["ranks"]]
    assert weights == [4 * arm["parameters"] * (0.5 if strategy == "fsdp" else 1)] * 2
    assert arm["communication_share"] > 0
    assert arm["scaling_efficiency"] > 0
    assert arm["loss"]["last"] < arm["loss"]["first"]
    assert arm["throughput"]["value"] == pytest.approx(16 / arm["step_seconds"]["median"])  # eight per rank
    # Figures of a rank do not apply to a single process, so they are not stored as evidence.
    assert json.loads(optadvise("show", "adamw", "--json").out)["evidence"]["benches"] == []


def measure_parity(catalog: Catalog, name: str, shard: Sharding, nproc: int) -> float:
    spec = Spec(params=100_000, nproc=nproc, shard=shard, warmup=4, threads=1)
    ranks = RankedArm(spec, plan.plan_defaults(catalog.optimizer(name), {}), timeout=120.0)
    try:
        ranks.start()
        return ranks.parity()
    finally:
        ranks.stop()


@pytest.mark.parametrize(
    ("name", "shard", "nproc"), rotated(1, [("lion", "none", 2), ("lamb", "zero1", 2), ("adamw", "fsdp", 4)])
)
def test_ranks_agree_with_a_single_process(name: str, shard: Sharding, nproc: int, catalog: Catalog) -> None:
    assert measure_parity(catalog, name, shard, nproc) < 1e-4


@pytest.mark.parametrize(
    ("workload", "code", "parts"),
    rotated(
        2,
        [
            ("dies", "worker-failed", ("rank 1", "SIGKILL")),
            ("leaves", "worker-failed", ("rank 1", "exit code 7")),
            ("raises", "library-error", ("rank 1: ValueError: a bad batch", "about to fail")),
            ("sleeps", "worker-timeout", ("15 s", "rank 1", "step 6")),
            ("calls", "library-error", ("rank 1: AttributeError", "'encode'")),
        ],
    ),
)
def test_failing_rank_is_reported(workload: str, code: str, parts: Sequence[str], faulty: Path) -> None:
    begin = time.monotonic()
    command = optadvise("bench", "adamw", "--nproc", "2", "--workload", f"faulty:{workload}", "--timeout", "15",
                        "--control", "none", "--json", "-")  # fmt: skip
    (arm,) = json.loads(command.out)["arms"]
    assert command.code == 4
    assert (arm["status"], arm["error_code"]) == ("error", code)
    assert all(part in arm["error"] for part in parts)
    assert time.monotonic() - begin < 120
    assert await_end_of_processes_in(faulty)


def test_ranks_have_different_batches(faulty: Path, catalog: Catalog) -> None:
    """The batches are generated with Python's and torch's generators before the first step."""
    spec = Spec(workload="faulty:draws", user=True, nproc=2, shard="fsdp", threads=1)
    ranks = RankedArm(spec, plan.plan_defaults(catalog.optimizer("adamw"), {}), timeout=120.0)
    try:
        ranks.start()
        ranks.measure_round()
        batches = [(faulty / f"drawn{rank}.txt").read_text(encoding="utf-8").splitlines() for rank in (0, 1)]
    finally:
        ranks.stop()
    assert set(batches[0]).isdisjoint(batches[1])
    assert len(set(batches[0])) == 3


def test_ranks_end_although_the_launcher_was_killed(faulty: Path, catalog: Catalog) -> None:
    spec = Spec(params=100_000, nproc=2, shard="none", threads=1)
    ranks = RankedArm(spec, plan.plan_defaults(catalog.optimizer("adamw"), {}), timeout=120.0)
    ranks.start()
    assert ranks._process is not None
    os.kill(ranks._process.pid, signal.SIGKILL)  # the launcher, which cannot terminate the ranks
    os.waitid(os.P_PID, ranks._process.pid, os.WEXITED | os.WNOWAIT)
    ranks.stop()
    assert await_end_of_processes_in(faulty)


@pytest.mark.parametrize(("number", "after"), [(signal.SIGTERM, 2.0), (signal.SIGKILL, None)])
def test_no_process_outlives_the_command(number: signal.Signals, after: float | None, faulty: Path) -> None:
    """Send the signal while ranks start, or while a rank hangs."""
    command = "bench adamw --control none --nproc 2 --workload faulty:sleeps --timeout 600".split()
    process = subprocess.Popen([sys.executable, "-m", "optadvise", *command], stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL, env={**os.environ, "TMPDIR": str(faulty)})  # fmt: skip
    end = time.monotonic() + (after or 120)
    while time.monotonic() < end and not (faulty / "sleeping").exists():
        time.sleep(0.1)
    assert after is not None or (faulty / "sleeping").exists()
    process.send_signal(number)
    process.wait(timeout=60)
    assert await_end_of_processes_in(faulty)
    assert not list(faulty.glob("optadvise-ranks-*"))


def test_worker_ignores_rank_variables_of_another_job(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "1"), ("WORLD_SIZE", "2"), ("MASTER_ADDR", "localhost"), ("MASTER_PORT", "29777")):
        monkeypatch.setenv(name, value)
    assert optadvise("bench", "sgd", "--optimizer-only", *SMALL).code == 0


def test_root_cause_of_several_failures(tmp_path: Path) -> None:
    def write_failure(rank: int, error: str, time_seconds: float) -> None:
        failure = ArmFailure(status="error", error=error, code=ErrorCode.LIBRARY_ERROR)
        report = rank_files.RankFailure(failure, time_seconds)
        (tmp_path / f"{rank}.failure").write_bytes(msgspec.json.encode(report))

    assert rank_files.find_root_cause(tmp_path, 3).error == rank_files.LAUNCHER_ENDED
    rank_files.write_exit_codes(tmp_path, {0: 1, 1: -15, 2: -9})
    write_failure(0, "RuntimeError: Connection closed by peer", 1.0)
    killed = rank_files.find_root_cause(tmp_path, 3)
    assert killed.code is ErrorCode.WORKER_FAILED
    assert killed.error.startswith("rank 2 was killed by SIGKILL")
    write_failure(1, "ValueError: second", 3.0)
    write_failure(2, "ValueError: first", 2.0)
    root_cause = rank_files.find_root_cause(tmp_path, 3)
    assert (root_cause.error, root_cause.code) == ("rank 2: ValueError: first", ErrorCode.LIBRARY_ERROR)


def test_results_of_torchrun_are_merged(tmp_path: Path) -> None:
    """Start the worker with torchrun once per optimizer, as on several machines."""
    files = []
    for name in ("adamw", "lion"):
        files.append(str(tmp_path / f"{name}.json"))
        command = f"--standalone --nproc-per-node 2 -m optadvise.benchmark.worker {name} --shard fsdp --params 100K"
        process = subprocess.run(
            [sys.executable, "-m", "torch.distributed.run", *command.split(), "--rounds", "2", "--steps=1", "--json",
             files[-1]], capture_output=True, text=True, timeout=300,
        )  # fmt: skip
        assert process.returncode == 0, process.stderr[-2000:]
    merged = optadvise("bench", "--merge", *files, "--json", "-")
    assert merged.code == 0
    data = json.loads(merged.out)
    jsonschema.validate(data, json.loads((ROOT / "docs" / "schema" / "bench.json").read_text(encoding="utf-8")))
    assert [(arm["optimizer"], arm["role"], len(arm["ranks"])) for arm in data["arms"]] == [
        ("adamw", "control", 2), ("lion", "candidate", 2)]  # fmt: skip
    ratio = next(one for one in data["ratios"] if one["metric"] == "state_bytes")
    assert (ratio["optimizer"], ratio["ci95"]) == ("lion", None)
    assert ratio["ratio"] == pytest.approx(0.5, rel=0.01)
    check_merge_error(files[0], files[0], code="duplicate-entry", part="adamw")
    other = json.loads(Path(files[1]).read_text(encoding="utf-8"))
    other["spec"]["shard"] = "zero1"
    Path(files[1]).write_text(json.dumps(other), encoding="utf-8")
    check_merge_error(*files, code="not-comparable", part="zero1")
    other["spec"]["shard"], other["environment"]["processor"] = "fsdp", "another"
    Path(files[1]).write_text(json.dumps(other), encoding="utf-8")
    check_merge_error(*files, code="not-comparable", part="another")


def check_merge_error(*files: str, code: str, part: str) -> None:
    """Check that the last file cannot be merged."""
    command = optadvise("bench", "--merge", *files)
    assert command.failure is not None
    assert (command.code, command.error) == (2, code)
    assert (command.failure.option, command.failure.value) == ("--merge", files[-1])
    assert part in command.failure.message.replace(files[-1], "")


@pytest.mark.parametrize(
    ("arguments", "code", "option", "value"),
    [
        ("adamw --shrad fsdp --json x.json", ErrorCode.UNKNOWN_OPTION, "--shrad", None),
        ("adamw lion --json x.json", ErrorCode.INVALID_VALUE, "", "adamw lion"),
        ("adamw --shard fsdp", ErrorCode.MISSING_OPTION, "--json", None),
        ("adamw --json", ErrorCode.MISSING_OPTION, "--json", None),
        ("adamw --json no/such/x.json", ErrorCode.FILE_NOT_WRITABLE, "--json", "no/such/x.json"),
        ("adamw --params lots --json x.json", ErrorCode.INVALID_NUMBER, "--params", "lots"),
    ],
)
def test_invalid_options_of_torchrun(
    arguments: str, code: ErrorCode, option: str, value: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError) as caught:
        torchrun_entry._prepare(torchrun_entry.parse_arguments(arguments.split()))
    assert caught.value.code is code
    assert caught.value.option == option
    assert value is None or str(caught.value.value).endswith(value)


def test_errors_under_torchrun_are_one_line(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "optadvise.benchmark.worker", "adamw", "--json"]
    process = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, timeout=120)
    assert (process.returncode, len(process.stderr.splitlines())) == (2, 1), process.stderr


@pytest.mark.parametrize("flag", ["--precision", "--dtype"])
def test_precision_under_torchrun(flag: str) -> None:
    arguments = ["adamw", flag, "bf16", "--json", "x.json"]
    assert torchrun_entry.parse_arguments(arguments).options.precision == "bf16"


def test_rank_without_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    from optadvise.benchmark.distributed.ranks import Ranks

    for name, value in (("RANK", "5"), ("LOCAL_RANK", "1"), ("WORLD_SIZE", "8")):
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 1)
    with pytest.raises(CannotRunHereError) as caught:
        Ranks("cuda")
    assert caught.value.code is ErrorCode.MISSING_DEVICE
    assert "rank 5" in str(caught.value)


def test_options_of_the_cluster_script() -> None:
    text = (ROOT / "examples" / "cluster" / "bench.sbatch").read_text(encoding="utf-8")
    assert subprocess.run(["bash", "-n"], input=text, text=True).returncode == 0
    arguments = (
        text.replace("\\\n", " ").split("-m optadvise.benchmark.worker")[1].split("\n")[0].replace('"', "").split()
    )
    parsed = torchrun_entry.parse_arguments(arguments)
    assert (parsed.names, str(parsed.file), parsed.options.shard) == (["$optimizer"], "$optimizer.json", "fsdp")


@pytest.mark.parametrize(
    ("arguments", "code", "option", "value"),
    [
        ("adamw --shard fsdp", "option-conflict", "--shard", "fsdp"),
        ("adamw --shard zero3", "option-conflict", "--shard", "fsdp"),
        ("adamw --nproc 2 --shard zero2", "unknown-choice", "--shard", "zero2"),
        ("adamw --nproc 0", "out-of-range", "--nproc", "0"),
        ("adamw --nproc 2 --compile", "option-conflict", "--compile", None),
        ("adamw --nproc 2 --optimizer-only", "option-conflict", "--optimizer-only", None),
        ("sgd --nproc 2 --shard fsdp --implementation fused", "option-conflict", "--implementation", "fused"),
        ("adamw --nproc 3 --batch-size 8", "not-divisible", "--batch-size", "8"),
    ],
)
def test_invalid_options_of_several_processes(arguments: str, code: str, option: str, value: str | None) -> None:
    command = optadvise("bench", *arguments.split())
    assert command.failure is not None
    assert (command.code, command.out, len(command.err.splitlines())) == (2, "", 1), command
    assert (command.error, command.failure.option, command.failure.value) == (code, option, value)


# -- sharded recommendations -------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("without_sensitivities")
def test_sharded_recommendations_agree_with_a_single_process(rules: CompiledRules) -> None:
    """Check the optimizer, its alternatives and the suggested changes for every rule of `choose_optimizer`."""
    covered = set()
    for row in rules.tables["choose_optimizer"].rules:
        conditions = row.tests[0].given if row.tests else {}
        for shard, run in itertools.product(("zero1", "zero2", "zero3"), RUNS):
            inputs = {**run, "gpus": 8, "shard": shard}
            inputs |= {name: value for name, value in conditions.items() if name in INPUTS}
            try:
                advice = advise(rules, inputs)
            except InputError:  # contradictory inputs
                continue
            kind = advice.situation.sharding
            assert kind in ("zero1", "fsdp")
            for name in (advice.optimizer.id, *(other.id for other in advice.alternatives)):
                implementation = rules.catalog.optimizer(name).implementations[0]
                assert implementation.sharding.get(kind, AGREES) == AGREES, (inputs, name)
            fit = find_remedies(rules, advice)
            changes = [{k: v for fix in chain for k, v in fix.change.items()} for chain in (fit.fixes if fit else ())]
            for change in changes:
                after = SHARDED.get(str(change.get("shard", shard)), "none")
                name = str(change.get("optimizer", advice.optimizer.id))
                implementation = rules.catalog.optimizer(name).implementations[0]
                assert implementation.sharding.get(after, AGREES) == AGREES, (inputs, change)
            assert not any(name in advice.fused for name in advice.implementation.sharding_kwargs.get(kind, {}))
            covered.add((advice.trace[1].rule, kind))
    assert len(covered) > 30
    assert {("OPT046", "fsdp"), ("OPT023", "fsdp"), ("OPT032", "fsdp")} <= covered


SHARDED = {"zero1": "zero1", "zero2": "fsdp", "zero3": "fsdp"}
INPUTS = ("model", "vendor", "method", "batch_size", "stability", "priority", "tuning", "task", "sparse_gradients")
RUNS: list[dict[str, Any]] = [
    {},
    {"params": 70 * 10**9, "vram_bytes": 24 * 2**30},
    {"params": 13 * 10**9, "vram_bytes": 24 * 2**30},
    {"params": 3 * 10**9, "vram_bytes": 24 * 2**30},
    {"vram_bytes": 24 * 2**30},
    {"method": "qlora", "params": 7 * 10**9},
    {"stability": "spikes"},
    {"batch_size": 32_768},
    {"priority": "memory"},
]


@pytest.mark.parametrize("name", [f"{rank_files.FOLDER_PREFIX}x", "home"])
def test_launcher_removes_only_a_folder_of_ranks(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    removed: list[str] = []
    monkeypatch.setattr(launch, "remove_with_parent", removed.append)
    monkeypatch.setattr(launch, "elastic_launch", lambda *settings: lambda *arguments: None)
    monkeypatch.setattr(sys, "argv", ["launch", "2"])
    monkeypatch.setenv(rank_files.FOLDER, str(tmp_path / name))
    assert launch.main() == 0
    assert removed == [str(tmp_path / name)] * (name != "home")


def test_warnings_about_requested_optimizers_that_break() -> None:
    command = "recommend --model transformer --params 1B --gpus 8 --shard zero3 --optimizer"
    assert "WRN181" in optadvise(*command.split(), "adamw8bit", "--json").out
    assert "WRN182" in optadvise(*command.split(), "soap", "--json").out
    assert "WRN18" not in optadvise(*command.split(), "lamb", "--json").out  # timm's implementation agrees
    assert "WRN18" not in optadvise(*command.split(), "adamw", "--json").out
    stable = json.loads(optadvise(*command.split(), "stable-adamw", "--json").out)
    assert stable["optimizer"]["kwargs"]["foreach"] is False  # its foreach step does not support sharded tensors
    assert "FSDP2" in optadvise("show", "adamw8bit").out
    estimate = "estimate --model transformer --params 13B --gpus 8 --vram 24GB --json --shard"
    for shard, breaking in (("zero3", True), ("zero1", False)):
        ranked = json.loads(optadvise(*estimate.split(), shard).out)["optimizers"]
        assert {one["id"]: one["breaks_sharded"] for one in ranked}["adamw8bit"] is breaking


def test_bench_prefers_implementations_that_agree(rules: CompiledRules) -> None:
    spec = Spec(nproc=2, shard="fsdp")
    (sgd,) = plan.plan_arms(rules, ["sgd"], spec, control=None, implementation=None)
    assert (sgd.path, sgd.variant) == ("torch.optim.SGD", "foreach")
    (single,) = plan.plan_arms(rules, ["sgd"], Spec(), control=None, implementation=None)
    assert single.variant == "fused"


def judge(answer: float | str, case: sharding.Case, catalog: Catalog) -> str:
    """Return the value that a card must have for a case."""
    implementation = next(
        one for one in catalog.optimizer(case.optimizer).implementations if one.id == case.implementation
    )
    tolerance = (implementation.audit.rounding or 0.0) if implementation.audit else 0.0
    card = catalog.optimizer(case.optimizer)
    # With quantized momentum, the rounding of the ranks' mean sometimes flips a sign; exact signs agree.
    if card.family == "sign" and any(state.dtype in ("uint8", "int8") for state in card.state):
        tolerance += 5e-3
    return AGREES if not isinstance(answer, str) and answer <= 1e-3 + tolerance else "breaks"


def check_cards(cases: list[sharding.Case], catalog: Catalog) -> None:
    """Compare cards with measurements of the variants that may be used with sharding."""
    measured: dict[tuple[str, str, str], set[str]] = {}
    for case, answer in sharding.run_cases(cases):
        implementation = next(
            one for one in catalog.optimizer(case.optimizer).implementations if one.id == case.implementation
        )
        choice, spec = variants.Choice(implementation, case.variant), convert({"nproc": 2, "shard": case.shard}, Spec)
        if case.shard in implementation.sharding and variants.runs_sharded(choice, spec):
            key = case.optimizer, case.implementation, case.shard
            measured.setdefault(key, set()).add(judge(answer, case, catalog))
    assert measured
    for (name, implementation_id, shard), verdicts in measured.items():
        implementation = next(one for one in catalog.optimizer(name).implementations if one.id == implementation_id)
        expected = AGREES if implementation.sharding[shard] == AGREES else "breaks"
        assert verdicts == {expected}, (name, implementation_id, shard)


@pytest.mark.parametrize("shard", rotated(1, ["zero1", "fsdp"]))
def test_sharding_of_one_card(shard: str, catalog: Catalog) -> None:
    check_cards([case for case in sharding.list_cases(catalog, ["adamw8bit"]) if case.shard == shard], catalog)


def test_sharding_is_known_for_all_implementations(catalog: Catalog) -> None:
    """Except where it requires a GPU or sparse gradients, and for SOAP, where rounding errors change the result."""
    missing = {
        (name, made.id, *(shard for shard in sharding.SHARDS if shard not in made.sharding))
        for name in catalog.optimizer_ids for made in catalog.optimizer(name).implementations
        if {*made.sharding} != {*sharding.SHARDS}
    }  # fmt: skip
    unmeasured = ("none", "zero1", "fsdp")
    tables = {("rowwise-adagrad", "torchrec", *unmeasured), ("sparse-adam", "torch", *unmeasured)}  # dense workloads
    assert missing == {("lamb", "apex", *unmeasured), ("soap", "pytorch-optimizer", "none", "zero1"), *tables}
    apex = next(made for made in catalog.optimizer("lamb").implementations if made.id == "apex")
    assert apex.devices == ("cuda",)


@pytest.mark.slow
def test_sharding_of_all_cards(catalog: Catalog) -> None:
    cases = list(sharding.list_cases(catalog))
    assert {(case.optimizer, case.implementation, case.shard) for case in cases} >= {
        (name, made.id, shard) for name in catalog.optimizer_ids for made in catalog.optimizer(name).implementations
        if variants.is_importable(made) for shard in made.sharding
    }  # fmt: skip
    check_cards(cases, catalog)
