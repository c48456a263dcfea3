"""The native libraries and the folders that lie outside diffnoise/; all metadata is in pyproject.toml.

DIFFNOISE_NATIVE=0: none of them. DIFFNOISE_CUDA=0|1: without or with the CUDA kernels; unset, with them where there is an nvcc
(a GPU is not needed). DIFFNOISE_CUDA_ARCHS: their targets, such as "80;90"; the lowest also comes as PTX, for newer GPUs.
"""

import os
import re
import shutil
import subprocess
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from setuptools import Extension, find_packages, setup
from setuptools.command.build_ext import build_ext

STABLE_ABI = "0x020a000000000000ULL"  # torch 2.10; one byte per component
CPU, CUDA = "diffnoise._C", "diffnoise._C_cuda"
# An 8.0 binary serves 8.x, a 9.0 binary 9.x and so on; with them the PTX compiles once, whatever their number.
CUDA_ARCHS = "80;90;100;120"
ALTERNATIVE = "Or set DIFFNOISE_NATIVE=0 to install diffnoise without it: every op then runs its PyTorch reference."
STRICT = bool(os.environ.get("CI"))


def explain(reason):
    class Explain(build_ext):
        def run(self):
            raise SystemExit(f"diffnoise: the native extension cannot be built: {reason} {ALTERNATIVE}")

    return Explain


def find_nvcc():
    """nvcc, or None where the CUDA kernels are not to be built."""
    wish = os.environ.get("DIFFNOISE_CUDA", "")
    if wish not in ("", "0", "1"):
        raise SystemExit(f"diffnoise: DIFFNOISE_CUDA must be 0 or 1, but is {wish!r}.")
    folders = [os.environ[name] + "/bin" for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)]
    nvcc = next(filter(None, map(lambda path: shutil.which("nvcc", path=path), [*folders, None])), None)
    if wish == "1" and nvcc is None:
        raise SystemExit(
            "diffnoise: DIFFNOISE_CUDA=1 asks for the CUDA kernels, but there is no nvcc. Install the CUDA toolkit (12 or later), "
            "put its nvcc on PATH or its folder into CUDA_HOME, or unset DIFFNOISE_CUDA to build without them."
        )
    return None if wish == "0" else nvcc


def run_nvcc(nvcc, *arguments, **options):
    done = subprocess.run([nvcc, *map(str, arguments)], text=True, **options)
    if done.returncode:
        raise SystemExit(
            f"{done.stderr or ''}diffnoise: {nvcc} failed (see above; CUDA 12 or later is needed). Mend the toolkit, or set DIFFNOISE_CUDA=0 to build "
            "without the CUDA kernels: their ops then run their PyTorch references on a GPU."
        )
    return done.stdout


def build_cuda(build, extension, nvcc, include_paths, library_paths):
    """Compiles and links the CUDA library by nvcc alone: torch's own way to do so refuses where torch is built for the CPU."""
    target, objects = Path(build.get_ext_fullpath(CUDA)), Path(build.build_temp) / "cuda"
    known = run_nvcc(nvcc, "--list-gpu-arch", capture_output=True).split()
    newest = [arch for arch in CUDA_ARCHS.split(";") if f"compute_{arch}" in known]  # that this nvcc knows
    wish = list(filter(None, re.split("[;, ]", os.environ.get("DIFFNOISE_CUDA_ARCHS", "")))) or newest
    archs = sorted(wish, key=lambda arch: int(re.sub("[a-z]", "", arch)))
    flags = [
        "-O3", "-std=c++20", "--expt-relaxed-constexpr", "-DUSE_CUDA", f"-DTORCH_TARGET_VERSION={STABLE_ABI}",
        f"-gencode=arch=compute_{archs[0]},code=[{','.join(f'sm_{arch}' for arch in archs)},compute_{archs[0]}]",
        "-Xcompiler=-fPIC,-fvisibility=hidden,-Wall,-Wextra", *(["-Werror=all-warnings"] if STRICT else []),
        *(f"-isystem={path}" for path in include_paths),
    ]  # fmt: skip
    # Objects are kept for as long as sources, compiler and flags stay.
    made_by, how = objects / "made_by", "\n".join([run_nvcc(nvcc, "--version", capture_output=True), *flags])
    if not made_by.exists() or made_by.read_text() != how:
        shutil.rmtree(objects, ignore_errors=True)
        objects.mkdir(parents=True)
        made_by.write_text(how)

    def compiled(source):
        output = objects / f"{Path(source).stem}.o"
        changed = max(os.path.getmtime(path) for path in [source, *extension.depends])
        if not output.exists() or output.stat().st_mtime < changed:
            run_nvcc(nvcc, *flags, "-c", source, "-o", output)
        return output

    target.parent.mkdir(parents=True, exist_ok=True)
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        files = list(pool.map(compiled, extension.sources))
    # libtorch.so brings libtorch_cuda.so along where torch is built for CUDA; CUDA's own runtime is linked in.
    torch = [*(f"-L{path}" for path in library_paths), "-Xlinker=--no-as-needed", "-ltorch", "-ltorch_cpu", "-lc10"]
    run_nvcc(nvcc, "-shared", "-cudart=static", *files, *torch, "-o", target)


