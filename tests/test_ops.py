"""Every op against its reference: accuracy, strides, invariances, refusals; and the references against known answers."""

from __future__ import annotations

import functools
import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import opensimplex.internals
import pytest
import torch
from torch import Tensor

from diffnoise import doctor, ops
from diffnoise.anomaly import gaussian_taps, mean_taps
from diffnoise.ops import _native, _opensimplex, _philox
from diffnoise.ops._op import Op
from diffnoise.ops.reverse_step import COLUMNS
from diffnoise.schedule import Schedule

OPS = sorted(ops.registry)
TOLERANCE = 1.3e-6  # float32, relative to the largest value of the float64 reference
needs_native = pytest.mark.skipif(not _native.status().loaded, reason="the native extension is not built")
HALVES = (torch.float16, torch.bfloat16)

SEEDS = torch.tensor([3, -(2**40) - 1, 42])
T = torch.tensor([10, 201, 999])
ORIGINS = torch.tensor([[0, 0], [7, -3], [-1000, 10**6]])
TABLE = Schedule.linear().ddpm_table(variance="learned_range")
SCALES = torch.tensor([[0.5, 2.0], [-0.25, 0.125]], dtype=torch.float64)
FIXED = Schedule.linear().ddpm_table()


def images(count: int, shape: tuple[int, ...] = (3, 2, 19, 37)) -> list[Tensor]:
    generator = torch.Generator().manual_seed(len(shape))
    return [torch.randn(shape, generator=generator) for _ in range(count)]


def grid(channels: int = 2, height: int = 9, width: int = 37) -> tuple[Any, ...]:
    return SEEDS, T, ORIGINS, channels, height, width


def points(dims: int) -> Tensor:
    return torch.randn(3, 40, dims, generator=torch.Generator().manual_seed(dims)) * 9


def group_norms() -> list[tuple[Any, ...]]:
    generator = torch.Generator().manual_seed(7)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    channels_last = torch.channels_last
    wide = normal(3, 40, 23, 19).contiguous(memory_format=channels_last)  # chunks, and columns that fill no register
    return [
        (normal(3, 6, 5, 7) * 3 + 100, 3, None, None, None, None, None, None, 1e-5, False),
        (normal(3, 8, 33, 70), 4, normal(8), normal(8), normal(3, 8), normal(3, 8), normal(3, 8)),
        (wide + 100, 8, normal(40), normal(40), normal(3, 40), normal(3, 40), normal(3, 40)),
        (wide, 4, normal(64), None, None, normal(3, 64), None, normal(3, 24, 23, 19), 1e-3, False),
        (normal(3, 12, 4, 5), 5, normal(20), normal(20), None, None, None, normal(3, 8, 4, 5)),
        (normal(3, 128, 1, 1).contiguous(memory_format=channels_last), 2, normal(128).bfloat16(), normal(128).half()),
    ]


def ranked(count: int, edges: int) -> tuple[Tensor, Tensor]:
    """Values of both signs with ties, and edges of which about half are among them."""
    generator = torch.Generator().manual_seed(count)
    grid = torch.randint(-4 * edges, 4 * edges, (count + 2 * edges,), generator=generator) / 8.0
    values, chosen = grid[:count], torch.cat([grid[:edges], grid[count:] + 0.0625])
    return values, chosen.unique()[-edges:]


def attentions() -> list[tuple[Any, ...]]:
    """Queries, keys and values; in most there are more pixels than a block of queries or of keys holds, and more than fill registers."""
    generator = torch.Generator().manual_seed(5)

    def normal(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator)

    return [
        (normal(3, 48, 17, 19), 2),
        (normal(3, 39, 12, 13).contiguous(memory_format=torch.channels_last) * 1.5, 1),
        (normal(3, 36, 3, 5), 3),
        (normal(3, 30, 11, 12), 1),
    ]


@functools.cache
def samples() -> dict[str, list[tuple[Any, ...]]]:
    """Positional arguments for every op; floating tensors are float32."""
    x_0, x_t, output, variance, noise = images(5)
    variance.clamp_(-1, 1)
    step = (x_t, output, T, TABLE)
    wide = images(2, (3, 1, 150, 300))  # several bands of rows
    ddim = Schedule.linear().ddim_table(eta=0.5, recompute_epsilon=False)
    return {
        "gaussian_noise": [grid(1, 6, 300), grid(), (*grid(), _philox.STREAM_REVERSE)],
        "simplex_noise": [
            (*grid(), 2, 6, 0.8, 64.0),
            (*grid(), 3, 6, 0.8, 64.0),
            (*grid(), 4, 6, 0.9, 64.0),
            (*grid(), 3, 1, 0.5, 1e6),
            (*grid(1, 2, 300), 3, 8, 0.8, 37.3, 2.5),  # down to 0.29 px; wider than a tile
            (*grid(1, 70, 3), 4, 3, 0.8, 3.0),
            *[(*grid(), dims, 8, 0.8, 64.0, 1.0, True) for dims in (2, 3, 4)],
        ],
        "tsg_noise": [(*grid(), 1000, 6, 0.9, 64.0), (*grid(1, 9, 300), 1000, 3, 0.8, 5.0, 2.5, True)],
        "kts_noise": [
            (*grid(), 40, 60, 10, 0.8, 128.0, 4.0, 16),
            (*grid(1, 40, 70), 40, 70, 4, 0.8, 64.0, 2.0, 32, True),
            (*grid(1, 9, 9), 30, 30, 3, 0.8, 64.0, 9.0, 1),
            (*grid(1, 40, 70), 40, 70, 4, 0.8, 128.0, 1.5, 16, False, True),
            (*grid(1, 9, 9), 30, 30, 3, 0.8, 64.0, 9.0, 1, False, True),
        ],
        "simplex_noise_at": [
            *[(points(dims), SEEDS, 4, 0.8, 1.5, dims == 3) for dims in (2, 3, 4)],
            *[(points(dims), SEEDS, 4, 0.8, 1.5, dims == 3, True) for dims in (2, 3, 4)],
            *[((points(dims) / 2).round() / 2, SEEDS, 1, 0.5, 1.0, False, True) for dims in (3, 4)],  # many ties
            (points(3).double(), SEEDS),
        ],
        "gmm_noise": [
            (*grid(), 40, 60),
            (*grid(1, 20, 100), 20, 100, 10),  # more than one block of the product each way
            (*grid(), 9, 37, 7, 0.01, 0.5, True),
            (*grid(), 40, 60, 50, 0.02, 0.1, False, False),
        ],
        "reverse_step": [
            step,
            (*step, None, noise, None, None, 1.0),
            (*step, variance, noise),
            (*step, None, None, SEEDS, None, 0.7),
            (*step, variance, None, SEEDS, ORIGINS, 1.0),
            (x_t, output, T, Schedule.linear().ddim_table(eta=0.5, dtype=torch.float64), None, noise),
            (x_t, output, T, ddim, None, noise, None, None, 1.0, x_0, 0.7),
            (*step, variance, None, SEEDS, None, None, x_0, 7.0),
            (*step, variance, None, SEEDS, ORIGINS, 1.0, x_0, 0.3),
        ],
        "anomaly_map": [
            (wide[0], mean_taps(11), wide[1]),
            (wide[0], gaussian_taps(2.0), wide[1]),
            (wide[0].transpose(2, 3), mean_taps(7)),
            (wide[0], mean_taps(9)),
            (x_t, gaussian_taps(1.5), x_0, None, True),
            (x_t, mean_taps(1), x_0),
            (x_t, torch.tensor([0.5, -1.0, 2.0, 0.25, 3.0]), x_0[:, :1], SCALES.float()),  # neither equal nor symmetric
            (x_t, mean_taps(81), x_0[:, :1], SCALES),  # borders are reflected several times
            (x_t, gaussian_taps(6.0), x_0[:, 1:], SCALES, True),
            (x_t, gaussian_taps(1.0), None, SCALES),
        ],
        "attention": attentions(),
        "group_norm_silu": group_norms(),
        "kl_map": [(x_0, *step, variance), (x_0, *step, variance, 1.0), (x_0, x_t, output, T, FIXED, None, 1.0)],
        "interval_counts": [ranked(200_000, 300), ranked(1000, 400), ranked(100, 7)],
    }


