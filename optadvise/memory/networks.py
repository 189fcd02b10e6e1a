"""Networks of a catalog, by family and by name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cached_property, lru_cache

from optadvise.core.records import NetworkShape
from optadvise.core.similarity import find_similar
from optadvise.core.text import normalize_spelling
from optadvise.memory.network_families import NamedShape, NetworkFamily
from optadvise.rulebase.cache import cached
from optadvise.rulebase.catalog import Catalog, find_spelling, look_up
from optadvise.rulebase.loading import LazyFiles
from optadvise.rulebase.rule_paths import NETWORKS

_SERIES = re.compile(r"[a-z]+")  # letters that begin a name


class Networks:
    """Families of networks by id, and named shapes by name."""

    def __init__(self, families: Mapping[str, NetworkFamily]) -> None:
        """Index families."""
        self.families = families
        self.shapes: dict[str, NamedShape] = {
            name: shape for family in families.values() for name, shape in family.shapes.items()
        }

    def find_family(self, shape: NetworkShape) -> NetworkFamily:
        """Return the family of a shape."""
        return self.families[shape.family]

    def find_named_shape(self, shape: NetworkShape) -> NamedShape | None:
        """Return the record of a named shape; None for a shape from a config or dimensions."""
        return self.shapes[shape.name] if shape.basis == "named" else None

    def list_adapter_targets(self, shape: NetworkShape | None) -> set[str]:
        """Return the short names of the linear layers that can have adapters; without a shape, of all families."""
        families = self.families.values() if shape is None else [self.find_family(shape)]
        return {target for family in families for target in family.list_adapter_targets()}

    def find_shape(self, name: str, flag: str = "--arch") -> str:
        """Return the canonical name of a named shape.

        Args:
            name: Name in any spelling, such as `meta-llama/Llama-3.1-8B`.
            flag: Option of the name, for the error message.

        Raises:
            InputError: No shape has this name; the message suggests names of the same series only.
        """
        name = remove_owner(name)
        canonical = self.find_spelling(name)
        if canonical is not None:
            return canonical
        advice = "use --hf-config FILE, or --hidden, --layers, --heads, --ffn and --vocab"
        return look_up({s: key for s, key in self._spellings.items() if _is_same_series(s, name)}, name, flag, advice)

    def find_spelling(self, name: str) -> str | None:
        """Return the canonical name of a named shape in any spelling; None if no shape has this name."""
        return find_spelling(self._spellings, name)

    @cached_property
    def _spellings(self) -> dict[str, str]:
        """Return the shape name by unambiguous spelling; without the dot, opt-1.3b would equal opt-13b."""
        names: dict[str, str] = {}
        aliases = {key: (key, *shape.aliases) for key, shape in self.shapes.items()}
        for key, spellings in aliases.items():
            for alias in map(normalize_spelling, spellings):
                names[alias] = key if names.get(alias, key) == key else ""
        for key, spellings in aliases.items():
            names.update({alias.lower(): key for alias in spellings})
        return {alias: key for alias, key in names.items() if key}


def remove_owner(name: str) -> str:
    """Return the name of a network without its owner; a number after the slash is the size of a patch.

    Example:
        >>> remove_owner("meta-llama/Llama-3.1-8B"), remove_owner("ViT-B/16")
        ('Llama-3.1-8B', 'ViT-B-16')
    """
    owner, slash, network = name.partition("/")
    if not slash or "/" in network or not name[-1].isalnum():
        return name
    return f"{owner}-{network}" if network.isdigit() else network


def _is_same_series(spelling: str, name: str) -> bool:
    """Return whether the letters that begin two names are similar; equal sizes do not make names similar."""
    first, second = (_SERIES.match(text.lower()) for text in (spelling, name))
    return first is not None and second is not None and bool(find_similar(second[0], [first[0]], {}))


def load_networks(catalog: Catalog) -> Networks:
    """Return the networks of a catalog; files are read once.

    Raises:
        RuleFileError: A file is invalid.
    """
    return _load(catalog.later)


@lru_cache(maxsize=8)
def _load(files: LazyFiles) -> Networks:
    contents, key = files.folder(NETWORKS)

    def read_files() -> dict[str, NetworkFamily]:
        from optadvise.memory.network_files import read_networks  # imports PyYAML, a tenth of a start

        return read_networks([(file, content) for _, file, content in contents])

    return Networks(cached(f"networks-{key}", dict[str, NetworkFamily], read_files))
