"""Names of networks and methods after `--model`."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import yaml

from optadvise.advice.compiled_rules import CompiledRules
from optadvise.advice.complete import complete_situation
from optadvise.advice.inputs import parse_inputs
from optadvise.advice.model_names import find_word
from optadvise.core.errors import InputError, RuleFileError
from optadvise.core.records import read_shape
from optadvise.core.text import normalize_spelling
from optadvise.memory.networks import load_networks
from optadvise.rulebase.catalog import load, load_shipped
from tests.cli import optadvise
from tests.conftest import ROOT

RULES = CompiledRules(load_shipped())


def state(**typed: str) -> dict[str, object]:
    """Return the stated facts, with the name of the network as `arch`."""
    facts = parse_inputs(load_shipped(), typed)
    shape = read_shape(facts)
    others: dict[str, object] = {name: value for name, value in facts.items() if name != "shape"}
    return others if shape is None else {**others, "arch": shape.name}


def test_no_word_hides_a_kind_of_model_or_a_network() -> None:
    catalog = load_shipped()
    words = catalog.words
    assert len(words.numbers) > 1000
    hidden = [*(catalog.facts["model"].values or {}), *load_networks(catalog).shapes]
    assert [name for name in hidden if words.find(normalize_spelling(name)) is not None] == []


def test_a_word_and_the_network_of_the_same_name_are_of_one_kind() -> None:
    networks = load_networks(load_shipped())
    for group in load_shipped().words.groups:
        for name in filter(None, map(networks.find_spelling, group.words)):
            family = networks.families[networks.shapes[name].family]
            assert group.facts == {"model": family.model, "architecture": family.architecture} or family.model == "cnn"


_DECODER = {"model": "transformer", "architecture": "decoder"}


@pytest.mark.parametrize(
    ("name", "facts"),
    [
        ("llm", _DECODER),
        ("Language Model", _DECODER),
        ("llama-3", _DECODER),
        ("falcon_40B-instruct", {**_DECODER, "params": 40_000_000_000}),
        ("tiiuae/falcon-7b", {**_DECODER, "params": 7_000_000_000}),
        ("bert", {"model": "transformer", "architecture": "encoder"}),
        ("T5", {"model": "transformer", "architecture": "encoder-decoder"}),
        ("Whisper", {"model": "transformer", "architecture": "encoder-decoder", "objective": "speech"}),
        ("sentence transformer", {"model": "transformer", "architecture": "encoder", "objective": "contrastive"}),
        ("open_clip", {"model": "vit", "objective": "image-text"}),
        ("DINOv2", {"model": "vit", "objective": "distillation"}),
        ("YOLOv8n", {"model": "cnn", "objective": "detection"}),
        ("yolo11m", {"model": "cnn", "objective": "detection"}),  # m is a size, not millions
        ("nnU-Net", {"model": "cnn", "objective": "segmentation"}),
        ("patchtst", {"model": "transformer", "architecture": "encoder", "objective": "time-series"}),
        ("informer", {"model": "transformer", "architecture": "encoder-decoder", "objective": "time-series"}),
        ("TimesFM", {"model": "transformer", "architecture": "decoder", "objective": "time-series"}),
        ("nerf", {"model": "mlp"}),
        ("tabular", {"model": "mlp", "objective": "supervised"}),
        ("awd-lstm", {"model": "rnn", "objective": "language"}),
        ("a2c", {"model": "rl", "objective": "on-policy"}),
        ("dreamerv3", {"model": "rl", "objective": "off-policy"}),
        ("sd3.5-medium", {"model": "diffusion"}),
        ("HiFi-GAN", {"model": "gan", "objective": "speech"}),
        ("SASRec", {"model": "recsys"}),
        ("vit-h", {"model": "vit"}),
        ("resnet50", {"model": "cnn", "arch": "resnet50"}),
        ("meta-llama/Llama-3.1-8B", {**_DECODER, "arch": "llama-3-8b"}),
        ("ViT-B/16", {"model": "vit", "arch": "vit-base-16"}),
    ],
)
def test_a_name_states_facts(name: str, facts: dict[str, object]) -> None:
    assert state(model=name) == facts


def test_other_options_describe_the_network() -> None:
    assert state(model="resnet50", params="25M") == {"model": "cnn", "params": 25_000_000}
    contrastive = {"objective": "contrastive", "arch": "vit-base-16", "model": "vit"}
    assert state(model="moco", arch="vit-b-16") == contrastive
    assert state(model="embedding", arch="qwen3-0.6b")["architecture"] == "decoder"
    assert state(model="asr", architecture="encoder")["architecture"] == "encoder"
    assert state(model="falcon-7b", params="6.9B")["params"] == 6_900_000_000


def test_a_name_with_a_size_describes_a_network_without_dimensions() -> None:
    assert state(arch="falcon-7b") == {**_DECODER, "params": 7_000_000_000}
    assert state(arch="stablelm-2-1_6b")["params"] == 1_600_000_000
    assert state(arch="bloom-7b1")["params"] == 7_100_000_000
    assert state(arch="swin-base-patch4-window7-224") == {"model": "vit", "params": 87_770_000}
    assert state(arch="dit-xl/2", model="dit") == {"model": "diffusion", "params": 675_000_000}
    assert state(model="simmim", arch="swin-b")["objective"] == "masked"
    assert state(arch="whisper", params="244M")["objective"] == "speech"


@pytest.mark.parametrize("name", ["nerf", "3dgs", "pinn", "fno", "vae"])
def test_fields_and_operators_have_no_objective(name: str) -> None:
    assert complete_situation(RULES, parse_inputs(RULES.catalog, {"model": name})).objective is None


def test_words_state_the_facts_of_the_published_runs_that_they_name() -> None:
    """Check the words in `asked` of the recipes, except where the source leaves a fact open."""
    differing = []
    for recipe in RULES.catalog.recipes:
        if "model" in recipe.asked:
            facts = RULES.defaults.fill({**parse_inputs(RULES.catalog, recipe.asked), "task": recipe.task})
            stated = {name: getattr(recipe, name) for name in ("model", "objective", "architecture")}
            differing += [(recipe.id, name) for name, value in stated.items() if value not in (None, facts.get(name))]
    assert differing == []


def test_sizes_are_of_words() -> None:
    sizes = yaml.safe_load((ROOT / "rules" / "words.yaml").read_text(encoding="utf-8"))["sizes"]
    names = [name for group in sizes for name in group["params"]]
    catalog = load_shipped()
    assert [name for name in names if find_word(catalog, name) is None] == []
    assert [name for name in names if load_networks(catalog).find_spelling(name) is not None] == []


@pytest.mark.parametrize(
    ("line", "error", "option"),
    [
        ("--model moko", "unknown-choice", "--model"),
        ("--model bert --arch gpt2", "network-conflict", "--model"),
        ("--model resnet50 --arch resnet101", "network-conflict", "--arch"),
        ("--model clip --objective language", "option-conflict", "--objective"),
        ("--arch gpt2 --architecture encoder", "network-conflict", "--architecture"),
        ("--arch whisper", "network-unknown", "--arch"),
        ("--arch falcon-7b --model bert", "network-conflict", "--model"),
        ("--model falcon-7b --params 40B", "network-conflict", "--params"),
        ("--model gpt2-xl --params 7B", "network-conflict", "--params"),
    ],
)
def test_contradictions(line: str, error: str, option: str) -> None:
    result = optadvise("recommend", *line.split())
    assert (result.code, result.error) == (2, error)
    assert result.failure is not None
    assert result.failure.option == option


def test_questions_after_a_named_network(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO("\n" * 9))
    result = optadvise("recommend", "--model", "simclr", "--arch", "resnet50", "--interactive")
    assert result.code == 0
    assert "--arch resnet50" in result.err
    assert "--objective contrastive" in result.err


def test_suggestions_are_of_the_same_series() -> None:
    networks = load_networks(load_shipped())
    with pytest.raises(InputError) as error:
        networks.find_shape("whisprr-small")
    assert "mistral" not in str(error.value)
    with pytest.raises(InputError, match="resnet50"):
        networks.find_shape("resnt50")


def test_a_layer_adds_and_replaces_words(tmp_path: Path) -> None:
    file = tmp_path / "words.yaml"
    file.write_text("words:\n  - {words: [Our Net, llm], facts: {model: gnn}}\n")
    catalog = load([tmp_path])
    assert parse_inputs(catalog, {"model": "our-net"}) == {"model": "gnn"}
    assert parse_inputs(catalog, {"model": "llm"}) == {"model": "gnn"}
    assert parse_inputs(catalog, {"model": "gpt"}) == _DECODER


@pytest.mark.parametrize(
    "content",
    [
        "{words: [a], facts: {objective: speech}}",  # no kind of model
        "{words: [a], facts: {model: vit, params: 7}}",  # not a choice
        "{words: [a, A], facts: {model: vit}}",  # twice
        "{words: ['-'], facts: {model: vit}}",
        "{words: [a], facts: {model: house}}",
    ],
)
def test_invalid_words(content: str, tmp_path: Path) -> None:
    (tmp_path / "words.yaml").write_text(f"words:\n  - {content}\n")
    with pytest.raises(RuleFileError, match=r"words\.yaml:2"):
        _ = load([tmp_path]).words


@pytest.mark.parametrize("name", ["alpaca", "reward-model", "llava", "ner", "reranker", "dreambooth", "controlnet"])
def test_names_of_trained_models_are_fine_tuned_unless_stated(name: str) -> None:
    runs = [
        complete_situation(RULES, parse_inputs(RULES.catalog, {"model": name, "task": task}))
        for task in (None, "pretrain")
    ]
    assert [run.task for run in runs] == ["finetune", "pretrain"]