CASES = [pytest.param(name, i, id=f"{name}-{i}") for name in OPS for i in range(len(samples().get(name, ())))]
FLOATING_CASES = [
    case for case in CASES if case.values[0] != "interval_counts"
]  # the others are counts, of all samples


def makes_noise(op: Op) -> bool:
    """Whether the op takes its dtype as an argument (the others take it from their images)."""
    return "dtype" in op.__annotations__


def with_dtype(op: Op, arguments: tuple[Any, ...], dtype: torch.dtype) -> tuple[tuple[Any, ...], dict[str, Any]]:
    """The arguments for a computation in `dtype`; the table keeps its own."""
    if makes_noise(op):
        return arguments, {"dtype": dtype}
    is_image = [isinstance(a, Tensor) and a.ndim == 4 for a in arguments]
    return tuple(a.to(dtype) if image else a for a, image in zip(arguments, is_image, strict=True)), {}


@functools.cache
def exact_noise(name: str, i: int) -> Tensor:
    return ops.registry[name].reference(*samples()[name][i], dtype=torch.float64)


def exact(name: str, i: int, arguments: tuple[Any, ...]) -> Tensor:
    """The float64 reference at the arguments, which a noise op takes from its sample as they are."""
    op = ops.registry[name]
    return exact_noise(name, i) if makes_noise(op) else op.reference(*with_dtype(op, arguments, torch.float64)[0])


def error(value: Tensor, exact: Tensor) -> float:
    return float((value.double() - exact).abs().max() / exact.abs().max())


def test_every_op_has_samples():
    assert sorted(samples()) == OPS


@needs_native
@pytest.mark.parametrize("name", OPS)
def test_every_op_has_a_cpu_kernel(name):
    assert ops.registry[name].has_kernel("CPU")


@pytest.mark.parametrize(("name", "i"), FLOATING_CASES)
def test_accuracy(name, i):
    op, arguments = ops.registry[name], samples()[name][i]
    truth = exact(name, i, arguments)
    assert truth.isfinite().all() and truth.abs().max() > 0
    double, keywords = with_dtype(op, arguments, torch.float64)
    assert error(op(*double, **keywords), truth) < 1e-9
    single, keywords = with_dtype(op, arguments, torch.float32)
    value = op(*single, **keywords)
    assert value.dtype == torch.float32 and value.stride() == op.reference(*single, **keywords).stride()
    assert error(value, truth) < TOLERANCE


@pytest.mark.parametrize("dtype", HALVES)
@pytest.mark.parametrize(("name", "i"), FLOATING_CASES)
def test_accuracy_of_half_types(name, i, dtype):
    op, arguments = ops.registry[name], samples()[name][i]
    half, keywords = with_dtype(op, arguments, dtype)
    truth = exact(name, i, half)  # at the rounded inputs: their rounding is not the op's error
    value = op(*half, **keywords)
    eager = truth.to(dtype) if makes_noise(op) else op.reference(*half)
    assert value.dtype == (torch.float32 if op in (ops.anomaly_map, ops.kl_map) else dtype)
    kept = eager.isfinite()
    assert torch.equal(value.isfinite(), kept)
    ulp = torch.finfo(dtype).eps * truth.abs() + torch.finfo(dtype).smallest_normal * torch.finfo(dtype).eps
    allowed = torch.maximum(2 * (eager.double() - truth).abs(), ulp) + TOLERANCE * truth.abs().max()
    assert ((value.double() - truth).abs() <= allowed)[kept].all()


@pytest.mark.parametrize("name", OPS)
def test_opcheck(name):
    op, arguments = ops.registry[name], samples()[name][-1]
    overload = getattr(torch.ops.diffnoise, name).default
    torch.library.opcheck(overload, arguments, {"dtype": torch.bfloat16} if makes_noise(op) else {})


def relaid(tensor: Tensor) -> list[Tensor]:
    """Equal tensors with other strides."""
    everything = (slice(None),) * tensor.ndim
    wide = tensor.repeat_interleave(2, -1)[(*everything[:-1], slice(None, None, 2))]
    turned = tensor.transpose(0, -1).contiguous().transpose(0, -1)
    shifted = torch.cat([tensor[:1], tensor])[1:]
    layouts = [wide, turned, shifted]
    if tensor.ndim == 4:
        layouts.append(tensor.contiguous(memory_format=torch.channels_last))
    return layouts


@pytest.mark.parametrize("name", OPS)
@pytest.mark.parametrize("layout", range(4), ids=("sliced", "transposed", "offset", "channels_last"))
def test_strides(name, layout):
    op, arguments = ops.registry[name], samples()[name][-2]
    other = [a if not isinstance(a, Tensor) else relaid(a)[min(layout, len(relaid(a)) - 1)] for a in arguments]
    value, expected = op(*other), op(*arguments)
    if op is ops.group_norm_silu and layout == 3:  # sums go along the memory, and the result has the layout of x
        assert value.is_contiguous(memory_format=torch.channels_last)
        torch.testing.assert_close(value, expected, rtol=0, atol=TOLERANCE * float(expected.abs().max()))
    else:
        assert torch.equal(value, expected)


IMAGE_OPS = ("reverse_step", "kl_map")
IMAGE_CASES = [pytest.param(name, i, id=f"{name}-{i}") for name in IMAGE_OPS for i in range(len(samples()[name]))]
WITH_OUT = [name for name in OPS if ops.registry[name].takes_out]


def changed(arguments: tuple[Any, ...], change: Any) -> list[Any]:
    """The arguments with other images."""
    return [change(a) if isinstance(a, Tensor) and a.ndim == 4 else a for a in arguments]


def half_of_the_channels(image: Tensor) -> Tensor:
    """As a network gives it together with its variance."""
    return torch.cat([image, 9 * image], 1).chunk(2, 1)[0]


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.float16, torch.bfloat16))
@pytest.mark.parametrize(("name", "i"), IMAGE_CASES)
def test_layouts_of_images(name, i, dtype):
    op = ops.registry[name]
    plain, _ = with_dtype(op, samples()[name][i], dtype)
    expected = op(*plain)
    assert expected.is_contiguous()
    assert torch.equal(op(*changed(plain, half_of_the_channels)), expected)
    last = changed(plain, lambda image: image.contiguous(memory_format=torch.channels_last))
    for arguments in (last, changed(last, lambda image: image if image is last[0] else image.contiguous())):
        value = op(*arguments)
        assert torch.equal(value, expected)
        if op is ops.reverse_step:
            assert value.is_contiguous(memory_format=torch.channels_last)
            assert value.stride() == op.reference(*arguments).stride()


def outs(like: Tensor) -> list[Tensor]:
    """Memory of several layouts for a result, full of NaN."""
    wide = torch.full((*like.shape[:-1], 2 * like.shape[-1]), torch.nan, dtype=like.dtype)
    whole = torch.full((like.shape[0], 2 * like.shape[1], *like.shape[2:]), torch.nan, dtype=like.dtype)
    fresh = torch.full_like(like, torch.nan)
    turned = fresh.clone().contiguous(memory_format=torch.channels_last)
    return [fresh, turned, wide[..., ::2], whole[:, like.shape[1] :]]


def without_kernel(op: Op) -> Any:
    """`out=` as it is where there is no kernel for the device."""
    return lambda *arguments, out: op._copy_result(*arguments, out=out)


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.bfloat16))
@pytest.mark.parametrize("name", WITH_OUT)
def test_out(name, dtype):
    op = ops.registry[name]
    for sample in samples()[name]:
        arguments, _ = with_dtype(op, sample, dtype)
        for given in (arguments, changed(arguments, lambda image: image.contiguous(memory_format=torch.channels_last))):
            expected = op(*given)
            for out in outs(expected):
                assert op(*given, out=out) is out and torch.equal(out, expected)
        out = outs(expected)[2]
        without_kernel(op)(*arguments, out=out)
        assert torch.equal(out, op.reference(*arguments))
    assert torch.equal(
        op(*(a[:0] if isinstance(a, Tensor) and a.shape[:1] == (3,) else a for a in arguments), out=out[:0]), out[:0]
    )


