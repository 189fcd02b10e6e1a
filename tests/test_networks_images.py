"""Convolutional networks: weights compared with published counts, memory of a step with fake tensors."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from msgspec.structs import replace
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.distributed._tools.mem_tracker import MemTracker

from optadvise.core.error_codes import ErrorCode
from optadvise.core.errors import InputError, RuleFileError
from optadvise.memory.architectures import build_named_shape, build_network, check_image_size
from optadvise.memory.autograd import AutogradGraph, SizedTensor
from optadvise.memory.backward import simulate_backward
from optadvise.memory.network import Network, count_weights
from optadvise.memory.network_families import NamedShape
from optadvise.memory.network_files import read_networks
from optadvise.memory.networks import load_networks
from optadvise.memory.records import ComputeMode, MicroBatch
from optadvise.memory.training_step import simulate_step
from optadvise.rulebase.catalog import Catalog
from tests.conftest import ROOT, rotated
from tests.convnets import (
    convnext,
    densenet,
    efficientnet_b0,
    mobilenet_v2,
    regnety_400mf,
    resnet,
    resnet20,
    vgg,
    wide_resnet,
)
from tests.programs import find_peak, simulate

MODES = {
    "fp32": ComputeMode(),
    "amp": ComputeMode(compute_itemsize=2, autocast=True),
    "bf16": ComputeMode(weight_itemsize=2, compute_itemsize=2),
}


PUBLISHED = {  # counts of torchvision's pages; for CIFAR networks, of common implementations
    "alexnet": 61_100_840, "convnext-base": 88_591_464, "convnext-large": 197_767_336, "convnext-small": 50_223_688,
    "convnext-tiny": 28_589_128, "densenet121": 7_978_856, "densenet161": 28_681_000, "densenet169": 14_149_480,
    "densenet201": 20_013_928, "efficientnet-b0": 5_288_548, "efficientnet-b1": 7_794_184,
    "efficientnet-b2": 9_109_994, "efficientnet-b3": 12_233_232, "efficientnet-b4": 19_341_616,
    "efficientnet-b5": 30_389_784, "efficientnet-b6": 43_040_704, "efficientnet-b7": 66_347_960,
    "mobilenet-v2": 3_504_872, "mobilenet-v3-large": 5_483_032, "mobilenet-v3-small": 2_542_856,
    "regnetx-400mf": 5_495_976, "regnetx-8gf": 39_572_648, "regnety-400mf": 4_344_144, "regnety-16000mf": 83_590_140,
    "resnet18": 11_689_512, "resnet34": 21_797_672, "resnet50": 25_557_032, "resnet101": 44_549_160,
    "resnet152": 60_192_808, "resnet20": 269_722, "resnet56": 853_018, "resnext50-32x4d": 25_028_904,
    "resnext101-32x8d": 88_791_336, "vgg11": 132_863_336, "vgg13": 133_047_848, "vgg16": 138_357_544,
    "vgg19": 143_667_240, "vgg16-bn": 138_365_992, "wide-resnet-28-10": 36_479_194, "wide-resnet50-2": 68_883_240,
}  # fmt: skip


def network_of(catalog: Catalog, name: str) -> Network:
    networks = load_networks(catalog)
    return build_network(networks, build_named_shape(networks, name))


def fake_peak(build: Callable[[], nn.Module], mode: ComputeMode, batch: MicroBatch) -> int:
    """Return the peak of the second training step on fake tensors."""
    dtype = torch.bfloat16 if mode.weight_itemsize == 2 else torch.float32
    with FakeTensorMode():
        torch.set_default_dtype(dtype)  # fake weights cannot be cast
        try:
            model = build()
        finally:
            torch.set_default_dtype(torch.float32)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9, foreach=True)
        images = torch.empty(batch.samples, 3, batch.length, batch.length, dtype=torch.float32)
        labels = torch.empty(batch.samples, dtype=torch.int64)
        _step(model, optimizer, images, labels, mode)  # the first step allocates the optimizer state
        tracker = MemTracker()
        tracker.track_external(model, optimizer, images, labels)
        with tracker:
            _step(model, optimizer, images, labels, mode)
        peak = next(iter(tracker.get_tracker_snapshot("peak").values()))
        return int(peak["Total"])


def _step(
    model: nn.Module, optimizer: torch.optim.Optimizer, images: Tensor, labels: Tensor, mode: ComputeMode
) -> None:
    if mode.autocast:  # manually, as the context manager requires a device
        torch.set_autocast_enabled("cpu", True)
        torch.set_autocast_dtype("cpu", torch.bfloat16)
        torch.set_autocast_cache_enabled(True)
        torch.autocast_increment_nesting()
    loss = F.cross_entropy(model(images.to(next(model.parameters()).dtype)).float(), labels)
    if mode.autocast:
        torch.autocast_decrement_nesting()
        torch.clear_autocast_cache()
        torch.set_autocast_enabled("cpu", False)
    loss.backward()
    del loss
    optimizer.step()
    optimizer.zero_grad()


def predicted_peak(network: Network, mode: ComputeMode, batch: MicroBatch) -> int:
    """Return the predicted peak with SGD momentum, without the statistics of normalization layers."""
    step = simulate_step(network, replace(mode, flags=network.flags), batch)
    return 2 * count(network) * mode.weight_itemsize + step.input_bytes + step.peak.live.total


# -- weights -----------------------------------------------------------------------------------------------------------


def count(network: Network) -> int:
    return sum(number * math.prod(weight.shape) for weight, number in count_weights(network).items())


def image_shapes(catalog: Catalog) -> dict[str, NamedShape]:
    networks = load_networks(catalog)
    return {
        name: shape
        for name, shape in networks.shapes.items()
        if networks.families[shape.family].takes_images and shape.stages is not None
    }


@pytest.mark.parametrize("name", PUBLISHED)
def test_parameters_equal_the_published_count(catalog: Catalog, name: str) -> None:
    assert count(network_of(catalog, name)) == PUBLISHED[name]


def test_shapes_have_the_declared_parameters(catalog: Catalog) -> None:
    counts = {name: count(network_of(catalog, name)) for name in image_shapes(catalog)}
    assert counts == {name: shape.parameters for name, shape in image_shapes(catalog).items()}
    assert set(PUBLISHED) <= set(counts)


def test_names_are_unambiguous(catalog: Catalog) -> None:
    networks = load_networks(catalog)
    # Names are compared without punctuation, so 1.6gf and 16gf would be equal.
    names = [*image_shapes(catalog), *(a for s in image_shapes(catalog).values() for a in s.aliases)]
    assert len({networks.find_shape(name) for name in image_shapes(catalog)}) == len(image_shapes(catalog))
    assert all(networks.find_shape(name) in image_shapes(catalog) for name in names)


@pytest.mark.parametrize(
    ("name", "kind", "arguments"),
    [
        ("resnet34", "ResNet", {"layer_type": "basic", "hidden_sizes": [64, 128, 256, 512]}),
        ("resnet50", "ResNet", {}),
        ("convnext-tiny", "ConvNext", {}),
        ("mobilenet-v2", "MobileNetV2", {}),
        ("efficientnet-b0", "EfficientNet",
         {"width_coefficient": 1.0, "depth_coefficient": 1.0, "hidden_dim": 1280, "image_size": 224}),
        ("efficientnet-b7", "EfficientNet", {}),
        ("regnety-400mf", "RegNet", {"hidden_sizes": [48, 104, 208, 440], "depths": [1, 3, 6, 6], "groups_width": 8}),
    ],
)  # fmt: skip
def test_weights_equal_those_of_transformers(catalog: Catalog, name: str, kind: str, arguments: dict[str, Any]) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        transformers = pytest.importorskip("transformers")
        config = getattr(transformers, f"{kind}Config")(num_labels=1000, **arguments)
        with torch.device("meta"):
            model = getattr(transformers, f"{kind}ForImageClassification")(config)
    shapes: Counter[tuple[int, ...]] = Counter()
    for weight, number in count_weights(network_of(catalog, name)).items():
        shapes[weight.shape] += number
    assert shapes == Counter(tuple(parameter.shape) for parameter in model.parameters())


# -- a step against fake tensors ---------------------------------------------------------------------------------------

VGG16 = (64, 64, 0, 128, 128, 0, 256, 256, 256, 0, 512, 512, 512, 0, 512, 512, 512, 0)
VGG11 = (64, 0, 128, 0, 256, 256, 0, 512, 512, 0, 512, 512, 0)
BUILDS: dict[str, Callable[[], nn.Module]] = {
    "resnet20": resnet20,
    "resnet18": lambda: resnet((2, 2, 2, 2), bottleneck=False),
    "resnet50": lambda: resnet((3, 4, 6, 3), bottleneck=True),
    "wide-resnet-28-10": wide_resnet,
    "vgg11": lambda: vgg(VGG11, bn=False),
    "vgg16-bn": lambda: vgg(VGG16, bn=True),
    "convnext-tiny": lambda: convnext((3, 3, 9, 3), 96),
    "mobilenet-v2": mobilenet_v2,
    "efficientnet-b0": efficientnet_b0,
    "densenet121": lambda: densenet((6, 12, 24, 16)),
    "regnety-400mf": regnety_400mf,
}
# Each network in at least one precision; all 33 pairs agreed within 0.6 %. Fake tensors are slow for deep networks,
# so each run tests some of them.
QUICK = [*(("vgg16-bn", mode) for mode in MODES),
         *((name, "amp") for name in ("resnet20", "resnet18", "vgg11", "wide-resnet-28-10"))]  # fmt: skip
DEEP = [*((name, "amp") for name in ("convnext-tiny", "mobilenet-v2", "efficientnet-b0", "regnety-400mf")),
        *(("resnet50", mode) for mode in MODES)]  # fmt: skip


@pytest.mark.parametrize(("name", "mode"), [*QUICK, *rotated(1, DEEP)])
def test_peak_equals_that_of_fake_tensors(catalog: Catalog, name: str, mode: str) -> None:
    batch = MicroBatch(32, image_shapes(catalog)[name].length or 0)
    real = fake_peak(BUILDS[name], MODES[mode], batch)
    assert predicted_peak(network_of(catalog, name), MODES[mode], batch) == pytest.approx(real, rel=0.01)


def test_peak_of_half_a_densenet_equals_that_of_fake_tensors(catalog: Catalog) -> None:
    network, batch = network_of(catalog, "densenet121"), MicroBatch(32, 224)
    blocks = network.blocks
    half = replace(network, blocks=(*blocks[: 1 + 6 + 1 + 12], blocks[-1]))  # the whole network takes 15 seconds
    real = fake_peak(lambda: densenet((6, 12)), MODES["amp"], batch)
    assert predicted_peak(half, MODES["amp"], batch) == pytest.approx(real, rel=0.01)


def test_activations_are_proportional_to_the_batch(catalog: Catalog) -> None:
    for name in image_shapes(catalog):
        network = network_of(catalog, name)
        small, large = (
            simulate_step(network, replace(MODES["amp"], flags=network.flags), MicroBatch(n, 224)) for n in (8, 16)
        )
        assert large.activations == 2 * small.activations
        assert large.weight_copies == small.weight_copies
        assert large.weight_gradients == small.weight_gradients == 4 * count(network)


# -- operations --------------------------------------------------------------------------------------------------------


def run_lines(
    lines: list[str], mode: ComputeMode, shape: tuple[int, ...], itemsize: int
) -> tuple[AutogradGraph, SizedTensor]:
    """Run lines on an input that requires a gradient and that another block saves."""
    graph, out = simulate(*lines, mode=mode, shape=shape, itemsize=itemsize)
    graph.release(out)
    return graph, out


def count_saved_bytes(
    lines: list[str], mode: str = "fp32", shape: tuple[int, ...] = (2, 8, 16, 16), item: int = 4
) -> int:
    """Return the bytes saved for backward."""
    return run_lines(lines, MODES[mode], shape, item)[0].live_bytes


PIXELS = 2 * 16 * 16  # in two images


def test_convolution_saves_its_input() -> None:
    assert count_saved_bytes(["y = conv x out=4"]) == 0  # another block saves the input
    assert count_saved_bytes(["c = conv x out=4", "y = conv c out=4"]) == PIXELS * 4 * 4
    assert count_saved_bytes(["y = conv x out=4"], "amp") == PIXELS * 8 * 2  # the half-precision copy
    assert count_saved_bytes(["y = conv x out=4"], "amp", item=2) == 0


@pytest.mark.parametrize(
    ("line", "shape"),
    [
        ("y = conv x out=4 kernel=7 stride=2", (2, 4, 8, 8)),
        ("y = conv x out=4 kernel=3 stride=2 groups=2", (2, 4, 8, 8)),
        ("y = conv x out=4 kernel=4 stride=4 padding=0", (2, 4, 4, 4)),
        ("y = max_pool x kernel=3 stride=2 padding=1", (2, 8, 8, 8)),
        ("y = avg_pool x kernel=2 stride=2", (2, 8, 8, 8)),
        ("y = adaptive_avg_pool x side=7", (2, 8, 7, 7)),
        ("y = strided_shortcut x out=24 stride=2", (2, 24, 8, 8)),
        ("y = concat x x", (2, 16, 16, 16)),
        ("y = channels_last x", (2, 16, 16, 8)),
        ("y = mean x", (2, 8)),
    ],
)
def test_output_shapes_equal_those_of_pytorch(line: str, shape: tuple[int, ...]) -> None:
    assert run_lines([line], MODES["fp32"], (2, 8, 16, 16), 4)[1].shape == shape


def test_grouped_convolution_has_smaller_weights() -> None:
    graph, _ = run_lines(["y = conv x out=8 kernel=3 groups=8 bias=1"], MODES["fp32"], (2, 8, 16, 16), 4)
    assert [weight.shape for weight in graph.weights] == [(8, 1, 3, 3), (8,)]


def test_batch_norm_saves_its_input_in_its_precision() -> None:
    assert count_saved_bytes(["b = batch_norm x", "y = batch_norm b"]) == PIXELS * 8 * 4
    graph, out = run_lines(["c = conv x out=8", "y = batch_norm c"], MODES["amp"], (2, 8, 16, 16), 2)
    assert (graph.live_bytes, out.itemsize) == (PIXELS * 8 * 2, 2)


def test_inplace_relu_shares_its_storage() -> None:
    assert (
        count_saved_bytes(["b = batch_norm x", "y = relu_ b"]) == PIXELS * 8 * 4
    )  # the output of relu_ and batch_norm have one storage
    assert count_saved_bytes(["b = batch_norm x", "y = relu b"]) == PIXELS * 8 * 4
    in_place, not_in_place = (
        find_peak(run_lines(["b = batch_norm x", f"y = {op} b"], MODES["fp32"], (2, 8, 16, 16), 4)[0].moments).total
        for op in ("relu_", "relu")
    )
    assert not_in_place - in_place == PIXELS * 8 * 4
    assert count_saved_bytes(["b = batch_norm x", "y = relu6 b"]) == PIXELS * 8 * 4  # a copy of its input


def test_residual_block_saves_two_tensors_per_convolution() -> None:
    block = ["c = conv x out=8 kernel=3", "b = batch_norm c", "r = relu_ b", "d = conv r out=8 kernel=3",
             "e = batch_norm d", "s = add_ e x", "y = relu_ s"]  # fmt: skip
    assert count_saved_bytes(block) == 4 * PIXELS * 8 * 4


def test_max_pool_saves_its_input_and_indices() -> None:
    assert count_saved_bytes(["y = max_pool x kernel=2 stride=2"]) == PIXELS // 4 * 8 * 8
    assert (
        count_saved_bytes(["c = conv x out=8", "y = max_pool c kernel=2 stride=2"])
        == PIXELS * 8 * 4 + PIXELS // 4 * 8 * 8
    )
    assert count_saved_bytes(["c = conv x out=8", "y = mean c"]) == 0
    assert count_saved_bytes(["c = conv x out=8", "y = adaptive_avg_pool c side=7"]) == PIXELS * 8 * 4
    assert count_saved_bytes(["c = conv x out=8", "y = adaptive_avg_pool c side=1"]) == 0


def test_gradients_flow_through_layer_norm_over_channels() -> None:
    graph, out = run_lines(["c = conv x out=4", "y = layer_norm_channels c"], MODES["fp32"], (2, 8, 16, 16), 4)
    simulate_backward(graph, out)
    assert graph.weight_gradients == 4 * (4 * 8 + 2 * 4)
    assert graph.live_bytes == 0


def test_gradient_is_cast_after_the_autocast_copy_is_freed() -> None:
    shape, rows = (2, 1000), 2 * 1000
    graph, out = run_lines(["y = linear x out=1000"], MODES["amp"], shape, 2)
    assert graph.weight_copies == 2 * 10**6
    peak = find_peak(simulate_backward(graph, out))
    assert peak.total == 2 * rows + 2 * 10**6 + 4 * 10**6  # gradients of the input, the copy and the weight
    assert (graph.weight_copies, graph.live_bytes) == (0, 0)


# -- images that are too small -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "smallest"), [("vgg16", 32), ("convnext-tiny", 32), ("densenet121", 29), ("alexnet", 63)]
)
def test_too_small_image_is_rejected_with_the_minimum(catalog: Catalog, name: str, smallest: int) -> None:
    network = network_of(catalog, name)
    with pytest.raises(InputError) as caught:
        check_image_size(network, 16, "--image-size")
    assert (caught.value.code, caught.value.option, caught.value.value) == (ErrorCode.OUT_OF_RANGE, "--image-size", 16)
    assert str(smallest) in str(caught.value).split()
    with pytest.raises(InputError) as caught:
        simulate_step(network, MODES["fp32"], MicroBatch(1, smallest - 1))
    assert caught.value.code is ErrorCode.OUT_OF_RANGE
    check_image_size(network, smallest, "--image-size")
    assert simulate_step(network, MODES["fp32"], MicroBatch(1, smallest)).activations > 0


def test_stage_must_set_the_dimensions_of_its_block() -> None:
    text = (ROOT / "rules/networks/vgg.yaml").read_text(encoding="utf-8")
    parts = ROOT / "rules/networks/parts.yaml"
    for wrong, code in (
        ("first stride=64", ErrorCode.MISSING_KEY),
        ("first out=64 stride=2", ErrorCode.UNKNOWN_KEY),
        ("frist out=64", ErrorCode.UNKNOWN_REFERENCE),
    ):
        file = Path("vgg.yaml")
        content = text.replace("first out=64", wrong, 1).encode()
        with pytest.raises(RuleFileError) as caught:
            read_networks([(parts, parts.read_bytes()), (file, content)])
        assert caught.value.code is code
        assert caught.value.where.startswith("vgg.yaml:")


@pytest.mark.parametrize(
    ("right", "wrong", "code", "name"),
    [
        ("hidden: 2048", "hiden: 2048", ErrorCode.UNKNOWN_REFERENCE, "'hiden'"),
        ("hidden: 2048, ", "", ErrorCode.MISSING_KEY, "hidden"),
        ("flags: [tied]", "flags: [teid]", ErrorCode.UNKNOWN_REFERENCE, "'teid'"),
        ("flags: [tied]", "choices: {active: gelu}", ErrorCode.UNKNOWN_REFERENCE, "'active'"),
        (", parameters: 1176764416", "", ErrorCode.MISSING_KEY, "parameters"),
    ],
)
def test_named_shape_must_match_its_family(right: str, wrong: str, code: ErrorCode, name: str) -> None:
    text = (ROOT / "rules/networks/olmo.yaml").read_text(encoding="utf-8")
    parts = ROOT / "rules/networks/parts.yaml"
    assert right in text
    content = text.replace(right, wrong, 1).encode()
    with pytest.raises(RuleFileError, match=name) as caught:
        read_networks([(parts, parts.read_bytes()), (Path("olmo.yaml"), content)])
    assert caught.value.code is code
