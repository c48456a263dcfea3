"""The Triton kernels: on a GPU where there is one, and on the CPU in Triton's interpreter, which needs a process of its own."""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import diffnoise
from diffnoise import anomaly, ops
from diffnoise.ops import _philox
from diffnoise.ops._images import layout
from diffnoise.schedule import Schedule

triton = pytest.importorskip("triton")
tl = pytest.importorskip("triton.language")

ROOT = Path(__file__).parents[1]
INTERPRETED = os.environ.get("TRITON_INTERPRET") == "1"
DEVICE = "cpu" if INTERPRETED else "cuda"
needs_device = pytest.mark.skipif(
    not INTERPRETED and not torch.cuda.is_available(), reason="needs a GPU; test_in_the_interpreter runs it on the CPU"
)
needs_gpu = pytest.mark.skipif(INTERPRETED or not torch.cuda.is_available(), reason="needs a GPU")
needs_compiler = pytest.mark.skipif(INTERPRETED, reason="the interpreter replaces the compiler")

if importlib.util.find_spec("diffnoise.kernels") is None:  # the source tree without an install
    spec = importlib.util.spec_from_file_location(
        "diffnoise.kernels", ROOT / "kernels/__init__.py", submodule_search_locations=[str(ROOT / "kernels")]
    )
    diffnoise.kernels = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(diffnoise.kernels)

kernels, anomaly_map, group_norm_silu, kl_map, philox, reverse_step = (
    importlib.import_module("diffnoise.kernels" + name)
    for name in ("", ".anomaly_map", ".group_norm_silu", ".kl_map", ".philox", ".reverse_step")
)

# Shapes are small because the interpreter is slow; the variances are large so that no divergence overflows float16.
SHAPE = (3, 2, 5, 11)
TABLE = Schedule.linear(0.02, 0.1, steps=20).ddpm_table("learned_range")


def images(
    dtype: torch.dtype = torch.float32, shape: tuple[int, ...] = SHAPE, device: str = DEVICE
) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    names = ("x_0", "x_t", "model_output", "noise", "variance", "target")
    made = {name: torch.randn(shape, generator=generator) for name in names}
    made["variance"] = made["variance"].tanh()
    made = {name: image.to(device, dtype) for name, image in made.items()}
    return made | {"t": torch.tensor([19, 3, 0], device=device), "table": TABLE.to(device)}


def addresses(device: str = DEVICE) -> dict[str, torch.Tensor]:
    return {
        "seeds": torch.tensor([-5, 2**40 + 7, 3], device=device),
        "origins": torch.tensor([[0, 3], [-7, -9], [2**33 + 5, 2**34 + 2]], device=device),
    }


def reverse_cases(device: str = DEVICE):
    for source, learned, clip in itertools.product(("zero", "noise", "seeds", "tile"), (False, True), (None, 0.7)):
        names = ["x_t", "model_output", "t", "table"] + ["variance"] * learned + ["noise"] * (source == "noise")
        extra = {"zero": {}, "noise": {}, "seeds": {"seeds": addresses(device)["seeds"]}, "tile": addresses(device)}[
            source
        ]
        yield names, extra | {"clip": clip}
        if source in ("noise", "tile"):
            yield [*names, "target"], extra | {"clip": clip, "guidance": 0.6}


def kl_cases():
    for learned, clip in itertools.product((False, True), (None, 0.7)):
        yield ["x_0", "x_t", "model_output", "t", "table"] + ["variance"] * learned, {"clip": clip}


def cases(device: str = DEVICE):
    for names, extra in reverse_cases(device):
        yield ops.reverse_step, reverse_step.reverse_step, names, extra
    for names, extra in kl_cases():
        yield ops.kl_map, kl_map.kl_map, names, extra


def one_case_per_op():
    """Everything switched on: the noise of a tile, a learned variance, a clip."""
    yield ops.reverse_step, reverse_step.reverse_step, *list(reverse_cases())[-1]
    yield ops.kl_map, kl_map.kl_map, *list(kl_cases())[-1]


