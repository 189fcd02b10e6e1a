"""Transformers: weights compared with Hugging Face, saved tensors with autograd, and invalid configs."""

from __future__ import annotations

import importlib.util
import json
import math
import os
import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError
from optadvise.core.records import NetworkShape
from optadvise.memory.architectures import build_named_shape, build_network
from optadvise.memory.autograd import NO_COST, AutogradGraph, SizedTensor
from optadvise.memory.backward import simulate_backward
from optadvise.memory.hf_config import read_hf_config
from optadvise.memory.network import Block, Network, count_weights
from optadvise.memory.networks import Networks
from optadvise.memory.operations import OPERATIONS
from optadvise.memory.programs import evaluate_product
from optadvise.memory.records import ComputeMode, MicroBatch
from optadvise.memory.rules import MemoryRules
from optadvise.memory.training_step import StepSettings, simulate_step
from optadvise.rulebase.catalog import Catalog
from tests.conftest import ROOT
from tests.programs import find_peak, program, simulate

os.environ.setdefault("HF_HUB_OFFLINE", "1")
needs_transformers = pytest.mark.skipif(
    importlib.util.find_spec("transformers") is None, reason="requires transformers"
)
# Importing transformers may emit warnings about installed packages.
quiet = pytest.mark.filterwarnings("ignore")

SMALL = {"hidden_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "intermediate_size": 96,
         "vocab_size": 101, "pad_token_id": 0}  # fmt: skip
GROUPED = {**SMALL, "num_key_value_heads": 2}
WIDE = {**GROUPED, "head_dim": 32}
TINY = [
    ("llama", GROUPED),
    ("llama", {**WIDE, "attention_bias": True, "mlp_bias": True, "tie_word_embeddings": True}),
    ("mistral", GROUPED),
    ("qwen2", GROUPED),
    ("ministral", WIDE),
    ("smollm3", GROUPED),
    ("qwen3", GROUPED),
    ("qwen3", {**WIDE, "attention_bias": True}),
    ("gemma", GROUPED),
    ("gemma2", GROUPED),
    ("gemma3_text", GROUPED),
    ("olmo", GROUPED),
    ("olmo2", GROUPED),
    ("phi", GROUPED),
    ("phi3", GROUPED),
    ("gpt_neox", SMALL),
    ("gpt_neox", {**SMALL, "use_parallel_residual": False, "attention_bias": False}),
    ("gpt2", {"n_embd": 64, "n_layer": 2, "n_head": 4, "vocab_size": 99}),
    ("opt", {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 96, "vocab_size": 77}),
    ("opt", {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "ffn_dim": 96, "vocab_size": 77,
             "word_embed_proj_dim": 32, "do_layer_norm_before": False}),
    ("bert", SMALL),
    ("roberta", SMALL),
    ("distilbert", {"dim": 64, "n_layers": 2, "n_heads": 4, "hidden_dim": 128, "vocab_size": 99}),
    ("t5", {}),
    ("t5", {"feed_forward_proj": "gated-gelu", "num_decoder_layers": 2}),
    ("vit", {"hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 96,
             "num_labels": 7}),
    ("mixtral", {**GROUPED, "num_local_experts": 4}),
    ("qwen2_moe", {**GROUPED, "num_experts": 4, "moe_intermediate_size": 48, "shared_expert_intermediate_size": 56}),
    ("qwen3_moe", {**GROUPED, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 48}),
    ("olmoe", {**GROUPED, "num_experts": 4, "num_experts_per_tok": 2}),
]  # fmt: skip
FULL_SIZE = [
    ("llama", {"num_key_value_heads": 8, "intermediate_size": 14336, "vocab_size": 128256}),
    ("mistral", {}),
    ("qwen3", {"num_key_value_heads": 8, "intermediate_size": 12288, "num_hidden_layers": 36}),
    ("gpt2", {}),
    ("bert", {}),
    ("t5", {"d_model": 768, "num_layers": 12, "num_heads": 12, "d_ff": 3072}),
    ("vit", {"num_labels": 1000, "image_size": 384}),
    ("mixtral", {}),
]


@pytest.fixture(scope="module")
def networks(catalog: Catalog) -> Networks:
    return MemoryRules(catalog).networks