@pytest.mark.parametrize(
    "change", (Tensor.clone, half_of_the_channels, lambda image: relaid(image)[0], lambda image: relaid(image)[3])
)
@pytest.mark.parametrize("i", range(len(samples()["reverse_step"])))
def test_in_place(i, change):
    arguments = samples()["reverse_step"][i]
    expected = ops.reverse_step(*arguments)
    for position, argument in enumerate(arguments):
        if isinstance(argument, Tensor) and argument.ndim == 4:
            copies = changed(arguments, change)
            assert ops.reverse_step(*copies, out=copies[position]) is copies[position]
            assert torch.equal(copies[position], expected)
            for kept, original in zip(copies, arguments, strict=True):
                if isinstance(kept, Tensor) and kept is not copies[position]:
                    assert torch.equal(kept, original)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
def test_results_too_large_for_the_caches(dtype):
    """They take another way to memory, from wherever in a register they begin."""
    x_t, output, noise = (image.to(dtype) for image in images(3, (3, 1, 900, 901)))
    arguments = (x_t, output, T, TABLE, None, noise, None, None, 1.0)
    truth = ops.reverse_step.reference(*(a.double() if isinstance(a, Tensor) and a.ndim == 4 else a for a in arguments))
    expected = ops.reverse_step(*arguments)
    assert error(expected, truth) < (TOLERANCE if dtype == torch.float32 else 2**-8)
    memory = torch.full((x_t.numel() + 7,), torch.nan, dtype=dtype)
    for first in (1, 7):
        out = memory[first : first + x_t.numel()].view(x_t.shape)
        assert torch.equal(ops.reverse_step(*arguments, out=out), expected)
    assert torch.equal(ops.reverse_step(*arguments, out=x_t), expected)


def test_in_place_on_a_map():
    x_0, x_t, output = images(3, (3, 1, 19, 37))
    expected = ops.kl_map(x_0, x_t, output, T, FIXED)
    assert torch.equal(ops.kl_map(x_0, x_t, output, T, FIXED, out=x_0), expected) and torch.equal(x_0, expected)


def test_an_out_that_overlaps_is_refused():
    flat = images(1, (4, 2, 19, 37))[0]
    call = {"model_output": OUTPUT, "t": T, "table": TABLE}
    for x_t, out in (
        (flat[:3], flat[1:]),
        (flat[1:], flat[:3]),
        (X_T.clone(), None),
        (flat.view(-1)[: X_T.numel()].view(X_T.shape), flat.view(-1)[5 : X_T.numel() + 5].view(X_T.shape)),
    ):
        out = x_t.transpose(2, 3).reshape(-1).view(X_T.shape) if out is None else out
        if x_t.untyped_storage().data_ptr() != out.untyped_storage().data_ptr():
            assert torch.equal(ops.reverse_step(x_t, **call, out=out), ops.reverse_step(x_t, **call))
            continue
        with pytest.raises(ValueError, match="out shares memory with an input without being that input"):
            ops.reverse_step(x_t, **call, out=out)
    table = torch.zeros(1000 * len(COLUMNS) + 4)
    with pytest.raises(ValueError, match="out shares memory"):
        ops.kl_map(
            *images(3, (3, 1, 5, 5)), T, table[: 1000 * len(COLUMNS)].view(1000, -1), out=table[-75:].view(3, 1, 5, 5)
        )
    # Behind each other, or between each other, is not on each other.
    x_t, half = torch.cat([X_T, X_T]).chunk(2)
    assert torch.equal(ops.reverse_step(x_t, **call, out=half), ops.reverse_step(X_T, **call))
    x_t, other = torch.cat([X_T, OUTPUT], 1).chunk(2, 1)
    expected = ops.reverse_step(X_T, OUTPUT, T, TABLE)
    assert torch.equal(ops.reverse_step(x_t, other, T, TABLE, out=other), expected) and torch.equal(x_t, X_T)


@pytest.mark.parametrize("name", WITH_OUT)
def test_opcheck_of_out(name):
    op, arguments = ops.registry[name], samples()[name][-1]
    torch.library.opcheck(getattr(torch.ops.diffnoise, name).out, arguments, {"out": torch.empty_like(op(*arguments))})


@pytest.mark.parametrize("name", WITH_OUT)
def test_compile_with_out(name):
    op, arguments = ops.registry[name], samples()[name][-1]

    def twice(out, *a):
        op(*a, out=out)
        return out * 2

    expected = op(*arguments)
    compiled = torch.compile(twice, fullgraph=True, backend="aot_eager")
    for out in (torch.empty_like(expected), *([] if op is ops.kl_map else [arguments[0].clone()])):
        given = [out if op is ops.reverse_step else arguments[0], *arguments[1:]]
        if op is ops.reverse_step:
            out.copy_(arguments[0])
        assert torch.equal(compiled(out, *given), expected * 2) and torch.equal(out, expected)


def test_out_and_gradients():
    weight = torch.ones(X_T.shape, requires_grad=True)
    with pytest.raises(RuntimeError, match=r"reverse_step is not differentiable with out=; leave out= away"):
        ops.reverse_step(X_T, weight, T, TABLE, out=X_T.clone())
    with torch.no_grad():
        ops.reverse_step(X_T, weight, T, TABLE, out=X_T.clone())
    x_t = X_T.clone()
    loss = (weight * x_t).sum()
    ops.reverse_step(x_t, OUTPUT, T, TABLE, out=x_t)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()
    with torch.inference_mode():
        x_t = X_T.clone()
        assert torch.equal(ops.reverse_step(x_t, OUTPUT, T, TABLE, out=x_t), ops.reverse_step(X_T, OUTPUT, T, TABLE))


def test_an_op_without_out():
    with pytest.raises(TypeError, match="gaussian_noise takes no out="):
        ops.gaussian_noise(*grid(), out=X_T)


def test_expanded_inputs():
    x_t, output = (image[:1, :1] for image in images(2))
    expanded = [image.expand(3, 2, 19, 37) for image in (x_t, output)]
    copies = [image.contiguous() for image in expanded]
    assert torch.equal(ops.reverse_step(*expanded, T, TABLE), ops.reverse_step(*copies, T, TABLE))
    seeds = SEEDS[:1].expand(3)
    assert torch.equal(
        ops.gaussian_noise(seeds, T, ORIGINS, 1, 4, 4), ops.gaussian_noise(seeds.clone(), T, ORIGINS, 1, 4, 4)
    )


@pytest.mark.parametrize("name", OPS)
def test_compile(name):
    torch.compiler.reset()  # the lambda is one function for all ops, of which only so many versions are kept
    op, arguments = ops.registry[name], samples()[name][-1]
    compiled = torch.compile(lambda *a: op(*a) * 2, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*arguments), op(*arguments) * 2)


@pytest.mark.parametrize(("name", "i"), FLOATING_CASES)
def test_a_sample_is_the_same_in_any_batch(name, i):
    op, arguments = ops.registry[name], samples()[name][i]
    order = torch.tensor([2, 0, 2])
    chosen = [a[order] if isinstance(a, Tensor) and len(a) == 3 else a for a in arguments]  # not tables and weights
    assert torch.equal(op(*chosen), op(*arguments)[order])


@pytest.mark.parametrize(("name", "i"), CASES)
def test_thread_count(name, i):
    op, arguments = ops.registry[name], samples()[name][i]
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        one = op(*arguments)
        torch.set_num_threads(3)
        three = op(*arguments)
    finally:
        torch.set_num_threads(threads)
    assert torch.equal(one, three)


