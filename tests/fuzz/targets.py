"""Targets of the fuzzer: what is generated, and what must hold besides the promises of every command line."""

from __future__ import annotations

import functools
import json
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from random import Random

import yaml
from msgspec import Struct, structs

from tests.conftest import ROOT
from tests.fuzz import documents
from tests.fuzz.cases import Case, Outcome
from tests.fuzz.checks import check, fail
from tests.fuzz.lines import make_line
from tests.fuzz.mutations import damage, make_file, mutate, to_json, to_yaml
from tests.fuzz.properties import PROPERTIES
from tests.fuzz.sandbox import Sandbox, forget_rules

Check = Callable[[Case, Outcome, Sandbox], None]


class Target(Struct, frozen=True):
    """Kind of cases.

    Attributes:
        make_case: Makes a random case.
        check: Checks what holds for these cases alone.
        weight: Share of the time, relative to the other targets.
    """

    make_case: Callable[[Random], Case]
    check: Check = lambda *_: None
    weight: int = 1

    def run(self, case: Case, sandbox: Sandbox) -> Outcome:
        """Run a case and check everything.

        Raises:
            FindingError: A promise is broken.
        """
        outcome = sandbox.run(case)
        check(case, outcome)
        self.check(case, outcome, sandbox)
        return outcome


def _choose_line(rng: Random, lines: Sequence[str]) -> tuple[str, ...]:
    return tuple(rng.choice(lines).split())


# -- results and recommendations --------------------------------------------------------------------------------------


def _compare(rng: Random) -> Case:
    results = documents.make_results()
    files = {"a.json": make_file(rng, results, to_json), "b.json": to_json(results[0])}
    lines = """
        compare a.json b.json --json
        compare b.json a.json
        compare a.json b.json --force --markdown new.md
        compare a.json b.json --json new.json
        compare b.json a.json --force
    """.strip().splitlines()
    return Case(arguments=_choose_line(rng, lines), files=files)


def _merge(rng: Random) -> Case:
    whole = documents.make_results()[0]
    results = [{**whole, "arms": [arm], "ratios": []} for arm in whole["arms"]]
    files = {"a.json": make_file(rng, results[:1], to_json), "b.json": to_json(results[1])}
    lines = """
        bench --merge a.json b.json --json
        bench --merge a.json b.json
        bench --merge b.json a.json --csv new.csv
        bench --merge a.json b.json --markdown new.md --report new.html --dashboard new.json
    """.strip().splitlines()
    return Case(arguments=_choose_line(rng, lines), files=files)


def _from(rng: Random) -> Case:
    content = make_file(rng, documents.make_recommendations(), to_json)
    if rng.randrange(3) == 0:
        return Case(arguments=("bench", "-", "--json"), stdin=content)
    lines = """
        bench --from a.json --json
        bench --from a.json
        bench --from a.json --json new.json --markdown new.md
    """.strip().splitlines()
    return Case(arguments=_choose_line(rng, lines), files={"a.json": content})


def _configs(rng: Random) -> Case:
    lines = """
        estimate --hf-config config.json --json
        estimate --hf-config config.json --vram 24GB --all
        recommend --hf-config config.json --json
        recommend --hf-config config.json --vram 8GB
        recommend --hf-config config.json --format hf -o new.py
        estimate --hf-config . --gpu h100 --json
        recommend --hf-config config.json --explain --report new.html
        recommend --hf-config config.json --format yaml
        recommend --hf-config config.json --format markdown
        recommend --hf-config config.json --format python
    """.strip().splitlines()
    content = make_file(rng, documents.make_configs(), to_json)
    return Case(arguments=_choose_line(rng, lines), files={"config.json": content})


# -- files of this machine --------------------------------------------------------------------------------------------

_ANSWERS = """
    recommend --model transformer --json
    recommend --model cnn
    show adamw
    show adamw8bit --json
    recommend --model transformer --optimizer adamw8bit --explain
    show sgd-momentum
    estimate --params 7B --json
    recommend --model transformer --format markdown
    show OPT010
    recommend --model mlp --report new.html
""".strip().splitlines()


def _evidence(rng: Random) -> Case:
    files = dict(documents.make_evidence())
    for name in rng.sample(sorted(files), rng.randint(1, 3)):
        files[name] = make_file(rng, [json.loads(files[name])], to_json)
    return Case(arguments=_choose_line(rng, _ANSWERS), files=files)


def _check_answer(case: Case, outcome: Outcome, sandbox: Sandbox) -> None:
    """Damaged files that the user did not name never stop an answer."""
    if outcome.code != 0:
        fail(f"exit code {outcome.code}", case, outcome)


