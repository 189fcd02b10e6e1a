"""The catalogue: what `rules/` says, found, validated and made into objects."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar

from optadvise.core.errors import InputError, nearest
from optadvise.core.records import (
    SHIPPED,
    Claim,
    Framework,
    Gpu,
    Hyperparameter,
    Implementation,
    NamedOptimizer,
    NamedSchedule,
    Note,
    Optimizer,
    Phase,
    Reason,
    Scheduler,
    Source,
    StateTensor,
    Step,
    Surface,
    Trial,
)
from optadvise.rulebase.loading import Documents, Later, Memo, is_base, load_documents, shipped_rules

_T = TypeVar("_T")


def spelling(name: str) -> str:
    """Return a name with the differences dropped that people do not make: case, `-`, `_`, `+`, `.` and spaces."""
    return "".join(c for c in name.lower() if c not in "-_+. ")


class Catalog:
    """Everything that is known, from one or more layers of rule files."""

    def __init__(self, documents: Documents, fingerprint: str, layers: Sequence[str],
                 later: Later | None = None, folders: Sequence[tuple[str, Path]] = ()) -> None:  # fmt: skip
        """Wrap documents that are valid already; use `load` to get one."""
        self.documents = documents
        self._later = later or Later()
        self.fingerprint = fingerprint
        self.layers = tuple(layers)
        self.folders = tuple(folders)  # each layer's name and folder
        self.facts: dict[str, Mapping[str, Any]] = documents["facts"]
        self._optimizers: dict[str, Optimizer] = {}
        self._schedulers: dict[str, Scheduler] = {}

    @cached_property
    def sources(self) -> dict[str, Source]:
        """Every source by its id."""
        return {key: Source(id=key, **values) for key, values in self.documents["sources"].items()}

    @cached_property
    def gpus(self) -> tuple[Gpu, ...]:
        """Every GPU that is known."""
        return tuple(_build(Gpu, entry) for entry in self.documents["gpus"])

    @cached_property
    def surfaces(self) -> dict[str, Surface]:
        """Every surface that optimizers can be watched on, by its id."""
        return {entry["id"]: _build(Surface, entry) for entry in self._surfaces["surfaces"]}

    @cached_property
    def _surfaces(self) -> Documents:
        return self._later.surfaces(self.documents)

    @property
    def walkers(self) -> list[str]:
        """The optimizers that are watched where none is named."""
        return [name for name in self._surfaces["walkers"] if name in self.optimizer_ids]

    @cached_property
    def figures(self) -> Memo:
        """Figures that follow from the networks alone, kept beside the cache."""
        return self._later.figures()

    @cached_property
    def networks(self) -> Documents:
        """Every family of networks by its id, read when it is first asked for."""
        return self._later.networks()

    @cached_property
    def frameworks(self) -> dict[str, Framework]:
        """Every framework that code is written for by its id, read when it is first asked for."""
        return {name: framework_from(entry) for name, entry in self._later.frameworks(self.documents).items()}

    @cached_property
    def claims(self) -> dict[str, Claim]:
        """Every claim that an experiment can refute by its id, read when it is first asked for."""
        return {name: _claim(entry) for name, entry in self._later.claims(self.documents).items()}

    def read_all(self) -> None:
        """Read also what is otherwise read when it is first asked for.

        Raises:
            RuleFileError: A file is invalid.
        """
        _ = self.networks, self.frameworks, self._surfaces, self.claims

    @cached_property
    def shapes(self) -> dict[str, tuple[str, Mapping[str, Any]]]:
        """Every well-known shape by its name: its family's id, and what it sets."""
        return {
            name: (family["family"], shape)
            for family in self.networks.values()
            for name, shape in family.get("shapes", {}).items()
        }

    def find_shape(self, name: str, flag: str = "--arch") -> str:
        """Return the name of a well-known shape in any spelling.

        Raises:
            InputError: Nothing is called so; the nearest names are given.
        """
        return self._find(
            self._shape_names,
            name.rsplit("/", 1)[-1] if name.count("/") == 1 and name[-1].isalnum() else name,
            flag,
            "say --hf-config FILE, or --hidden, --layers, --heads, --ffn and --vocab",
        )

    @cached_property
    def _shape_names(self) -> dict[str, str]:
        """Every spelling that means one shape only: without its dot, opt-1.3b would be opt-13b."""
        names: dict[str, str] = {}
        for key, (_, shape) in self.shapes.items():
            for word in (key, *shape.get("aliases", ())):
                found = spelling(word)
                names[found] = key if names.get(found, key) == key else ""
        for key, (_, shape) in self.shapes.items():
            names.update({word.lower(): key for word in (key, *shape.get("aliases", ()))})
        return {word: key for word, key in names.items() if key}

    @property
    def shipped(self) -> bool:
        """Are the rules at the bottom those that come with the program?"""
        return self.layers[0] == SHIPPED

    @property
    def optimizer_ids(self) -> list[str]:
        """The canonical ids of what no layer rules out, sorted."""
        return sorted(self.documents["optimizers"].keys() - self.documents["disabled"].keys())

    @property
    def scheduler_ids(self) -> list[str]:
        """The canonical ids, sorted."""
        return sorted(self.documents["schedulers"])

    def optimizer(self, name: str) -> Optimizer:
        """Return an optimizer's card by its canonical id."""
        card = self._optimizers.get(name)
        if card is None:
            card = self._optimizers[name] = _optimizer(self.documents["optimizers"][name])
        return card

    def scheduler(self, name: str) -> Scheduler:
        """Return a schedule's card by its canonical id."""
        card = self._schedulers.get(name)
        if card is None:
            card = self._schedulers[name] = _scheduler(self.documents["schedulers"][name])
        return card

    def find_optimizer(self, name: str, flag: str = "optimizer") -> str:
        """Return the canonical id of any spelling: id, alias, class name, in any case and with any dashes.

        Args:
            name: What was typed.
            flag: Where, for the message.

        Raises:
            InputError: Nothing is called so; the nearest names are given.
        """
        found = self._find(self._optimizer_names, name, flag, "optadvise list shows all")
        ruled_out = self.documents["disabled"].get(found)
        if ruled_out is not None:
            raise InputError(f"{flag} {name!r}: {ruled_out['layer']} rules it out: {ruled_out['because']}")
        return found

    def find_scheduler(self, name: str, flag: str = "schedule") -> str:
        """Return the canonical id of any spelling of a schedule."""
        return self._find(self._scheduler_names, name, flag, "optadvise list --schedules shows all")

    def find(self, name: str) -> tuple[str, str]:
        """Return what a name means and its canonical id: an optimizer first, then a schedule.

        Raises:
            InputError: Nothing is called so; the nearest names are given.
        """
        word = spelling(name)
        if word in self._optimizer_names:
            return "optimizer", self._optimizer_names[word]
        if word in self._scheduler_names:
            return "schedule", self._scheduler_names[word]
        everything = [*self.optimizer_ids, *self.scheduler_ids, *self._rules]
        guess = nearest(name, everything)
        raise InputError(
            f"{name!r}: no optimizer, schedule or rule; " + (f"{guess} " if guess else "") + "see optadvise list"
        )

    def rule(self, name: str) -> Mapping[str, Any] | None:
        """Return a rule's document by its id, with the table it is in; None where there is none."""
        return self._rules.get(name.strip().upper())

    @cached_property
    def _rules(self) -> dict[str, Mapping[str, Any]]:
        return {
            row["id"].upper(): {"table": table["table"], **row}
            for table in self.documents["tables"].values()
            for row in (*table["rules"], *([table["otherwise"]] if "otherwise" in table else []))
        }

    def find_gpu(self, name: str) -> Gpu:
        """Return a GPU by its id, name or alias in any spelling."""
        names: dict[str, str] = {}
        for entry in self.documents["gpus"]:
            for word in (entry["id"], entry["name"], *entry.get("aliases", [])):
                names.setdefault(spelling(word), entry["id"])
        found = self._with_memory(names, name) or self._find(
            names, name, "--gpu", "say --vram instead if yours is not listed"
        )
        return next(gpu for gpu in self.gpus if gpu.id == found)

    def _with_memory(self, names: Mapping[str, str], name: str) -> str | None:
        """Return the GPU of a name with its memory behind it, as in `3060 12gb`."""
        match = re.fullmatch(r"(?:nvidia|amd|geforce|tesla)*(.+?)(\d+)gi?b", spelling(name))
        if match is None or spelling(name) in names:
            return None
        own = {key for word, key in names.items() if word.endswith(match[1]) or word.startswith(match[1])}
        fitting = [gpu for gpu in self.gpus if gpu.id in own and abs(gpu.memory_gib / int(match[2]) - 1) < 0.1]
        exact = [gpu for gpu in fitting if names.get(match[1]) == gpu.id] or fitting
        return exact[0].id if exact else None

    @staticmethod
    def _find(names: Mapping[str, str], name: str, flag: str, otherwise: str) -> str:
        # As it is written; in any spelling; the class of an import path.
        words = (name.strip().lower(), spelling(name), spelling(name.rsplit(".", 1)[-1]))
        found = next((names[word] for word in words if word in names), None)
        if found is None:
            guess = nearest(name, sorted({*names.values()}))
            raise InputError(
                f"{flag} {name!r}: not known; "
                + (f"{guess}{' ' if guess.endswith('?') else '; '}" if guess else "")
                + otherwise
            )
        return found

    @cached_property
    def _optimizer_names(self) -> dict[str, str]:
        return _names(self.documents["optimizers"].values())

    @cached_property
    def _scheduler_names(self) -> dict[str, str]:
        return _names(self.documents["schedulers"].values())