IN_A_PROCESS_OF_ITS_OWN = """
import sys, torch
from diffnoise import ops
calls = torch.load(sys.argv[1])
torch.save([getattr(ops, name)(*arguments) for name, arguments in calls], sys.argv[2])
"""


@needs_native
@pytest.mark.parametrize("isa", ("avx2", "baseline"))
def test_lower_instruction_sets(isa, tmp_path):
    cases = [(name, i) for name in OPS for i in range(len(samples()[name]))]
    torch.save([(name, samples()[name][i]) for name, i in cases], tmp_path / "calls")
    command = [sys.executable, "-c", IN_A_PROCESS_OF_ITS_OWN, tmp_path / "calls", tmp_path / "values"]
    subprocess.run(command, env=os.environ | {"DIFFNOISE_ISA": isa}, cwd=Path(__file__).parents[1], check=True)
    for (name, i), value in zip(cases, torch.load(tmp_path / "values"), strict=True):
        assert error(value, exact(name, i, samples()[name][i])) < TOLERANCE
        if isa == "avx2" and _native.status().isa == "avx512":
            assert torch.equal(value, ops.registry[name](*samples()[name][i]))


# What follows channels, height and width in a call on a whole image of 90 x 310.
ON_A_GRID = [
    ("gaussian_noise", ()),
    ("simplex_noise", (2, 6, 0.8, 64.0)),
    ("simplex_noise", (3, 6, 0.8, 64.0)),
    ("simplex_noise", (4, 8, 0.8, 50.0)),
    ("gmm_noise", (90, 310)),
]


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64, torch.bfloat16))
@pytest.mark.parametrize(("name", "rest"), ON_A_GRID)
@pytest.mark.parametrize("origin", ((0, 0), (-37, 2**20 + 5)))
def test_a_tile_is_a_crop(name, rest, origin, dtype):
    if name == "gmm_noise" and origin != (0, 0):
        pytest.skip("a mixture has an image of its own")
    op, whole = ops.registry[name], torch.tensor([origin])
    image = op(SEEDS[:1], T[:1], whole, 2, 90, 310, *rest, dtype=dtype)
    for y, x, height, width in ((0, 0, 1, 1), (13, 7, 50, 281), (89, 309, 1, 1), (31, 255, 40, 20)):
        tile = op(SEEDS[:1], T[:1], whole + torch.tensor([[y, x]]), 2, height, width, *rest, dtype=dtype)
        assert torch.equal(tile, image[:, :, y : y + height, x : x + width])


def test_reverse_noise_of_a_tile_is_a_crop():
    x_t, output = images(2)
    whole = ops.reverse_step(x_t, output, T, TABLE, seeds=SEEDS)
    tile = ops.reverse_step(
        x_t[..., 3:9, 5:], output[..., 3:9, 5:], T, TABLE, seeds=SEEDS, origins=torch.tensor([[3, 5]]).expand(3, 2)
    )
    assert torch.equal(tile, whole[..., 3:9, 5:])


def test_reverse_step_makes_the_noise_of_gaussian_noise():
    x_t, output = images(2)
    noise = ops.gaussian_noise(SEEDS, T, ORIGINS, 2, 19, 37, _philox.STREAM_REVERSE)
    given = ops.reverse_step(x_t, output, T, TABLE, noise=noise)
    assert torch.equal(ops.reverse_step(x_t, output, T, TABLE, seeds=SEEDS, origins=ORIGINS), given)


def test_channels_differ_and_do_not_depend_on_their_number():
    for name, rest in ON_A_GRID:
        three = ops.registry[name](SEEDS, T, ORIGINS, 3, 20, 30, *rest)
        assert torch.equal(ops.registry[name](SEEDS, T, ORIGINS, 2, 20, 30, *rest), three[:, :2])
        assert not torch.equal(three[:, 0], three[:, 1])


@pytest.mark.parametrize("shape", ((0, 2, 5, 5), (2, 0, 5, 5), (2, 2, 0, 5), (2, 2, 5, 0)))
def test_empty(shape):
    batch, *size = shape
    empty = torch.zeros(shape)
    for name, rest in ON_A_GRID:
        assert ops.registry[name](SEEDS[:batch], T[:batch], ORIGINS[:batch], *size, *rest).shape == shape
    assert ops.simplex_noise_at(torch.zeros(batch, 0, 3), SEEDS[:batch]).shape == (batch, 0)
    assert ops.reverse_step(empty, empty, T[:batch], TABLE, seeds=SEEDS[:batch]).shape == shape
    assert ops.kl_map(empty, empty, empty, T[:batch], TABLE).shape == (batch, 1, *size[1:])
    if size[0]:
        for implementation in (ops.anomaly_map, ops.anomaly_map.reference):
            assert implementation(empty, mean_taps(5), empty).shape == (batch, 1, *size[1:])
    assert ops.group_norm_silu(empty, 1).shape == shape
    assert ops.attention(torch.cat([empty] * 3, 1), 1).shape == shape
    last = torch.randn(2, 3, 4, 4).contiguous(memory_format=torch.channels_last)
    assert torch.equal(ops.group_norm_silu(last, 1, skip=last[:, :0]), ops.group_norm_silu(last, 1))


# Edges of every number and density: none, one, far apart, crowded around one value, and as many as there are values.
EDGES = {
    "none": lambda values: values[:0],
    "one": lambda values: values[:1],
    "few": lambda values: values[:9],
    "many": lambda values: values[::3],
    "all": lambda values: values,
    "outside": lambda values: torch.tensor([-torch.inf, -1e30, 1e30, torch.inf]),
    "crowded": lambda values: torch.cat([1 + torch.arange(500) * 2**-23, torch.tensor([-1e20, 0.0, 1e-40, 3e8])]),
}


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
@pytest.mark.parametrize("edges", EDGES.values(), ids=EDGES)
def test_interval_counts(edges, dtype):
    """Against comparing every value with every edge."""
    generator = torch.Generator().manual_seed(0)
    values = torch.randn(3001, generator=generator).to(dtype)
    values[:1000] = (values[:1000] * 4).round() / 4
    values[1000:1200] = 1 + torch.randint(-100, 600, (200,), generator=generator).to(dtype) * 2**-23
    values[1200:1206] = torch.tensor([0.0, -0.0, torch.inf, -torch.inf, 1e-40, -1e-40])
    bounds = edges(values[values.isfinite()]).to(dtype).unique()
    below = (values[:, None] < bounds).sum(0).tolist()
    below_or_at = (values[:, None] <= bounds).sum(0).tolist()
    ends = [0, *(end for pair in zip(below, below_or_at, strict=True) for end in pair), len(values)]
    expected = torch.tensor(ends).diff()
    for implementation in (ops.interval_counts, ops.interval_counts.reference):
        assert torch.equal(implementation(values, bounds), expected)
    assert ops.interval_counts(values[:0], bounds).tolist() == [0] * (2 * len(bounds) + 1)


@pytest.mark.parametrize("bits", (0x7FC00000, 0x7FFFFFFF, -1))
def test_nan_counts_as_above_all_edges(bits):
    nan = torch.tensor([bits], dtype=torch.int32).view(torch.float32)
    values, edges = torch.cat([torch.zeros(100), nan, nan]), torch.tensor([0.0, torch.inf])
    for implementation in (ops.interval_counts, ops.interval_counts.reference):
        assert implementation(values, edges).tolist() == [0, 100, 0, 0, 2]
        assert implementation(values, edges[:0]).tolist() == [102]


def test_a_constant_mixture_becomes_zero():
    for implementation in (ops.gmm_noise, ops.gmm_noise.reference):
        assert (implementation(SEEDS, T, ORIGINS * 0, 2, 1, 1, 1, 1) == 0).all()


