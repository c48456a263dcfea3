"""diffnoise.compat.opensimplex against the package it stands in for."""

from __future__ import annotations

import types
from collections.abc import Callable, Iterator

import numpy as np
import opensimplex as package
import pytest

from diffnoise.compat import opensimplex as compat

DIMS = (2, 3, 4)
TOLERANCE = 1e-12


@pytest.fixture(autouse=True)
def default_seed() -> Iterator[None]:
    yield
    compat.seed()


def points(dims: int, count: int, reach: float = 50) -> np.ndarray:
    return np.random.default_rng(dims).uniform(-reach, reach, (count, dims))


def expected_array(dims: int, seed: int, axes: list[np.ndarray]) -> np.ndarray:
    """The package's noise on a grid; numba, where it is installed, need not compile the function for that."""
    function = getattr(package.internals, f"_noise{dims}a")
    permutation, gradient = package.internals._init(seed)
    return getattr(function, "py_func", function)(*axes, permutation, *[gradient] * (dims == 3))


def at_point(module: types.ModuleType | package.OpenSimplex | compat.OpenSimplex, dims: int) -> Callable[..., float]:
    return getattr(module, f"noise{dims}")


def on_grid(
    module: types.ModuleType | package.OpenSimplex | compat.OpenSimplex, dims: int
) -> Callable[..., np.ndarray]:
    return getattr(module, f"noise{dims}array")


def test_every_public_name_is_there():
    names = [
        name
        for name, value in vars(package).items()
        if not name.startswith("_") and not isinstance(value, types.ModuleType)
    ]
    assert len(names) >= 11
    assert [name for name in names if not hasattr(compat, name)] == []
    methods = [name for name in dir(package.OpenSimplex) if not name.startswith("_")]
    assert [name for name in methods if not hasattr(compat.OpenSimplex, name)] == []
    assert compat.DEFAULT_SEED == package.DEFAULT_SEED


@pytest.mark.parametrize("dims", DIMS)
@pytest.mark.parametrize("seed", (3, -(2**40)))
def test_points(dims, seed):
    theirs, ours = package.OpenSimplex(seed), compat.OpenSimplex(seed)
    for point in points(dims, 100):
        value = at_point(ours, dims)(*point)
        assert type(value) is float
        assert value == pytest.approx(at_point(theirs, dims)(*point), abs=TOLERANCE)


@pytest.mark.parametrize("dims", DIMS)
def test_points_without_the_compiled_kernels(dims, monkeypatch):
    point = points(dims, 1)[0]
    expected = at_point(compat, dims)(*point)
    monkeypatch.setattr(compat, "_library", None)
    assert at_point(compat.OpenSimplex(3), dims)(*point) == pytest.approx(expected, abs=TOLERANCE)


@pytest.mark.parametrize("dims", DIMS)
@pytest.mark.parametrize("spacing", (None, 0.25, 0.1))
def test_arrays(dims, spacing):
    """At regular spacings coordinates tie in many points, where the package's choice of lattice points hangs on rounding."""
    sizes = (13, 11, 7, 5)[:dims]
    rng = np.random.default_rng(dims)
    axes = [rng.uniform(-50, 50, n) if spacing is None else np.arange(n) * spacing - 0.7 for n in sizes]
    values = on_grid(compat.OpenSimplex(42), dims)(*axes)
    assert values.shape == sizes[::-1] and values.dtype == np.float64
    assert np.abs(values - expected_array(dims, 42, axes)).max() < TOLERANCE


def test_a_large_grid_is_made_of_its_parts():
    x, y, z = np.linspace(-9, 9, 301), np.linspace(0, 5, 150), np.array([0.25, -3.5])
    whole = compat.noise3array(x, y, z)
    assert np.array_equal(whole[:, 70:90], compat.noise3array(x, y[70:90], z))
    assert np.array_equal(whole[1:, :, :9], compat.noise3array(x[:9], y, z[1:]))


def test_module_functions_follow_the_seed():
    assert compat.get_seed() == 3
    assert compat.noise3(0.5, 0.5, 0.5) == pytest.approx(0.39504955501618155, abs=1e-12)
    compat.seed(1234)
    assert compat.get_seed() == 1234
    assert compat.noise2(10, 10) == pytest.approx(0.580279369186297, abs=1e-12)
    assert compat.noise2array([10], [10]) == pytest.approx(0.580279369186297, abs=1e-12)
    compat.seed()
    assert compat.get_seed() == 3
    assert compat.noise4(1.25, -0.75, 3.1, -2.2) == pytest.approx(0.2243534181466879, abs=1e-12)


def test_random_seed(monkeypatch):
    monkeypatch.setattr(compat.time, "time_ns", lambda: 17)
    compat.random_seed()
    assert compat.get_seed() == 17


@pytest.mark.parametrize("seed", (0, -1, 2**63, -(2**63) - 1, 10**30, np.int64(-7)))
def test_any_integer_is_a_seed(seed):
    ours = compat.OpenSimplex(seed)
    assert ours.get_seed() == seed
    expected = package.OpenSimplex(int(seed)).noise2(0.3, 4.1)  # numpy's integers overflow in the package
    assert ours.noise2(0.3, 4.1) == pytest.approx(expected, abs=1e-12)


def test_what_counts_as_coordinates():
    x, y = np.array([0.5, -1.25, 7.0]), np.array([3.0, 2.5])
    expected = compat.noise2array(x, y)
    for convert in (np.float32, np.float16, list, tuple):
        same = (a.tolist() if convert in (list, tuple) else a.astype(convert) for a in (x, y))
        assert np.array_equal(compat.noise2array(*same), expected)
    assert np.array_equal(compat.noise2array(np.repeat(x, 2)[::-2], y), expected[:, ::-1])
    assert np.array_equal(compat.noise2array(np.arange(3), range(2)), compat.noise2array([0.0, 1.0, 2.0], [0.0, 1.0]))
    assert compat.noise2(np.float32(0.5), 3) == pytest.approx(expected[0, 0], abs=TOLERANCE)


@pytest.mark.parametrize("dims", DIMS)
def test_empty_axes(dims):
    for axis in range(dims):
        axes = [np.zeros(0 if i == axis else i + 1) for i in range(dims)]
        assert on_grid(compat, dims)(*axes).shape == tuple(a.size for a in reversed(axes))


@pytest.mark.parametrize("reach", (1e6, 1e9))
def test_far_away(reach):
    """Where the coordinates' own spacing limits both."""
    at = points(2, 100, reach)
    difference = [compat.noise2(*p) - package.noise2(*p) for p in at]
    assert np.abs(difference).max() < 20 * np.spacing(reach)


def test_refusals():
    with pytest.raises(ValueError, match=r"y must be a one-dimensional array of coordinates, but has shape \[2, 2\]"):
        compat.noise2array(np.zeros(3), np.zeros((2, 2)))
    with pytest.raises(ValueError, match="x must be a one-dimensional array"):
        compat.noise2array(1.0, np.zeros(3))
    for seed in (1.5, "3", None):
        with pytest.raises(TypeError):
            compat.OpenSimplex(seed)
    with pytest.raises(TypeError):
        compat.noise3(1, 2)
