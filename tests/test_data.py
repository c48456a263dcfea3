from __future__ import annotations

import hashlib
import math
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
import torch
from PIL import Image

from diffnoise.data import Augment, DataError, Framing, Sample, find_categories, find_samples, read_image, read_mask

REAL = Path(__file__).parents[2] / "shared" / "data" / "magnetic_tile"
ADAM7 = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
RNG = np.random.default_rng(7)


def write(path: Path, pixels: np.ndarray | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((4, 6), 9, np.uint8) if pixels is None else pixels).save(path)
    return path


def write_png16(path: Path, pixels: np.ndarray, interlaced: bool = False) -> Path:
    """A 16-bit PNG [H, W, 1 to 4], byte by byte as the PNG specification says."""

    def chunk(name: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))

    passes = [pixels[y::dy, x::dx] for y, x, dy, dx in ADAM7] if interlaced else [pixels]
    rows = [b"\0" + row.astype(">u2").tobytes() for part in passes if part.size for row in part]
    color_type = {1: 0, 2: 4, 3: 2, 4: 6}[pixels.shape[2]]
    header = struct.pack(">IIBBBBB", pixels.shape[1], pixels.shape[0], 16, color_type, 0, 0, interlaced)
    chunks = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"".join(rows))) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + chunks)
    return path


def stored(image: torch.Tensor, maximum: int) -> np.ndarray:
    """The integers [H, W, C] that an image in [-1, 1] came from, if it came from integers."""
    exact = (image.double() + 1) / 2 * maximum
    assert (exact - exact.round()).abs().max() < 0.01
    return exact.round().long().movedim(0, -1).numpy()


def random_pixels(*shape: int, dtype: type = np.uint16) -> np.ndarray:
    return RNG.integers(0, np.iinfo(dtype).max, shape, dtype=dtype, endpoint=True)


@pytest.fixture
def category(tmp_path: Path) -> Path:
    root = tmp_path / "screw"
    for name in ("train/good/1.png", "train/good/0.PNG", "test/good/0.png", "test/cut/0.jpg", "test/cut/1.tif"):
        write(root / name)
    write(root / "ground_truth/cut/0_mask.png")
    write(root / "ground_truth/cut/1.png")
    (root / "license.txt").write_text("free")
    (root / "train/good/._0.png").write_text("left by another system")
    return root


def test_category_is_listed_with_labels_defects_and_masks(category):
    test = category / "test"
    truth = category / "ground_truth" / "cut"
    expected = [
        Sample(test / "cut/0.jpg", 1, "cut", truth / "0_mask.png", "test"),
        Sample(test / "cut/1.tif", 1, "cut", truth / "1.png", "test"),
        Sample(test / "good/0.png", 0, "good", None, "test"),
        Sample(category / "train/good/0.PNG", 0, "good", None, "train"),
        Sample(category / "train/good/1.png", 0, "good", None, "train"),
    ]
    assert find_samples(category) == expected
    assert find_samples(str(category), "test") == expected[:3]
    assert find_samples(category, "train") == expected[3:]


def test_anomalous_images_need_no_masks_where_their_defect_has_none(category):
    write(category / "test/scratch/5.png")
    assert Sample(category / "test/scratch/5.png", 1, "scratch", None, "test") in find_samples(category)


@pytest.mark.parametrize(
    ("add", "remove", "named"),
    [
        ("ground_truth/cut/7_mask.png", None, "7_mask.png"),
        ("ground_truth/dent/0_mask.png", None, "dent/0_mask.png"),
        ("ground_truth/cut/0.png", None, "0_mask.png"),
        ("test/cut/7.png", None, "cut/7.png"),
        ("test/cut/0.png", None, "cut/0.png"),
        ("test/7.png", None, "test/7.png"),
        ("train/cut/7.png", None, "train/cut"),
        (None, "test/good/0.png", "test/good"),
        (None, "ground_truth/cut/1.png", "cut/1.tif"),
    ],
)
def test_category_errors_name_the_file(category, add, remove, named):
    if add:
        write(category / add)
    if remove:
        (category / remove).unlink()
    with pytest.raises(DataError, match=named):
        find_samples(category)


@pytest.fixture
def btad(tmp_path: Path) -> Path:
    """Category 01 of BTAD: images in BMP, masks of the same stem in PNG."""
    root = tmp_path / "BTech_Dataset_transformed" / "01"
    for name in (
        "train/ok/000.bmp",
        "test/ok/000.bmp",
        "test/ko/0000.bmp",
        "test/ko/0001.bmp",
        "ground_truth/ko/0000.png",
    ):
        write(root / name)
    write(root / "ground_truth/ko/0001.bmp")
    return root


