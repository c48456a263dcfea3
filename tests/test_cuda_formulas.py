"""The CUDA kernels without a GPU: their bodies run on the CPU by tests/cuda_formulas.cpp, and their library where it is built."""

from __future__ import annotations

import ctypes
import itertools
import os
import shutil
import subprocess
import sys
from ctypes import Structure, byref, c_bool, c_double, c_int64, c_uint32, c_void_p
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from diffnoise import ops
from diffnoise.ops import _cuda

ROOT = Path(__file__).parents[1]
TOLERANCE = {torch.float32: 1.3e-6, torch.float64: 1e-9}  # relative to the largest value of the float64 reference
ORDERS = (0, 1, 7)  # of the threads between two barriers

SEEDS = torch.tensor([3, -(2**40) - 1])
T = torch.tensor([10, 999])
ORIGINS = torch.tensor([[7, -3], [-1000, 10**6]])


class Pixels(Structure):
    _fields_ = [(name, c_void_p) for name in ("seeds", "t", "origins")] + [
        (name, c_int64) for name in ("channels", "height", "width")
    ]


class Grid(Structure):
    _fields_ = [("batch", c_int64), ("pixels", Pixels)]


class FractalSum(Structure):
    _fields_ = [("octaves", c_int64), ("persistence", c_double), ("wavelength", c_double), ("gain", c_double), ("shift", c_bool)]  # fmt: skip


class Mixture(Structure):
    _fields_ = [(name, c_int64) for name in ("full_height", "full_width", "components")] + [
        ("sigma_low", c_double), ("sigma_high", c_double), ("signed", c_bool), ("standardize", c_bool)
    ]  # fmt: skip


class KtsField(Structure):
    _fields_ = [(name, c_int64) for name in ("full_height", "full_width", "octaves")] + [
        ("persistence", c_double), ("wavelength", c_double), ("sigma", c_double), ("patch", c_int64), ("local", c_bool), ("exponential", c_bool)
    ]  # fmt: skip


class Points(Structure):
    _fields_ = [("data", c_void_p), ("is_double", c_bool), ("count", c_int64), ("seeds", c_void_p), ("blocks", c_uint32)]  # fmt: skip


def compiler() -> str:
    command = os.environ.get("CXX", "c++")
    if not shutil.which(command.split()[0]):
        pytest.skip(f"there is no C++ compiler `{command}`")
    return command


