"""Everything that an answer prints holds when it is run as printed: changes, alternatives, fixes and largest inputs."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
from collections.abc import Callable, Iterator, Sequence
from decimal import Decimal
from itertools import pairwise
from random import Random
from typing import Any
from unittest import mock

import pytest

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.complete import complete_situation
from optadvise.advice.decide import choose_optimizer
from optadvise.advice.inputs import parse_inputs
from optadvise.advice.memory_answer import answer_memory, find_remedies
from optadvise.advice.recommend import advise
from optadvise.benchmark.options import BenchOptions
from optadvise.benchmark.request import prepare_request
from optadvise.core.advice_records import Recommendation
from optadvise.core.errors import InputError
from optadvise.core.json_text import to_json_object
from optadvise.core.records import MemoryAnswer, Situation
from optadvise.core.units import show_bytes
from optadvise.memory.estimator import estimate, fits
from optadvise.memory.inputs import select_memory_inputs
from optadvise.memory.network_size import find_network_size
from optadvise.memory.search import with_micro_batch
from optadvise.render import headings
from optadvise.render.documents import build_recommendation
from optadvise.render.explanation import Explanation
from optadvise.render.text.advice import render_text
from optadvise.render.text.estimate import print_estimate
from optadvise.rule_analysis.why_not import explain_decisions
from optadvise.rulebase.catalog import load
from tests.answers import Change, apply_options, find_section, read_change, read_changes, read_fixes
from tests.conftest import rotated

RULES = CompiledRules(load())
FLAGS = {option.flag: option for option in RULES.catalog.options if option.flag}
VALUES: dict[str, Sequence[str]] = {
    "--params": ("1M", "25M", "100M", "350M", "999M", "1B", "1.1B", "1.3B", "3B", "7B", "8B", "70B", "405B"),
    "--vram": ("512MB", "2GB", "4GB", "8GB", "16GB", "24GB", "40GB", "80GB", "141GB"),
    "--gpu": tuple(gpu.id for gpu in RULES.catalog.gpus),
    "--gpus": ("2", "3", "4", "8", "64"),
    "--batch-size": ("1", "8", "12", "64", "256", "512", "1024", "8192", "16384"),
    "--micro-batch": ("1", "2", "4", "16"),
    "--seq-len": ("128", "2048", "4000", "32768"),
    "--image-size": ("64", "224", "512"),
    "--lora-rank": ("8", "256"),
    "--arch": ("gpt2", "llama-3-8b", "bert-base", "resnet50", "vit-b-16", "t5-large"),
    "--optimizer": tuple(RULES.catalog.optimizer_ids),
}
VALUES |= {
    str(fact.flag): tuple(fact.values)
    for fact in RULES.catalog.facts.values()
    if fact.flag and fact.values and fact.type == "choice"
}
OFTEN = {"--model": 0.6, "--batch-size": 0.4}
ONE_OF = (("--vram", "--gpu"), ("--params", "--params", "--arch"))  # options that exclude each other
OTHERS = [flag for flag in VALUES if not any(flag in flags for flags in ONE_OF)]
RARELY = {"--gradient-release": 0.05, "--clipping": 0.05, "--offload": 0.08, "--sparse-gradients": 0.05}


# -- situations -------------------------------------------------------------------------------------------------------


def draw(seed: int) -> list[str]:
    """Return the arguments of a random run that the rules accept."""
    random = Random(seed)
    while True:
        flags = [random.choice(flags) for flags in ONE_OF if random.random() < 0.8]
        flags += [flag for flag in OTHERS if random.random() < OFTEN.get(flag, 0.12)]
        arguments = [text for flag in flags for text in (flag, random.choice(VALUES[flag]))]
        arguments += [flag for flag, share in RARELY.items() if random.random() < share]
        if complete(arguments) is not None and choose(arguments) is not None:
            return arguments


def parse(arguments: Sequence[str]) -> dict[str, Any]:
    """Return the stated facts of a command line."""
    typed: dict[str, Any] = {}
    rest = iter(arguments)
    for flag in rest:
        option = FLAGS[flag]
        typed[option.name] = True if option.type == "flag" else next(rest)
    return parse_inputs(RULES.catalog, typed)


def complete(arguments: Sequence[str]) -> Situation | None:
    """Return the run of a command line; None if it is rejected."""
    try:
        situation = complete_situation(RULES, parse(arguments))
        if situation.params is not None:  # networks without layers for adapters are rejected when they are sized
            find_network_size(RULES.memory_rules, select_memory_inputs(situation))
    except InputError:
        return None
    return situation


def choose(arguments: Sequence[str]) -> str | None:
    """Return the optimizer that the rules choose; None if the command line is rejected."""
    try:
        return choose_optimizer(RULES, complete_situation(RULES, parse(arguments)))
    except InputError:
        return None


def is_fitting(arguments: Sequence[str], optimizer: str) -> bool:
    """Return whether a run is expected to fit with an optimizer."""
    situation = complete(apply_options(arguments, ["--optimizer", optimizer]))
    assert situation is not None, (arguments, optimizer)
    return fits(RULES.memory_rules, with_micro_batch(RULES.memory_rules, situation, optimizer), optimizer)


@contextlib.contextmanager
def wide_page() -> Iterator[None]:
    """Print pages that are so wide that nothing is wrapped."""
    with mock.patch.dict(os.environ, COLUMNS="400"):
        yield


def print_recommendation(advice: Recommendation) -> str:
    """Return the page of `recommend --explain`."""
    explanation = Explanation(RULES.axes, explain_decisions(RULES, advice.situation))
    with wide_page():
        return render_text(advice, RULES.catalog, find_remedies(RULES, advice), explanation, plain=True)


def print_answer(answer: MemoryAnswer) -> str:
    """Return the page of `estimate`."""
    out = io.StringIO()
    with wide_page(), contextlib.redirect_stdout(out):
        print_estimate(answer, RULES.catalog, everything=False)
    return out.getvalue()


def step_from(text: str, direction: int, step: int = 1) -> str:
    """Return the neighboring figure with the same digits: `1.14B` and -1 is `1.13B`."""
    match = re.fullmatch(r"([\d.]+)(\D*)", text)
    assert match is not None, text
    number = Decimal(match[1])
    digit = Decimal(1).scaleb(int(number.as_tuple().exponent)) if match[2] else Decimal(step)
    if number.adjusted() < 2 and match[2]:  # show_count drops zeros: 1.1B has three digits
        digit = min(digit, Decimal(1).scaleb(number.adjusted() - 2))
    return f"{number + direction * digit:f}{match[2]}"


def list_values_outside(flag: str, ends: Sequence[tuple[str, int]], step: int) -> Iterator[str]:
    """Yield the values beside a range; none for sizes, as ranges of less than 5 % are not printed."""
    if flag not in ("--params", "--vram"):
        yield from (step_from(text, direction, step) for text, direction in ends)


# -- recommendations --------------------------------------------------------------------------------------------------


def check_change(arguments: Sequence[str], answer: str, change: Change, optimizer: str) -> None:
    assert optimizer != answer, change
    for options in change.options:
        assert choose(apply_options(arguments, options)) == optimizer, options
    if change.bound in ("more", "less"):
        (flag, value), *_ = change.options
        away = 1 if change.bound == "more" else -1
        step = find_batch_step(arguments) if flag == "--batch-size" else 1
        for distance in (1, 7, 10**6):  # also far away
            further = choose(apply_options(arguments, [flag, step_from(value, away * distance, step)]))
            assert further in (optimizer, None), (flag, value, distance)
        for outside in list_values_outside(flag, [(value, -away)], step):
            assert choose(apply_options(arguments, [flag, outside])) != optimizer, (flag, value)
    if change.bound == "to":
        (flag, low), (_, high) = change.options
        step = find_batch_step(arguments) if flag == "--batch-size" else 1
        for outside in list_values_outside(flag, [(low, -1), (high, 1)], step):
            assert choose(apply_options(arguments, [flag, outside])) != optimizer, (flag, low, high)


def find_batch_step(arguments: Sequence[str]) -> int:
    options = dict(pairwise(arguments))
    return int(options.get("--gpus", 1)) * int(options.get("--micro-batch", 1))


def check_alternatives(arguments: Sequence[str], advice: Recommendation) -> None:
    for other in advice.alternatives:
        asked = advise(RULES, parse(apply_options(arguments, ["--optimizer", other.id])))
        assert asked.optimizer.id == other.id
        assert asked.memory.fits == other.fits, (other.id, asked.memory.fits, other.fits)


def list_chosen(situation: Situation) -> list[str]:
    """Return the choices of a run's plan as options."""
    chosen = {str(RULES.catalog.facts[name].flag): getattr(situation, name) for name in situation.chosen}
    return [text for flag, value in chosen.items() for text in ([flag] if value is True else [flag, value])]


