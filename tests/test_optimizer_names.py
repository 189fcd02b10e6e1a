"""Names of optimizers in other libraries: each is a name of a card, or has a reason in `rules/no_card.yaml`."""

from __future__ import annotations

import re
from importlib.util import find_spec
from pathlib import Path

import pytest

from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError
from optadvise.core.text import normalize_spelling
from optadvise.rulebase.catalog import load
from tests.cli import optadvise

CATALOG = load()
# `OptimizerNames` of transformers in src/transformers/training_args.py.
HUGGING_FACE = (
    "adafactor", "adagrad", "adalomo", "adamw_8bit", "adamw_anyprecision", "adamw_apex_fused", "adamw_bnb_8bit",
    "adamw_hf", "adamw_torch", "adamw_torch_4bit", "adamw_torch_8bit", "adamw_torch_fused", "adamw_torch_npu_fused",
    "adamw_torch_xla", "ademamix", "ademamix_8bit", "apollo_adamw", "apollo_adamw_layerwise", "galore_adafactor",
    "galore_adafactor_layerwise", "galore_adamw", "galore_adamw_8bit", "galore_adamw_8bit_layerwise",
    "galore_adamw_layerwise", "grokadamw", "lion_32bit", "lion_8bit", "lomo", "paged_adamw_32bit", "paged_adamw_8bit",
    "paged_ademamix_32bit", "paged_ademamix_8bit", "paged_lion_32bit", "paged_lion_8bit", "rmsprop", "rmsprop_bnb",
    "rmsprop_bnb_32bit", "rmsprop_bnb_8bit", "schedule_free_adamw", "schedule_free_radam", "schedule_free_sgd", "sgd",
    "stable_adamw",
)  # fmt: skip


def _list_names() -> list[str]:
    """Return the names that Trainer accepts, also those of the installed version."""
    spec = find_spec("transformers")
    assert spec is not None
    assert spec.submodule_search_locations
    source = Path(spec.submodule_search_locations[0], "training_args.py").read_text(encoding="utf-8")
    enum = source.partition("class OptimizerNames(")[2].partition("\n\n\n")[0]
    installed = re.findall(r'^    [A-Z0-9_]+ = "(\w+)"', enum, flags=re.MULTILINE)
    assert "adamw_torch" in installed
    return sorted({*HUGGING_FACE, *installed})


def _has_card(name: str) -> bool:
    try:
        CATALOG.find_optimizer(name)
    except InputError:
        return False
    return True


def test_every_name_of_hugging_face_has_a_card_or_a_reason() -> None:
    for name in _list_names():
        assert _has_card(name) is (normalize_spelling(name) not in CATALOG.base.no_card), name


def test_no_name_with_a_reason_has_a_card() -> None:
    for name, entry in CATALOG.base.no_card.items():
        with pytest.raises(InputError) as raised:
            CATALOG.find_optimizer(name)
        assert raised.value.code is ErrorCode.UNKNOWN_NAME
        assert str(raised.value).endswith(f": {entry.because}" + (f"; use {entry.use}" if entry.use else ""))


@pytest.mark.parametrize(
    ("name", "optimizer"),
    [("FusedAdam", "adamw"), ("deepspeed.ops.adam.FusedAdam", "adamw"), ("adamw_apex_fused", "adamw"),
     ("adamw_torch_8bit", "torchao-adamw8bit"), ("rmsprop_bnb", "rmsprop"), ("galore_adamw", "galore-adamw"),
     ("NAdamW", "nadamw"), ("NAdam", "nadam"), ("torch.optim.SparseAdam", "sparse-adam")],
)  # fmt: skip
def test_a_class_or_alias_means_the_method_that_it_computes(name: str, optimizer: str) -> None:
    assert CATALOG.find_optimizer(name) == optimizer


@pytest.mark.parametrize("command", ["recommend --optimizer", "estimate --optimizer", "show"])
def test_the_reason_is_one_line_of_error(command: str) -> None:
    result = optadvise(*command.split(), "galore_adamw_layerwise")
    assert (result.code, result.error) == (2, "unknown-name")
    assert result.err.count("\n") == 1
    assert "use galore-adamw" in result.err
