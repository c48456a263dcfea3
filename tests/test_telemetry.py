"""What the GPU tells, through a stand-in for nvidia-ml-py with the real module's names."""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from diffnoise import telemetry
from diffnoise.bench import measure
from diffnoise.bench.cases import CASES
from diffnoise.bench.timing import Effort

SAMPLE = {
    "name": "A GPU",
    "sm_clock_MHz": 1980,
    "memory_clock_MHz": 2619,
    "power_W": 512.5,
    "power_limit_W": 700.0,
    "memory_used_GiB": 1.5,
    "memory_total_GiB": 140.0,
    "temperature_C": 61,
    "utilisation_percent": 97,
    "memory_utilisation_percent": 40,
    "throttle_reasons": ["power cap", "hardware thermal slowdown"],
}


class Driver(SimpleNamespace):
    """An NVML whose GPUs are called by index or UUID; `unsupported` functions raise, as on a GPU that cannot tell."""

    class NVMLError(Exception):
        pass

    NVML_CLOCK_SM, NVML_CLOCK_MEM, NVML_TEMPERATURE_GPU = 1, 2, 0
    nvmlClocksEventReasonSwPowerCap = 0x4
    nvmlClocksEventReasonHwSlowdown = 0x8
    nvmlClocksEventReasonSwThermalSlowdown = 0x20
    nvmlClocksEventReasonHwThermalSlowdown = 0x40
    nvmlClocksEventReasonHwPowerBrakeSlowdown = 0x80

    def __init__(self, unsupported: tuple[str, ...] = ()) -> None:
        self.users, self.asked = 0, []
        answers = {
            "nvmlDeviceGetName": lambda gpu: "A GPU",
            "nvmlDeviceGetClockInfo": lambda gpu, kind: {1: 1980, 2: 2619}[kind],
            "nvmlDeviceGetPowerUsage": lambda gpu: 512_500,
            "nvmlDeviceGetEnforcedPowerLimit": lambda gpu: 700_000,
            "nvmlDeviceGetMemoryInfo": lambda gpu: SimpleNamespace(used=3 << 29, total=140 << 30),
            "nvmlDeviceGetTemperature": lambda gpu, kind: 61,
            "nvmlDeviceGetUtilizationRates": lambda gpu: SimpleNamespace(gpu=97, memory=40),
            "nvmlDeviceGetCurrentClocksEventReasons": lambda gpu: 0x1 | 0x4 | 0x40,  # idle is no throttling
        }
        for name, answer in answers.items():
            setattr(self, name, self._fail if name in unsupported else self._checked(answer))

    def _fail(self, *arguments: Any) -> None:
        raise self.NVMLError("Not Supported")

    def _checked(self, answer: Any) -> Any:
        def ask(gpu: str, *arguments: Any) -> Any:
            assert self.users > 0, "asked outside of nvmlInit and nvmlShutdown"
            self.asked.append(gpu)
            return answer(gpu, *arguments)

        return ask

    def nvmlInit(self) -> None:
        self.users += 1

    def nvmlShutdown(self) -> None:
        self.users -= 1

    def nvmlSystemGetDriverVersion(self) -> str:
        return "580.1"

    def nvmlDeviceGetHandleByIndex(self, index: int) -> str:
        return f"index {index}"

    def nvmlDeviceGetHandleByUUID(self, uuid: str) -> str:
        return uuid


@pytest.fixture
def driver(monkeypatch: pytest.MonkeyPatch) -> Driver:
    found = Driver()
    monkeypatch.setitem(sys.modules, "pynvml", found)
    return found


def test_a_sample_in_its_units(driver: Driver) -> None:
    assert telemetry.sample() == SAMPLE
    assert set(driver.asked) == {"index 0"} and driver.users == 0
    assert telemetry.driver() == "580.1"


def test_the_gpu_is_that_of_torch_whatever_its_index(driver: Driver, monkeypatch: pytest.MonkeyPatch) -> None:
    properties = {1: SimpleNamespace(uuid="1b2c"), 0: SimpleNamespace(uuid="0000")}
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda device: properties[device.index])
    assert telemetry.sample(torch.device("cuda:1")) == SAMPLE
    assert set(driver.asked) == {"GPU-1b2c"}
    assert telemetry.sample(torch.device("cpu")) is None


def test_what_a_gpu_cannot_tell_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    old = Driver(("nvmlDeviceGetPowerUsage", "nvmlDeviceGetUtilizationRates"))
    del old.nvmlDeviceGetCurrentClocksEventReasons  # an old nvidia-ml-py
    monkeypatch.setitem(sys.modules, "pynvml", old)
    missing = {"power_W", "utilisation_percent", "memory_utilisation_percent", "throttle_reasons"}
    assert telemetry.sample() == {key: value for key, value in SAMPLE.items() if key not in missing}
    assert old.users == 0


def test_absent_without_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pynvml", None)  # not installed
    assert telemetry.sample() is None and telemetry.driver() is None
    without = Driver()
    without.nvmlInit = without._fail
    monkeypatch.setitem(sys.modules, "pynvml", without)
    assert telemetry.sample() is None and telemetry.driver() is None
    empty = Driver()
    empty.nvmlDeviceGetHandleByIndex = empty._fail
    monkeypatch.setitem(sys.modules, "pynvml", empty)
    assert telemetry.sample() is None and empty.users == 0


def test_the_names_are_those_of_the_real_module() -> None:
    real = pytest.importorskip("pynvml")
    for name in vars(Driver) | vars(Driver()):
        if name.startswith(("nvml", "NVML")):
            assert hasattr(real, name), name
    for name in telemetry.THROTTLE_REASONS:
        assert getattr(Driver, name) == getattr(real, name)
    try:
        real.nvmlInit()
    except real.NVMLError:
        assert telemetry.sample() is None
    else:
        assert telemetry.sample()["memory_total_GiB"] > 0


def test_bench_asks_before_and_after(monkeypatch: pytest.MonkeyPatch) -> None:
    case = next(case for case in CASES if case.name == "small_gaussian_noise")
    asked: list[torch.device] = []
    monkeypatch.setattr(telemetry, "sample", lambda device: asked.append(device) or {"number": len(asked)})
    row = measure.measure(case, torch.device("cpu"), Effort(seconds=1e-9, rounds=1, limit=0.0), compilers=False)
    assert row["telemetry"] == {"before": {"number": 1}, "after": {"number": 2}}
    assert asked == [torch.device("cpu")] * 2
    monkeypatch.setattr(telemetry, "sample", lambda device: None)
    row = measure.measure(case, torch.device("cpu"), Effort(seconds=1e-9, rounds=1, limit=0.0), compilers=False)
    assert row["telemetry"] is None