def test_btad(btad):
    test, truth = btad / "test", btad / "ground_truth"
    expected = [
        Sample(test / "ko/0000.bmp", 1, "ko", truth / "ko/0000.png", "test"),
        Sample(test / "ko/0001.bmp", 1, "ko", truth / "ko/0001.bmp", "test"),
        Sample(test / "ok/000.bmp", 0, "good", None, "test"),
        Sample(btad / "train/ok/000.bmp", 0, "good", None, "train"),
    ]
    assert find_samples(btad) == expected
    assert find_samples(btad, "test") == expected[:3]
    assert find_samples(btad, "train") == expected[3:]


@pytest.mark.parametrize(
    ("add", "remove", "reason"),
    [
        ("test/good/1.bmp", None, "called good and others called ok"),
        ("train/ko/1.bmp", None, "train/ko is not train/ok"),
        ("ground_truth/ko/7.png", None, "ko/7.png belongs to no image"),
        (None, "ground_truth/ko/0000.png", "ko/0000.bmp is anomalous and has no mask"),
        (None, "train/ok/000.bmp", "train/ok holds no images"),
    ],
)
def test_btad_errors(btad, add, remove, reason):
    if add:
        write(btad / add)
    if remove:
        (btad / remove).unlink()
    with pytest.raises(DataError, match=reason):
        find_samples(btad)


VISA = """object,split,label,image,mask
candle,train,normal,candle/Data/Images/Normal/0836.JPG,
candle,test,normal,candle/Data/Images/Normal/0007.JPG,
candle,test,anomaly,candle/Data/Images/Anomaly/000.JPG,candle/Data/Masks/Anomaly/000.png
pcb1,train,normal,pcb1/Data/Images/Normal/0000.JPG,
"""


@pytest.fixture
def visa(tmp_path: Path) -> Path:
    root = tmp_path / "VisA"
    for name in (
        "candle/Data/Images/Normal/0836.JPG",
        "candle/Data/Images/Normal/0007.JPG",
        "pcb1/Data/Images/Normal/0000.JPG",
    ):
        write(root / name)
    write(root / "candle/Data/Images/Anomaly/000.JPG")
    write(root / "candle/Data/Masks/Anomaly/000.png", np.array([[0, 1, 0], [0, 2, 0]], np.uint8))
    (root / "candle/image_anno.csv").write_text("image,label,mask\n")
    (root / "split_csv").mkdir()
    (root / "split_csv/1cls.csv").write_text(VISA)
    return root


def test_visa(visa, monkeypatch):
    data = visa / "candle" / "Data"
    anomaly = Sample(
        data / "Images/Anomaly/000.JPG", 1, "anomaly", data / "Masks/Anomaly/000.png", "test", class_mask=True
    )
    good, train = (
        Sample(data / f"Images/Normal/{name}.JPG", 0, "good", None, split, class_mask=True)
        for name, split in (("0007", "test"), ("0836", "train"))
    )
    assert find_samples(visa / "candle") == [anomaly, good, train]
    assert find_samples(visa / "candle", "test") == [anomaly, good]
    assert find_samples(visa / "candle", "train") == [train]
    assert read_mask(anomaly.mask, (2, 3), anomaly.class_mask).tolist() == [[False, True, False]] * 2
    monkeypatch.chdir(visa / "candle")
    assert find_samples(".") == [anomaly, good, train]


@pytest.mark.parametrize(
    ("find", "replace", "reason"),
    [
        ("mask\n", "masks\n", "1cls.csv has no column mask"),
        ("candle,", "candles,", "no rows of the object candle"),
        ("train,normal,candle", "train,good,candle", "line 2 has the label 'good'"),
        ("0836.JPG", "0837.JPG", "line 2 names .*0837.JPG, which does not exist"),
        ("Masks/Anomaly/000.png", "Masks/Anomaly/001.png", "line 4 names .*001.png, which does not exist"),
        ("test,anomaly", "train,anomaly", "anomalous image .*000.JPG in train"),
        ("0007.JPG", "0836.JPG", "names .*0836.JPG twice"),
    ],
)
def test_visa_errors(visa, find, replace, reason):
    (visa / "split_csv/1cls.csv").write_text(VISA.replace(find, replace))
    with pytest.raises(DataError, match=reason):
        find_samples(visa / "candle", "train")


def test_visa_needs_its_split(visa):
    (visa / "split_csv/1cls.csv").unlink()
    with pytest.raises(DataError, match=r"whose split .*split_csv/1cls.csv is missing; take it from VisA's archive"):
        find_samples(visa / "candle")