@functools.cache
def _cache_entries() -> Mapping[str, bytes]:
    """Return the entries of a cache that is complete for `_ANSWERS`."""
    with tempfile.TemporaryDirectory() as folder:
        sandbox = Sandbox(Path(folder))
        forget_rules()
        for line in _ANSWERS:
            sandbox.run(Case(arguments=tuple(line.split())))
        return {file.name: file.read_bytes() for file in sandbox.cache.iterdir()}


def _cache(rng: Random) -> Case:
    entries = dict(_cache_entries())
    name = rng.choice(sorted(entries))
    head, _, payload = entries[name].partition(b"\n")
    if rng.randrange(2):
        entries[name] = head + b"\n" + to_json(mutate(rng, json.loads(payload)))
    else:
        entries[name] = damage(rng, entries[name])
    return Case(arguments=_choose_line(rng, _ANSWERS[:5]), cache=entries)


def _check_same_answer(case: Case, outcome: Outcome, sandbox: Sandbox) -> None:
    """A damaged cache does not change an answer."""
    _check_answer(case, outcome, sandbox)
    expected = sandbox.run(structs.replace(case, cache=None))
    if outcome.out != expected.out:
        fail("a damaged cache changes the answer", case, outcome)


@functools.cache
def _cell_files() -> Mapping[str, bytes]:
    """Return the cells of a finished sweep by path."""
    with tempfile.TemporaryDirectory() as folder:
        case = Case(arguments=("sweep", "sweep.yaml", "--folder", "cells"), files={"sweep.yaml": documents.SWEEP})
        written = Sandbox(Path(folder)).run(case).written
        return {name: text.encode() for name, text in written.items() if name.startswith("cells/")}


def _sweeps(rng: Random) -> Case:
    lines = """
        sweep sweep.yaml --folder cells --json
        sweep sweep.yaml --folder cells
        sweep sweep.yaml --markdown new.md
        sweep sweep.yaml --folder cells --json new.json
    """.strip().splitlines()
    files = {"sweep.yaml": documents.SWEEP, **_cell_files()}
    if rng.randrange(2):
        files["sweep.yaml"] = make_file(rng, [yaml.safe_load(documents.SWEEP)], to_yaml)
    else:
        name = rng.choice(sorted(_cell_files()))
        files[name] = make_file(rng, [json.loads(files[name])], to_json)
    return Case(arguments=_choose_line(rng, lines), files=files)


# -- rules ------------------------------------------------------------------------------------------------------------


@functools.cache
def _shipped_files() -> Mapping[str, bytes]:
    folder = ROOT / "rules"
    return {
        file.relative_to(folder).as_posix(): file.read_bytes()
        for file in folder.rglob("*.yaml") if "cases" not in file.parts
    }  # fmt: skip


def _layers(rng: Random) -> Case:
    commands = """
        rules check --json
        rules check
        rules test
        recommend --model transformer --json
        list
        show adamw
        recommend --model cnn --explain
        rules docs
        estimate --params 7B --json
        rules graph
        show TEAM010
        list --claims --json
        schedule cosine --json
        doctor
        recommend --model mlp --format python
    """.strip().splitlines()
    lines = [f"{line} --rules {documents.LAYER}" for line in commands]
    lines.append(f"rules diff - {documents.LAYER}")
    files = dict(rng.choice(documents.read_layers()))
    if rng.randrange(2):
        name = rng.choice(sorted(files))
        content = files[name]
    else:
        shipped = rng.choice(sorted(_shipped_files()))
        name, content = f"{documents.LAYER}/{shipped}", _shipped_files()[shipped]
    files[name] = to_yaml(mutate(rng, yaml.safe_load(content))) if rng.randrange(2) else damage(rng, content)
    return Case(arguments=_choose_line(rng, lines), files=files)


def _projects(rng: Random) -> Case:
    lines = """
        recommend --model cnn --json
        list
        rules check
        show adamw
        doctor --json
    """.strip().splitlines()
    files = {**documents.read_layers()[0], "pyproject.toml": damage(rng, documents.PROJECT)}
    return Case(arguments=_choose_line(rng, lines), files=files)


TARGETS: dict[str, Target] = {
    "command lines": Target(make_line, weight=8),
    "compare": Target(_compare, weight=2),
    "bench --merge": Target(_merge, weight=2),
    "bench --from": Target(_from, weight=2),
    "--hf-config": Target(_configs, weight=3),
    "sweep": Target(_sweeps, weight=2),
    "evidence": Target(_evidence, _check_answer, weight=2),
    "cache": Target(_cache, _check_same_answer),
    "rule layers": Target(_layers, weight=4),
    "pyproject.toml": Target(_projects),
    **{name: Target(cases, check_property, weight=2) for name, cases, check_property in PROPERTIES},
}