def check_fixes(arguments: Sequence[str], page: str, optimizer: str) -> None:
    for peak, options in read_fixes(page):
        run = apply_options(apply_options(arguments, ["--optimizer", optimizer]), options)
        situation = complete(run)
        assert situation is not None, options
        memory = answer_memory(RULES, situation).memory
        required = (memory.total or memory.model_states or 0) - memory.pageable
        assert required <= (memory.available or 0), options
        assert memory.total is None or show_bytes(required) == peak, (options, show_bytes(required), peak)


def check_model_sizes(arguments: Sequence[str], page: str) -> None:
    for line in find_section(page, headings.MODEL_SIZES):
        row = re.match(r"\s*(\S+)\s+(\d[\d,.]*[KMBT]?)\s+\d", line)
        if row is not None:
            optimizer, size = row[1], row[2].replace(",", "")
            assert is_fitting(apply_options(arguments, ["--params", size]), optimizer), line
            larger = apply_options(arguments, ["--params", step_from(size, 1)])
            assert complete(larger) is None or not is_fitting(larger, optimizer), line


def check_recommendation(arguments: Sequence[str]) -> None:
    advice = advise(RULES, parse(arguments))
    page = print_recommendation(advice)
    for text, optimizer in read_changes(page):
        check_change(arguments, advice.optimizer.id, read_change(text), optimizer)
    check_alternatives(arguments, advice)
    check_fixes(apply_options(arguments, list_chosen(advice.situation)), page, advice.optimizer.id)
    check_model_sizes(arguments, page)


