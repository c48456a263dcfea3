"""What an NVIDIA GPU is doing: clock, power, memory, utilisation, temperature; through nvidia-ml-py, where it is installed."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import torch

THROTTLE_REASONS = {
    "nvmlClocksEventReasonSwPowerCap": "power cap",
    "nvmlClocksEventReasonHwSlowdown": "hardware slowdown",
    "nvmlClocksEventReasonSwThermalSlowdown": "software thermal slowdown",
    "nvmlClocksEventReasonHwThermalSlowdown": "hardware thermal slowdown",
    "nvmlClocksEventReasonHwPowerBrakeSlowdown": "power brake",
}
Value = TypeVar("Value")


def sample(device: torch.device | None = None) -> dict[str, Any] | None:
    """The GPU at this moment: its name and, in the units that the keys end in, whatever it tells of the rest.

    Keys: name, sm_clock_MHz, memory_clock_MHz, power_W, power_limit_W, memory_used_GiB, memory_total_GiB, temperature_C,
    utilisation_percent and memory_utilisation_percent (shares of the last fraction of a second in which a kernel ran and in which memory was
    moved), throttle_reasons (why the clock is held down, often an empty list). device: a CUDA device of torch; by default the driver's
    first GPU. None where there is no GPU, no driver or no nvidia-ml-py, and for a device that is not CUDA.
    """
    if device is not None and device.type != "cuda":
        return None
    return _ask(lambda nvml: _sample(nvml, _handle(nvml, device)))


def driver() -> str | None:
    """The version of the NVIDIA driver; None where `sample` is."""
    return _ask(lambda nvml: nvml.nvmlSystemGetDriverVersion())


def _ask(question: Callable[[Any], Value]) -> Value | None:
    try:
        import pynvml
    except ImportError:
        return None
    try:
        pynvml.nvmlInit()
        try:
            return question(pynvml)
        finally:
            pynvml.nvmlShutdown()
    except pynvml.NVMLError:
        return None


def _handle(nvml: Any, device: torch.device | None) -> Any:
    if device is None:
        return nvml.nvmlDeviceGetHandleByIndex(0)
    # CUDA_VISIBLE_DEVICES renumbers the devices for torch, not for the driver.
    return nvml.nvmlDeviceGetHandleByUUID(f"GPU-{torch.cuda.get_device_properties(device).uuid}")


def _sample(nvml: Any, handle: Any) -> dict[str, Any]:
    questions: dict[str, Callable[[], Any]] = {
        "name": lambda: nvml.nvmlDeviceGetName(handle),
        "sm_clock_MHz": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_SM),
        "memory_clock_MHz": lambda: nvml.nvmlDeviceGetClockInfo(handle, nvml.NVML_CLOCK_MEM),
        "power_W": lambda: nvml.nvmlDeviceGetPowerUsage(handle) / 1000,
        "power_limit_W": lambda: nvml.nvmlDeviceGetEnforcedPowerLimit(handle) / 1000,
        "memory_used_GiB": lambda: round(nvml.nvmlDeviceGetMemoryInfo(handle).used / 2**30, 2),
        "memory_total_GiB": lambda: round(nvml.nvmlDeviceGetMemoryInfo(handle).total / 2**30, 2),
        "temperature_C": lambda: nvml.nvmlDeviceGetTemperature(handle, nvml.NVML_TEMPERATURE_GPU),
        "utilisation_percent": lambda: nvml.nvmlDeviceGetUtilizationRates(handle).gpu,
        "memory_utilisation_percent": lambda: nvml.nvmlDeviceGetUtilizationRates(handle).memory,
        "throttle_reasons": lambda: _throttle_reasons(nvml, handle),
    }
    answers = {}
    for key, question in questions.items():
        try:
            answers[key] = question()
        except (nvml.NVMLError, AttributeError):  # not every GPU, driver and nvidia-ml-py can tell
            continue
    return answers


def _throttle_reasons(nvml: Any, handle: Any) -> list[str]:
    reasons = nvml.nvmlDeviceGetCurrentClocksEventReasons(handle)
    return [text for name, text in THROTTLE_REASONS.items() if reasons & getattr(nvml, name)]
