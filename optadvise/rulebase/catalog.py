"""Catalog of all rules, with lookup by name in any spelling."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path

from msgspec.structs import replace

from optadvise.core.cards import SHIPPED, Gpu, Optimizer, Scheduler, Source
from optadvise.core.claim_cards import Claim
from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError, suggest_name
from optadvise.core.framework_cards import Framework
from optadvise.core.recipe_cards import Recipe
from optadvise.core.surface_cards import Surface, SurfaceFile
from optadvise.core.text import normalize_spelling
from optadvise.core.units import show_bytes
from optadvise.rulebase.cache import DiskCache
from optadvise.rulebase.imports import ImportPolicy, make_policy
from optadvise.rulebase.loading import LazyFiles, load_rule_base
from optadvise.rulebase.memory_rules import MemorySettings
from optadvise.rulebase.records import OPTION_GROUPS, Fact, Flowchart, RunInput, Words
from optadvise.rulebase.rule_base import RuleBase
from optadvise.rulebase.rule_paths import find_shipped_rules, is_base
from optadvise.rulebase.table_records import Rule

_SIZE_TOLERANCE = 0.1  # GPUs sold with 16 GB may have 15 GiB, because of error correction


def look_up(names: Mapping[str, str], name: str, flag: str, advice: str) -> str:
    """Return the id of a name in any spelling, or of the class at the end of an import path.

    Args:
        names: Ids by normalized spelling.
        advice: End of the error message.

    Raises:
        InputError: The name does not exist; the message suggests similar names.
    """
    key = find_spelling(names, name)
    if key is None:
        guess = suggest_name(name, sorted({*names.values()}), names)
        hint = f"{guess}{' ' if guess.endswith('?') else '; '}" if guess else ""
        raise _make_name_error(f"{flag}: unknown name {name!r}; {hint}{advice}", ErrorCode.UNKNOWN_NAME, flag, name)
    return key


def find_spelling(names: Mapping[str, str], name: str) -> str | None:
    """Return the id of a name in any spelling, or of the class at the end of an import path; None if it is unknown."""
    spellings = (name.strip().lower(), normalize_spelling(name), normalize_spelling(name.rsplit(".", 1)[-1]))
    return next((names[variant] for variant in spellings if variant in names), None)


def _make_name_error(message: str, code: ErrorCode, flag: str, name: str) -> InputError:
    """Return the error of a name; its option is the flag, unless that is the name of an argument or a command."""
    return InputError(message, code=code, option=flag if flag.startswith("--") else "", value=name)


class Catalog:
    """Content of the rule files of all layers."""

    def __init__(self, base: RuleBase, fingerprint: str, layers: Sequence[str],
                 later: LazyFiles | None = None, folders: Sequence[tuple[str, Path]] = (),
                 allowed_imports: tuple[str, ...] = ()) -> None:  # fmt: skip
        """Wrap validated rules; use `load` to create a catalog."""
        self.base = base
        self.later = later or LazyFiles()
        self.fingerprint = fingerprint
        self.layers = tuple(layers)
        self.folders = tuple(folders)  # name and folder of each layer
        self.allowed_imports = allowed_imports  # packages or modules that the user allows, besides shipped cards

    def with_base(self, base: RuleBase) -> Catalog:
        """Return a catalog with another rule base, for proofs and comparisons."""
        return Catalog(base, self.fingerprint, self.layers, self.later, self.folders, self.allowed_imports)

    def allow_imports(self, packages: Sequence[str]) -> Catalog:
        """Return a catalog with packages or modules whose classes may be imported; see `imports`."""
        return Catalog(self.base, self.fingerprint, self.layers, self.later, self.folders, tuple(packages))

    @cached_property
    def imports(self) -> ImportPolicy:
        """Return which classes may be imported."""
        return make_policy(self.base, load_shipped().base, self.allowed_imports)

    @property
    def facts(self) -> Mapping[str, Fact]:
        """Return all facts by id."""
        return self.base.facts

    @cached_property
    def options(self) -> tuple[Fact | RunInput, ...]:
        """Return the options that describe a run, in the order of their help headings."""
        options: list[Fact | RunInput] = [*self.base.facts.values(), *self.base.inputs.values()]
        options = [option for option in options if option.flag]
        return tuple(sorted(options, key=lambda option: OPTION_GROUPS.index(option.group)))

    @property
    def sources(self) -> Mapping[str, Source]:
        """Return all sources by id."""
        return self.base.sources

    @property
    def gpus(self) -> tuple[Gpu, ...]:
        """Return all GPUs."""
        return self.base.gpus

    @property
    def memory(self) -> MemorySettings:
        """Return the settings of the memory estimate."""
        assert self.base.memory is not None, "the shipped rules have it"
        return self.base.memory

    @property
    def flowchart(self) -> Flowchart:
        """Return the guide's flowchart."""
        assert self.base.flowchart is not None, "the shipped rules have it"
        return self.base.flowchart

    @cached_property
    def surfaces(self) -> dict[str, Surface]:
        """Return the test functions of `trajectories` by id."""
        return {surface.id: surface for surface in self._surface_file.surfaces}

    @cached_property
    def _surface_file(self) -> SurfaceFile:
        return self.later.surfaces(self.base)

    @property
    def default_trajectory_optimizers(self) -> list[str]:
        """Return the default optimizers of `trajectories`."""
        return [name for name in self._surface_file.default_optimizers if name in self.optimizer_ids]

    @cached_property
    def figures(self) -> DiskCache:
        """Return the disk cache of values computed from the networks alone."""
        return self.later.figures()

    @cached_property
    def frameworks(self) -> dict[str, Framework]:
        """Return all frameworks by id; read on first access."""
        return self.later.frameworks(self.base)

    @cached_property
    def recipes(self) -> tuple[Recipe, ...]:
        """Return all published runs; read on first access."""
        return self.later.recipes(self.base)

    @cached_property
    def words(self) -> Words:
        """Return the names for `--model`; read on first access."""
        return self.later.words(self.base)

    @cached_property
    def claims(self) -> dict[str, Claim]:
        """Return all claims by id; read on first access."""
        return self.later.claims(self.base)

    def read_all(self) -> None:
        """Read the files that are otherwise read on first access.

        Raises:
            RuleFileError: A file is invalid.
        """
        _ = self.frameworks, self._surface_file, self.claims, self.recipes, self.words

    @property
    def shipped(self) -> bool:
        """Return whether the lowest layer is the shipped rules."""
        return self.layers[0] == SHIPPED

    @property
    def optimizer_ids(self) -> list[str]:
        """Return the ids of the optimizers that no layer disables, sorted."""
        return sorted(self.base.optimizers.keys() - self.base.disabled.keys())

    @property
    def scheduler_ids(self) -> list[str]:
        """Return the ids of the schedules, sorted."""
        return sorted(self.base.schedulers)

    def optimizer(self, name: str) -> Optimizer:
        """Return an optimizer's card by its canonical id."""
        return self.base.optimizers[name]

    def scheduler(self, name: str) -> Scheduler:
        """Return a schedule's card by its canonical id."""
        return self.base.schedulers[name]

    def find_optimizer(self, name: str, flag: str = "optimizer") -> str:
        """Return the id of an optimizer by id, alias or class name in any spelling.

        Raises:
            InputError: The name does not exist, a layer disables the optimizer, or it has no card for a known reason.
        """
        self._check_has_card(name, f"{flag} ", flag)
        optimizer = look_up(self._optimizer_names, name, flag, "optadvise list prints all")
        disabling = self.base.disabled.get(optimizer)
        if disabling is not None:
            message = f"{flag} {name!r} is disabled by {disabling.layer}: {disabling.because}"
            raise _make_name_error(message, ErrorCode.DISABLED_OPTIMIZER, flag, name)
        return optimizer

    def _check_has_card(self, name: str, prefix: str = "", flag: str = "") -> None:
        """Raise an error with the reason why a known optimizer has no card; other names pass.

        Raises:
            InputError: `no_card.yaml` lists the name, and no card has it.
        """
        key = normalize_spelling(name)
        entry = self.base.no_card.get(key)
        if entry is not None and key not in self._optimizer_names:
            instead = f"; use {entry.use}" if entry.use in self.optimizer_ids else ""
            raise _make_name_error(f"{prefix}{name!r}: {entry.because}{instead}", ErrorCode.UNKNOWN_NAME, flag, name)

    def find_scheduler(self, name: str, flag: str = "schedule") -> str:
        """Return the id of a schedule by id or alias in any spelling.

        Raises:
            InputError: The name does not exist.
        """
        return look_up(self._scheduler_names, name, flag, "optadvise list --schedules prints all")

    def find(self, name: str) -> tuple[str, str]:
        """Return the kind (optimizer, schedule or claim) and id of a name in any spelling.

        Raises:
            InputError: The name does not exist.
        """
        key = normalize_spelling(name)
        if key in self._optimizer_names:
            return "optimizer", self._optimizer_names[key]
        if key in self._scheduler_names:
            return "schedule", self._scheduler_names[key]
        claims = {normalize_spelling(claim): claim for claim in self.claims}
        if key in claims:
            return "claim", claims[key]
        self._check_has_card(name)
        ids = [*self.optimizer_ids, *self.scheduler_ids, *self._rules, *self.claims]
        guess = suggest_name(name, ids, self._scheduler_names | self._optimizer_names)
        message = (
            f"no optimizer, schedule, rule or claim is named {name!r}; {f'{guess} ' if guess else ''}see optadvise list"
        )
        raise InputError(message, code=ErrorCode.UNKNOWN_NAME, value=name)

    def rule(self, name: str) -> Rule | None:
        """Return a rule by id, or None."""
        return self._rules.get(name.strip().upper())

    @cached_property
    def _rules(self) -> dict[str, Rule]:
        return {rule.id.upper(): rule for table in self.base.tables.values() for rule in table.all_rules}

    def find_gpu(self, name: str, memory_bytes: int | None = None) -> Gpu:
        """Return a GPU by id, name or alias in any spelling.

        Args:
            name: The name.
            memory_bytes: Stated memory, of a GPU that is sold with several sizes or uses the main memory.

        Raises:
            InputError: The name does not exist, or the GPU is not sold with this memory.
        """
        gpu = self._find_gpu(name)
        if memory_bytes is None:
            return gpu
        sizes = [other for other in self.gpus if other.series == gpu.series]
        nearest = min(sizes, key=lambda other: abs(other.memory_bytes - memory_bytes))
        if abs(nearest.memory_bytes / memory_bytes - 1) < _SIZE_TOLERANCE and not gpu.shared_memory:
            return nearest
        if gpu.shared_memory:
            is_listed = nearest.memory_bytes == memory_bytes
            return nearest if is_listed else replace(gpu, name=gpu.series, memory_gib=memory_bytes / 2**30)
        listed = " or ".join(sorted({f"{other.memory_gib:g} GiB" for other in sizes}))
        raise InputError(
            f"--vram {show_bytes(memory_bytes)}: {gpu.series} has {listed}; remove --vram or --gpu",
            code=ErrorCode.OPTION_CONFLICT, option="--vram", value=memory_bytes,
        )  # fmt: skip

    def _find_gpu(self, name: str) -> Gpu:
        names: dict[str, str] = {}
        for gpu in self.gpus:
            for name_of_gpu in (gpu.id, gpu.name, *gpu.aliases):
                names.setdefault(normalize_spelling(name_of_gpu), gpu.id)
        gpu_id = self._with_memory(names, name) or look_up(
            names, name, "--gpu", "use --vram for a GPU that is not listed"
        )
        return next(gpu for gpu in self.gpus if gpu.id == gpu_id)

    def _with_memory(self, names: Mapping[str, str], name: str) -> str | None:
        """Return the id of a GPU whose name is followed by its memory, such as `3060 12gb`; None if no GPU matches."""
        spelled = normalize_spelling(name)
        match = re.fullmatch(r"(?:nvidia|amd|geforce|tesla)*(.+?)gi?b", spelled)
        if match is None or spelled in names:
            return None
        for length in range(1, len(match[1])):  # 306012 is 3060 and 12
            word, size = match[1][:-length], match[1][-length:]
            if not size.isdecimal():
                return None
            fitting = [gpu.id for gpu in self._list_similar(names, word) if _is_sold_with(gpu, int(size))]
            if fitting or word in names:
                return names[word] if names.get(word) in fitting else next(iter(fitting), None)
        return None

    def _list_similar(self, names: Mapping[str, str], word: str) -> list[Gpu]:
        """Return the GPUs of the series with a name, otherwise those whose names begin or end with it."""
        series = {gpu.series for gpu in self.gpus if gpu.id == names.get(word)}
        similar = {key for spelling, key in names.items() if spelling.endswith(word) or spelling.startswith(word)}
        return [gpu for gpu in self.gpus if (gpu.series in series if series else gpu.id in similar)]

    @cached_property
    def _optimizer_names(self) -> dict[str, str]:
        return _optimizer_names(self.base.optimizers.values())

    @cached_property
    def _scheduler_names(self) -> dict[str, str]:
        return _card_names(self.base.schedulers.values())