# -- estimates --------------------------------------------------------------------------------------------------------


def fits_at(arguments: Sequence[str], flag: str, value: int) -> bool:
    """Return whether a run fits with a number that the estimate prints."""
    memory = rerun(apply_options(arguments, [flag, str(value)])).memory
    return memory.total is not None and memory.total - memory.pageable <= (memory.available or 0)


def rerun(arguments: Sequence[str]) -> MemoryAnswer:
    situation = complete(arguments)
    assert situation is not None, arguments
    return answer_memory(RULES, situation)


def check_estimate(arguments: Sequence[str]) -> None:
    answer = rerun(arguments)
    page = print_answer(answer)
    check_fixes(arguments, page, answer.optimizer)
    largest = re.search(r"Largest micro-batch +([\d,]+)", page)
    if largest is not None:
        check_micro_batch(arguments, answer, int(largest[1].replace(",", "")))
    longest = re.search(r"Longest sequence +([\d,]+) tokens at micro-batch ([\d,]+)", page)
    if longest is not None:
        tokens, micro_batch = (int(text.replace(",", "")) for text in longest.groups())
        run = apply_options(arguments, ["--micro-batch", str(micro_batch)])
        if complete(run) is None:  # a batch that the GPUs do not divide, so that a micro-batch cannot be stated
            assert fits_at(arguments, "--seq-len", tokens)
            return
        assert fits_at(run, "--seq-len", tokens)
        if complete(apply_options(run, ["--seq-len", str(tokens + 1)])) is not None:
            assert not fits_at(run, "--seq-len", tokens + 1)


def check_micro_batch(arguments: Sequence[str], answer: MemoryAnswer, largest: int) -> None:
    gpus, batch = answer.situation.gpus, answer.situation.batch_size
    for samples, is_expected in ((largest, True), (largest + 1, False)):
        run = list(arguments)
        if batch is not None:
            is_whole = samples * gpus >= batch or answer.situation.gradient_release
            run = apply_options(run, ["--batch-size", str(samples * gpus * (1 if is_whole else 2))])
        assert fits_at(run, "--micro-batch", samples) == is_expected, samples


# -- monotonicity -----------------------------------------------------------------------------------------------------


