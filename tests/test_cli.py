"""The commands as a person types them: the answers that the guide or the field gives, and every bad input."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.cli.spellings import JSON_FILE_COMMANDS, normalize_arguments
from optadvise.rulebase.catalog import load
from optadvise.rulebase.records import RunInput
from tests.cli import optadvise
from tests.conftest import ROOT

SCHEMA = json.loads((ROOT / "docs" / "schema" / "recommendation.json").read_text(encoding="utf-8"))


def advice(*arguments: str) -> dict[str, Any]:
    result = optadvise("recommend", *arguments, "--json")
    assert result.code == 0, result.err
    assert result.err == ""
    data: dict[str, Any] = json.loads(result.out)
    jsonschema.validate(data, SCHEMA)
    return data


@pytest.mark.parametrize(
    ("line", "optimizer", "schedule", "cite"),
    [
        ("--model transformer --vram 24GB", "adamw8bit", "warmup-cosine", "guide#decision-flowchart"),
        ("--model transformer", "adamw", "warmup-cosine", "guide#general-deep-learning"),
        ("--model cnn", "sgd-momentum", "step", "arxiv:1512.03385"),
        ("--model cnn --policy guide", "adamw", "warmup-cosine", "guide#general-deep-learning"),
        ("--model cnn --tuning high", "sgd-momentum", "cosine", "arxiv:1512.03385"),
        ("--model cnn --tuning high --policy guide", "sgd-momentum", "cosine", "guide#decision-flowchart"),
        ("--model cnn --tuning high --priority accuracy --policy guide", "sgd-nesterov", "cosine",
         "guide#general-deep-learning"),
        ("--model cnn --batch-size 128", "sgd-momentum", "step", "arxiv:1706.02677"),
        ("--model cnn --batch-size 128 --policy guide", "ranger", "warmup-cosine", "guide#by-constraint"),
        ("--model cnn --batch-size 16384", "lars", "warmup-cosine", "arxiv:1708.03888"),
        ("--model bert --task pretrain --batch-size 16384", "lamb", "warmup-linear", "arxiv:1904.00962"),
        ("--model transformer --batch-size 16384 --policy guide", "lamb", "warmup-cosine",
         "guide#large-batch-optimizers-lamb-and-lars"),
        ("--model transformer --batch-size 16384", "adamw", "warmup-cosine", "guide#general-deep-learning"),
        ("--model transformer --batch-size 8192", "adamw", "warmup-cosine", "guide#general-deep-learning"),
        ("--model transformer --stability spikes", "stable-adamw", "warmup-cosine", "guide#stableadamw"),
        ("--priority accuracy", "adamw", "warmup-cosine", "guide#general-deep-learning"),
        ("--priority accuracy --policy guide", "sgd-momentum", "warmup-cosine", "guide#by-constraint"),
        ("--priority memory --model transformer", "adamw8bit", "warmup-cosine", "arxiv:2110.02861"),
        ("--priority memory --model transformer --policy guide", "lion", "warmup-cosine",
         "guide#llm-training--fine-tuning"),
        ("--priority memory --model transformer --gpu gaudi2", "lion", "warmup-cosine",
         "guide#lion-the-memory-efficient-alternative"),
        ("--priority speed", "adamw", "constant", "guide#general-deep-learning"),
        ("--task finetune --method qlora --params 65B --vram 48GB --model transformer", "paged-adamw32bit",
         "warmup-cosine", "arxiv:2305.14314"),
        ("--model gan", "adam", "constant", "arxiv:1511.06434"),
        ("--model rl", "adam", "constant", "arxiv:1707.06347"),
        ("--model diffusion", "adamw", "warmup-constant", "arxiv:2212.09748"),
        ("--model recsys --sparse-gradients", "adagrad", "constant", "guide#when-to-avoid-sgd"),
        ("", "adamw", "warmup-cosine", "guide#general-deep-learning"),
    ],
)  # fmt: skip
def test_optimizer_and_schedule_match_the_guide_or_common_practice(
    line: str, optimizer: str, schedule: str, cite: str
) -> None:
    data = advice(*line.split())
    assert (data["optimizer"]["id"], data["scheduler"]["id"]) == (optimizer, schedule)
    chosen = next(t for t in data["trace"] if t["table"] == "choose_optimizer")
    assert cite in chosen["cite"]


def test_tight_memory_takes_precedence_over_large_batches_and_spikes() -> None:
    data = advice(*"--model transformer --params 1.4B --vram 24GB --batch-size 16K --stability spikes".split())
    assert data["optimizer"]["id"] == "adamw8bit"
    assert {"WRN130", "WRN131"} <= {w["id"] for w in data["warnings"]}
    assert data["optimizer"]["kwargs"]["betas"] == [0.9, 0.95]


def test_memory_limit_without_model_size_returns_largest_models() -> None:
    data = advice("--model", "transformer", "--vram", "24GB")
    assert "lion" in [a["id"] for a in data["alternatives"]]
    bands = {b["id"]: b for b in data["bands"]}
    assert bands["adamw8bit"]["max_params"] > bands["lion"]["max_params"] > bands["adamw"]["max_params"]
    # The edge is where it is result to be: that many parameters are expected to fit, and one more are not.
    edge = bands["adamw"]["max_params"]
    totals = [
        json.loads(optadvise("estimate", "--params", str(edge + more), "--json").out)["memory"]["total_bytes"]
        for more in (0, 1000)
    ]
    assert totals[0] <= 24 * 2**30 < totals[1]
    assert {"adamw"} == {f["optimizer"] for f in data["flips"] if f["change"].get("params", "").startswith("<=")}


def test_unknown_memory_figures_are_null() -> None:
    memory = advice(*"--model transformer --params 1B --vram 24GB --precision fp32".split())["memory"]
    assert (memory["weights_bytes"], memory["gradients_bytes"]) == (4 * 10**9, 4 * 10**9)
    assert memory["optimizer_bytes"] == pytest.approx(8 * 10**9, rel=1e-6)
    assert memory["interval"]["total_bytes"]["low"] < memory["total_bytes"]
    memory = advice(*"--model gnn --params 1B --vram 24GB --precision fp32".split())["memory"]
    assert (memory["activations_bytes"], memory["overhead_bytes"], memory["total_bytes"]) == (None, None, None)
    assert memory["fits"] is None  # nobody can say yes before activations are known


def test_full_fine_tuning_that_does_not_fit() -> None:
    data = advice(*"--model transformer --params 30B --vram 24GB --task finetune".split())
    assert data["memory"]["fits"] is False
    assert {"qlora", "zero3"} <= {v for chain in data["fixes"] for fix in chain for v in fix["change"].values()}
    assert "WRN141" in {w["id"] for w in data["warnings"]}


def test_sharded_mixed_precision_matches_the_zero_paper() -> None:
    """ZeRO, figure 1: 7.5B parameters on 64 GPUs take 31.4, 16.6 and 1.9 GB in stages 1, 2 and 3."""
    line = "--model transformer --params 7.5B --gpus 64 --optimizer adamw --shard"
    for shard, gigabytes in (("zero1", 31.4), ("zero2", 16.6), ("zero3", 1.9)):
        assert advice(*line.split(), shard)["memory"]["known_bytes"] == pytest.approx(gigabytes * 1e9, rel=0.02)


def test_sensitivity_reports_the_nearest_model_size() -> None:
    data = advice("--model", "transformer", "--params", "1.3B", "--gpu", "a100")
    flips = {pair: f["optimizer"] for f in data["flips"] for pair in f["change"].items()}
    over = next(change for name, change in flips if name == "params")
    assert flips["params", over] == "adamw8bit"
    edge = float(over.removeprefix("[").split("B")[0])
    for size, optimizer in ((edge - 0.01, "adamw"), (edge, "adamw8bit")):
        line = f"--model transformer --params {size:.4g}B --gpu a100"
        assert advice(*line.split())["optimizer"]["id"] == optimizer


def test_gpu_without_bf16_gets_fp16() -> None:
    assert advice("--model", "transformer", "--gpu", "t4")["situation"]["precision"] == "amp-fp16"
    assert advice("--model", "transformer", "--gpu", "a100")["situation"]["precision"] == "amp-bf16"


def test_sparse_gradients_are_not_clipped() -> None:
    data = advice("--model", "transformer", "--sparse-gradients", "--optimizer", "adamw")
    assert next(h["value"] for h in data["hyperparameters"] if h["name"] == "max_grad_norm") is None
    assert "WRN171" in {w["id"] for w in data["warnings"]}


def test_scaled_learning_rate_gets_a_warmup() -> None:
    for tuning in ("low", "high"):
        data = advice("--model", "cnn", "--batch-size", "4096", "--tuning", tuning)
        assert data["scheduler"]["id"] == "warmup-cosine"


def test_import_path_resolves_to_its_optimizer() -> None:
    assert advice("--optimizer", "bitsandbytes.optim.AdamW8bit")["optimizer"]["id"] == "adamw8bit"


def test_adapters_gain_little_from_8bit_state() -> None:
    data = advice(*"--model transformer --params 13B --vram 24GB --method lora".split())
    assert data["optimizer"]["id"] == "adamw"
    assert "WRN140" in {w["id"] for w in data["warnings"]}


def test_hyperparameters_have_derivations() -> None:
    data = advice("--model", "transformer", "--optimizer", "lion")
    rate = next(h for h in data["hyperparameters"] if h["name"] == "lr")
    assert [entry["step"] for entry in rate["ledger"]] == ["set 3e-4", "× 0.2"]
    assert rate["value"] == pytest.approx(6e-5)
    assert (rate["low"], rate["high"]) == (pytest.approx(3e-5), pytest.approx(1e-4))
    assert rate["ledger"][-1]["cite"] == ["guide#lion-the-memory-efficient-alternative"]


def test_unspecified_facts_are_listed_as_assumed() -> None:
    data = advice("--model", "cnn", "--tuning", "high")
    assert {"task", "method", "batch_size", "params", "precision"} <= set(data["situation"]["assumed"])
    assert {"model", "tuning"}.isdisjoint(data["situation"]["assumed"])


@pytest.mark.parametrize(
    ("line", "error", "option"),
    [
        ("recommend --vram 24XB", "invalid-number", "--vram"),
        ("recommend --vram 24000", "invalid-number", "--vram"),
        ("recommend --vram 0GB", "out-of-range", "--vram"),
        ("recommend --vram -5GB", "invalid-number", "--vram"),
        ("recommend --params -1", "invalid-number", "--params"),
        ("recommend --params 7", "out-of-range", "--params"),
        ("recommend --params 15000.5", "invalid-number", "--params"),
        ("recommend --batch-size 0", "out-of-range", "--batch-size"),
        ("recommend --batch-size 1e99", "out-of-range", "--batch-size"),
        ("recommend --model tranformer", "unknown-choice", "--model"),
        ("recommend --task fineture", "unknown-choice", "--task"),
        ("recommend --optimizer adamww", "unknown-name", "--optimizer"),
        ("recommend --gpu rtx-4099", "unknown-name", "--gpu"),
        ("recommend --gpu h100 --vram 24GB", "option-conflict", "--vram"),
        ("recommend --method qlora --model cnn", "option-conflict", "--method"),
        ("recommend --method lora --task pretrain", "option-conflict", "--method"),
        ("recommend --shard zero2", "option-conflict", "--shard"),
        ("recommend --batch-size 100 --micro-batch 16", "not-divisible", "--micro-batch"),
        ("recommend --format jsn", "unknown-choice", "--format"),
        ("recommend --json --format python", "option-conflict", "--format"),
        ("recommend --lora-rank 8", "option-conflict", "--method"),
        ("recommend --bogus", "unknown-option", "--bogus"),
        ("recommend --lr 1e-3", "unknown-option", "--lr"),
        ("recommend --warmup 3", "unknown-option", "--warmup"),
        ("recommend --vram", "missing-option", "--vram"),
        ("recommend extra", "invalid-value", None),
        ("recommend --rules /does/not/exist", "file-not-found", "--rules"),
        ("recomend", "unknown-option", None),
        ("show adamww", "unknown-name", None),
        ("list --family adaptve", "unknown-choice", "--family"),
        ("list --for transfomer", "unknown-choice", "--for"),
        ("recommend --lora=8", "invalid-value", "--lora"),
        ("recommend --gpus 8xh100 --gpu a100", "option-conflict", "--gpu"),
        ("recommend --gpu 8xh100 --gpus 4", "option-conflict", "--gpus"),
        ("list --for dpo", "option-conflict", "--for"),
        ("list --gpus --archs", "option-conflict", "--networks"),
        ("list --gpus --tree", "option-conflict", "--tree"),
        ("list --tree --json", "option-conflict", "--json"),
        ("list --max-state-bytes nan", "out-of-range", "--max-state-bytes"),
        ("schedule wsd --output a.png --plot a.png", "option-conflict", "--output"),
    ],
)
def test_invalid_input_has_one_line_and_a_code(line: str, error: str, option: str | None) -> None:
    result = optadvise(*line.split())
    assert (result.code, result.error) == (2, error), result.err
    assert result.failure is not None
    assert result.failure.option == option
    assert result.out == "" or json.loads(result.out)["code"] == error
    assert result.err.startswith("optadvise: ")
    assert len(result.err.splitlines()) == 1
    assert option is None or option in result.err


@pytest.mark.parametrize(
    ("tried", "declared"),
    [
        ("recommend --batch 64", "recommend --batch-size 64"),
        ("recommend --batch_size=64", "recommend --batch-size 64"),
        ("recommend --fp16", "recommend --precision amp-fp16"),
        ("recommend --precision bf16-mixed", "recommend --precision amp-bf16"),
        ("recommend --model llm --vram 24", "recommend --model transformer --architecture decoder --vram 24GB"),
        ("recommend --task sft --params 8B", "recommend --task finetune --params 8B"),
        ("recommend --gpus 8xH100 --params 8B", "recommend --gpus 8 --gpu h100 --params 8B"),
        ("recommend --gpu 8xH100 --params 8B", "recommend --gpus 8 --gpu h100 --params 8B"),
        ("recommend --gpus 2 --params 8B --shard fsdp", "recommend --gpus 2 --params 8B --shard zero3"),
        ("recommend --params 8B --checkpointing", "recommend --params 8B --checkpointing full"),
        ("recommend --params 8B --max-seq-length 4096", "recommend --params 8B --seq-len 4096"),
        ("recommend --bf16 True", "recommend --precision amp-bf16"),
        ("recommend --gradient_checkpointing=true --params 1B", "recommend --checkpointing full --params 1B"),
    ],
)
def test_foreign_spellings_are_accepted(tried: str, declared: str) -> None:
    answer = optadvise(*tried.split(), "--json")
    assert answer.code == 0, answer.err
    assert answer.out == optadvise(*declared.split(), "--json").out


def test_arguments_after_two_dashes_are_not_rewritten() -> None:
    assert normalize_arguments(["show", "--", "--json", "x.json"]) == ["show", "--", "--json", "x.json"]
    assert normalize_arguments(["schedule", "wsd", "-o", "q.txt"]) == ["schedule", "wsd", "-o", "q.txt"]
    assert normalize_arguments(["schedule", "wsd", "-o", "q.png"]) == ["schedule", "wsd", "--plot", "q.png"]


def test_a_failure_prints_no_json_on_stdout_if_json_goes_to_a_file(tmp_path: Path) -> None:
    for line in (
        "recommend --params x --json a.json",
        "bench adamw --steps 0 --json a.txt",
        "list --bogus --json a.json",
    ):
        result = optadvise(*line.split())
        assert (result.code, result.out) == (2, ""), line


@pytest.mark.parametrize("command", ["recommend", *JSON_FILE_COMMANDS])
def test_a_rejected_argument_is_reported_as_json_on_stdout(command: str) -> None:
    result = optadvise(command, "--json", "--no-such-option")
    assert (result.code, json.loads(result.out)["code"]) == (2, "unknown-option")


def test_json_and_output_are_consistent_across_commands(tmp_path: Path) -> None:
    for line in (
        "recommend",
        "estimate --params 1B",
        "list",
        "list --gpus",
        "list --archs",
        "show adamw",
        "schedule wsd",
    ):
        file = tmp_path / "answer.json"
        printed = optadvise(*line.split(), "--json")
        for spelling in (["--json", "--output", str(file)], ["--json", str(file)]):
            written = optadvise(*line.split(), *spelling)
            assert (written.code, written.out) == (0, ""), line
            assert file.read_text(encoding="utf-8") == printed.out


def test_empty_rules_folder(tmp_path: Path) -> None:
    result = optadvise("recommend", "--rules", str(tmp_path))
    assert (result.code, result.error) == (2, "file-not-found")


def test_unreadable_rules_file(tmp_path: Path) -> None:
    (tmp_path / "optimizers").mkdir()
    (tmp_path / "optimizers" / "gone.yaml").symlink_to(tmp_path / "nowhere.yaml")  # unreadable for root as well
    result = optadvise("recommend", "--rules", str(tmp_path))
    assert (result.code, result.error) == (3, "file-unreadable")
    assert result.failure is not None
    assert str(result.failure.where).endswith("gone.yaml")


def test_gpu_name_sets_the_memory() -> None:
    situation = advice("--model", "transformer", "--gpu", "rtx 4090")["situation"]
    assert situation["vram_bytes"] == 24 * 2**30
    assert situation["gpu"] == "GeForce RTX 4090"


@pytest.mark.parametrize(
    ("gpu", "vram", "name", "gib"),
    [
        ("m2 ultra", "192GB", "Apple M2 Ultra, 192 GB", 192),
        ("m4 max", "48GB", "Apple M4 Max", 48),  # a size that is not listed
        ("a100", "40GB", "A100 40 GB", 40),
        ("t4", "16", "Tesla T4", 15),
    ],
)
def test_gpu_with_a_stated_memory(gpu: str, vram: str, name: str, gib: int) -> None:
    situation = advice("--gpu", gpu, "--vram", vram)["situation"]
    assert (situation["gpu"], situation["vram_bytes"]) == (name, gib * 2**30)


def test_stdout_has_only_json_and_may_close_early() -> None:
    command = f"{sys.executable} -m optadvise recommend --model transformer --vram 24GB --json | head -c 10"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.stderr == ""
    assert done.stdout.startswith("{")


@pytest.mark.parametrize(
    ("line", "end"),
    [
        ("rules diff rules", "; see optadvise rules diff --help"),
        ("rules nosuch", "; see optadvise rules --help"),
        ("recommend --nosuch", "; see optadvise recommend --help"),
        ("nosuch", "; see optadvise --help"),
        ("verify --claim zzzzzz", "list all with optadvise list --claims"),
        ("bench zzzzzz", "optadvise list prints all"),
    ],
)
def test_error_ends_with_advice(line: str, end: str) -> None:
    result = optadvise(*line.split())
    assert result.code == 2
    assert result.err.endswith(f"{end}\n")


@pytest.mark.parametrize("closed", ["<&-", ">&-", "2>&-"])
def test_closed_standard_streams(closed: str) -> None:
    for line, code in (("recommend --interactive --json", 0), ("recommend --model cnnn", 2), ("bench -", 2)):
        command = f"{sys.executable} -m optadvise {line} {'' if '<' in closed else '< /dev/null'} {closed}"
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False, cwd=ROOT)
        assert done.returncode == code
        assert "Traceback" not in done.stderr
        assert done.stdout == "" or json.loads(done.stdout)["optimizer"]["id"] == "adamw"


def test_terminal_without_unicode() -> None:
    environment = {**os.environ, "PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0"}
    command = [sys.executable, "-m", "optadvise", "recommend"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment)
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize("command", ["recommend", "list", "show"])
def test_help_documents_exit_codes(command: str) -> None:
    result = optadvise(command, "--help")
    assert result.code == 0
    assert "Exit codes" in result.out
    assert all(len(line) <= 100 for line in result.out.splitlines())


def test_list_filters() -> None:
    ids = {o["id"] for o in json.loads(optadvise("list", "--max-state-bytes", "4", "--json").out)["optimizers"]}
    assert {"sgd", "sgd-momentum", "lion", "adamw8bit"} <= ids
    assert {"adamw", "ranger", "adan"}.isdisjoint(ids)
    ids = {o["id"] for o in json.loads(optadvise("list", "--family", "sgd", "--json").out)["optimizers"]}
    assert {"sgd", "sgd-momentum", "sgd-nesterov"} <= ids
    assert "adamw" not in ids
    transformers = optadvise("list", "--for", "transformer", "--json").out
    assert optadvise("list", "--for", "llm", "--json").out == transformers
    ids = {o["id"] for o in json.loads(transformers)["optimizers"]}
    assert "adamw" in ids
    assert "sgd" not in ids


def test_family_tree_matches_the_guide() -> None:
    tree = optadvise("list", "--tree").out
    for child, parent in [("adamw8bit", "adamw"), ("lion", "adamw"), ("lamb", "adam"), ("rmsprop", "adagrad")]:
        card = json.loads(optadvise("show", child, "--json").out)
        assert parent in card["parents"]
        assert child in tree


@pytest.mark.parametrize("name", ["adamw8bit", "warmup-cosine", "OPT040", "wrn010", "CON999"])
def test_show_prints_cards_schedules_and_rules_within_80_columns(name: str) -> None:
    result = optadvise("show", name)
    assert result.code == 0
    assert all(
        len(line) <= 80 or len(line.split()) == 1 for line in result.out.splitlines()
    )  # addresses are not broken
    assert json.loads(optadvise("show", name, "--json").out)["schema_version"] == 1


def test_a_damaged_cache_is_reported_in_one_line(tmp_path: Path) -> None:
    """The rules are read before the command runs, for its options."""
    environment = {**os.environ, "OPTADVISE_CACHE_DIR": str(tmp_path)}
    command = [sys.executable, "-m", "optadvise", "recommend"]
    subprocess.run(command, capture_output=True, check=True, env=environment)
    for entry in tmp_path.glob("*.json"):
        entry.write_bytes(entry.read_bytes()[:-5])
    done = subprocess.run(command, capture_output=True, text=True, check=True, env=environment)
    lines = done.stderr.splitlines()
    assert lines
    assert all(line.startswith("optadvise: warning: ") for line in lines)


def test_help_shows_the_default_optimizer_of_each_command() -> None:
    (option,) = [option for option in load().options if option.flag == "--optimizer"]
    assert isinstance(option, RunInput)
    assert option.defaults["estimate"] == CompiledRules(load()).reference_optimizer
    for command, default in option.defaults.items():
        assert f"Use this optimizer (default: {default})." in " ".join(optadvise(command, "--help").out.split())


@pytest.mark.parametrize(
    ("line", "remedy"),
    [
        ("--gpu gaudi2 --optimizer adamw8bit", "--optimizer lion"),
        ("--gpu gaudi2 --optimizer paged-adamw8bit", "--optimizer lion"),
        ("--gpu m2-ultra --optimizer lion8bit", "--optimizer lion"),
        ("--gpu m2-ultra --task finetune --method qlora", "--method lora"),
        ("--gpu mi300x --optimizer paged-adamw32bit", "--optimizer adamw8bit"),
    ],
)
def test_choices_that_the_gpu_does_not_support_are_rejected(line: str, remedy: str) -> None:
    done = optadvise("recommend", "--model", "llm", "--params", "7B", *line.split())
    assert (done.code, done.error) == (2, "option-conflict"), done.out
    assert remedy in done.err


@pytest.mark.parametrize("gpu", ["gaudi2", "m3-max-128gb", "mi300x", "max-1550", "h100"])
@pytest.mark.parametrize(
    "line", ["--task finetune", "--task finetune --method qlora", "--priority memory", "--params 70B"]
)
def test_the_guide_recommends_only_what_the_gpu_supports(gpu: str, line: str) -> None:
    arguments = ["recommend", "--model", "llm", "--params", "7B", *line.split(), "--gpu", gpu]
    done = optadvise(*arguments, "--policy", "guide", "--json")
    if done.code == 2:
        assert (gpu, "qlora" in line, done.error) == ("m3-max-128gb", True, "option-conflict")
    else:
        name = json.loads(done.out)["optimizer"]["id"]
        assert optadvise(*arguments, "--optimizer", name).code == 0