def native():
    """`ext_modules`, `cmdclass` and `options` for setup()."""
    if os.environ.get("DIFFNOISE_NATIVE") == "0":
        return {}
    sources, headers = (sorted(map(str, Path("csrc").glob(pattern))) for pattern in ("*.cpp", "*.h"))
    options = {"bdist_wheel": {"py_limited_api": "cp311"}}
    compiler = os.environ.get("CXX", "c++")
    reason = None
    try:
        from torch.utils.cpp_extension import BuildExtension, CppExtension, include_paths, library_paths
    except ImportError:
        reason = "torch is not importable. Install torch first, then use `pip install --no-build-isolation`."
    else:
        if not shutil.which(compiler.split()[0]):
            reason = f"there is no C++ compiler `{compiler}`. Install one, or name yours in CXX."
    if reason:
        return {
            "ext_modules": [Extension(CPU, sources)],
            "cmdclass": {"build_ext": explain(reason)},
            "options": options,
        }
    extensions = [CppExtension(
        CPU,
        sources,
        depends=headers,
        py_limited_api=True,
        define_macros=[("TORCH_TARGET_VERSION", STABLE_ABI)],
        extra_compile_args=[
            "-O3", "-g0", "-std=c++20", "-fvisibility=hidden", "-Wall", "-Wextra", *(["-Werror"] if STRICT else []),
            *(f"-isystem{path}" for path in include_paths()),  # torch's headers are not ours to keep free of warnings
            "-Wno-psabi",  # wide vectors are passed to inlined functions only
            "-ffp-contract=off",  # the same bits on every instruction set
            "-fno-math-errno", "-fno-trapping-math",
        ],
        extra_link_args=["-Wl,--as-needed"],
    )]  # fmt: skip
    nvcc = find_nvcc()
    if nvcc:
        kernels = sorted(map(str, Path("csrc").glob("*.cu")))
        extensions.append(Extension(CUDA, kernels, depends=headers, py_limited_api=True))

    class Build(BuildExtension):
        def build_extensions(self):
            everything = self.extensions
            self.extensions = [extension for extension in everything if extension.name != CUDA]
            super().build_extensions()
            self.extensions = everything
            if not nvcc:  # an older build's would be loaded
                for folder in (Path(self.build_lib), Path()):
                    for library in folder.glob("diffnoise/_C_cuda*.so"):
                        library.unlink()
            for extension in everything:
                if extension.name == CUDA:
                    build_cuda(self, extension, nvcc, include_paths(), library_paths())

    return {"ext_modules": extensions, "cmdclass": {"build_ext": Build}, "options": options}


# Two folders of the repository live inside the package once installed.
outside = {"diffnoise.kernels": "kernels", "diffnoise.include.diffnoise": "csrc"}
setup(packages=find_packages(include=["diffnoise", "diffnoise.*"]) + list(outside), package_dir=outside, **native())
