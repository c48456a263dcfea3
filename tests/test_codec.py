"""The codecs against diffusers' own AutoencoderKL, tiny and random."""

import json
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from diffnoise.checkpoint import CheckpointError
from diffnoise.codec import AutoencoderKL, Codec, Pixels

autoencoder_kl = pytest.importorskip("diffusers.models.autoencoders.autoencoder_kl")


def autoencoder(seed: int = 0, **changes: object) -> nn.Module:
    torch.manual_seed(seed)
    return autoencoder_kl.AutoencoderKL(
        **{
            "down_block_types": ("DownEncoderBlock2D",) * 3,
            "up_block_types": ("UpDecoderBlock2D",) * 3,
            "block_out_channels": (4, 4, 8),
            "norm_num_groups": 2,
            "scaling_factor": 0.5,
            **changes,
        }
    ).eval()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    autoencoder().save_pretrained(tmp_path / "vae")
    return tmp_path / "vae"


def images(count: int, channels: int = 3, size: int = 16) -> Tensor:
    return torch.rand(count, channels, size, size, generator=torch.Generator().manual_seed(0)) * 2 - 1


def test_latents_are_the_scaled_mean_of_the_posterior(folder):
    codec, x = Codec("autoencoder_kl", str(folder)).build(3), images(3)
    with torch.no_grad():
        posterior = autoencoder().encode(x).latent_dist
        expected = posterior.mean * 0.5
        decoded = autoencoder().decode(expected / 0.5).sample
    assert posterior.std.min() > 0
    z = codec.encode(x)
    assert (codec.channels, codec.factor) == (4, 4) and z.shape == (3, 4, 4, 4)
    torch.testing.assert_close(z, expected)
    torch.testing.assert_close(codec.decode(z), decoded)


def test_an_image_has_one_latent_whatever_is_asked_with_it():
    codec, x = AutoencoderKL(autoencoder(), 3, batch=2), images(5)
    torch.testing.assert_close(codec.encode(x), torch.cat([codec.encode(each[None]) for each in x]))
    assert torch.equal(codec.encode(x), codec.encode(x))


def test_a_shift_is_taken_off_and_put_back():
    plain, shifted = (AutoencoderKL(autoencoder(shift_factor=shift), 3) for shift in (None, 0.25))
    z = shifted.encode(images(1))
    torch.testing.assert_close(z, plain.encode(images(1)) - 0.25 * 0.5)
    torch.testing.assert_close(shifted.decode(z), plain.decode(z + 0.25 * 0.5))


def test_grey_images_are_three_equal_channels():
    grey, colour = AutoencoderKL(autoencoder(), 1), AutoencoderKL(autoencoder(), 3)
    x = images(2, channels=1)
    z = grey.encode(x)
    assert torch.equal(z, colour.encode(x.repeat(1, 3, 1, 1)))
    torch.testing.assert_close(grey.decode(z), colour.decode(z).mean(1, keepdim=True))


def test_a_model_can_be_trained_on_latents_and_the_autoencoder_stays_as_it_is():
    codec = AutoencoderKL(autoencoder(), 3).train()
    z = codec.encode(images(1).double())
    weight = torch.ones(4, 1, 1, requires_grad=True)
    (weight * z).square().sum().backward()
    assert z.dtype == torch.float32 and weight.grad is not None
    assert not codec.training and not any(parameter.requires_grad for parameter in codec.parameters())


def test_pixels_are_their_own_latents():
    codec, x = Codec().build(1), images(2, channels=1)
    assert isinstance(codec, Pixels) and (codec.channels, codec.factor) == (1, 1)
    assert codec.decode(codec.encode(x)) is x


def test_what_does_not_fit_is_refused(folder):
    codec = Codec("autoencoder_kl", str(folder)).build(3)
    with pytest.raises(ValueError, match=r"multiples of 4 .* not \(18, 16\)"):
        codec.encode(torch.zeros(1, 3, 18, 16))
    with pytest.raises(ValueError, match="3 channels, not 1"):
        codec.encode(torch.zeros(1, 1, 16, 16))
    with pytest.raises(ValueError, match="takes images with 3 channels, not 2"):
        AutoencoderKL(autoencoder(), 2)
    with pytest.raises(ValueError, match="kind must be one of pixels, autoencoder_kl"):
        Codec("vq")
    for kind, path in (("pixels", "here"), ("autoencoder_kl", None)):
        with pytest.raises(ValueError, match="path belongs to the kind autoencoder_kl"):
            Codec(kind, path)


@pytest.mark.parametrize("damage", ["absent", "weights", "torn", "part", "class"])
def test_missing_weights_name_a_way_on(folder, damage):
    weights = folder / "diffusion_pytorch_model.safetensors"
    if damage == "absent":
        folder = folder / "nowhere"
    elif damage == "weights":
        weights.unlink()
    elif damage == "torn":
        weights.write_bytes(weights.read_bytes()[:1000])
    elif damage == "part":
        tensors = load_file(weights)
        del tensors["encoder.conv_in.weight"]
        save_file(tensors, weights, {"format": "pt"})
    else:
        (folder / "config.json").write_text(json.dumps({"_class_name": "VQModel"}))
    with pytest.raises(CheckpointError, match='use the kind "pixels"'):
        Codec("autoencoder_kl", str(folder)).build(3)


def test_a_missing_diffusers_is_named(folder, monkeypatch):
    monkeypatch.setitem(sys.modules, "diffusers.models.autoencoders.autoencoder_kl", None)
    with pytest.raises(RuntimeError, match=r'need diffusers .*pip install "diffnoise\[latent\]"'):
        Codec("autoencoder_kl", str(folder)).build(3)