def read_config(catalog: Catalog, file: Path) -> NetworkShape:
    rules = MemoryRules(catalog)
    return read_hf_config(rules.networks, rules.settings.unsupported_heads, file)


def model_of(config: Any) -> Any:
    import transformers

    head = {"bert": "MaskedLM", "roberta": "MaskedLM", "distilbert": "MaskedLM", "t5": "Seq2SeqLM",
            "vit": "ImageClassification"}.get(config.model_type, "CausalLM")  # fmt: skip
    return getattr(transformers, f"AutoModelFor{head}").from_config(config)


def config_of(kind: str, arguments: dict[str, Any]) -> Any:
    from transformers import AutoConfig

    return AutoConfig.for_model(kind, **arguments)


def write_config(folder: Path, document: Any) -> Path:
    file = folder / "config.json"
    file.write_text(json.dumps(document, default=str), encoding="utf-8")
    return file


def shapes_of(network: Network) -> Counter[tuple[int, ...]]:
    shapes: Counter[tuple[int, ...]] = Counter()
    for weight, count in count_weights(network).items():
        shapes[weight.shape] += count
    return shapes


# -- weights -----------------------------------------------------------------------------------------------------------


@quiet
@needs_transformers
@pytest.mark.parametrize(("kind", "arguments"), [*TINY, *FULL_SIZE])
def test_weights_equal_those_of_hugging_face(
    catalog: Catalog, networks: Networks, tmp_path: Path, kind: str, arguments: dict[str, Any]
) -> None:
    config = config_of(kind, arguments)
    with torch.device("meta"):
        model = model_of(config)
    shape = read_config(catalog, write_config(tmp_path, config.to_dict()))
    assert shapes_of(build_network(networks, shape)) == Counter(tuple(p.shape) for p in model.parameters())


PUBLISHED = {  # counts of the checkpoints
    "bert-base-uncased": 109_514_298, "bert-large-uncased": 335_174_458, "distilbert-base-uncased": 66_985_530,
    "gemma-2-9b": 9_241_705_984, "gemma-2b": 2_506_172_416, "gemma-3-1b": 999_885_952, "gpt-neox-20b": 20_554_567_680,
    "gpt2": 124_439_808, "gpt2-xl": 1_557_611_200, "llama-2-7b": 6_738_415_616, "llama-2-70b": 68_976_648_192,
    "llama-3-8b": 8_030_261_248, "llama-3.1-405b": 405_853_388_800, "llama-3.2-1b": 1_235_814_400,
    "mistral-7b": 7_241_732_096, "mixtral-8x7b": 46_702_792_704, "olmo-2-7b": 7_298_617_344,
    "olmoe-1b-7b": 6_919_161_856, "opt-350m": 331_196_416, "phi-2": 2_779_683_840, "phi-4": 14_659_507_200,
    "pythia-12b": 11_846_072_320, "qwen2.5-7b": 7_615_616_512, "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-8b": 8_190_735_360, "roberta-base": 124_697_433, "smollm2-135m": 134_515_008, "t5-11b": 11_307_321_344,
    "t5-small": 60_506_624, "t5-v1.1-base": 247_577_856, "tinyllama-1.1b": 1_100_048_384, "vit-base-16": 86_567_656,
    "vit-huge-14": 632_045_800,
}  # fmt: skip


def test_named_shapes_have_the_declared_parameters(networks: Networks) -> None:
    names = [name for name, shape in networks.shapes.items() if networks.families[shape.family].model_types]
    assert len(names) >= 130
    wrong = {}
    for name in names:
        shape = build_named_shape(networks, name)
        count = sum(n * math.prod(w.shape) for w, n in count_weights(build_network(networks, shape)).items())
        if count != networks.shapes[name].parameters:
            wrong[name] = count
    assert not wrong


def test_network_names_are_unique_and_citations_exist() -> None:
    folder = ROOT / "rules" / "networks"
    files = {file.stem: yaml.safe_load(file.read_text(encoding="utf-8")) for file in folder.glob("*.yaml")}
    general = yaml.safe_load((ROOT / "rules" / "sources.yaml").read_text(encoding="utf-8"))
    sources = {*general["sources"], *files.pop("sources")["sources"]}
    cited = {cite for part in files.pop("parts")["parts"] for cite in part["cite"]}
    names: Counter[str] = Counter()
    for stem, family in files.items():
        assert family["family"] == stem
        shapes = family.get("shapes", {})
        cited |= {cite for described in (family, *shapes.values()) for cite in described.get("cite", ())}
        names.update([*shapes, *(f"model type {kind}" for kind in family.get("model_types", ()))])
    assert cited - sources == set()
    assert [name for name, count in names.items() if count > 1] == []


