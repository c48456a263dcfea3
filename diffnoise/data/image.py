from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from .errors import DataError

FORMATS = ("PNG", "JPEG", "TIFF", "BMP")
SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".bmp")

_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
_RANGE = {"bool": 1, "uint8": 255, "uint16": 65535}
_LUMINANCE = (0.299, 0.587, 0.114)  # ITU-R BT.601
_ORIENTATION = 0x0112


def read_image(path: str | os.PathLike[str], channels: int, max_pixels: int = 89_478_485) -> Tensor:
    """Read a PNG, JPEG, TIFF or BMP file at its true bit depth as float32 [C, H, W] in [-1, 1].

    Integers are divided by their full range (1, 255 or 65535); float TIFFs must lie in [0, 1]. The EXIF orientation is
    applied, palettes are expanded and alpha is dropped. RGB becomes grey by ITU-R BT.601 luminance and grey becomes RGB
    by repetition; any other number of channels must match. The size is checked against `max_pixels` before decoding.

    Raises DataError, naming the file, for one that is missing, damaged, too large, CMYK, Lab, 32-bit or 12-bit integer,
    not finite, out of range, of several frames, or of the wrong number of channels.
    """
    path = Path(path)
    try:
        values = _unit_range(path, _decode(path, max_pixels))
    except DataError:
        raise
    except FileNotFoundError:
        raise DataError(f"{path} does not exist; correct the path.") from None
    except Exception as error:  # on damaged files the decoders raise nearly every built-in exception
        remedy = f"save it again as {', '.join(FORMATS)}"
        raise DataError(f"{path} cannot be read as an image ({error}); {remedy}.") from error
    return _match_channels(path, values, channels).mul_(2).sub_(1)


def read_mask(path: str | os.PathLike[str], size: tuple[int, int], classes: bool = False) -> Tensor:
    """Read a mask image of `size` (H, W) as bool [H, W], true above half of its range, or above 0 where it holds indices of `classes`.

    Raises DataError where `read_image` does, if the size differs, and if values above 0 are all below half without `classes`.
    """
    values = read_image(path, channels=1)[0]
    if tuple(values.shape) != tuple(size):
        raise DataError(f"{path} is {_by(values.shape)} pixels and its image {_by(size)}; make them the same size.")
    if classes:
        return values > -1
    mask = values > 0
    if not mask.any() and (values > -1).any():
        raise DataError(f"{path} marks pixels only with values below half of its range; save it with 0 and 255.")
    return mask


def _decode(path: Path, max_pixels: int) -> np.ndarray:
    """Pixels as stored, [H, W, C], upright and without alpha."""
    with open(path, "rb") as file:
        is_tiff = file.read(4) in _TIFF_MAGIC
    pixels = _decode_deep_tiff(path, max_pixels) if is_tiff else None
    return _decode_with_pillow(path, max_pixels) if pixels is None else pixels


def _decode_with_pillow(path: Path, max_pixels: int) -> np.ndarray:
    # from an open file, as Pillow maps files that it opens itself and then garbles turned TIFFs (13.0)
    with open(path, "rb") as file, Image.open(file, formats=FORMATS) as image:
        _check_size(path, image.size[::-1], image.width * image.height, max_pixels)
        if getattr(image, "n_frames", 1) != 1:
            raise DataError(f"{path} holds several frames; save the one to look at as a file of its own.")
        rawmode = image.tile[0].args if image.format == "PNG" else None
        image.load()
        orientation = image.getexif().get(_ORIENTATION, 1)
        if rawmode in ("LA;16B", "RGB;16B", "RGBA;16B"):
            pixels = _decode_deep_png(path, rawmode)
        elif image.mode in ("P", "PA"):
            pixels = np.asarray(image.convert("RGB"))
        elif image.mode in ("1", "L", "LA", "RGB", "RGBA", "I;16", "I;16B", "I;16L", "F"):
            pixels = np.asarray(image)
        else:
            raise DataError(f"{path} has pixels of mode {image.mode}; save it as grey or RGB, 8 or 16 bit.")
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    if pixels.shape[2] in (2, 4):
        pixels = pixels[..., :-1]
    return _upright(pixels, orientation)


def _decode_deep_png(path: Path, rawmode: str) -> np.ndarray:
    """Pillow keeps the high byte of 16-bit colours: reading the same bytes in the other order gives the low one."""

    def unpack(rawmode: str) -> np.ndarray:
        with Image.open(path, formats=("PNG",)) as image:
            image.tile = [image.tile[0]._replace(args=rawmode)]
            return np.array(image)

    if rawmode == "LA;16B":  # two 16-bit samples are as wide as four 8-bit ones
        return unpack("RGBA").view(">u2")
    return unpack(rawmode).astype(np.uint16) << 8 | unpack(rawmode.replace("16B", "16L"))