def load(extra: Sequence[Path] = ()) -> Catalog:
    """Load the shipped rules, and on top of them any further layers.

    Args:
        extra: Folders laid out like `rules/`, each changing what came before; one that has facts takes its place.

    Raises:
        InputError: A folder is missing or empty.
        RuleFileError: A file is invalid or cannot be read.

    Example:
        >>> load().optimizer("adamw").name
        'AdamW'
    """
    layers, names = [shipped_rules(), *extra], [SHIPPED, *map(str, extra)]
    first = max(number for number, layer in enumerate(layers) if number == 0 or is_base(layer))
    documents, fingerprint, later = load_documents(layers[first:], names[first:])
    folders = list(zip(names[first:], layers[first:], strict=True))
    return Catalog(documents, fingerprint, names[first:], later, folders)


def _names(cards: Iterable[Mapping[str, Any]]) -> dict[str, str]:
    names: dict[str, str] = {}
    for card in cards:
        classes = [i["import"].rsplit(".", 1)[1] for i in card.get("implementations", ()) if not i.get("kwargs")]
        for word in (card["id"], card["name"], *card.get("aliases", ())):
            names[spelling(word)] = card["id"]
        for word in classes:  # a class name never hides an id or an alias
            names.setdefault(spelling(word), card["id"])
    for card in cards:
        names[spelling(card["id"])] = card["id"]
    return names