@pytest.fixture(scope="module")
def library(tmp_path_factory) -> ctypes.CDLL:
    path = tmp_path_factory.mktemp("cuda_formulas") / "cuda_formulas.so"
    flags = ["-std=c++20", "-O1", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared", f"-I{ROOT / 'csrc'}"]
    subprocess.run([*compiler().split(), *flags, str(ROOT / "tests/cuda_formulas.cpp"), "-o", str(path)], check=True)
    return ctypes.CDLL(str(path))


def address(tensor: Tensor) -> c_void_p:
    assert tensor.is_contiguous()
    return c_void_p(tensor.data_ptr())


class Kernels:
    """The ops as the CUDA kernels compute them, with the ops' arguments."""

    def __init__(self, library: ctypes.CDLL, order: int = 0) -> None:
        self.library, self.order = library, order

    def _run(self, name: str, grid: tuple[Any, ...], dtype: torch.dtype, *rest: Any) -> Tensor:
        seeds, t, origins, channels, height, width = grid
        seeds, t, origins = seeds.contiguous(), t.contiguous(), origins.contiguous()
        out = torch.full((len(seeds), channels, height, width), torch.inf, dtype=torch.float64)
        pixels = Pixels(address(seeds), address(t), address(origins), channels, height, width)
        arguments = byref(Grid(len(seeds), pixels)), int(dtype == torch.float64), self.order, address(out)
        self.octaves = getattr(self.library, name)(*arguments, *rest)
        assert not self.library.diverged(), "some threads of a block end before a barrier that others wait at"
        return out

    def gaussian_noise(self, *a: Any, dtype: torch.dtype) -> Tensor:
        return self._run("gaussian_noise", a[:6], dtype, c_int64(*a[6:] or [0]))

    def gmm_noise(self, *a: Any, dtype: torch.dtype) -> Tensor:
        defaults = (50, 1 / 64, 1 / 8, False, True)
        return self._run("gmm_noise", a[:6], dtype, byref(Mixture(*a[6:], *defaults[len(a) - 8 :])))

    def simplex_noise(self, *a: Any, dtype: torch.dtype) -> Tensor:
        dims, *fractal = a[6:]
        return self._run("simplex_noise", a[:6], dtype, byref(self._fractal(*fractal)), dims)

    def tsg_noise(self, *a: Any, dtype: torch.dtype) -> Tensor:
        steps, *fractal = a[6:]
        return self._run("tsg_noise", a[:6], dtype, byref(self._fractal(*fractal)), c_double(steps))

    def kts_noise(self, *a: Any, dtype: torch.dtype) -> Tensor:
        return self._run("kts_noise", a[:6], dtype, byref(KtsField(*a[6:])))

    def simplex_noise_at(
        self, points: Tensor, seeds: Tensor, octaves: int, persistence: float, gain: float = 1.0, shift: bool = False,
        *, dtype: torch.dtype,
    ) -> Tensor:  # fmt: skip
        out = torch.full(points.shape[:2], torch.inf, dtype=torch.float64)
        at = Points(address(points), points.dtype == torch.float64, points.shape[1], address(seeds), 0)
        fractal = self._fractal(octaves, persistence, 1.0, gain, shift)
        self.library.simplex_noise_at(
            byref(at), c_int64(len(seeds)), points.shape[2], int(dtype == torch.float64), self.order, address(out), byref(fractal)
        )  # fmt: skip
        assert not self.library.diverged()
        return out

    @staticmethod
    def _fractal(
        octaves: int, persistence: float, wavelength: float, gain: float = 1.0, shift: bool = False
    ) -> FractalSum:
        return FractalSum(octaves, persistence, wavelength, gain, shift)


@pytest.fixture
def kernels(library) -> Kernels:
    return Kernels(library)


def grid(channels: int = 2, height: int = 9, width: int = 37) -> tuple[Any, ...]:
    return SEEDS, T, ORIGINS, channels, height, width


def points(dims: int) -> Tensor:
    return torch.randn(2, 1030, dims, generator=torch.Generator().manual_seed(dims)) * 9


CASES = {
    "gaussian_noise": [grid(), (*grid(1, 17, 133), 1)],
    "simplex_noise": [
        (*grid(), 2, 9, 0.8, 64.0),
        (*grid(), 3, 6, 0.8, 64.0),
        (*grid(1, 40, 70), 3, 3, 1.0, 9.7, 2.5),  # several tiles; no pixel in a simple fraction of a wavelength
        (*grid(), 3, 9, 0.8, 64.0, 1.0, True),  # down to a quarter of a pixel
        (*grid(1), 3, 1, 0.5, 1e6),
        (*grid(), 4, 6, 0.9, 64.0),
        (*grid(1), 4, 7, 0.9, 37.3, 1.0, True),
    ],
    "tsg_noise": [(*grid(), 1000, 2, 0.9, 16.0), (*grid(1), 1000, 2, 0.8, 5.0, 2.5, True)],
    "kts_noise": [
        (*grid(), 40, 60, 4, 0.8, 128.0, 4.0, 16, False),
        (*grid(1, 33, 40), 70, 90, 2, 0.8, 64.0, 2.0, 32, True),
        (*grid(1), 30, 30, 2, 0.8, 16.0, 9.0, 1, False),
        (*grid(), 40, 60, 4, 0.8, 128.0, 1.0, 16, False, True),
    ],
    "simplex_noise_at": [*[(points(dims), SEEDS, 4, 0.8, 1.5, dims == 3) for dims in (2, 3, 4)], (points(3).double(), SEEDS, 1, 0.5)],
    "gmm_noise": [
        (*grid(), 40, 60),
        (*grid(1, 9, 70), 9, 70, 33, 0.01, 0.5, True),
        (*grid(), 40, 60, 7, 0.02, 0.1, False, False),
        (*grid(1, 1, 1), 1, 1, 5),  # a constant map becomes 0
    ],
}  # fmt: skip
EVERY = [pytest.param(name, i, id=f"{name}-{i}") for name, cases in CASES.items() for i in range(len(cases))]


@pytest.mark.parametrize(("name", "i"), EVERY)
def test_the_kernels_compute_their_references(kernels, name, i):
    arguments = CASES[name][i]
    truth = ops.registry[name].reference(*arguments, dtype=torch.float64)
    for dtype, tolerance in TOLERANCE.items():
        value = getattr(kernels, name)(*arguments, dtype=dtype)
        assert value.shape == truth.shape
        assert (value - truth).abs().max() <= tolerance * truth.abs().max()


@pytest.mark.parametrize("name", CASES)
def test_no_thread_needs_what_another_does_after_the_barrier(library, name):
    values = [getattr(Kernels(library, order), name)(*CASES[name][1], dtype=torch.float32) for order in ORDERS]
    for value in values[1:]:
        assert torch.equal(value, values[0])


@pytest.mark.parametrize("seed", [0, 3, -42, 2**63 - 1, -(2**63), 1234])
@pytest.mark.parametrize("order", ORDERS)
def test_the_traced_permutation_is_the_shuffled_one(library, seed, order):
    traced, shuffled = torch.zeros(2, 256, dtype=torch.uint8)
    library.permutation(c_int64(seed), order, address(traced), address(shuffled))
    assert torch.equal(traced, shuffled) and traced.unique().numel() == 256


def test_both_forms_of_the_lattice_sum_are_tested(kernels):
    """Tile by tile for the long wavelengths, pixel by pixel for the finest; both in every number of dimensions."""
    for dims in (2, 3, 4):
        kernels.simplex_noise(*grid(1, 1, 1), dims, 9, 0.8, 64.0, dtype=torch.float32)
        assert 6 <= kernels.octaves < 9
        kernels.simplex_noise(*grid(1, 1, 1), dims, 6, 0.8, 64.0, dtype=torch.float32)
        assert kernels.octaves == 6


CROPS = {
    "gaussian_noise": (),
    "simplex_noise": (3, 8, 0.8, 37.3, 1.0, True),
    "tsg_noise": (1000, 3, 0.8, 7.0),
    "kts_noise": (90, 90, 2, 0.8, 64.0, 4.0, 16, False),
    "gmm_noise": (90, 90, 5),
}


@pytest.mark.parametrize("name", CROPS)
def test_a_pixel_is_the_same_in_any_image_batch_and_order(kernels, name):
    make, rest = getattr(kernels, name), CROPS[name]
    origins = torch.tensor([[-5, 61], [1000, -7]])
    whole = make(SEEDS, T, origins, 2, 40, 70, *rest, dtype=torch.float32)
    for y, x in ((1, 2), (30, 33), (7, 64)):
        height, width = 40 - y, min(5, 70 - x)
        crop = make(SEEDS, T, origins + torch.tensor([y, x]), 2, height, width, *rest, dtype=torch.float32)
        assert torch.equal(crop, whole[:, :, y:, x : x + width])
    turned = make(SEEDS.flip(0), T.flip(0), origins.flip(0), 1, 40, 70, *rest, dtype=torch.float32)
    assert torch.equal(turned.flip(0), whole[:, :1])


def test_coordinates_too_far_for_the_lattice_give_nan(kernels):
    far = torch.tensor([[0, 0], [0, 2**58], [-(2**63), 0], [2**63 - 1, 2**63 - 1], [0, 0], [3, 4]])
    t = torch.tensor([5, 5, 5, 5, -(2**60), 5])
    seeds = torch.arange(6)
    value = kernels.simplex_noise(seeds, t, far, 1, 4, 5, 3, 6, 0.8, 64.0, dtype=torch.float32)
    assert value.isnan().flatten(1).all(1).tolist() == [False, True, True, True, True, False]
    assert value[[0, 5]].isfinite().all()
    bad = torch.tensor([[[0.5, 0.25, 3.0], [torch.nan, 0, 0], [0, torch.inf, 0], [0, 0, -1e300]]], dtype=torch.float64)
    value = kernels.simplex_noise_at(bad, SEEDS[:1], 2, 0.5, dtype=torch.float32)
    assert value.isnan().tolist() == [[False, True, True, True]]


def test_wide_offsets_keep_their_places(kernels):
    """More pixels than a tile on both sides of the origin, and channels that have lattices of their own."""
    for dims, (channels, height, width) in itertools.product((2, 3, 4), [(3, 1, 67), (1, 67, 1)]):
        arguments = SEEDS, T, torch.tensor([[-33, -35], [-1, -1]]), channels, height, width, dims, 2, 0.8, 11.0
        truth = ops.simplex_noise.reference(*arguments, dtype=torch.float64)
        value = kernels.simplex_noise(*arguments, dtype=torch.float32)
        assert (value - truth).abs().max() <= TOLERANCE[torch.float32] * truth.abs().max()


STUB = "int aoti_torch_get_current_cuda_stream(int index, void** stream) { (void)index; *stream = 0; return 1; }\n"
REGISTERS = """
import ctypes, sys
ctypes.CDLL(sys.argv[1], mode=ctypes.RTLD_GLOBAL)
import torch
from diffnoise import doctor, ops
torch.ops.load_library(sys.argv[2])
print(*[name for name in ops.registry if doctor._cuda_kernel(name) == "CUDA C++"])
"""


@pytest.mark.skipif(_cuda.find() is None, reason="the CUDA library is not built")
def test_the_library_needs_nothing_that_a_cuda_torch_lacks_and_registers_every_noise_op(tmp_path):
    """The one symbol that a torch for the CPU lacks is stubbed; every other is resolved when the library is loaded."""
    (tmp_path / "stub.c").write_text(STUB)
    stub = tmp_path / "stub.so"
    subprocess.run([*compiler().split(), "-x", "c", "-shared", "-fPIC", tmp_path / "stub.c", "-o", stub], check=True)
    run = subprocess.run(
        [sys.executable, "-c", REGISTERS, stub, _cuda.find()], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert set(run.stdout.split()) == set(CASES)