@needs_native
@pytest.mark.parametrize("value", (torch.nan, torch.inf, -torch.inf))
@pytest.mark.parametrize("taps", (mean_taps(1), mean_taps(5), mean_taps(11), gaussian_taps(1.0)), ids=len)
def test_what_is_not_finite_reaches_as_far_as_the_filter(taps, value):
    """In the map of the reference, and at every place in a block or a register."""
    maps = torch.rand(40, 1, 33, 40, generator=torch.Generator().manual_seed(0))
    for i in range(40):
        maps[i, 0, i * 7 % 33, i] = value
        maps[i, 0, i * 5 % 33, (i + 3) % 40] = -value
    found, truth = ops.anomaly_map(maps, taps), ops.anomaly_map.reference(maps.double(), taps)
    for special in (torch.isnan, torch.isposinf, torch.isneginf):
        assert torch.equal(special(found), special(truth))


@pytest.mark.parametrize("clip", (None, 1.0))
@pytest.mark.parametrize("position", ("x_t", "model_output", "variance", "noise"))
def test_nan_goes_through(position, clip):
    tensors = dict(zip(("x_t", "model_output", "variance", "noise"), images(4), strict=True))
    tensors[position][1, 1, 3, 5] = torch.nan
    is_nan = ops.reverse_step(t=T, table=TABLE, clip=clip, **tensors).isnan()
    assert is_nan[1, 1, 3, 5] and is_nan.sum() == 1
    if position != "noise":
        del tensors["noise"]
        is_nan = ops.kl_map(images(1)[0], t=T, table=TABLE, clip=clip, **tensors).isnan()
        assert is_nan[1, 0, 3, 5] and is_nan.sum() == 1


def test_a_row_outside_the_sub_sequence():
    x_t, output = images(2)
    table = Schedule.linear().ddpm_table(timesteps=[0, 10, 999])
    with pytest.raises(ValueError, match="t holds 500, for which the table has no row"):
        ops.reverse_step(x_t, output, torch.tensor([0, 500, 999]), table)
    with pytest.raises(ValueError, match="t holds 500, for which the table has no row"):
        ops.kl_map(x_t, x_t, output, torch.tensor([0, 500, 999]), table)
    # Where values cannot be looked at, the samples say so themselves.
    step = torch.ops.diffnoise.reverse_step
    for call in (step, ops.reverse_step.reference):
        x_prev = call(x_t, output, torch.tensor([0, 500, 999]), table)
        assert x_prev.isnan().flatten(1).all(1).tolist() == [False, True, False]


@pytest.mark.parametrize("t", (-1, 1000, 2**62))
def test_t_outside_the_table(t):
    x_t, output = images(2)
    with pytest.raises(ValueError, match=f"t holds {t}, but the table has only the indices 0 to 999"):
        ops.reverse_step(x_t, output, torch.tensor([0, t, 1]), TABLE)
    with pytest.raises(ValueError, match=f"t holds {t}, but"):
        ops.kl_map(x_t, x_t, output, torch.tensor([0, t, 1]), TABLE)


@needs_native
def test_t_outside_the_table_never_reads_outside_its_memory():
    x_t, output = images(2)
    for t in (-1, 1000, 2**62):
        with pytest.raises(RuntimeError, match=f"t holds {t}, but the table has only the indices 0 to 999"):
            torch.ops.diffnoise.reverse_step(x_t, output, torch.tensor([0, t, 1]), TABLE)


@needs_native
def test_coordinates_too_far_for_the_lattice():
    with pytest.raises(RuntimeError, match="t reaches .*, too far for the lattice"):
        ops.simplex_noise(SEEDS, T + 2**62, ORIGINS, 1, 2, 2, 3, 1, 0.5, 64.0)
    with pytest.raises(RuntimeError, match="y reaches .*, too far for the lattice"):
        ops.simplex_noise(SEEDS, T, ORIGINS - 2**50, 1, 2, 2, 2, 6, 0.5, 1.0)


X_T, OUTPUT = images(2)
TAPS = mean_taps(3)
REFUSED = [
    (lambda: ops.gaussian_noise(SEEDS.int(), T, ORIGINS, 1, 2, 2), "seeds must be an int64 tensor of shape"),
    (lambda: ops.gaussian_noise(SEEDS[None], T, ORIGINS, 1, 2, 2), "seeds must be an int64 tensor"),
    (lambda: ops.gaussian_noise(SEEDS, T[:2], ORIGINS, 1, 2, 2), "t must be an int64 tensor of shape"),
    (lambda: ops.gaussian_noise(SEEDS, T, ORIGINS[:, :1], 1, 2, 2), "origins must be an int64 tensor"),
    (lambda: ops.gaussian_noise(SEEDS, T, ORIGINS, 1, -2, 2), "must not be negative"),
    (lambda: ops.gaussian_noise(SEEDS, T, ORIGINS, 2**24, 2, 2), "channels below"),
    (lambda: ops.gaussian_noise(SEEDS, T, ORIGINS, 1, 2, 2, dtype=torch.int32), "floating-point dtype"),
    (lambda: ops.gaussian_noise(SEEDS, T, ORIGINS, 1, 2, 2, 256), "stream must lie in"),
    (lambda: ops.simplex_noise(*grid(), 5, 1, 0.5, 64.0), "dims must be 2, 3 or 4"),
    (lambda: ops.simplex_noise(*grid(), 3, 0, 0.5, 64.0), "octaves must be at least 1"),
    (lambda: ops.simplex_noise(*grid(), 3, 1, 0.0, 64.0), "persistence must be positive"),
    (lambda: ops.simplex_noise(*grid(), 3, 1, 0.5, 0.0), "wavelength must be a positive number"),
    (lambda: ops.simplex_noise_at(points(2)[..., :1], SEEDS), "points must have shape"),
    (lambda: ops.simplex_noise_at(points(2).half(), SEEDS), "points must be float32 or float64"),
    (lambda: ops.gmm_noise(*grid(), 0, 5), "full_height and full_width must be at least 1"),
    (lambda: ops.gmm_noise(*grid(), 5, 5, 0), "components must be at least 1"),
    (lambda: ops.gmm_noise(*grid(), 5, 5, 3, 0.5, 0.1), "sigma_low and sigma_high must satisfy"),
    (lambda: ops.reverse_step(X_T[0], OUTPUT[0], T, TABLE), "x_t must have shape"),
    (lambda: ops.reverse_step(X_T, OUTPUT[:1], T, TABLE), "model_output has shape"),
    (lambda: ops.reverse_step(X_T, OUTPUT.double(), T, TABLE), "model_output has dtype"),
    (lambda: ops.reverse_step(X_T, OUTPUT, T, TABLE[:, :3]), "table must be a float32 or float64 tensor"),
    (lambda: ops.reverse_step(X_T, OUTPUT, T, TABLE, clip=-1.0), "clip must be positive"),
    (lambda: ops.reverse_step(X_T, OUTPUT, T, TABLE, noise=X_T, seeds=SEEDS), "not both"),
    (lambda: ops.reverse_step(X_T, OUTPUT, T, TABLE, origins=ORIGINS), "give seeds too"),
    (lambda: ops.anomaly_map(X_T[0], TAPS), "images must have shape"),
    (lambda: ops.anomaly_map(X_T[:, :0], TAPS), "as many channels for each of 1 scales"),
    (lambda: ops.anomaly_map(X_T, TAPS[:2]), "taps must be a float32 or float64 tensor of an odd number"),
    (lambda: ops.anomaly_map(X_T, TAPS.half()), "taps must be"),
    (lambda: ops.anomaly_map(X_T, TAPS, X_T[:, :1]), "x_0 has shape"),
    (lambda: ops.anomaly_map(X_T, TAPS, X_T[:, :1].double(), SCALES), "x_0 has dtype"),
    (lambda: ops.anomaly_map(X_T, TAPS, None, SCALES[:, :1]), "scales must be a float32 or float64 tensor of shape"),
    (lambda: ops.anomaly_map(X_T, TAPS, None, SCALES * torch.tensor([1, 0])), "deviations in scales must be positive"),
    (
        lambda: ops.anomaly_map(X_T, TAPS, None, SCALES * torch.tensor([1, float("nan")])),
        "deviations in scales must be positive",
    ),
    (lambda: ops.anomaly_map(X_T, TAPS, None, SCALES[[0, 0, 1]]), "as many channels for each of 3 scales"),
    (lambda: ops.reverse_step(X_T, OUTPUT, T, TABLE, guidance=1.0), "give target too"),
    (lambda: ops.reverse_step(X_T, OUTPUT, T, TABLE, target=X_T[:1], guidance=1.0), "target has shape"),
    (lambda: ops.reverse_step(X_T, OUTPUT, T, TABLE, target=X_T, guidance=-1.0), "guidance must be a finite number"),
    (lambda: ops.reverse_step(X_T, OUTPUT, T, TABLE, out=X_T[:1]), "out has shape"),
    (lambda: ops.reverse_step(X_T, OUTPUT, T, TABLE, out=X_T.half()), "out has dtype"),
    (lambda: ops.kl_map(X_T, X_T, OUTPUT, T, TABLE, out=X_T), "out has shape"),
    (lambda: ops.reverse_step(X_T, OUTPUT, T, TABLE, out=X_T[:, :1, :1, :1].expand(X_T.shape)), "several elements"),
    (lambda: ops.kl_map(X_T[:1], X_T, OUTPUT, T, TABLE), "x_0 has shape"),
    (lambda: ops.interval_counts(X_T, TAPS), "values must be float32 or float64 of shape"),
    (lambda: ops.interval_counts(TAPS, T), "edges must be float32 or float64 of shape"),
    (lambda: ops.interval_counts(TAPS.half(), TAPS.half()), "values must be float32 or float64"),
    (lambda: ops.interval_counts(TAPS.float(), TAPS.double()), "edges has dtype torch.float64"),
    (lambda: ops.attention(X_T[0], 1), "qkv must have shape"),
    (lambda: ops.attention(X_T, 1), "multiple of 3 heads channels, but has 2 for 1 heads"),
    (lambda: ops.attention(torch.cat([X_T] * 3, 1), 0), "but has 6 for 0 heads"),
    (lambda: ops.attention(torch.cat([X_T] * 3, 1).int(), 1), "the dtype of qkv must be a floating-point"),
    (lambda: ops.group_norm_silu(X_T[0], 1), "x must have shape"),
    (lambda: ops.group_norm_silu(X_T, 3), "groups must divide the 2 channels, but is 3"),
    (lambda: ops.group_norm_silu(X_T, 0), "groups must divide the 2 channels, but is 0"),
    (lambda: ops.group_norm_silu(X_T, 1, eps=-1.0), "eps must not be negative, but is -1.0"),
    (lambda: ops.group_norm_silu(X_T, 1, torch.ones(3)), r"weight must have shape \[2\], but has shape \[3\]"),
    (lambda: ops.group_norm_silu(X_T, 1, bias=torch.ones(2).int()), "the dtype of bias must be a floating-point"),
    (lambda: ops.group_norm_silu(X_T, 1, scale=torch.ones(2)), r"scale must have shape \[3, 2\]"),
    (lambda: ops.group_norm_silu(X_T, 4, skip=X_T, shift=torch.ones(3, 2)), r"shift must have shape \[3, 4\]"),
    (lambda: ops.group_norm_silu(X_T, 1, skip=X_T[:1]), "skip must be like x but for the number of channels"),
    (lambda: ops.group_norm_silu(X_T, 1, skip=X_T.double()), "but is torch.float64 of shape"),
]