def test_published_counts(networks: Networks) -> None:
    assert {name: networks.shapes[name].parameters for name in PUBLISHED} == PUBLISHED


# -- tensors saved by autograd -----------------------------------------------------------------------------------------


def measure_saved_bytes(model: Any, batch: dict[str, Any]) -> int:
    """Return the bytes of storages that autograd saves, without parameters, buffers and inputs."""
    excluded = {t.untyped_storage().data_ptr() for t in (*model.parameters(), *model.buffers(), *batch.values())}
    saved: dict[int, torch.Tensor] = {}

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        if tensor.untyped_storage().data_ptr() not in excluded:
            saved[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = model(**batch).loss
    total = sum(int(tensor.untyped_storage().nbytes()) for tensor in saved.values())
    del loss
    return total


@quiet
@needs_transformers
@pytest.mark.parametrize(
    ("kind", "arguments"),
    [
        ("llama", {**GROUPED, "attn_implementation": "eager"}),
        ("gpt2", {"n_embd": 64, "n_head": 4, "vocab_size": 99, "attn_pdrop": 0, "resid_pdrop": 0, "embd_pdrop": 0}),
        ("bert", {**SMALL, "hidden_dropout_prob": 0, "attention_probs_dropout_prob": 0}),
        ("phi3", GROUPED),
    ],
)
def test_layer_saves_as_much_as_autograd(
    catalog: Catalog, networks: Networks, tmp_path: Path, kind: str, arguments: dict[str, Any]
) -> None:
    """The difference between three layers and one is the memory of two layers."""
    measured, simulated = [], []
    for layers in (1, 3):
        key = "n_layer" if kind == "gpt2" else "num_hidden_layers"
        config = config_of(kind, {**arguments, key: layers})
        config._attn_implementation = "eager"
        config.use_cache = False
        tokens = torch.randint(1, 90, (2, 40))
        measured.append(measure_saved_bytes(model_of(config).train(), {"input_ids": tokens, "labels": tokens.clone()}))
        network = build_network(networks, read_config(catalog, write_config(tmp_path, config.to_dict())))
        mode = ComputeMode(flags=network.flags | {"eager"})
        simulated.append(simulate_step(network, mode, MicroBatch(2, 40)).activations)
    layer, predicted = (measured[1] - measured[0]) / 2, (simulated[1] - simulated[0]) / 2
    # Programs omit a few saved numbers per row, such as the inverse root of a variance.
    assert predicted == pytest.approx(layer, rel=0.01)


# -- programs with known results --------------------------------------------------------------------------------------


def run_lines(
    *lines: str, mode: ComputeMode | None = None, shape: tuple[int, ...] = (1, 10, 8)
) -> tuple[AutogradGraph, SizedTensor]:
    return simulate(*lines, mode=mode, dims={"wide": 16, "eight": 8}, shape=shape, saved_elsewhere=False)


def test_evaluate_product() -> None:
    dims = {"heads": 4, "head_dim": 16, "hidden": 60}
    assert evaluate_product("heads", dims) == 4
    assert evaluate_product("7", dims) == 7
    assert evaluate_product("heads*head_dim", dims) == 64
    assert evaluate_product("8*hidden/3", dims) == 160
    assert evaluate_product("heads/2*head_dim", dims) == 32
    with pytest.raises(KeyError, match="nowhere"):
        evaluate_product("2*nowhere", dims)


def test_tensor_is_freed_after_its_last_use() -> None:
    # Each tensor has 320 bytes; two are live at a time.
    graph, _ = run_lines("a = scale x", "b = scale a", "y = scale b")
    assert find_peak(graph.moments).total == 640
    assert graph.live_bytes == 320
    # x is used again at the end, so it stays alive.
    graph, _ = run_lines("a = scale x", "b = scale a", "c = scale b", "y = add c x")
    assert find_peak(graph.moments).total == 320 * 3
    assert graph.live_bytes == 320


def test_linear_saves_its_input() -> None:
    graph, out = run_lines("y = linear x out=wide")
    assert graph.live_bytes == 320 + 640  # x, which is saved, and the output
    graph.release(out)
    assert graph.live_bytes == 320
    backward = find_peak(simulate_backward(graph, out))
    # Gradients of the output, the input and the weight (16 × 8), and x.
    assert (backward.activations, backward.working, backward.weight_gradients) == (320, 640 + 320, 512)
    assert graph.live_bytes == 0


def test_autocast_saves_the_copy_and_frees_the_original() -> None:
    graph, out = run_lines("y = linear x out=wide", mode=ComputeMode(compute_itemsize=2, autocast=True))
    assert find_peak(graph.moments).total == 320 + 160 + 320 + 16 * 8 * 2  # x, its copy, the output, the weight's copy
    graph.release(out)
    assert (graph.live_bytes, graph.weight_copies) == (160, 256)


def test_storage_saved_twice_counts_once() -> None:
    one, _ = run_lines("y = linear x out=eight")
    two, out = run_lines("a = linear x out=eight", "b = linear x out=eight", "y = add a b")
    two.release(out)
    assert (one.live_bytes - 320, two.live_bytes) == (320, 320)


def test_gradient_of_a_sum_is_reused() -> None:
    graph, out = run_lines("a = scale x", "y = add a x")
    # Peak: the gradient of the sum, shared by x and a, and the gradient that scale computes.
    assert find_peak(simulate_backward(graph, out)).working == 640


def test_view_keeps_its_storage() -> None:
    graph, out = run_lines("a = linear x out=wide", "h = chunk_view a of=2", "y = gelu h")
    graph.release(out)
    assert graph.live_bytes == 320 + 640


def test_line_without_its_flag_returns_its_first_input() -> None:
    on, _ = run_lines("a = scale x", "y = gelu a if=chosen&!other", mode=ComputeMode(flags=frozenset({"chosen"})))
    for flags in ((), ("chosen", "other"), ("other",)):
        off, _ = run_lines("a = scale x", "y = gelu a if=chosen&!other", mode=ComputeMode(flags=frozenset(flags)))
        assert off.live_bytes == 320
    assert on.live_bytes == 640


def test_dropout_saves_one_byte_per_element() -> None:
    graph, out = run_lines("y = dropout x")
    graph.release(out)
    assert graph.live_bytes == 80


def test_frozen_layer_saves_nothing() -> None:
    graph, out = run_lines("y = linear x out=wide", mode=ComputeMode(frozen=True))
    graph.release(out)
    assert graph.live_bytes == 0


def test_activations_are_proportional_to_layers() -> None:
    layer = program("a = linear x out=eight", "y = gelu a")

    def peak(layers: int) -> int:
        embed = Block("embed", program("x = embedding input rows=5 width=eight"), 1, {"eight": 8}, "input")
        blocks = (embed, Block("layer", layer, layers, {"eight": 8}))
        network = Network("paper", blocks, images=False, flags=frozenset())
        return simulate_step(network, ComputeMode(), MicroBatch(1, 10)).activations

    assert peak(3) - peak(2) == peak(2) - peak(1) == 640  # inputs of linear and GELU


def test_dropping_a_saved_tensor_changes_the_prediction(networks: Networks, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation test: every operation that saves a tensor affects the prediction."""
    network = build_network(networks, build_named_shape(networks, "tinyllama-1.1b"))
    mode = ComputeMode(compute_itemsize=2, autocast=True, flags=network.flags | {"eager"})
    batch = MicroBatch(8, 256)
    before = simulate_step(network, mode, batch).peak.live.total
    record = AutogradGraph.record

    def save_nothing(
        graph: AutogradGraph, out: SizedTensor, inputs: Any, saved: Any = (), cost: Any = NO_COST
    ) -> SizedTensor:
        result = record(graph, out, inputs, (), cost)
        for tensor in saved:
            if tensor.storage != out.storage:
                graph.free_unused(tensor)
        return result

    for name in ("linear", "mul", "softmax_fp32", "weighted_values", "attention_scores", "silu", "mul_weight",
                 "cross_entropy_fp32"):  # fmt: skip
        original = OPERATIONS[name]

        def run_without_saving(*args: Any, _original: Any = original, **kwargs: Any) -> Any:
            with monkeypatch.context() as patch:
                patch.setattr(AutogradGraph, "record", save_nothing)
                return _original(*args, **kwargs)

        with monkeypatch.context() as patch:
            patch.setitem(OPERATIONS, name, run_without_saving)
            assert simulate_step(network, mode, batch).peak.live.total < before, name


# -- options ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["llama-3.2-1b", "gpt2", "bert-base-uncased", "t5-small", "gemma-2-2b", "phi-4-mini"])
def test_options_reduce_activations_and_peak(networks: Networks, name: str) -> None:
    network = build_network(networks, build_named_shape(networks, name))

    def measure(*flags: str, checkpoint: bool = False) -> tuple[int, int]:
        mode = ComputeMode(compute_itemsize=2, autocast=True, flags=network.flags | set(flags))
        result = simulate_step(network, mode, MicroBatch(32, 512), StepSettings(checkpoint))
        return result.activations, result.peak.live.total

    eager, selective, flash, full = (
        measure("eager"),
        measure("eager", "selective", checkpoint=True),
        measure(),
        measure("eager", checkpoint=True),
    )
    assert full[0] < selective[0] < eager[0]
    assert full[0] < flash[0] < eager[0]
    plain, chunked = measure(checkpoint=True), measure("chunked", checkpoint=True)
    assert chunked[0] == plain[0]
    assert chunked[1] < plain[1]


def test_chunked_loss_has_the_same_weights(networks: Networks) -> None:
    for name in ("llama-3.2-1b", "tinyllama-1.1b", "phi-2", "bert-base-uncased"):
        network = build_network(networks, build_named_shape(networks, name))
        assert count_weights(network) == count_weights(network, ComputeMode(flags=network.flags | {"chunked"}))


# -- invalid configs -----------------------------------------------------------------------------------------

GOOD = {"model_type": "llama", "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
        "intermediate_size": 96, "vocab_size": 101, "hidden_act": "silu"}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "key", "code"),
    [
        ({"hidden_size": None}, "hidden_size", ErrorCode.INVALID_NETWORK),
        ({"vocab_size": True}, "vocab_size", ErrorCode.INVALID_NETWORK),
        ({"vocab_size": "101"}, "vocab_size", ErrorCode.INVALID_NETWORK),
        ({"vocab_size": 101.5}, "vocab_size", ErrorCode.INVALID_NETWORK),
        ({"vocab_size": [101]}, "vocab_size", ErrorCode.INVALID_NETWORK),
        ({"vocab_size": {}}, "vocab_size", ErrorCode.INVALID_NETWORK),
        ({"num_hidden_layers": -1}, "num_hidden_layers", ErrorCode.OUT_OF_RANGE),
        ({"num_hidden_layers": 0}, "num_hidden_layers", ErrorCode.OUT_OF_RANGE),
        ({"num_hidden_layers": 100_000}, "layers", ErrorCode.OUT_OF_RANGE),
        ({"num_attention_heads": 10**12}, "num_attention_heads", ErrorCode.OUT_OF_RANGE),
        ({"num_attention_heads": 5}, "heads", ErrorCode.NOT_DIVISIBLE),
        ({"num_key_value_heads": 3}, "kv_heads", ErrorCode.NOT_DIVISIBLE),
        ({"hidden_size": math.nan}, "hidden_size", ErrorCode.INVALID_NETWORK),
        ({"attention_dropout": math.nan}, "attention_dropout", ErrorCode.INVALID_NETWORK),
        ({"attention_dropout": "some"}, "attention_dropout", ErrorCode.INVALID_NETWORK),
        ({"attention_dropout": True}, "attention_dropout", ErrorCode.INVALID_NETWORK),
        ({"tie_word_embeddings": 1}, "tie_word_embeddings", ErrorCode.INVALID_NETWORK),
        ({"hidden_act": "xielu"}, "hidden_act", ErrorCode.INVALID_NETWORK),
        ({"hidden_act": ["silu"]}, "hidden_act", ErrorCode.INVALID_NETWORK),
        ({"model_type": "lama"}, "model_type", ErrorCode.INVALID_NETWORK),
        ({"model_type": None}, "model_type", ErrorCode.INVALID_NETWORK),
        ({"model_type": ["llama"]}, "model_type", ErrorCode.INVALID_NETWORK),
        ({"model_type": "qwen3_moe", "decoder_sparse_step": 2}, "decoder_sparse_step", ErrorCode.INVALID_NETWORK),
        ({"model_type": "qwen3_moe", "mlp_only_layers": [1]}, "mlp_only_layers", ErrorCode.INVALID_NETWORK),
        ({"model_type": "olmo", "clip_qkv": 8.0}, "clip_qkv", ErrorCode.INVALID_NETWORK),
    ],
)
def test_invalid_config_values_are_rejected(
    catalog: Catalog, tmp_path: Path, change: dict[str, Any], key: str, code: ErrorCode
) -> None:
    with pytest.raises(InputError) as caught:
        read_config(catalog, write_config(tmp_path, {**GOOD, **change}))
    assert (caught.value.code, caught.value.option) == (code, "--hf-config")
    assert re.search(rf"\b{key}\b", str(caught.value))


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (json.dumps(GOOD)[:-9], ErrorCode.INVALID_SYNTAX),
        ("", ErrorCode.INVALID_SYNTAX),
        ("[1, 2]", ErrorCode.INVALID_NETWORK),
        ("[" * 100_000, ErrorCode.INVALID_SYNTAX),
        (" " * 40 * 2**20, ErrorCode.FILE_UNREADABLE),
        ("\udcff", ErrorCode.INVALID_SYNTAX),
    ],
    ids=["truncated", "empty", "list", "deep", "large", "bytes"],
)
def test_invalid_config_files_are_rejected(catalog: Catalog, tmp_path: Path, content: str, code: ErrorCode) -> None:
    file = tmp_path / "config.json"
    file.write_bytes(content.encode("utf-8", "surrogateescape"))
    with pytest.raises(InputError) as caught:
        read_config(catalog, file)
    assert (caught.value.code, caught.value.option, caught.value.value) == (code, "--hf-config", str(file))


def test_missing_config_file_is_rejected(catalog: Catalog, tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        read_config(catalog, tmp_path / "config.json")
    assert caught.value.code is ErrorCode.FILE_NOT_FOUND


def test_defaults_follow_the_model_type(catalog: Catalog, tmp_path: Path) -> None:
    def dims_of(kind: str) -> tuple[dict[str, int], tuple[str, ...]]:
        shape = read_config(catalog, write_config(tmp_path, {**GOOD, "num_attention_heads": 16,
                                                                     "model_type": kind}))  # fmt: skip
        return dict(shape.dims), shape.flags

    assert dims_of("llama")[0]["kv_heads"] == 16
    assert dims_of("mistral")[0]["kv_heads"] == 8
    assert "tied" in dims_of("smollm3")[1]
    assert "tied" not in dims_of("llama")[1]
    assert "qkv_bias" in dims_of("qwen2")[1]
    assert "out_bias" not in dims_of("qwen2")[1]


def test_gemma_3_config_uses_its_text_config(catalog: Catalog, networks: Networks, tmp_path: Path) -> None:
    text = {"hidden_size": 2560, "num_hidden_layers": 34, "intermediate_size": 10240, "model_type": "gemma3_text"}
    shape = read_config(catalog, write_config(tmp_path, {"model_type": "gemma3", "text_config": text}))
    assert dict(shape.dims)["heads"] == 8
    named = build_named_shape(networks, "gemma-3-4b")
    assert dict(shape.dims) == dict(named.dims)


def test_tied_embeddings_have_one_gradient(catalog: Catalog, networks: Networks, tmp_path: Path) -> None:
    """Tied embeddings do not change activations, and the shared weight has one gradient."""
    results = []
    for tied in (False, True):
        shape = read_config(catalog, write_config(tmp_path, {**GOOD, "tie_word_embeddings": tied}))
        network = build_network(networks, shape)
        results.append(simulate_step(network, ComputeMode(flags=network.flags), MicroBatch(2, 40)))
    assert results[0].activations == results[1].activations
    assert results[0].weight_gradients - results[1].weight_gradients == 64 * 101 * 4
    network = build_network(networks, build_named_shape(networks, "t5-small"))
    assert simulate_step(network, ComputeMode(flags=network.flags), MicroBatch(1, 8)).weight_gradients == 60_506_624 * 4