def _decode_deep_tiff(path: Path, max_pixels: int) -> np.ndarray | None:
    """Multi-channel TIFF pixels that Pillow refuses or cuts to 8 bits, None for those that it reads truly."""
    import tifffile

    with tifffile.TiffFile(path) as file:
        if len(file.pages) != 1:
            raise DataError(f"{path} holds {len(file.pages)} pages; save each as a file of its own.")
        page = file.pages.first
        height, width, samples, bits = page.imagelength, page.imagewidth, page.samplesperpixel, page.bitspersample
        # a pixel of more than four samples counts for as many as its memory would hold
        _check_size(path, (height, width), height * width * page.imagedepth * max(4, samples) // 4, max_pixels)
        if bits not in (1, 2, 4, 8, 16, 32, 64) or (bits > 8 and page.photometric == tifffile.PHOTOMETRIC.MINISWHITE):
            raise DataError(f"{path} has {bits}-bit {page.photometric.name} pixels; save it as 8 or 16 bit, black 0.")
        is_colour = page.photometric != tifffile.PHOTOMETRIC.MINISBLACK
        if samples == 1 or (bits <= 8 and is_colour and tifffile.EXTRASAMPLE.UNSPECIFIED not in page.extrasamples):
            return None
        if page.photometric not in (tifffile.PHOTOMETRIC.MINISBLACK, tifffile.PHOTOMETRIC.RGB):
            raise DataError(f"{path} has {page.photometric.name} pixels; save it as grey or RGB.")
        pixels = page.asarray()
        if page.axes == "SYX":
            pixels = np.moveaxis(pixels, 0, -1)
        elif page.axes != "YXS":
            raise DataError(f"{path} has the axes {page.axes}; save one image of height, width and channels.")
        if page.extrasamples and page.extrasamples[-1] != tifffile.EXTRASAMPLE.UNSPECIFIED:
            pixels = pixels[..., :-1]
        return _upright(pixels, page.tags.valueof(_ORIENTATION, 1))


def _upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Undo an EXIF orientation of 1 to 8 (5 to 8 swap rows and columns)."""
    if orientation in (5, 6, 7, 8):
        pixels = pixels.swapaxes(0, 1)
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    return pixels


def _check_size(path: Path, size: tuple[int, int], pixels: int, max_pixels: int) -> None:
    if pixels > max_pixels:
        raise DataError(f"{path} is {_by(size)} pixels, above max_pixels={max_pixels}; cut it up or raise the limit.")


def _unit_range(path: Path, pixels: np.ndarray) -> Tensor:
    """Stored pixels [H, W, C] as float32 [C, H, W] in [0, 1]."""
    if 0 in pixels.shape:
        raise DataError(f"{path} is empty; remove it.")
    values = torch.from_numpy(np.array(np.moveaxis(pixels, -1, 0), dtype=np.float32, order="C"))
    if np.issubdtype(pixels.dtype, np.floating):
        if not values.isfinite().all():
            raise DataError(f"{path} holds NaN or infinite values; replace them before scoring.")
        if values.min() < 0 or values.max() > 1:
            low, high = values.min().item(), values.max().item()
            raise DataError(f"{path} holds values from {low:g} to {high:g}; divide by the sensor's range, into [0, 1].")
        return values
    if pixels.dtype.name not in _RANGE:
        raise DataError(f"{path} has {pixels.dtype.name} pixels, whose range is unknown; save it as 8 or 16 bit.")
    return values.div_(_RANGE[pixels.dtype.name])


def _match_channels(path: Path, values: Tensor, channels: int) -> Tensor:
    if len(values) == channels:
        return values
    if len(values) == 1 and channels == 3:
        return values.repeat(3, 1, 1)
    if len(values) == 3 and channels == 1:
        weights = values.new_tensor(_LUMINANCE)
        return (values * weights[:, None, None]).sum(0, keepdim=True).clamp_(max=1)
    raise DataError(f"{path} has {len(values)} channels and {channels} are expected; choose the channels to keep.")


def _by(size: tuple[int, ...]) -> str:
    """A size (H, W) as people write it: width x height."""
    return f"{size[1]} x {size[0]}"


def colour_channels(path: str | os.PathLike[str]) -> int:
    """1 for a grey image, 3 for a colour one, read from the file's header only; DataError if it has none."""
    try:
        with open(path, "rb") as file, Image.open(file, formats=FORMATS) as image:
            return 1 if image.mode in ("1", "L", "LA", "I", "F") or image.mode.startswith("I;16") else 3
    except (OSError, ValueError) as error:
        raise DataError(f"{path} cannot be read as an image ({error}); replace the file or leave it out.") from None
