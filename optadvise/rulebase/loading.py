"""Loading of the rule files of all layers, with validation and caching.

The modules that read YAML are imported only on a cache miss, because importing PyYAML takes a tenth of the start-up
time.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from hashlib import blake2b
from pathlib import Path

from optadvise.core.cards import SHIPPED
from optadvise.core.claim_cards import Claim
from optadvise.core.framework_cards import Framework
from optadvise.core.recipe_cards import Recipe
from optadvise.core.surface_cards import SurfaceFile
from optadvise.rulebase.cache import DiskCache, cached, code_digest, open_disk_cache
from optadvise.rulebase.records import Words
from optadvise.rulebase.rule_base import RuleBase
from optadvise.rulebase.rule_paths import (
    CLAIMS,
    FRAMEWORKS,
    NETWORKS,
    RECIPES,
    SURFACES,
    WORDS,
    Contents,
    find_files_named,
    list_rule_files,
    list_yaml_files,
    read_contents,
)


def load_rule_base(layers: Sequence[Path], names: Sequence[str] = (SHIPPED,)) -> tuple[RuleBase, str, LazyFiles]:
    """Load the rules of all layers from the cache, or read and validate their files.

    Args:
        layers: Folders with the structure of `rules/`; the first is the base, later ones change it.
        names: Names of the layers in answers.

    Returns:
        The rules, the fingerprint of the content, and the files that are read on first access.

    Raises:
        InputError: A folder does not exist or has no rule files.
        RuleFileError: A file is invalid or cannot be read.
    """
    read = read_contents(layers, list_rule_files)
    fingerprint = _digest(read, layers)
    key = blake2b(fingerprint + code_digest() + "\0".join([*map(str, layers), *names]).encode()).hexdigest()

    def read_files() -> RuleBase:
        from optadvise.rulebase.validation import read_rule_base

        return read_rule_base(read, names)

    base = cached(f"rules-{key}", RuleBase, read_files)
    return base, fingerprint.hex()[:12], LazyFiles(layers, fingerprint)


class LazyFiles:
    """Files that are read on first access: networks, frameworks, recipes, words, surfaces and claims."""

    def __init__(self, layers: Sequence[Path] = (), fingerprint: bytes = b"") -> None:
        """Store the folders and the fingerprint of their rules."""
        self._layers = layers
        self._fingerprint = fingerprint
        self._folders: dict[str, tuple[Contents, str]] = {}

    def _keyed(self, files: Callable[[Path], list[Path]], beside: bytes = b"") -> tuple[Contents, str]:
        read = read_contents(self._layers, files)
        digest = _digest(read, self._layers) + beside
        return read, str(blake2b(digest + code_digest() + "\0".join(map(str, self._layers)).encode()).hexdigest())

    def folder(self, name: str) -> tuple[Contents, str]:
        """Return the files of a folder in all layers, and a cache key for values computed from them.

        Raises:
            RuleFileError: A file cannot be read.
        """
        if name not in self._folders:
            self._folders[name] = self._keyed(lambda layer: list_yaml_files(layer / name))
        return self._folders[name]

    def figures(self) -> DiskCache:
        """Return the disk cache for the networks of these layers."""
        return open_disk_cache(f"figures-{self.folder(NETWORKS)[1]}") if self._layers else DiskCache("")

    def frameworks(self, base: RuleBase) -> dict[str, Framework]:
        """Return all frameworks by id; their files refer to the rules of `base`.

        Raises:
            RuleFileError: A file is invalid.
        """
        read, key = self._keyed(lambda layer: list_yaml_files(layer / FRAMEWORKS), self._fingerprint)

        def read_files() -> dict[str, Framework]:
            from optadvise.rulebase.framework_files import read_frameworks

            return read_frameworks(read, collect_ids(base))

        return cached(f"frameworks-{key}", dict[str, Framework], read_files)

    def recipes(self, base: RuleBase) -> tuple[Recipe, ...]:
        """Return all published runs; their files refer to the rules of `base`.

        Raises:
            RuleFileError: A file is invalid.
        """
        read, digest = self.folder(RECIPES)
        key = blake2b(digest.encode() + self._fingerprint).hexdigest()

        def read_files() -> tuple[Recipe, ...]:
            from optadvise.rulebase.recipe_files import read_recipes

            return read_recipes(read, collect_ids(base), base)

        return cached(f"recipes-{key}", tuple[Recipe, ...], read_files)

    def words(self, base: RuleBase) -> Words:
        """Return the names for `--model`; the file refers to the facts of `base`.

        Raises:
            RuleFileError: The file is invalid.
        """
        read, key = self._keyed(lambda layer: find_files_named(layer, WORDS), self._fingerprint)

        def read_files() -> Words:
            from optadvise.rulebase.word_files import read_words

            return read_words(read, base.facts)

        return cached(f"words-{key}", Words, read_files)

    def surfaces(self, base: RuleBase) -> SurfaceFile:
        """Return the test functions and default optimizers of `trajectories`; the file refers to the rules of `base`.

        Raises:
            RuleFileError: The file is invalid.
        """
        read, key = self._keyed(lambda layer: find_files_named(layer, SURFACES), self._fingerprint)

        def read_files() -> SurfaceFile:
            from optadvise.rulebase.surface_files import read_surfaces

            return read_surfaces(read, collect_ids(base))

        return cached(f"surfaces-{key}", SurfaceFile, read_files)

    def claims(self, base: RuleBase) -> dict[str, Claim]:
        """Return all claims by id; the file refers to the rules of `base`.

        Raises:
            RuleFileError: The file is invalid.
        """
        read, key = self._keyed(lambda layer: find_files_named(layer, CLAIMS), self._fingerprint)
        rules = [rule.id for table in base.tables.values() for rule in table.rules]
        ids = {**collect_ids(base), "rule": [*rules, *base.disabled_rules]}

        def read_files() -> dict[str, Claim]:
            from optadvise.rulebase.claim_files import read_claims

            return read_claims(read, ids, base.optimizers)

        return cached(f"claims-{key}", dict[str, Claim], read_files)


def collect_ids(base: RuleBase) -> dict[str, Mapping[str, object]]:
    """Return the ids that files can refer to, by kind."""
    return {
        "source": base.sources, "optimizer": base.optimizers, "scheduler": base.schedulers, "fact": base.facts,
    }  # fmt: skip


def _digest(read: Contents, layers: Sequence[Path]) -> bytes:
    digest = blake2b()
    for index, file, content in read:
        digest.update(f"{index}/{file.relative_to(layers[index])}\0{len(content)}\0".encode())
        digest.update(content)
    return bytes(digest.digest())
