"""The CUDA kernels of the noise ops on a GPU; without one, test_cuda_formulas.py runs their bodies on the CPU."""

from __future__ import annotations

import pytest
import test_cuda_formulas as formulas
import torch
from torch import Tensor

import diffnoise as dn
from diffnoise import doctor, ops
from diffnoise.ops import _cuda

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
if torch.cuda.is_available() and not _cuda.status().loaded:
    pytestmark = pytest.mark.skip(reason=f"the CUDA kernels are not loaded: {_cuda.status().reason}")

OPS = sorted(formulas.CASES)
EVERY = formulas.EVERY


def on_device(arguments: tuple[object, ...]) -> tuple[object, ...]:
    return tuple(a.cuda() if isinstance(a, Tensor) else a for a in arguments)


def error(value: Tensor, truth: Tensor) -> float:
    """Relative to the largest value; truth may be 0 everywhere."""
    return float((value.cpu().double() - truth).abs().max() / truth.abs().max().clamp_min(1e-300))


def test_every_noise_op_has_a_cuda_kernel():
    assert all(ops.registry[name].has_kernel("CUDA") for name in OPS)


def test_the_doctor_finds_nothing():
    assert all(row["ok"] for row in doctor.self_test("cuda"))


@pytest.mark.parametrize(("name", "i"), EVERY)
def test_accuracy(name, i):
    op, arguments = ops.registry[name], formulas.CASES[name][i]
    truth = op.reference(*arguments, dtype=torch.float64)
    for dtype in (torch.float32, torch.float64, torch.float16, torch.bfloat16):
        value = op(*on_device(arguments), dtype=dtype)
        assert value.is_cuda and value.dtype == dtype and value.shape == truth.shape
        rounding = error(truth.to(dtype), truth)
        assert error(value, truth) <= max(formulas.TOLERANCE.get(dtype, 0), 2 * rounding)


@pytest.mark.parametrize(("name", "i"), EVERY)
def test_the_cpu_and_the_gpu_agree(name, i):
    op, arguments = ops.registry[name], formulas.CASES[name][i]
    assert error(op(*on_device(arguments)), op(*arguments).double()) <= 1e-5


@pytest.mark.parametrize("name", sorted(formulas.CROPS))
def test_a_pixel_is_the_same_in_any_image_batch_and_order(name):
    op, rest = ops.registry[name], formulas.CROPS[name]
    seeds, t = on_device((formulas.SEEDS, formulas.T))
    origins = torch.tensor([[-5, 61], [1000, -7]], device="cuda")
    whole = op(seeds, t, origins, 2, 70, 150, *rest)
    for y, x in ((1, 2), (30, 33), (7, 144)):
        crop = op(seeds, t, origins + torch.tensor([y, x], device="cuda"), 2, 70 - y, min(5, 150 - x), *rest)
        assert torch.equal(crop, whole[:, :, y:, x : x + crop.shape[-1]])
    order = torch.tensor([1, 0, 1, 1], device="cuda")
    assert torch.equal(op(seeds[order], t[order], origins[order], 1, 70, 150, *rest), whole[order, :1])


@pytest.mark.parametrize("name", OPS)
def test_nothing_waits_for_the_device_and_a_graph_follows_its_inputs(name):
    op, arguments = ops.registry[name], on_device(formulas.CASES[name][0])
    op(*arguments)  # loads the kernels
    torch.cuda.set_sync_debug_mode("error")
    try:
        op(*arguments)
    finally:
        torch.cuda.set_sync_debug_mode("default")
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        value = op(*arguments)
    for shift in (0, 5):
        seeds = arguments[1 if name == "simplex_noise_at" else 0]
        seeds += shift
        if name != "simplex_noise_at":
            arguments[1].add_(shift)
        graph.replay()
        assert torch.equal(value, op(*arguments))


def test_another_stream_and_strided_inputs():
    seeds, t = on_device((formulas.SEEDS, formulas.T))
    origins = torch.stack([formulas.ORIGINS.cuda()] * 2, -1)[..., 0]  # not contiguous
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        value = ops.simplex_noise(seeds, t, origins, 2, 9, 37, 3, 3, 0.8, 16.0)
    torch.cuda.current_stream().wait_stream(stream)
    truth = ops.simplex_noise.reference(*formulas.grid(), 3, 3, 0.8, 16.0, dtype=torch.float64)
    assert error(value, truth) <= 1.3e-6


def test_far_coordinates_give_nan():
    origins = torch.tensor([[0, 0], [0, 2**60]], device="cuda")
    seeds = torch.zeros(2, dtype=torch.int64, device="cuda")
    value = ops.simplex_noise(seeds, seeds, origins, 1, 3, 3, 3, 6, 0.8, 64.0)
    assert value[0].isfinite().all() and value[1].isnan().all()


@pytest.mark.parametrize("name", ["gaussian_noise", "simplex_noise", "gmm_noise"])
def test_more_elements_than_32_bits_count(name):
    rows, columns = 2**16 + 1, 2**15 + 8
    if torch.cuda.mem_get_info()[0] < 3 * 2 * rows * columns:
        pytest.skip("needs 13 GB of GPU memory")
    rest = {
        "gaussian_noise": (),
        "simplex_noise": (2, 1, 0.5, 64.0),
        "gmm_noise": (rows, columns, 3, 0.1, 0.2, False, False),
    }
    seeds = torch.tensor([7], device="cuda")
    origins = torch.zeros(1, 2, dtype=torch.int64, device="cuda")
    make = ops.registry[name]
    whole = make(seeds, seeds, origins, 1, rows, columns, *rest[name], dtype=torch.float16)
    last = torch.tensor([[rows - 3, 0]], device="cuda")
    assert torch.equal(whole[:, :, -3:], make(seeds, seeds, last, 1, 3, columns, *rest[name], dtype=torch.float16))


# The whole way from frame to map.


@pytest.mark.parametrize("kind", ["gaussian", "simplex", "tsimplex", "gmm"])
def test_captured_batches_score_as_alone_and_never_wait(kind):
    torch.manual_seed(0)
    detector = dn.Detector(
        dn.UNetConfig(channels=16, channel_mult=(1, 2), norm_groups=4, head_channels=8),
        dn.noise.KINDS[kind](),
        framing=dn.Framing(32),
        scoring=dn.Scoring(starts=(50, 100), steps=3, eta=1.0),
        device="cuda",
    )
    images = torch.rand(7, 1, 32, 32)
    detector.calibrate(list(images * 2 - 1))
    alone = detector.predict(images)
    detector.execution = dn.Execution(batch=4)  # one graph of four, one for the three that are left
    captured = detector.predict(images)
    scale = alone.anomaly_map.abs().max()
    assert float((captured.anomaly_map - alone.anomaly_map).abs().max() / scale) < 1e-3

    scorer, mode = detector._scorer, torch.cuda.get_sync_debug_mode()
    scales = torch.tensor(detector.calibration.scales, dtype=torch.float64, device="cuda")
    arguments = (images[:4] * 2 - 1, torch.zeros(4, dtype=torch.int64), torch.zeros(4, 2, dtype=torch.int64), scales)
    scorer._replay(*arguments)
    torch.cuda.set_sync_debug_mode("error")
    try:
        with torch.inference_mode():
            scorer._replay(*arguments)
    finally:
        torch.cuda.set_sync_debug_mode(mode)