def test_yes_and_no(tmp_path):
    root = tmp_path / "brain_tumor_dataset"
    for i in range(60):
        write(root / f"no/N{i}.jpg", np.full((4, 6), 4 * i, np.uint8))
    write(root / "yes/Y1.jpg")
    everything = find_samples(root)
    assert everything[-1] == Sample(root / "yes/Y1.jpg", 1, "yes", None, "test")
    for sample in everything[:-1]:
        testing = hashlib.sha256(sample.path.read_bytes()).hexdigest()[1] in "048c"
        assert sample == Sample(sample.path, 0, "good", None, "test" if testing else "train")
    train, test = find_samples(root, "train"), find_samples(root, "test")
    assert sorted(train + test, key=lambda sample: sample.path) == everything
    assert len(test) > 5 and len(train) > 30, "a quarter and three quarters of 60, about"

    (root / "no/copy.jpg").write_bytes(train[0].path.read_bytes())
    again = find_samples(root, "train")
    assert set(again) == {*train, Sample(root / "no/copy.jpg", 0, "good", None, "train")}
    for sample in again:
        sample.path.unlink()
    with pytest.raises(DataError, match="no images to split train; add images, or write a CSV manifest"):
        find_samples(root, "train")


def test_categories_of_every_layout_are_found(category, btad, visa, tmp_path):
    write(tmp_path / "archive/brain/yes/1.png")
    write(tmp_path / "archive/brain/no/2.png")
    write(tmp_path / "products/test/train/good/1.png")
    assert find_categories(btad.parent) == {"01": btad}
    assert find_categories(visa) == {name: visa / name for name in ("candle", "pcb1")}
    assert find_categories(tmp_path / "archive") == {"brain": tmp_path / "archive/brain"}
    assert find_categories(tmp_path / "products") == {"test": tmp_path / "products/test"}
    assert find_categories(tmp_path) == {"screw": category}
    for inside in (category, btad, visa / "candle", tmp_path / "archive/brain", visa / "candle/Data/Images"):
        assert find_categories(inside) == {}
    for folder in (btad.parent, visa, tmp_path / "archive"):
        with pytest.raises(DataError, match="give one of them"):
            find_samples(folder, "train")


def test_missing_sources_are_named(category, tmp_path):
    for path in (category / "train/good").iterdir():
        path.unlink()
    (tmp_path / "empty").mkdir()
    (tmp_path / "notes.txt").write_text("")
    for source, split, reason in (
        (category, "train", "put the good training images there"),
        (tmp_path / "empty", None, "holds no images"),
        (tmp_path / "absent", None, "does not exist"),
        (tmp_path / "notes.txt", None, "neither an image"),
    ):
        with pytest.raises(DataError, match=reason) as caught:
            find_samples(source, split)
        assert str(source) in str(caught.value)
    with pytest.raises(ValueError, match="split must be"):
        find_samples(category, "val")


def test_folder_of_categories_is_not_mixed_into_one(category):
    with pytest.raises(DataError, match="give one of them"):
        find_samples(category.parent, "train")


def test_plain_folder_and_single_image(tmp_path):
    paths = [write(tmp_path / name) for name in ("a/2.png", "a/b/1.BMP", "c.jpeg")]
    write(tmp_path / ".cache/d.png")
    assert find_samples(tmp_path) == [Sample(path, None, "", None, "") for path in paths]
    assert find_samples(tmp_path, "train") == [Sample(path, 0, "good", None, "train") for path in paths]
    assert find_samples(paths[2]) == [Sample(paths[2], None, "", None, "")]


def test_manifest(tmp_path):
    a, b, c, mask = (write(tmp_path / name) for name in ("a.png", "b.png", "c.png", "m/b.png"))
    manifest = tmp_path / "list.csv"
    manifest.write_text(
        "image_path,label_index,split,mask_path,defect,camera\n"
        f"c.png,,test,,,3\n{b},1.0,test,m/b.png,cut,3\na.png,0,train,,,3\n",
        encoding="utf-8-sig",
    )
    samples = [
        Sample(a, 0, "good", None, "train"),
        Sample(b, 1, "cut", mask, "test"),
        Sample(c, None, "", None, "test"),
    ]
    assert find_samples(manifest) == samples
    assert find_samples(manifest, "train") == samples[:1]
    assert find_samples(manifest, "test") == samples[1:]


