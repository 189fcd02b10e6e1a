"""The estimate against the world: figures that others measured and published.

`pytest -s tests/test_published_memory.py` prints them. Half of each source was never looked at while anything was
tuned (`held_out`).
"""

from __future__ import annotations

import statistics

import pytest

from tests.published import Compared, cannot, compare, figures, table


@pytest.fixture(scope="module")
def compared() -> list[Compared]:
    print("\n".join(table()))
    return [compare(figure) for figure in figures() if cannot(figure) is None]


def test_there_are_enough_of_many_kinds() -> None:
    all_ = figures()
    assert len({figure["id"] for figure in all_}) == len(all_) >= 50
    assert len({figure["source"] for figure in all_}) >= 12
    assert {figure["measures"] for figure in all_} == {"allocated", "reserved", "process"}
    assert all(figure["cite"].startswith("https://") and figure["quote"] for figure in all_)


@pytest.mark.parametrize("held_out", [False, True])
def test_the_median_error_is_within_bounds(compared: list[Compared], held_out: bool) -> None:
    errors = [abs(one.error) for one in compared if one.held_out is held_out]
    assert len(errors) >= 20
    assert statistics.median(errors) <= 0.15