def norm_cases(device: str = DEVICE):
    """x, groups, weight, bias, scale, shift, offset, skip, eps, silu"""
    generator = torch.Generator().manual_seed(1)

    def normal(*shape: int) -> torch.Tensor:
        return torch.randn(shape, generator=generator).to(device)

    last = torch.channels_last
    x, wide = normal(2, 6, 5, 70) + 3, (normal(2, 70, 9, 8) * 2 + 1).contiguous(memory_format=last)
    yield x, 3, None, None, None, None, None, None, 1e-5, True
    yield x, 4, normal(8), normal(8), normal(2, 8), normal(2, 8), normal(2, 8), normal(2, 2, 5, 70), 1e-3, False
    yield wide, 7, normal(70), None, None, normal(2, 70), None, None, 1e-5, True
    yield wide, 2, normal(78).bfloat16(), normal(78), normal(2, 78), None, None, normal(2, 8, 9, 8), 1e-5, True


def error(value: torch.Tensor, truth: torch.Tensor) -> float:
    return ((value.double() - truth).abs().max() / truth.abs().max()).item()


@needs_device
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_matches_the_reference_in_float64(dtype: torch.dtype) -> None:
    inputs = images(dtype)
    double = {name: tensor.double() if tensor.is_floating_point() else tensor for name, tensor in inputs.items()}
    for op, launcher, names, extra in cases():
        truth = op.reference(**{name: double[name] for name in names}, **extra)
        arguments = {name: inputs[name] for name in names}
        value = launcher(**arguments, **extra)
        assert value.dtype == (torch.float32 if op is ops.kl_map else dtype) and value.shape == truth.shape
        # The interpreter cuts float32 off to bfloat16, which doubles the error; the GPU rounds (see the compiled code below).
        times = 4 if INTERPRETED and dtype == torch.bfloat16 else 2
        limit = 1.3e-6 if value.dtype == torch.float32 else times * error(op.reference(**arguments, **extra), truth)
        assert error(value, truth) <= limit, (op.name, names, extra)


def map_cases(dtype: torch.dtype = torch.float32, device: str = DEVICE):
    """Arguments of anomaly_map: nothing but a filter, two channels, two scales; a filter wider than the image."""
    inputs = images(dtype, device=device)
    image, x_0 = inputs["x_t"], inputs["x_0"]
    mean, gaussian = (taps.to(device) for taps in (anomaly.mean_taps(13), anomaly.gaussian_taps(0.7)))
    scales = torch.tensor([[0.5, 2.0], [-0.25, 0.125]], device=device)
    yield {"images": image[:, :1], "taps": mean}
    yield {"images": image, "taps": gaussian, "x_0": x_0}
    yield {"images": image, "taps": gaussian, "x_0": x_0[:, :1], "scales": scales, "absolute": True}
    yield {"images": image, "taps": mean, "x_0": x_0[:, 1:], "scales": scales}


@needs_device
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_an_anomaly_map_matches_the_reference_in_float64(dtype: torch.dtype) -> None:
    for arguments in map_cases(dtype):
        double = {n: a.double() if isinstance(a, torch.Tensor) else a for n, a in arguments.items()}
        truth, value = ops.anomaly_map.reference(**double), anomaly_map.anomaly_map(**arguments)
        assert value.dtype == torch.float32 and value.shape == truth.shape
        assert error(value, truth) <= 1.3e-6
        turned = arguments["images"].transpose(2, 3).contiguous().transpose(2, 3)
        assert torch.equal(anomaly_map.anomaly_map(**arguments | {"images": turned}), value)


