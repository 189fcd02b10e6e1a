"""Names that are similar to a misspelled name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from itertools import takewhile

from optadvise.core.text import normalize_spelling

_MOST = 3  # suggestions
_LONGEST = 64  # characters that are compared, as the time grows with their square
_THRESHOLD, _BEHIND_BEST = 0.55, 0.2  # smallest similarity, and largest distance to that of the best name


def find_similar(word: str, names: Iterable[str], aliases: Mapping[str, str]) -> list[str]:
    """Return up to three names that are similar to a word, the most similar first.

    Args:
        word: The misspelled name.
        names: The accepted names, which precede equally similar aliases.
        aliases: Name by other spelling.

    Example:
        >>> find_similar("adamx", ["sgd", "adam", "adamw", "radam", "adamax"], {})
        ['adamax', 'adam', 'adamw']
    """
    word = word[:_LONGEST]
    normalized = normalize_spelling(word)
    scores: dict[str, tuple[float, bool, float]] = {}
    for spelling, name in [*((name, name) for name in names), *aliases.items()]:
        similarity = _measure_similarity(normalized, normalize_spelling(spelling))
        if similarity >= _THRESHOLD:  # between equally similar names, punctuation decides
            score = similarity, spelling == name, _measure_similarity(word.lower(), spelling)
            scores[name] = max(scores.get(name, score), score)
    best = max(scores.values(), default=(0.0, False, 0.0))[0]
    similar = [name for name, score in scores.items() if score[0] >= best - _BEHIND_BEST]
    return sorted(similar, key=lambda name: scores[name], reverse=True)[:_MOST]


def _measure_similarity(first: str, second: str) -> float:
    """Return the similarity of two words, from 0 to 1 (equal).

    A common beginning counts more, as people rarely mistype it (Winkler's bonus).
    """
    second = second[:_LONGEST]
    if not 1 / 4 <= len(first) / max(len(second), 1) <= 4:  # too different to be similar
        return 0.0
    similarity = 1 - _count_edits(first, second) / max(len(first), len(second), 1)
    prefix = len([*takewhile(lambda pair: pair[0] == pair[1], zip(first, second, strict=False))])
    return similarity + 0.1 * min(prefix, 4) * (1 - similarity)


def _count_edits(first: str, second: str) -> int:
    """Return the number of inserted, deleted, replaced and swapped characters between two words."""
    earlier: list[int] = []
    before: list[int] = [*range(len(second) + 1)]
    for i, a in enumerate(first, 1):
        row = [i]
        for j, b in enumerate(second, 1):
            edits = min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (a != b))
            if i > 1 and j > 1 and (a, first[i - 2]) == (second[j - 2], b):
                edits = min(edits, earlier[j - 2] + 1)
            row.append(edits)
        earlier, before = before, row
    return before[-1]