def test_manifest_without_splits_trains_on_what_is_not_anomalous(tmp_path):
    for name in "abc":
        write(tmp_path / f"{name}.png")
    manifest = tmp_path / "list.csv"
    manifest.write_text("image_path,label_index\na.png,0\nb.png,1\nc.png,\n")
    assert [(s.path.stem, s.label) for s in find_samples(manifest, "train")] == [("a", 0), ("c", 0)]
    assert [(s.path.stem, s.label) for s in find_samples(manifest, "test")] == [("a", 0), ("b", 1), ("c", None)]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("path\na.png\n", "no column image_path"),
        ("", "no column image_path"),
        ("image_path\n", "lists no good training images"),
        ("image_path,label_index\na.png,1\n", "lists no good training images"),
        ("image_path\na.png\nz.png\n", "line 3 names .*z.png"),
        ("image_path,mask_path\na.png,z.png\n", "line 2 names .*z.png"),
        ("image_path\na.png\na.png\n", "twice"),
        ("image_path,split\n,train\n", "line 2 has no image_path"),
        ("image_path,split\na.png,val\n", "line 2 has the split 'val'"),
        ("image_path,split\na.png,train\nb.png,\n", "no split"),
        ("image_path,split,label_index\na.png,train,1\n", "anomalous image .*a.png in train"),
        ("image_path,label_index\na.png,bad\n", "line 2 has the label_index 'bad'"),
        ("image_path,label_index,defect\na.png,0,cut\n", "line 2 has label_index 0 and defect 'cut'"),
        ("image_path\n\xe9.png\n", "UTF-8"),
    ],
)
def test_manifest_errors(tmp_path, text, reason):
    write(tmp_path / "a.png")
    write(tmp_path / "b.png")
    manifest = tmp_path / "list.csv"
    manifest.write_bytes(text.encode("latin-1"))
    with pytest.raises(DataError, match=reason):
        find_samples(manifest, "train")


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("interlaced", [False, True])
def test_png_of_16_bits_is_read_exactly(tmp_path, channels, interlaced):
    pixels = random_pixels(11, 13, channels)
    pixels[0, :2] = [[0] * channels, [65535] * channels]
    kept = pixels[..., : (channels - 1) | 1]  # without alpha
    image = read_image(write_png16(tmp_path / "a.png", pixels, interlaced), kept.shape[2])
    assert image.dtype == torch.float32
    assert image.min() == -1 and image.max() == 1
    assert (stored(image, 65535) == kept).all()


@pytest.mark.parametrize("options", [{}, {"compression": "zlib"}, {"byteorder": ">"}, {"planarconfig": "separate"}])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_tiff_is_read_exactly(tmp_path, options, dtype):
    pixels = random_pixels(7, 5, 3, dtype=dtype)
    rows = np.moveaxis(pixels, -1, 0) if "planarconfig" in options else pixels
    tifffile.imwrite(tmp_path / "a.tiff", rows, photometric="rgb", **options)
    assert (stored(read_image(tmp_path / "a.tiff", 3), np.iinfo(dtype).max) == pixels).all()


@pytest.mark.parametrize("compression", ["tiff_lzw", "tiff_adobe_deflate", None])
def test_single_channel_tiff_of_16_bits_is_read_exactly(tmp_path, compression):
    pixels = random_pixels(7, 5)
    Image.fromarray(pixels).save(tmp_path / "a.tif", compression=compression)
    assert (stored(read_image(tmp_path / "a.tif", 1), 65535) == pixels[..., None]).all()


def test_multichannel_tiff_keeps_data_and_drops_alpha(tmp_path):
    path = tmp_path / "a.tif"
    pixels = random_pixels(7, 5, 5)
    tifffile.imwrite(path, pixels, photometric="minisblack", planarconfig="contig")
    assert (stored(read_image(path, 5), 65535) == pixels).all()
    for dtype in (np.uint8, np.uint16):
        pixels = random_pixels(7, 5, 4, dtype=dtype)
        tifffile.imwrite(path, pixels, photometric="rgb", extrasamples=["unassalpha"])
        assert (stored(read_image(path, 3), np.iinfo(dtype).max) == pixels[..., :3]).all()
        tifffile.imwrite(path, pixels, photometric="rgb", extrasamples=["unspecified"])
        assert (stored(read_image(path, 4), np.iinfo(dtype).max) == pixels).all()


def test_float_tiff_must_fit_the_unit_range(tmp_path):
    path = tmp_path / "a.tif"
    pixels = RNG.random((7, 5)).astype(np.float32)
    tifffile.imwrite(path, pixels)
    torch.testing.assert_close(read_image(path, 1)[0], torch.from_numpy(pixels) * 2 - 1, rtol=0, atol=0)
    for value, reason in ((math.nan, "NaN"), (math.inf, "infinite"), (1.5, "1.5"), (-0.5, "-0.5")):
        pixels[3, 2] = value
        tifffile.imwrite(path, pixels)
        with pytest.raises(DataError, match=reason) as caught:
            read_image(path, 1)
        assert str(path) in str(caught.value)


def test_other_pixel_kinds(tmp_path):
    bits = RNG.random((5, 9)) > 0.5
    grey = random_pixels(5, 9, dtype=np.uint8)
    color = random_pixels(5, 9, 3, dtype=np.uint8)
    for suffix in ("png", "tif", "bmp"):
        path = tmp_path / f"a.{suffix}"
        Image.fromarray(bits).save(path)
        assert (stored(read_image(path, 1), 1)[..., 0] == bits).all()
        Image.fromarray(color).save(path)
        assert (stored(read_image(path, 3), 255) == color).all()
        palette = Image.fromarray(color).quantize(7)
        palette.save(path)
        assert (stored(read_image(path, 3), 255) == np.asarray(palette.convert("RGB"))).all()
    for mode in ("LA", "RGBA"):
        Image.fromarray(grey).convert(mode).save(tmp_path / "a.png")
        assert (stored(read_image(tmp_path / "a.png", 1), 255)[..., 0] == grey).all()