def _is_sold_with(gpu: Gpu, memory_gib: int) -> bool:
    return memory_gib > 0 and abs(gpu.memory_gib / memory_gib - 1) < _SIZE_TOLERANCE


def load(extra: Sequence[Path] = ()) -> Catalog:
    """Load the shipped rules and the layers over them.

    Args:
        extra: Folders with the structure of `rules/`, from the lowest to the highest layer. A folder with a
            `facts.yaml` replaces all lower layers.

    Raises:
        InputError: A folder does not exist or has no rule files.
        RuleFileError: A file is invalid or cannot be read.

    Example:
        >>> load().optimizer("adamw").name
        'AdamW'
    """
    layers, names = [find_shipped_rules(), *extra], [SHIPPED, *map(str, extra)]
    first = max(number for number, layer in enumerate(layers) if number == 0 or is_base(layer))
    base, fingerprint, later = load_rule_base(layers[first:], names[first:])
    folders = list(zip(names[first:], layers[first:], strict=True))
    return Catalog(base, fingerprint, names[first:], later, folders)


@cache
def load_shipped() -> Catalog:
    """Return the shipped rules without layers; loaded once per process."""
    return load()


def _card_names(cards: Iterable[Optimizer | Scheduler]) -> dict[str, str]:
    """Return card ids by every normalized id, name and alias."""
    cards = list(cards)
    names = {normalize_spelling(name): card.id for card in cards for name in (card.id, card.name, *card.aliases)}
    return names | {normalize_spelling(card.id): card.id for card in cards}


def _optimizer_names(cards: Iterable[Optimizer]) -> dict[str, str]:
    """Return optimizer ids by every normalized name; ids and aliases take precedence over class names."""
    cards = list(cards)
    classes = {
        normalize_spelling(implementation.path.rsplit(".", 1)[1]): card.id
        for card in reversed(cards)
        for implementation in reversed(card.implementations)
        if not implementation.kwargs
    }
    return classes | _card_names(cards)