def _build(kind: type[_T], values: Mapping[str, Any], **changes: Any) -> _T:
    """Make a record from a document, lists as tuples where the record holds no plain value."""
    names = kind.__struct_fields__  # type: ignore[attr-defined]
    given = {**values, **changes}
    return kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in given.items() if k in names})


def step_from(entry: Mapping[str, Any]) -> Step:
    """Make an adjustment step from its document."""
    op = "scale" if "scale" in entry else "clamp"
    return _build(Step, entry, op=op, parameter=entry[op])


def _state(entries: Iterable[Mapping[str, Any]]) -> tuple[StateTensor, ...]:
    return tuple(_build(StateTensor, entry) for entry in entries)


def _implementation(entry: Mapping[str, Any]) -> Implementation:
    state = _state(entry["state"]) if "state" in entry else None
    return _build(Implementation, entry, path=entry["import"], state=state)


def _hyperparameter(entry: Mapping[str, Any]) -> Hyperparameter:
    return Hyperparameter(**entry)


def _notes(entries: Iterable[Mapping[str, Any]]) -> tuple[Note, ...]:
    return tuple(_build(Note, entry) for entry in entries)


def _optimizer(entry: Mapping[str, Any]) -> Optimizer:
    return _build(
        Optimizer,
        {
            "aliases": [],
            "companion": None,
            "schedules": None,
            "clips_update": False,
            "paged": False,
            "wide_embeddings": False,
            **entry,
        },
        hyperparameters=tuple(_hyperparameter(h) for h in entry["hyperparameters"]),
        adjust=tuple(step_from(s) for s in entry.get("adjust", ())),
        state=_state(entry["state"]),
        implementations=tuple(_implementation(i) for i in entry["implementations"]),
        not_offered=tuple(_implementation(i) for i in entry.get("not_offered", ())),
        use_when=tuple(Reason(**reason) for reason in entry["use_when"]),
        avoid_when=tuple(Reason(**reason) for reason in entry["avoid_when"]),
        notes=_notes(entry.get("notes", ())),
    )


def _claim(entry: Mapping[str, Any]) -> Claim:
    return _build(Claim, entry, trials=tuple(_build(Trial, trial) for trial in entry.get("trials", ())))


def framework_from(entry: Mapping[str, Any]) -> Framework:
    """Make a framework from its document."""
    return _build(
        Framework,
        entry,
        arguments={name: tuple(own) for name, own in entry.get("arguments", {}).items()},
        optimizers={name: _build(NamedOptimizer, own) for name, own in entry.get("optimizers", {}).items()},
        schedules={name: _build(NamedSchedule, own) for name, own in entry.get("schedules", {}).items()},
    )


def _scheduler(entry: Mapping[str, Any]) -> Scheduler:
    return _build(
        Scheduler,
        {"aliases": [], "floor": 0.0, "decay_fraction": 0.0, "milestones": [], **entry},
        phases=tuple(Phase(p["shape"], p["import"], p["kwargs"]) for p in entry["phases"]),
        notes=_notes(entry.get("notes", ())),
    )
