"""The native extension and the folders that lie outside diffnoise/; all metadata is in pyproject.toml."""

import os
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_ext import build_ext

STABLE_ABI = "0x020a000000000000ULL"  # torch 2.10; one byte per component
ALTERNATIVE = "Or set DIFFNOISE_NATIVE=0 to install diffnoise without it: every op then runs its PyTorch reference."


def explain(reason):
    class Explain(build_ext):
        def run(self):
            raise SystemExit(f"diffnoise: the native extension cannot be built: {reason} {ALTERNATIVE}")

    return Explain


def native():
    """`ext_modules`, `cmdclass` and `options` for setup()."""
    if os.environ.get("DIFFNOISE_NATIVE") == "0":
        return {}
    from setuptools import Extension

    name, sources = "diffnoise._C", sorted(map(str, Path("csrc").glob("*.cpp")))
    options = {"bdist_wheel": {"py_limited_api": "cp311"}}
    compiler = os.environ.get("CXX", "c++")
    reason = None
    try:
        from torch.utils.cpp_extension import BuildExtension, CppExtension, include_paths
    except ImportError:
        reason = "torch is not importable. Install torch first, then use `pip install --no-build-isolation`."
    else:
        if not shutil.which(compiler.split()[0]):
            reason = f"there is no C++ compiler `{compiler}`. Install one, or name yours in CXX."
    if reason:
        return {
            "ext_modules": [Extension(name, sources)],
            "cmdclass": {"build_ext": explain(reason)},
            "options": options,
        }
    extension = CppExtension(
        name,
        sources,
        depends=sorted(map(str, Path("csrc").glob("*.h"))),
        py_limited_api=True,
        define_macros=[("TORCH_TARGET_VERSION", STABLE_ABI)],
        extra_compile_args=[
            "-O3", "-std=c++20", "-fvisibility=hidden", "-Wall", "-Wextra", *(["-Werror"] if os.environ.get("CI") else []),
            *(f"-isystem{path}" for path in include_paths()),  # torch's headers are not ours to keep free of warnings
            "-Wno-psabi",  # wide vectors are passed to inlined functions only
            "-ffp-contract=off",  # the same bits on every instruction set
            "-fno-math-errno", "-fno-trapping-math",
        ],
        extra_link_args=["-Wl,--as-needed"],
    )  # fmt: skip
    return {"ext_modules": [extension], "cmdclass": {"build_ext": BuildExtension}, "options": options}


# Two folders of the repository live inside the package once installed.
outside = {"diffnoise.kernels": "kernels", "diffnoise.include.diffnoise": "csrc"}
setup(packages=find_packages(include=["diffnoise", "diffnoise.*"]) + list(outside), package_dir=outside, **native())