@needs_device
def test_an_anomaly_map_of_nan_of_nothing_and_in_float64() -> None:
    for arguments in map_cases():
        arguments["images"] = arguments["images"].clone()
        arguments["images"][1, 0, 3, 9] = float("nan")
        truth = ops.anomaly_map.reference(**arguments)
        assert torch.equal(anomaly_map.anomaly_map(**arguments).isnan(), truth.isnan()) and truth.isnan().any()
        empty = {n: a[..., :0] if n in ("images", "x_0") else a for n, a in arguments.items()}
        assert anomaly_map.anomaly_map(**empty).shape == (3, 1, 5, 0)
    for arguments in map_cases(torch.float64):
        assert torch.equal(anomaly_map.anomaly_map(**arguments), ops.anomaly_map.reference(**arguments))


@needs_device
def test_a_kl_of_nearly_equal_variances_keeps_its_digits() -> None:
    x_0 = torch.zeros((1, 1, 1, 6), device=DEVICE)
    variance = torch.tensor([-1 + 1e-6, -0.999, -0.9, 0.0, 1.0, 3.0], device=DEVICE).expand_as(x_0)
    table = Schedule.linear(0.02, 0.1, steps=20).ddpm_table("learned_range", "sample").to(DEVICE)
    t = torch.tensor([0], device=DEVICE)  # the row with the widest range between the two bounds
    truth = ops.kl_map.reference(x_0.double(), x_0.double(), x_0.double(), t, table.double(), variance.double())
    torch.testing.assert_close(kl_map.kl_map(x_0, x_0, x_0, t, table, variance).double(), truth, rtol=1.3e-6, atol=0)


