"""The estimate compared with published measurements.

`pytest -s tests/test_published_memory.py` prints the table. Half of the figures of each source were not used for tuning
(`held_out`).
"""

from __future__ import annotations

import statistics

import pytest

from tests.published import Comparison, compare_all, format_table, read_figures


@pytest.fixture(scope="module")
def comparisons() -> list[Comparison]:
    compared = compare_all()
    print("\n".join(format_table(compared)))
    return compared


def test_figures_are_numerous_and_diverse() -> None:
    figures = read_figures()
    assert len({figure["id"] for figure in figures}) == len(figures) >= 50
    assert len({figure["source"] for figure in figures}) >= 12
    assert {figure["measures"] for figure in figures} == {"allocated", "reserved", "process"}
    assert all(figure["cite"].startswith("https://") and figure["quote"] for figure in figures)


@pytest.mark.parametrize("held_out", [False, True])
def test_median_error_is_at_most_15_percent(comparisons: list[Comparison], held_out: bool) -> None:
    errors = [abs(item.error) for item in comparisons if item.held_out is held_out]
    assert len(errors) >= 20
    assert statistics.median(errors) <= 0.15