def test_channels_are_matched_by_luminance_and_repetition(tmp_path):
    color = random_pixels(5, 9, 3, dtype=np.uint8)
    path = write(tmp_path / "a.png", color)
    luminance = (color / 255.0 @ [0.299, 0.587, 0.114]) * 2 - 1
    np.testing.assert_allclose(read_image(path, 1)[0].numpy(), luminance, atol=3e-7)
    write(path, np.full((2, 2, 3), 255, np.uint8))
    assert (read_image(path, 1) == 1).all()
    write(path, color[..., 0])
    assert (stored(read_image(path, 3), 255) == color[..., :1]).all()
    with pytest.raises(DataError, match="1 channels and 2 are expected"):
        read_image(path, 2)


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("suffix", ["png", "tif", "jpg"])
def test_exif_orientation_is_applied(tmp_path, orientation, suffix):
    height, width = 16, 24
    upright = np.zeros((height, width), np.uint8)
    upright[:8, :8], upright[8:, 8:] = 255, 128
    # how a camera held that way stores the upright scene: EXIF 2.32, tag 274
    scene = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.T,
        6: np.rot90(upright, 1),
        7: upright[::-1, ::-1].T,
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[274] = orientation
    Image.fromarray(np.ascontiguousarray(scene)).save(tmp_path / f"a.{suffix}", exif=exif)
    image = (read_image(tmp_path / f"a.{suffix}", 1)[0] + 1) * 127.5
    np.testing.assert_allclose(image.numpy(), upright, atol=3)
    if suffix == "tif":
        deep = np.repeat(scene[..., None].astype(np.uint16), 3, axis=2)
        tifffile.imwrite(tmp_path / "b.tif", deep, photometric="rgb", extratags=[(274, 3, 1, orientation, True)])
        assert (stored(read_image(tmp_path / "b.tif", 3), 65535) == upright[..., None]).all()


def test_size_is_checked_before_decoding(tmp_path):
    path = write_png16(tmp_path / "a.png", random_pixels(30, 40, 1))
    path.write_bytes(path.read_bytes()[:60])  # the header, and too little to decode
    with pytest.raises(DataError, match=r"40 x 30 pixels, above max_pixels=1199"):
        read_image(path, 1, max_pixels=1199)
    tifffile.imwrite(tmp_path / "a.tif", random_pixels(30, 40, 8), photometric="minisblack", planarconfig="contig")
    with pytest.raises(DataError, match="above max_pixels=2399"):
        read_image(tmp_path / "a.tif", 8, max_pixels=2399)
    assert read_image(tmp_path / "a.tif", 8, max_pixels=2400).shape == (8, 30, 40)


def test_unusable_files_are_named_with_a_reason(tmp_path):
    def refuse(path: Path, reason: str) -> None:
        with pytest.raises(DataError, match=reason) as caught:
            read_image(path, 1)
        assert str(path) in str(caught.value)

    for suffix in ("png", "jpg", "tif", "bmp"):
        path = write(tmp_path / f"cut.{suffix}", random_pixels(64, 64, dtype=np.uint8))
        path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
        refuse(path, "cannot be read")
    tifffile.imwrite(tmp_path / "deep.tif", random_pixels(64, 64, 3))
    (tmp_path / "deep.tif").write_bytes((tmp_path / "deep.tif").read_bytes()[:9000])
    refuse(tmp_path / "deep.tif", "cannot be read")
    (tmp_path / "text.png").write_text("not an image")
    refuse(tmp_path / "text.png", "cannot be read")
    (tmp_path / "empty.png").touch()
    refuse(tmp_path / "empty.png", "cannot be read")
    refuse(tmp_path / "absent.png", "does not exist")
    refuse(tmp_path, "cannot be read")
    Image.new("RGB", (4, 4)).save(tmp_path / "gif.png", format="GIF")
    refuse(tmp_path / "gif.png", "cannot be read")
    for suffix in ("jpg", "tif"):
        Image.new("CMYK", (4, 4)).save(tmp_path / f"cmyk.{suffix}")
        refuse(tmp_path / f"cmyk.{suffix}", "CMYK")
    for suffix, reason in (("png", "several frames"), ("tif", "2 pages")):
        path = tmp_path / f"frames.{suffix}"
        Image.new("L", (4, 4)).save(path, save_all=True, append_images=[Image.new("L", (4, 4), 9)])
        refuse(path, reason)
    for dtype in (np.int16, np.int32, np.uint32):
        tifffile.imwrite(tmp_path / "wide.tif", np.zeros((4, 4), dtype))
        refuse(tmp_path / "wide.tif", "save it as")
    tifffile.imwrite(tmp_path / "white.tif", random_pixels(4, 4), photometric="miniswhite")
    refuse(tmp_path / "white.tif", "MINISWHITE")