@needs_device
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
def test_group_norm_silu_matches_the_reference_in_float64(dtype: torch.dtype, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(group_norm_silu, "_TILE", 64 * 32)  # pieces of 32 pixels for channels_last
    op = ops.group_norm_silu
    for arguments in norm_cases():
        inputs = [a.to(dtype) if isinstance(a, torch.Tensor) and a.ndim == 4 else a for a in arguments]
        truth = op.reference(*[a.double() if isinstance(a, torch.Tensor) else a for a in inputs])
        value = group_norm_silu.group_norm_silu(*inputs)
        assert value.dtype == dtype and value.stride() == op.reference(*inputs).stride()
        times = 4 if INTERPRETED and dtype == torch.bfloat16 else 2
        limit = 1.3e-6 if dtype == torch.float32 else times * error(op.reference(*inputs), truth)
        assert error(value, truth) <= limit


@needs_device
def test_group_norm_silu_of_other_layouts_and_dtypes() -> None:
    x, *rest = next(norm_cases())
    call, op = group_norm_silu.group_norm_silu, ops.group_norm_silu
    sliced = x.repeat_interleave(2, 3)[..., ::2]
    assert torch.equal(call(sliced, *rest), call(x, *rest)) and call(sliced, *rest).is_contiguous()
    assert torch.equal(call(x.double(), *rest), op.reference(x.double(), *rest))
    assert call(x[:0], *rest).shape == (0, 6, 5, 70)


@triton.jit
def _words(seeds, t, channel, y, x, out, count, stream: tl.constexpr, N: tl.constexpr):
    i = tl.arange(0, N)
    inside = i < count
    word0, word1, word2, word3 = philox.address(
        tl.load(seeds + i, mask=inside, other=0), tl.load(t + i, mask=inside, other=0), tl.load(channel + i, mask=inside, other=0),
        tl.load(y + i, mask=inside, other=0), tl.load(x + i, mask=inside, other=0), stream,
    )  # fmt: skip
    tl.store(out + i, word0.to(tl.int64), mask=inside)
    tl.store(out + count + i, word1.to(tl.int64), mask=inside)
    tl.store(out + 2 * count + i, word2.to(tl.int64), mask=inside)
    tl.store(out + 3 * count + i, word3.to(tl.int64), mask=inside)


@needs_device
@pytest.mark.parametrize("stream", [_philox.STREAM_NOISE, _philox.STREAM_REVERSE, _philox.STREAM_MIXTURE])
def test_philox_gives_the_same_integers(stream: int) -> None:
    generator = torch.Generator().manual_seed(0)
    seeds, t, y, x = torch.randint(-(2**63), 2**63 - 1, (4, 53), generator=generator)
    channel = torch.randint(0, 2**_philox.CHANNEL_BITS, (53,), generator=generator)
    truth = torch.stack(_philox.address(seeds, t, channel, y, x, stream))
    out = torch.empty((4, 53), dtype=torch.int64, device=DEVICE)
    _words[(1,)](*(tensor.to(DEVICE) for tensor in (seeds, t, channel, y, x)), out, 53, stream, N=64)
    assert torch.equal(out.cpu(), truth)


@needs_device
def test_a_tile_of_one_sample_equals_the_crop_of_the_batch() -> None:
    inputs, seeds = images(), addresses()["seeds"]
    names = ("x_t", "model_output", "variance")
    whole = reverse_step.reverse_step(
        **{name: inputs[name] for name in names}, t=inputs["t"], table=inputs["table"], seeds=seeds
    )
    origins = torch.tensor([[2, 3]], device=DEVICE)
    tile = reverse_step.reverse_step(
        **{name: inputs[name][1:2, :, 2:5, 3:] for name in names}, t=inputs["t"][1:2], table=inputs["table"],
        seeds=seeds[1:2], origins=origins,
    )  # fmt: skip
    assert torch.equal(tile, whole[1:2, :, 2:5, 3:])


@needs_device
def test_strides_do_not_matter() -> None:
    inputs = images()
    layouts = (
        lambda x: x.to(memory_format=torch.channels_last),
        lambda x: x.transpose(2, 3).contiguous().transpose(2, 3),
        lambda x: x.repeat_interleave(2, 3)[..., ::2],
    )
    for op, launcher, names, extra in one_case_per_op():
        arguments = {name: inputs[name] for name in names}
        truth = launcher(**arguments, **extra)
        for relaid in layouts:
            strided = {name: relaid(x) if x.ndim == 4 else x for name, x in arguments.items()}
            value = launcher(**strided, **extra)
            form = layout(strided["x_t"]) if op is ops.reverse_step else torch.contiguous_format
            assert value.is_contiguous(memory_format=form) and torch.equal(value, truth), op.name


@needs_device
def test_out() -> None:
    """Fresh memory, memory of another layout, and in place; for images in either layout, with their own noise and with given noise."""
    inputs = images()
    given = next(case for case in reverse_cases() if "noise" in case[0] and "variance" in case[0])
    chosen = [*one_case_per_op(), (ops.reverse_step, reverse_step.reverse_step, *given)]
    for op, launcher, names, extra in chosen:
        into = (reverse_step.reverse_step_out, kl_map.kl_map_out)[op is ops.kl_map]
        arguments = {name: inputs[name] for name in names}
        truth = launcher(**arguments, **extra)
        for form in (torch.contiguous_format, torch.channels_last):
            arguments = {name: x.contiguous(memory_format=form) if x.ndim == 4 else x for name, x in arguments.items()}
            wide = torch.full((*truth.shape[:3], 22), torch.nan, device=DEVICE)[..., ::2]
            for out in (
                torch.full_like(truth, torch.nan),
                torch.full_like(truth, torch.nan).to(memory_format=form),
                wide,
            ):
                into(**arguments, **extra, out=out)
                assert torch.equal(out, truth), op.name
            if op is ops.reverse_step:
                x_t = arguments["x_t"].clone()
                into(**arguments | {"x_t": x_t}, **extra, out=x_t)
                assert torch.equal(x_t, truth)


@needs_device
@pytest.mark.parametrize("name", ["x_t", "model_output", "variance"])
def test_nan_passes_through_the_clip(name: str) -> None:
    inputs = images()
    inputs[name][1, 0, 4, 9] = float("nan")
    for op, launcher, names, extra in one_case_per_op():
        arguments = {name: inputs[name] for name in names}
        truth = op.reference(**arguments, **extra)
        assert truth.isnan().sum() == 1
        assert torch.equal(launcher(**arguments, **extra).isnan(), truth.isnan()), op.name


@needs_device
def test_a_step_outside_the_table_gives_nan_in_its_sample_only() -> None:
    inputs = images() | {"t": torch.tensor([20, 3, -1], device=DEVICE)}
    for _, launcher, names, extra in one_case_per_op():
        value = launcher(**{name: inputs[name] for name in names}, **extra)
        assert value[[0, 2]].isnan().all() and value[1].isfinite().all()


@needs_device
def test_empty_images_and_float64_tables() -> None:
    inputs = images()
    for _, launcher, names, extra in one_case_per_op():
        arguments = {name: inputs[name] for name in names}
        assert torch.equal(
            launcher(**arguments | {"table": inputs["table"].double()}, **extra), launcher(**arguments, **extra)
        )
        empty = {name: x[..., :0] if x.ndim == 4 else x for name, x in arguments.items()}
        assert launcher(**empty, **extra).shape[-1] == 0


@needs_device
def test_float64_falls_back_to_the_reference() -> None:
    inputs = images(torch.float64)
    for op, launcher, names, extra in cases():
        arguments = {name: inputs[name] for name in names}
        assert torch.equal(launcher(**arguments, **extra), op.reference(**arguments, **extra))


@needs_compiler
def test_in_the_interpreter() -> None:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__]
    done = subprocess.run(command, cwd=ROOT, env=os.environ | {"TRITON_INTERPRET": "1"}, capture_output=True, text=True)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout + done.stderr