@pytest.mark.parametrize(("call", "sentence"), REFUSED)
def test_refusals_are_sentences(call, sentence):
    with pytest.raises(ValueError, match=sentence) as caught:
        call()
    assert str(caught.value).endswith(".")


@needs_native
def test_the_kernels_themselves_refuse_what_would_read_outside_memory():
    """Callers of torch.ops.diffnoise pass by the checks in Python."""
    bare = torch.ops.diffnoise
    for call in (
        lambda: bare.gaussian_noise(SEEDS, T[:1], ORIGINS, 1, 2, 2),
        lambda: bare.gaussian_noise(SEEDS, T.int(), ORIGINS, 1, 2, 2),
        lambda: bare.simplex_noise(SEEDS, T, ORIGINS[:1], 1, 2, 2, 3, 1, 0.5, 64.0),
        lambda: bare.simplex_noise_at(points(3), SEEDS[:1]),
        lambda: bare.simplex_noise_at(torch.zeros(3, 2, 5), SEEDS),
        lambda: bare.gmm_noise(SEEDS, T, ORIGINS, -1, 2, 2, 5, 5),
        lambda: bare.reverse_step(X_T, OUTPUT[:1], T, TABLE),
        lambda: bare.reverse_step(X_T, OUTPUT, T, TABLE[:, :8]),
        lambda: bare.reverse_step.out(X_T, OUTPUT, T, TABLE, out=X_T[:1].clone()),
        lambda: bare.reverse_step.out(X_T, OUTPUT, T, TABLE, out=X_T.double()),
        lambda: bare.kl_map.out(X_T, X_T, OUTPUT, T, TABLE, out=X_T.clone()),
        lambda: bare.reverse_step(X_T, OUTPUT, T, TABLE, None, X_T[..., :1]),
        lambda: bare.anomaly_map(X_T, TAPS[:2]),
        lambda: bare.anomaly_map(X_T, TAPS[:0]),
        lambda: bare.anomaly_map(X_T, TAPS, X_T[:2]),
        lambda: bare.anomaly_map(X_T, TAPS, X_T[:, :1]),
        lambda: bare.anomaly_map(X_T, TAPS, X_T.double()),
        lambda: bare.anomaly_map(X_T, TAPS, None, SCALES[:0]),
        lambda: bare.anomaly_map(X_T, TAPS, None, SCALES[[0, 0, 1]]),
        lambda: bare.kl_map(X_T[:1], X_T, OUTPUT, T, TABLE),
        lambda: bare.interval_counts(X_T, TAPS),
        lambda: bare.interval_counts(TAPS.double(), TAPS.float()),
        lambda: bare.interval_counts(TAPS.half(), TAPS.half()),
        lambda: bare.interval_counts(torch.zeros(3), torch.tensor([1.0, 3.0, 2.0])),
        lambda: bare.interval_counts(torch.zeros(3), torch.tensor([1.0, torch.nan, 2.0])),
        lambda: bare.attention(X_T[0], 1),
        lambda: bare.attention(X_T, 1),
        lambda: bare.attention(X_T, 0),
        lambda: bare.group_norm_silu(X_T[0], 1),
        lambda: bare.group_norm_silu(X_T, 3),
        lambda: bare.group_norm_silu(X_T, 1, torch.ones(1)),
        lambda: bare.group_norm_silu(X_T, 1, None, None, torch.ones(1, 2)),
        lambda: bare.group_norm_silu(X_T, 1, skip=X_T[:1]),
        lambda: bare.group_norm_silu(X_T, 1, skip=X_T.double()),
    ):
        with pytest.raises(RuntimeError):
            call()


@pytest.mark.parametrize("name", ("anomaly_map", "attention", "reverse_step", "kl_map", "simplex_noise_at"))
def test_gradients_are_refused(name):
    op, arguments = ops.registry[name], samples()[name][0]
    arguments = [
        a.detach().clone().requires_grad_() if isinstance(a, Tensor) and a.is_floating_point() else a for a in arguments
    ]
    with pytest.raises(RuntimeError, match=f"{name} is not differentiable; call diffnoise.ops.{name}.reference"):
        op(*arguments).sum().backward()
    op.reference(*arguments).sum().backward()
    assert arguments[0].grad is not None


def test_attention_is_that_of_torch():
    qkv = torch.cat(images(3, (2, 32, 9, 15)), 1).double()
    q, k, v = (part.unflatten(1, (4, 8)).flatten(3).transpose(2, 3) for part in qkv.chunk(3, 1))
    expected = torch.nn.functional.scaled_dot_product_attention(q, k, v).transpose(2, 3).reshape(2, 32, 9, 15)
    for implementation in (ops.attention, ops.attention.reference):
        torch.testing.assert_close(implementation(qkv, 4), expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16))