@pytest.mark.parametrize("suffix", ["png", "jpg", "tif", "bmp", "deep.png", "deep.tif"])
def test_damaged_bytes_never_raise_anything_else(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    if suffix == "deep.png":
        write_png16(path, random_pixels(9, 9, 3))
    elif suffix == "deep.tif":
        tifffile.imwrite(path, random_pixels(9, 9, 3))
    else:
        write(path, random_pixels(9, 9, 3, dtype=np.uint8))
    good = np.frombuffer(path.read_bytes(), np.uint8)
    for _ in range(60):
        damaged = good.copy()
        damaged[RNG.integers(0, min(len(good), 400), 3)] = random_pixels(3, dtype=np.uint8)
        path.write_bytes(damaged.tobytes())
        try:
            image = read_image(path, 3, max_pixels=10_000)
        except DataError as error:
            assert str(path) in str(error)
        else:
            assert image.isfinite().all() and image.abs().max() <= 1


def test_masks_are_cut_at_half_of_their_range(tmp_path):
    path = write(tmp_path / "m.png", np.array([[0, 127, 128, 255]], np.uint8))
    mask = read_mask(path, (1, 4))
    assert mask.dtype == torch.bool and mask.tolist() == [[False, False, True, True]]
    Image.fromarray(np.array([[0, 32767, 32768, 65535]], np.uint16)).save(path)
    assert read_mask(path, (1, 4)).tolist() == [[False, False, True, True]]
    Image.fromarray(np.array([[False, True]])).save(path)
    assert read_mask(path, (1, 2)).tolist() == [[False, True]]
    write(path, np.zeros((3, 2), np.uint8))
    assert not read_mask(path, (3, 2)).any() and not read_mask(path, (3, 2), classes=True).any()
    with pytest.raises(DataError, match="2 x 3 pixels and its image 3 x 2"):
        read_mask(path, (2, 3))
    write(path, np.ones((3, 2), np.uint8))
    with pytest.raises(DataError, match="save it with 0 and 255"):
        read_mask(path, (3, 2))


@pytest.mark.parametrize("mode", ["L", "P", "I;16"])
def test_masks_of_classes_are_cut_above_0(tmp_path, mode):
    classes = np.array([[0, 1, 2, 9], [0, 0, 255, 5]], np.uint8)
    image = Image.fromarray(classes.astype(np.uint16) if mode == "I;16" else classes)
    if mode == "P":
        image.putpalette([0, 0, 0, 128, 0, 0, 0, 0, 64] + [7, 7, 7] * 253)
    image.save(tmp_path / "m.png")
    assert read_mask(tmp_path / "m.png", (2, 4), classes=True).tolist() == (classes > 0).tolist()


SIZES = [(1, 1), (1, 9), (16, 16), (17, 16), (16, 31), (40, 23), (33, 97), (5, 64)]


def smooth(height: int, width: int) -> torch.Tensor:
    y, x = torch.meshgrid(torch.linspace(0, 2, height), torch.linspace(0, 3, width), indexing="ij")
    return (torch.sin(y + x) * torch.cos(2 * y - x))[None]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("mode", ["resize", "crop", "tile"])
def test_frames_are_square_and_constants_come_back(mode, size):
    framing = Framing(16, mode)
    frames, placement = framing.split(torch.full((3, *size), 0.3))
    assert frames.shape[1:] == (3, 16, 16)
    assert placement.size == size
    assert placement.origins.dtype == torch.int64 and placement.origins.shape == (len(frames), 2)
    torch.testing.assert_close(frames, torch.full_like(frames, 0.3), rtol=1e-6, atol=0)
    merged = framing.merge(frames[:, :1], placement)
    torch.testing.assert_close(merged, torch.full((1, *size), 0.3), rtol=1e-6, atol=0)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("overlap", [None, 0, 1, 7])
def test_tiles_of_a_smooth_field_come_back_equal(size, overlap):
    framing, image = Framing(16, "tile", overlap), smooth(*size)
    frames, placement = framing.split(image)
    for frame, (y, x) in zip(frames, placement.origins.tolist(), strict=True):
        part = image[:, y : y + 16, x : x + 16]
        assert torch.equal(frame[:, : part.shape[1], : part.shape[2]], part)
        assert (y, x) == (0, 0) or (y + 16 <= max(16, size[0]) and x + 16 <= max(16, size[1]))
    torch.testing.assert_close(framing.merge(frames, placement), image, rtol=0, atol=1e-5)


def test_tiles_are_blended_without_seams():
    framing = Framing(32, "tile", 8)
    frames, placement = framing.split(torch.zeros(1, 75, 70))
    assert placement.origins[:, 0].unique().tolist() == [0, 24, 43]
    assert placement.origins[:, 1].unique().tolist() == [0, 24, 38]
    disagreeing = torch.arange(len(frames), dtype=torch.float32)[:, None, None, None].expand_as(frames)
    merged = framing.merge(disagreeing, placement)[0]
    # a hard seam between rows of tiles would be a step of 3, between columns one of 1
    assert merged.diff(dim=0).abs().max() < 0.2 * 3
    assert merged.diff(dim=1).abs().max() < 0.2 * 1
    assert merged[0, 0] == 0 and merged[-1, -1] == len(frames) - 1


def test_resize_keeps_the_aspect_ratio_and_reflects():
    image = smooth(40, 25)
    frames, placement = Framing(16).split(image)
    assert placement.scaled == (16, 10) and placement.origins.tolist() == [[0, 0]]
    frame = frames[0, 0]
    assert torch.equal(frame[:, 10:], frame[:, 3:9].flip(1))  # the last column is the mirror
    thin = Framing(16).split(smooth(32, 2))[0][0, 0]
    assert torch.equal(thin, thin[:, :1].expand(16, 16))
    ramp = torch.arange(40.0)[:, None] + 3 * torch.arange(25.0)
    merged = Framing(16).merge(*Framing(16).split(ramp[None]))[0]
    torch.testing.assert_close(merged[5:-5, 5:-5], ramp[5:-5, 5:-5], rtol=0, atol=0.05)  # nothing moves


def test_resize_is_the_same_whatever_the_memory_layout():
    pixels = torch.rand(37, 53, 3)
    for channels in (1, 3):
        strided = pixels[..., :channels].movedim(-1, 0)
        assert torch.equal(Framing(16).split(strided)[0], Framing(16).split(strided.contiguous())[0])


def test_crop_marks_unseen_pixels_with_the_smallest_value():
    framing = Framing(16, "crop")
    frames, placement = framing.split(smooth(16, 40))
    assert placement.origins.tolist() == [[0, 12]]
    assert torch.equal(frames[0], smooth(16, 40)[:, :, 12:28])
    merged = framing.merge(frames, placement)
    assert torch.equal(merged[:, :, 12:28], frames[0])
    assert (merged[:, :, :12] == frames.min()).all() and (merged[:, :, 28:] == frames.min()).all()


def test_a_crop_may_leave_a_margin():
    """224 of 256 pixels, as several papers have it: what Pillow's antialiased scaling gives, without 16 pixels on every side."""
    image = smooth(512, 512)
    framing = Framing(224, "crop", scale=256)
    frames, placement = framing.split(image)
    assert placement.origins.tolist() == [[16, 16]] and frames.shape == (1, 1, 224, 224)
    scaled = Image.fromarray(image[0].numpy()).resize((256, 256), Image.Resampling.BILINEAR)
    np.testing.assert_allclose(frames[0, 0], np.asarray(scaled)[16:240, 16:240], atol=1e-4)
    merged = framing.merge(frames, placement)
    assert merged.shape == (1, 512, 512) and (merged[:, :30] == frames.min()).all()
    torch.testing.assert_close(merged[:, 40:-40, 40:-40], image[:, 40:-40, 40:-40], rtol=0, atol=0.02)


def test_framing_refuses_what_cannot_be():
    with pytest.raises(ValueError, match="scale belongs"):
        Framing(8, "resize", scale=9)
    with pytest.raises(ValueError, match="at least the size of 8, not 7"):
        Framing(8, "crop", scale=7)
    for arguments in ((0,), (-4, "tile"), (8, "tile", 4), (8, "tile", -1), (8, "fit")):
        with pytest.raises(ValueError, match="must"):
            Framing(*arguments)
    for image in (torch.zeros(4, 4), torch.zeros(1, 0, 4)):
        with pytest.raises(ValueError, match="image must"):
            Framing(8).split(image)
    frames, placement = Framing(8).split(torch.zeros(1, 9, 9))
    with pytest.raises(ValueError, match="Maps must"):
        Framing(8).merge(torch.cat([frames, frames]), placement)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def test_augment_off_is_the_identity():
    images = torch.rand(2, 3, 8, 8)
    assert Augment()(images, seeded()) is images


def test_augment_flips_and_turns_each_image_by_itself():
    images = (torch.rand(1, 1, 6, 6) * 2 - 1).expand(64, -1, -1, -1)
    for augment, changed in (
        (Augment(hflip=True), [images[0].flip(-1)]),
        (Augment(vflip=True), [images[0].flip(-2)]),
        (Augment(rot90=True), [images[0].rot90(k, (-2, -1)) for k in (1, 2, 3)]),
    ):
        outcomes = [images[0], *changed]
        seen = [next(i for i, outcome in enumerate(outcomes) if torch.equal(image, outcome))
                for image in augment(images, seeded())]  # fmt: skip
        assert set(seen) == set(range(len(outcomes)))
    with pytest.raises(ValueError, match="square"):
        Augment(rot90=True)(torch.zeros(1, 1, 4, 6), seeded())


def test_augment_moves_by_no_more_than_asked():
    size = 33
    spot = torch.full((200, 1, size, size), -1.0)
    spot[:, :, 16, 16] = 1
    y = torch.arange(size, dtype=torch.float32) - 16
    mass = (Augment(shift=0.1)(spot, seeded()) + 1) / 2
    mass = mass / mass.sum((2, 3), keepdim=True)
    offsets = torch.stack([(mass.sum(3) * y).sum(2), (mass.sum(2) * y).sum(2)])
    assert 2.5 < offsets.abs().max() <= 3.31 and offsets.mean().abs() < 0.5
    off_centre = torch.full((200, 1, size, 2 * size), -1.0)  # oblong: the angle is one of pixels
    off_centre[:, :, 16, 32:34], off_centre[:, :, 16, 42:44] = 0, 1
    mass = Augment(rotate=20)(off_centre, seeded()) > -0.2
    distance = torch.hypot(y[:, None], torch.arange(2 * size) - 32.5)
    angle = torch.atan2(y[:, None], torch.arange(2 * size) - 32.5).abs().rad2deg()
    outer = mass[:, 0] & (distance > 5)
    assert (distance.expand(200, -1, -1)[outer] - 10).abs().max() < 1.5
    assert 15 < angle.expand(200, -1, -1)[outer].max() < 26


def test_augment_changes_light_within_range():
    images = torch.rand(100, 3, 8, 8) - 0.5
    brighter = Augment(brightness=0.1)(images, seeded()) - images
    assert (brighter.amax((1, 2, 3)) - brighter.amin((1, 2, 3))).max() < 1e-6
    assert 0.15 < brighter.abs().max() <= 0.2001
    contrast = Augment(contrast=0.2)(images, seeded())
    torch.testing.assert_close(contrast.mean((1, 2, 3)), images.mean((1, 2, 3)), rtol=0, atol=1e-6)
    ratio = contrast.std((1, 2, 3)) / images.std((1, 2, 3))
    assert 0.8 <= ratio.min() < 0.85 and 1.15 < ratio.max() <= 1.2001


def test_augment_is_reproducible_and_clamped():
    augment = Augment(True, True, True, 180, 0.5, 1.0, 1.0)
    images = torch.rand(5, 3, 8, 8) * 2 - 1
    out = augment(images, seeded(3))
    assert torch.equal(out, augment(images, seeded(3)))
    assert not torch.equal(out, augment(images, seeded(4)))
    assert out.shape == images.shape and out.abs().max() <= 1


def test_augment_parse():
    assert Augment.parse("hflip, rotate=10,shift=0.05") == Augment(hflip=True, rotate=10, shift=0.05)
    assert Augment.parse("") == Augment()
    for text, reason in (
        ("zoom=2", "Unknown augmentation 'zoom'; choose from hflip"),
        ("hflip=1", "write it like hflip"),
        ("rotate", "write it like rotate=18"),
        ("rotate=ten", "needs a number"),
        ("rotate=nan", "between 0 and 180"),
        ("shift=0.6", "between 0 and 0.5"),
        ("hflip,hflip", "twice"),
    ):
        with pytest.raises(ValueError, match=reason):
            Augment.parse(text)


@pytest.mark.skipif(not REAL.is_dir(), reason="the real images are not here")
def test_real_category_of_many_sizes():
    samples = find_samples(REAL)
    counts = {split: sum(s.split == split for s in samples) for split in ("train", "test")}
    assert counts == {"train": 300, "test": 256}
    assert all((s.mask is not None) == (s.label == 1) for s in samples)
    sizes = set()
    for sample in samples[::40]:
        image = read_image(sample.path, 1)
        sizes.add(image.shape)
        if sample.mask:
            assert read_mask(sample.mask, tuple(image.shape[1:])).any()
        for mode in ("resize", "crop", "tile"):
            framing = Framing(128, mode)
            frames, placement = framing.split(image)
            merged = framing.merge(frames, placement)
            assert merged.shape == image.shape and merged.isfinite().all()
            if mode == "tile":
                torch.testing.assert_close(merged, image, rtol=0, atol=1e-5)
    assert len(sizes) > 5