class Launches:
    """Stands in for a kernel and keeps what the launcher passes."""

    def __getitem__(self, grid):
        return self.keep

    def keep(self, *arguments, **keywords) -> None:
        self.arguments, self.keywords = arguments, keywords


def compile_launch(kernel, launches: Launches, capability: int):
    """Compile what a launch passed, specialised as Triton's launcher does: None and 1 are constants, multiples of 16 known."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource

    keywords = dict(launches.keywords)
    options = {"enable_fp_fusion": keywords.pop("enable_fp_fusion")}
    values = dict(zip(kernel.arg_names, launches.arguments, strict=False)) | keywords
    types = {
        torch.float32: "*fp32",
        torch.float16: "*fp16",
        torch.bfloat16: "*bf16",
        torch.float64: "*fp64",
        torch.int64: "*i64",
    }
    signature, constants, attributes = {}, {}, {}
    for i, (name, value) in enumerate(values.items()):
        if value is None or name in keywords or (isinstance(value, int) and value == 1):
            signature[name], constants[(i,)] = "constexpr", value
            continue
        if isinstance(value, torch.Tensor):
            signature[name] = types[value.dtype]
        else:
            signature[name] = "fp32" if isinstance(value, float) else "i32"
        if isinstance(value, torch.Tensor) or (isinstance(value, int) and value % 16 == 0):
            attributes[(i,)] = [["tt.divisibility", 16]]
    source = ASTSource(kernel, signature, constants, attributes)
    return triton.compile(source, target=GPUTarget("cuda", capability, 32), options=options)


@needs_compiler
@pytest.mark.parametrize("capability", [80, 90])
def test_compiles_without_a_gpu(capability: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    everything = list(reverse_cases("cpu"))
    chosen = [
        (reverse_step, "reverse_step", everything[0], torch.bfloat16),
        (reverse_step, "reverse_step", everything[11], torch.float16),
        (reverse_step, "reverse_step", everything[12], torch.float32),
        (reverse_step, "reverse_step", everything[23], torch.float32),
        (kl_map, "kl_map", list(kl_cases())[0], torch.bfloat16),
        (kl_map, "kl_map", list(kl_cases())[3], torch.float32),
    ]
    for module, name, (names, extra), dtype in chosen:
        kernel, launches = module._kernel, Launches()
        inputs = images(dtype, (3, 3, 32, 32), device="cpu")
        with monkeypatch.context() as patch:
            patch.setattr(module, "_kernel", launches)
            getattr(module, name)(**{name: inputs[name] for name in names}, **extra)
        compiled = compile_launch(kernel, launches, capability)
        ptx = compiled.asm["ptx"]
        assert f".target sm_{capability}" in ptx and compiled.asm["cubin"]
        # Whole images are read four pixels at a time; a tile may begin anywhere.
        assert "origins" in extra or "ld.global.v" in ptx
        assert module is kl_map or dtype != torch.bfloat16 or "cvt.rn.bf16" in ptx


@needs_compiler
@pytest.mark.parametrize("capability", [80, 90])
def test_an_anomaly_map_compiles_without_a_gpu(
    capability: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    for dtype, arguments in zip((torch.float32, torch.bfloat16), list(map_cases(device="cpu"))[::3], strict=True):
        arguments = {n: a.to(dtype) if n in ("images", "x_0") else a for n, a in arguments.items()}
        combine, filter_ = anomaly_map._combine, anomaly_map._filter
        launches = {"_combine": Launches(), "_filter": Launches()}
        with monkeypatch.context() as patch:
            for name, kept in launches.items():
                patch.setattr(anomaly_map, name, kept)
            anomaly_map.anomaly_map(**arguments)
        for kernel, name in ((combine, "_combine"), (filter_, "_filter")):
            compiled = compile_launch(kernel, launches[name], capability)
            assert f".target sm_{capability}" in compiled.asm["ptx"] and compiled.asm["cubin"]


@needs_compiler
@pytest.mark.parametrize("capability", [80, 90])
def test_group_norm_silu_compiles_without_a_gpu(
    capability: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TRITON_CACHE_DIR", str(tmp_path))
    stages = ("_moments", "_coefficients", "_normalize")
    for arguments, dtype in zip(
        list(norm_cases("cpu"))[1:], (torch.float32, torch.bfloat16, torch.float16), strict=True
    ):
        x = arguments[0].to(dtype)
        skip = None if arguments[7] is None else arguments[7].to(dtype)
        launches = {name: Launches() for name in stages}
        with monkeypatch.context() as patch:
            for name in stages:
                patch.setattr(group_norm_silu, name, launches[name])
            group_norm_silu.group_norm_silu(x, *arguments[1:7], skip, *arguments[8:])
        for name in stages:
            compiled = compile_launch(getattr(group_norm_silu, name), launches[name], capability)
            assert f".target sm_{capability}" in compiled.asm["ptx"] and compiled.asm["cubin"]


@needs_compiler
def test_every_kernel_is_registered_for_cuda() -> None:
    names = ["anomaly_map", "group_norm_silu", "kl_map", "reverse_step"]
    assert kernels.register() == kernels.register() == names
    assert all(ops.registry[name].has_kernel("CUDA") for name in kernels.register())
    for name in ("kl_map", "reverse_step"):
        assert torch._C._dispatch_has_kernel_for_dispatch_key(f"diffnoise::{name}.out", "CUDA")


def test_the_folder_is_never_a_package_of_its_own() -> None:
    spec = importlib.util.spec_from_file_location("kernels", ROOT / "kernels/__init__.py")
    with pytest.raises(ImportError, match="diffnoise.kernels"):
        spec.loader.exec_module(importlib.util.module_from_spec(spec))


@needs_gpu
def test_the_dispatcher_calls_the_kernels_and_a_graph_captures_them() -> None:
    kernels.register()
    inputs = images()
    for op, launcher, names, extra in cases():
        arguments = {name: inputs[name] for name in names}
        truth = launcher(**arguments, **extra)
        assert torch.equal(op(**arguments, **extra), truth)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            captured = op(**arguments, **extra)
        captured.fill_(float("nan"))
        graph.replay()
        assert torch.equal(captured, truth)