@pytest.mark.parametrize("pixel", (0, 3, 150))
@pytest.mark.parametrize("channel", (0, 8, 16))
def test_attention_keeps_nan(dtype, pixel, channel):
    """Of a query in its own result, of a key or a value in all of the head's."""
    qkv = images(1, (1, 48, 13, 12))[0].to(dtype)
    qkv.flatten(2)[0, channel, pixel] = torch.tensor([0x7F800001], dtype=torch.int32).view(torch.float32).to(dtype)
    assert torch.equal(ops.attention(qkv, 2).isnan(), ops.attention.reference(qkv, 2).isnan())
    assert ops.attention(qkv, 2).isnan().any()


@pytest.mark.parametrize("silu", (True, False))
def test_gradients_of_group_norm_silu(silu):
    x, skip = (image.double().requires_grad_() for image in images(2, (2, 4, 3, 5)))
    generator = torch.Generator().manual_seed(1)
    weight, bias = torch.randn(2, 8, generator=generator, dtype=torch.float64).requires_grad_()
    scale, shift, offset = torch.randn(3, 2, 8, generator=generator, dtype=torch.float64).requires_grad_()

    def call(*tensors: Tensor) -> Tensor:
        *rest, behind = tensors
        return ops.group_norm_silu(*rest[:1], 2, *rest[1:], behind, silu=silu)

    assert torch.autograd.gradcheck(call, (x, weight, bias, scale, shift, offset, skip))
    single = x.detach().float().contiguous(memory_format=torch.channels_last).requires_grad_()
    for implementation in (ops.group_norm_silu, ops.group_norm_silu.reference):
        single.grad = None
        (implementation(single, 2, silu=silu) * skip.float()).sum().backward()
        expected = torch.autograd.grad((ops.group_norm_silu.reference(x, 2, silu=silu) * skip).sum(), x)[0]
        assert error(single.grad, expected) < 1e-5


@pytest.mark.parametrize("memory_format", (torch.contiguous_format, torch.channels_last))
def test_group_norm_silu_keeps_the_digits_of_small_deviations(memory_format):
    """Pixels far from 0, the first of them far from the rest: a difference of two large sums would lose the variance."""
    x = images(1, (1, 16, 40, 50))[0] * 0.01 + 100
    x[:, :, 0, :4] = 300.0
    x = x.contiguous(memory_format=memory_format)
    truth = torch.nn.functional.group_norm(x.double().contiguous(), 4)
    assert error(ops.group_norm_silu(x, 4, silu=False), truth) < TOLERANCE


def test_nan_stays_in_its_group():
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        x = images(1, (2, 32, 4, 5))[0].to(dtype)
        x[1, 17, 2, 3] = torch.nan
        for layout in (torch.contiguous_format, torch.channels_last):
            is_nan = ops.group_norm_silu(x.contiguous(memory_format=layout), 2).isnan()
            assert is_nan[1, 16:].all() and is_nan.sum() == 16 * 20


@pytest.mark.parametrize("dtype", (torch.float32, torch.bfloat16, torch.float16))
@pytest.mark.parametrize("bits", (0x7FC00000, 0x7FFFFFFF, -1))  # CUDA makes the second
def test_a_nan_of_any_bits_stays_one(dtype, bits):
    nan = torch.tensor([bits], dtype=torch.int32).view(torch.float32)
    x = images(1, (2, 32, 4, 5))[0].to(dtype)
    weight = torch.ones(32)
    weight[3:4] = nan
    for layout in (torch.contiguous_format, torch.channels_last):
        is_nan = ops.group_norm_silu(x.contiguous(memory_format=layout), 2, weight, torch.zeros(32)).isnan()
        assert is_nan[:, 3].all() and is_nan.sum() == 40


def test_a_second_derivative_is_refused():
    x = torch.randn(1, 4, 3, 3, requires_grad=True)
    with pytest.raises(RuntimeError, match="has no second derivative"):
        torch.autograd.grad(ops.group_norm_silu(x, 2).sum(), x, create_graph=True)


# Known answers.


@pytest.mark.parametrize(("counter", "key", "expected"), doctor.PHILOX_ANSWERS)
def test_philox(counter, key, expected):
    words = _philox.philox(tuple(map(torch.tensor, counter)), tuple(map(torch.tensor, key)))
    assert tuple(map(int, words)) == expected


def test_gaussian_noise_is_made_of_the_words():
    """Every word of every address shows in the value, so the kernel's integers are the reference's."""
    seed, t, y, x = 0x1234567890ABCDEF, 77, -5, 2**35 + 6
    value = ops.gaussian_noise(
        torch.tensor([seed]), torch.tensor([t]), torch.tensor([[y, x]]), 2, 1, 2, 3, torch.float64
    )
    words = _philox.address(*map(torch.tensor, (seed, t, 1, y, x >> 2)), 3)
    assert value[0, 1, 0].tolist() == pytest.approx(
        [float(v) for v in _philox.normal_pair(*words[2:], torch.float64)], rel=1e-12
    )


def test_gaussian_noise_is_normal():
    values = ops.gaussian_noise(
        torch.arange(8), torch.arange(8), torch.zeros(8, 2, dtype=torch.int64), 3, 128, 128
    ).double()
    count = values.numel()
    assert abs(values.mean()) < 5 / count**0.5
    assert abs(values.var() - 1) < 5 * (2 / count) ** 0.5
    assert abs((values**4).mean() - 3) < 5 * (96 / count) ** 0.5
    for axis in range(4):
        neighbours = values.narrow(axis, 1, values.shape[axis] - 1) * values.narrow(axis, 0, values.shape[axis] - 1)
        assert abs(neighbours.mean()) < 5 / neighbours.numel() ** 0.5


@pytest.mark.parametrize("seed", (0, 3, 42, 1234, -1, 2**63 - 1))
def test_permutations_are_those_of_the_package(seed):
    expected, _ = opensimplex.internals._init(seed)
    assert _opensimplex.permutations(torch.tensor([seed]))[0].tolist() == expected.tolist()


@pytest.mark.parametrize("dims", (2, 3, 4))
def test_opensimplex_is_that_of_the_package(dims):
    seed, count = 42, 20_000
    p = np.random.default_rng(dims).uniform(-50, 50, (count, dims))
    p[: count // 4] = (4 * p[: count // 4]).round() / 4  # where coordinates tie
    permutation, gradient = opensimplex.internals._init(seed)
    extra = (gradient,) if dims == 3 else ()
    point = getattr(opensimplex.internals, f"_noise{dims}")
    expected = torch.tensor([point(*row, permutation, *extra) for row in p], dtype=torch.float64)
    at, seeds = torch.from_numpy(p)[None], torch.tensor([seed])
    for implementation in (ops.simplex_noise_at, ops.simplex_noise_at.reference):
        value = implementation(at, seeds, original=True, dtype=torch.float64)[0]
        assert (value - expected).abs().max() < 1e-12
    difference = (ops.simplex_noise_at(at, seeds, dtype=torch.float64)[0] - expected).abs()
    # The original leaves out a few lattice points near the rim of their reach; in 4-D some matter a little more.
    assert difference.max() < (1e-12 if dims == 2 else 3e-4 if dims == 3 else 1e-3)
    assert (difference < 1e-4).double().mean() > 0.98


@pytest.mark.parametrize("dtype", (torch.float32, torch.float64))
@pytest.mark.parametrize("dims", (2, 3, 4))
def test_a_point_does_not_depend_on_its_place(dims, dtype):
    at = torch.randn(1, 1000, dims, generator=torch.Generator().manual_seed(dims)) * 9
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(1))[:777]
    for original in (False, True):
        value = ops.simplex_noise_at(at, SEEDS[:1], 3, original=original, dtype=dtype)
        some = ops.simplex_noise_at(at[:, order], SEEDS[:1], 3, original=original, dtype=dtype)
        assert torch.equal(some, value[:, order])


