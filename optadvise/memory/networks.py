"""Networks of a catalog, by family and by name."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property, lru_cache

from optadvise.core.records import NetworkShape
from optadvise.core.text import normalize_spelling
from optadvise.memory.network_families import NamedShape, NetworkFamily
from optadvise.rulebase.cache import cached
from optadvise.rulebase.catalog import Catalog, look_up
from optadvise.rulebase.loading import LazyFiles
from optadvise.rulebase.rule_paths import NETWORKS


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
            InputError: No shape has this name.
        """
        return look_up(
            self._spellings,
            name.rsplit("/", 1)[-1] if name.count("/") == 1 and name[-1].isalnum() else name,
            flag,
            "use --hf-config FILE, or --hidden, --layers, --heads, --ffn and --vocab",
        )

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