def check_growth(arguments: Sequence[str], flag: str, start: int) -> None:
    """Check that no end of the estimate falls while a number grows."""
    before: tuple[int, ...] = ()
    for percent in (100, 101, 110, 130, 200, 400, 1000):
        situation = complete(apply_options(arguments, [flag, str(start * percent // 100)]))
        if situation is None:
            return
        optimizer = situation.optimizer or RULES.reference_optimizer
        memory = estimate(RULES.memory_rules, situation, optimizer)
        interval = memory.interval
        known = () if interval is None else (interval.low, interval.expected, interval.high)
        ends = (*known, memory.model_states or 0)
        # Beyond the reference sizes another moment can have the low end, which is then exact to 0.01 %.
        falling = [
            new < old * (0.9999 if end == 0 else 1) for end, (new, old) in enumerate(zip(ends, before, strict=False))
        ]
        assert not any(falling), (flag, percent, ends, before)
        before = ends


def check_more_memory(arguments: Sequence[str]) -> None:
    """Check that a recommended run that fits still fits in more memory, whatever optimizer is recommended then."""
    fitted = ""
    for size in (1, 2, 3, 5, 8, 12, 16, 20, 24, 32, 40, 48, 64, 80, 96, 141, 192, 288):
        advice = advise(RULES, parse(apply_options(arguments, ["--vram", f"{size}GB"])))
        memory = advice.memory
        required = (memory.total or memory.model_states or 0) - memory.pageable
        is_expected = required <= (memory.available or 0)
        assert is_expected or not fitted, (size, advice.optimizer.id, fitted)
        fitted = fitted or (f"{size}GB {advice.optimizer.id}" if is_expected else "")


def check_monotonicity(seed: int) -> None:
    arguments = draw(seed)
    situation = complete(arguments)
    if situation is None or situation.params is None:
        return
    # A larger micro-batch can make accumulation needless, and larger models are sharded by default.
    alone = apply_options(arguments, ["without", "--batch-size", "--shard", situation.shard])
    if situation.shape is None:
        check_growth(alone, "--params", situation.params)
    if situation.seq_len is not None:
        check_growth(alone, "--seq-len", situation.seq_len)
    check_growth(alone, "--micro-batch", situation.micro_batch or 1)
    check_more_memory(arguments)


# -- tests ------------------------------------------------------------------------------------------------------------


def check(seed: int) -> None:
    arguments = draw(seed)
    situation = complete(arguments)
    assert situation is not None
    check_recommendation(arguments)
    without = [flag for flag in ("--stability", "--tuning", "--priority") if flag in arguments]
    for flag in (*without, *(["--sparse-gradients"] if "--sparse-gradients" in arguments else [])):
        arguments = apply_options(arguments, ["without", flag])
    if situation.params is not None:
        check_estimate(arguments)


def find_failures(check_seed: Callable[[int], None], seeds: range) -> Iterator[tuple[int, str, str]]:
    """Yield the seeds whose answers do not hold, with their command lines."""
    for seed in seeds:
        try:
            check_seed(seed)
        except AssertionError as error:
            yield seed, shlex.join(draw(seed)), str(error).splitlines()[0]


CHUNKS = [range(start, start + 10) for start in range(0, 3000, 10)]


@pytest.mark.parametrize("seeds", rotated(5, CHUNKS), ids=lambda seeds: f"{seeds.start}-{seeds.stop - 1}")
def test_printed_answers_hold(seeds: range) -> None:
    assert not list(find_failures(check, seeds))


@pytest.mark.usefixtures("without_sensitivities")
@pytest.mark.parametrize("seeds", rotated(1, CHUNKS), ids=lambda seeds: f"{seeds.start}-{seeds.stop - 1}")
def test_larger_runs_need_no_less_and_more_memory_keeps_a_fit(seeds: range) -> None:
    assert not list(find_failures(check_monotonicity, seeds))


@pytest.mark.filterwarnings("ignore:--from recommends for")  # the workload is the default here
@pytest.mark.parametrize("seed", range(10))
def test_next_command_benches_the_recommendation(seed: int) -> None:
    advice = advise(RULES, parse(draw(seed)))
    for names, data in (([advice.optimizer.id], None), ([], to_json_object(build_recommendation(advice)))):
        arms = prepare_request(RULES, names, BenchOptions(), data).arms
        assert advice.optimizer.id in {arm.optimizer for arm in arms}
