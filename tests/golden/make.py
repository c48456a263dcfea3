"""Writes the golden noise values of the present noise version: python tests/golden/make.py

They come from the float64 references, never from a kernel. A file belongs to its version for good: where there is one and the values
differ from it, this writes nothing and asks for a new NOISE_VERSION.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from diffnoise import ops
from diffnoise.noise import (
    NOISE_VERSION,
    Gaussian,
    GaussianMixture,
    KomalTsimplex,
    Noise,
    Simplex,
    Tsimplex,
    TsimplexGaussian,
    from_config,
)
from diffnoise.ops._philox import STREAM_REVERSE

FOLDER = Path(__file__).parent
PATH = FOLDER / f"noise_v{NOISE_VERSION}.safetensors"
SHAPE = (4, 2, 8, 12)
EXTENT = (40, 60)
MODELS: list[Noise] = [
    Gaussian(),
    *[Simplex(6, 0.8, 64.0, dims, normalize, shift) for dims in (2, 3) for normalize, shift in (("none", False), ("unit", True))],
    *[Tsimplex(6, 0.9, 64.0, dims, normalize, shift) for dims in (3, 4) for normalize, shift in (("none", False), ("unit", True))],
    Simplex(3, 0.5, 5.3, 3, "unit", False),
    Tsimplex(8, 0.8, 37.3, 4, "none", True),
    GaussianMixture(50, 1 / 64, 1 / 8, False),
    GaussianMixture(7, 0.02, 0.2, True),
    TsimplexGaussian(1000, 6, 0.9, 64.0, "none", False),
    TsimplexGaussian(1000, 6, 0.9, 64.0, "unit", True),
    KomalTsimplex(10, 0.8, 128.0, 4.0, 32, "global"),
    KomalTsimplex(6, 0.8, 128.0, 4.0, 8, "local"),
    KomalTsimplex(4, 0.9, 64.0, 28.0, 1, "global"),
    KomalTsimplex(10, 0.8, 128.0, 1.0, 8, "global", "exponential"),
]  # fmt: skip
ADDRESSES = {
    "seeds": torch.tensor([3, -(2**40) - 1, 42, 2**62]),
    "t": torch.tensor([10, 0, 999, 500]),
    "origins": torch.tensor([[0, 0], [7, -3], [-1000, 10**6], [2**24 + 3, -(2**27) - 1]]),
    # Of noises that are not the same everywhere: in a corner, in the middle, and across borders of the image.
    "inside": torch.tensor([[0, 0], [25, 40], [-3, -6], [36, 55]]),
}


@contextmanager
def references() -> Iterator[None]:
    """Within it every noise runs the references of its ops."""
    with ExitStack() as stack:
        for name in ("gaussian_noise", "simplex_noise", "gmm_noise", "tsg_noise", "kts_noise"):
            stack.enter_context(mock.patch.object(ops, name, ops.registry[name].reference))
        yield


def noise(config: dict[str, Any], addresses: dict[str, Tensor], dtype: torch.dtype) -> Tensor:
    """The noise of a configuration at the golden addresses, [4, 2, 8, 12]."""
    model = from_config(config)
    origins = addresses["origins" if model.stationary else "inside"]
    return model(SHAPE, t=addresses["t"], seeds=addresses["seeds"], origins=origins, extent=EXTENT, dtype=dtype)


def reverse_noise(addresses: dict[str, Tensor], dtype: torch.dtype) -> Tensor:
    """The Gaussian noise of the reverse steps, which has a stream of its own."""
    at = (addresses["seeds"], addresses["t"], addresses["origins"])
    return ops.gaussian_noise(*at, *SHAPE[1:], STREAM_REVERSE, dtype=dtype)


def read() -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors, {"noise_version", "noises"}) of the golden file; the values of noise i are the tensor str(i)."""
    with safe_open(PATH, framework="pt") as file:
        return {name: file.get_tensor(name) for name in file.keys()}, json.loads(file.metadata()["golden"])


def main() -> int:
    configs = [model.to_config() for model in MODELS]
    with references():
        values = [noise(config, ADDRESSES, torch.float64) for config in configs]
        reverse = reverse_noise(ADDRESSES, torch.float64)
    if PATH.exists() and not _kept(*read(), configs, values, reverse):
        print(f"{PATH} holds other values: raise NOISE_VERSION in diffnoise/noise.py, then run this again.")
        return 1
    tensors = {str(i): v for i, v in enumerate(values)} | {"reverse": reverse} | ADDRESSES
    save_file(tensors, PATH, {"golden": json.dumps({"noise_version": NOISE_VERSION, "noises": configs})})
    print(f"{PATH}: {PATH.stat().st_size} bytes")
    return 0


def _kept(
    before: dict[str, Tensor],
    meta: dict[str, Any],
    configs: list[dict[str, Any]],
    values: list[Tensor],
    reverse: Tensor,
) -> bool:
    """Whether all that a golden file holds is among the new values."""

    def same(a: Tensor, b: Tensor) -> bool:
        return torch.allclose(a, b, rtol=0, atol=1e-9)

    # Those of a file may lack parameters that came later.
    old = enumerate(from_config(config).to_config() for config in meta["noises"])
    found = all(c in configs and same(before[str(i)], values[configs.index(c)]) for i, c in old)
    return found and same(before["reverse"], reverse)


if __name__ == "__main__":
    sys.exit(main())