@pytest.mark.parametrize("dims", (2, 3, 4))
def test_points_that_are_no_numbers(dims):
    at = points(dims)[:1]
    expected = ops.simplex_noise_at(at, SEEDS[:1], 3)
    for i, value in ((3, torch.nan), (17, torch.inf), (29, -torch.inf)):
        at[0, i, i % dims] = value
    for original in (False, True):
        value = ops.simplex_noise_at(at, SEEDS[:1], 3, original=original)
        assert value[0].isnan().nonzero().flatten().tolist() == [3, 17, 29]
    kept = ops.simplex_noise_at(at, SEEDS[:1], 3).isfinite()
    assert torch.equal(ops.simplex_noise_at(at, SEEDS[:1], 3)[kept], expected[kept])


GOLDEN_POINTS = [
    (0, (0.5, 0.5), -0.7752903093693847),
    (3, (0.5, 0.5), -0.43906247097569345),
    (42, (1.25, -0.75), -0.19722796500997342),
    (1234, (10, 10), 0.580279369186297),
    (0, (0.5, 0.5, 0.5), 0.6636832524271851),
    (3, (1.25, -0.75, 3.1), 0.13841300743284782),
    (1234, (0.5, 0.5, 0.5), -0.11061387540453083),
    (0, (0.5, 0.5, 0.5, 0.5), -0.2518058426664423),
    (42, (1.25, -0.75, 3.1, -2.2), 0.052794283410987304),
    (1234, (0.5, 0.5, 0.5, 0.5), 0.5038187266672275),
    (7, (0, 0), 0.0),
    (7, (0, 0, 0), 0.0),
    (7, (0, 0, 0, 0), 0.0),
]


@pytest.mark.parametrize(("seed", "point", "expected"), GOLDEN_POINTS)
def test_golden_points(seed, point, expected):
    for implementation in (ops.simplex_noise_at, ops.simplex_noise_at.reference):
        value = implementation(torch.tensor([[point]], dtype=torch.float64), torch.tensor([seed]))
        assert float(value) == pytest.approx(expected, abs=1e-4)


# dims, persistence, seed, channel and the values at (x, y) = (0, 0), (1, 0), (0, 1), (17, 5); t = 10.
GOLDEN_FRACTALS = [
    (2, 0.8, 3, 0, (0, 0.1948401287, -0.6151487353, -0.1568496410)),
    (2, 0.8, 42, 0, (0, 0.4976652987, 0.1717935990, -0.0443435557)),
    (3, 0.8, 3, 0, (0.3880707805, 0.5220649626, 0.1286669217, 1.1789553794)),
    (3, 0.8, 42, 0, (0.7392467962, 0.6253638965, 0.3999829715, -0.6574626969)),
    (4, 0.9, 3, 0, (-0.4701710743, -0.5056607905, -0.6540652719, -0.5114807275)),
    (4, 0.9, 42, 0, (0.0329648078, 0.3876877697, -0.1355101022, 0.5633006129)),
    (4, 0.9, 3, 1, (-0.4669815326, -0.5382396887, -0.5839128994, -0.3671602007)),
    (4, 0.9, 42, 1, (0.0416825777, 0.1559906917, -0.2420760877, 0.5100889166)),
]


@pytest.mark.parametrize(("dims", "persistence", "seed", "channel", "expected"), GOLDEN_FRACTALS)
def test_golden_fractals(dims, persistence, seed, channel, expected):
    origin = torch.zeros(1, 2, dtype=torch.int64)
    for implementation in (ops.simplex_noise, ops.simplex_noise.reference):
        image = implementation(torch.tensor([seed]), torch.tensor([10]), origin, 2, 6, 18, dims, 6, persistence, 64.0)[
            0, channel
        ]
        assert [float(image[y, x]) for x, y in ((0, 0), (1, 0), (0, 1), (17, 5))] == pytest.approx(
            list(expected), abs=1e-4
        )


@pytest.mark.parametrize(
    ("variance", "expected"),
    (
        ("fixed_large", (0.0116016237, 0.0015024440, 0.0012623724)),
        ("fixed_small", (0.0108043584, 0.0014988990, 0.0012638815)),
    ),
)
def test_golden_kl(variance, expected):
    schedule, t = Schedule.linear(), torch.tensor([20, 201, 401])
    table = schedule.ddpm_table(variance=variance, dtype=torch.float64)
    x_0, eps = (image[:, :, :2, :2].double() for image in images(2))
    alpha_bar = schedule.alpha_bars[t].view(-1, 1, 1, 1)
    x_t = alpha_bar.sqrt() * x_0 + (1 - alpha_bar).sqrt() * eps
    beta, alpha_bar, v = schedule.betas[t], schedule.alpha_bars[t], table[t, 8].exp()
    ratio = schedule.posterior_variances[t] / v
    formula = 0.5 * (ratio - 1 - ratio.log()) + 0.5**2 * beta**2 / (2 * v * (1 - beta) * (1 - alpha_bar))
    for implementation in (ops.kl_map, ops.kl_map.reference):
        kl = implementation(x_0, x_t, eps + 0.5, t, table)
        torch.testing.assert_close(kl[:, 0, 0, 0], formula, rtol=1e-9, atol=0)
        torch.testing.assert_close(kl[:, 0, 0, 0], torch.tensor(expected, dtype=torch.float64), rtol=2e-6, atol=0)


# The library missing, switched off or broken.

PROBE = """
import warnings
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from pathlib import Path
    {before}
    from diffnoise import ops
    from diffnoise.ops import _native
    import importlib, torch
    importlib.import_module("diffnoise.ops")
ours = [str(w.message) for w in caught if "compiled kernels" in str(w.message)]
seeds = torch.tensor([3, 5])
noise = ops.simplex_noise(seeds, seeds, torch.zeros(2, 2, dtype=torch.int64), 1, 4, 5, 3, 2, 0.8, 64.0)
print(len(ours), _native.status().loaded, ops.simplex_noise.has_kernel("CPU"), noise.double().sum().item())
print(*ours, _native.status().reason)
"""
HIDE = "real = Path.glob; Path.glob = lambda self, pattern: [] if pattern.startswith('_C') else real(self, pattern)"
BREAK = "real = Path.glob; Path.glob = lambda self, p: [Path({broken!r})] if p.startswith('_C') else real(self, p)"


def probe(before: str = "", **environment: str) -> tuple[list[str], str]:
    result = subprocess.run(
        [sys.executable, "-c", PROBE.format(before=before or "pass")],
        env={k: v for k, v in os.environ.items() if k != "DIFFNOISE_NATIVE"} | environment,
        cwd=Path(__file__).parents[1],
        capture_output=True,
        text=True,
        check=True,
    )
    counts, words = result.stdout.split("\n", 1)
    return counts.split(), words


def test_without_the_native_library(tmp_path):
    seeds = torch.tensor([3, 5])
    expected = (
        ops.simplex_noise(seeds, seeds, torch.zeros(2, 2, dtype=torch.int64), 1, 4, 5, 3, 2, 0.8, 64.0).double().sum()
    )

    found, words = probe(DIFFNOISE_NATIVE="0")
    assert found[:3] == ["0", "False", "False"] and "DIFFNOISE_NATIVE=0" in words
    assert float(found[3]) == pytest.approx(float(expected), rel=1e-5)

    found, words = probe(HIDE)
    assert found[:3] == ["1", "False", "False"] and "pip install -e . --no-build-isolation" in words
    assert float(found[3]) == pytest.approx(float(expected), rel=1e-5)

    broken = tmp_path / "_C.abi3.so"
    broken.write_bytes(b"not a library")
    found, words = probe(BREAK.format(broken=str(broken)))
    assert found[:3] == ["1", "False", "False"] and "cannot be loaded" in words


def test_doctor(capsys):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert doctor.main() == 0
        assert "ok" in capsys.readouterr().out
        assert doctor.main(json=True) == 0
    assert '"self_test"' in capsys.readouterr().out
