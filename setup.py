"""Builds normc._core. Everything else about the package is in pyproject.toml.

NORMC_DEV=1 in the environment turns warnings on and into errors, NORMC_SANITIZE=1 builds with
AddressSanitizer and UndefinedBehaviorSanitizer, NORMC_SANITIZE=thread with ThreadSanitizer.
"""

import os
import subprocess
from glob import glob

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

# Results are the same bits on every machine: nothing here may reorder or contract arithmetic,
# whatever flags the environment brings along.
FLAGS = ["-std=c11", "-O3", "-fno-fast-math", "-ffp-contract=off", "-fno-math-errno",
         "-fvisibility=hidden", "-pthread"]
SMALL = ["-g0"]
# gcc clears and copies structs by `rep stos` and `rep movs`, which take as long to start as a
# small call's arithmetic takes in all.
NO_REP = [f"-mmem{what}-strategy=unrolled_loop:256:noalign,libcall:-1:noalign"
          for what in ("set", "cpy")]
WARNINGS = ["-Wall", "-Wextra", "-Werror"]
SANITIZERS = {"1": ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"],
              "thread": ["-fsanitize=thread"]}
# Lines are enough for reports, and made in two thirds of the time.
DEBUGGABLE = ["-O1", "-g1", "-fno-omit-frame-pointer"]

AVX2 = ["-mavx2", "-mfma", "-mf16c"]
X86_64 = {"csrc/kernels/avx2.c": AVX2,
          "csrc/kernels/avx512.c": [*AVX2, "-mavx512bw", "-mavx512dq", "-mavx512vl"]}
DEV = os.environ.get("NORMC_DEV") == "1"
SANITIZE = SANITIZERS.get(os.environ.get("NORMC_SANITIZE"), [])


def predefined_macros(compiler):
    """What the compiler says about itself and its target; nothing if it is no gcc or clang."""
    if compiler.compiler_type == "msvc":
        return set()
    command = [*compiler.compiler_so, "-dM", "-E", "-x", "c", os.devnull]
    try:
        listing = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return set()
    return {line.split()[1] for line in listing.splitlines() if line.startswith("#define ")}


class BuildCore(build_ext):
    """build_ext with flags for the target, and some for single files."""

    def build_extensions(self):
        import numpy

        macros = predefined_macros(self.compiler)
        if "__GNUC__" not in macros:
            command = getattr(self.compiler, "compiler_so", None) or [self.compiler.compiler_type]
            raise SystemExit(f"normc needs gcc or clang to build; {command[0]!r} is neither "
                             "(or could not be run). Name another compiler: CC=gcc pip install .")
        core, = self.extensions
        core.include_dirs.append(numpy.get_include())
        core.define_macros += [("NORMC_VERSION", f'"{self.distribution.get_version()}"'),
                               ("NORMC_NUMPY_BUILT", f'"{numpy.__version__}"')]
        if "__x86_64__" in macros and "__clang__" not in macros:
            core.extra_compile_args += NO_REP
        if "__i386__" in macros:
            core.extra_compile_args += ["-msse2", "-mfpmath=sse"]
        self.add_flags_per_file(X86_64 if "__x86_64__" in macros else {})
        super().build_extensions()

    def add_flags_per_file(self, flags):
        compile_one = self.compiler._compile

        def compile_with_flags(obj, source, ext, cc_args, extra_postargs, pp_opts):
            own = list(flags.get(source, []))
            if DEV and not source.startswith("csrc/python/"):
                own += ["-Wconversion"]
            compile_one(obj, source, ext, cc_args, [*extra_postargs, *own], pp_opts)

        self.compiler._compile = compile_with_flags


sources = [name for room in ("", "kernels/", "python/") for name in glob(f"csrc/{room}*.c")]
others = [name for name in glob("csrc/**/*.*", recursive=True) if name not in sources]

setup(
    cmdclass={"build_ext": BuildCore},
    ext_modules=[
        Extension(
            "normc._core",
            sources=sorted(sources),
            depends=[*sorted(others), "setup.py", "pyproject.toml"],
            include_dirs=["csrc"],
            extra_compile_args=[
                *FLAGS,
                *(DEBUGGABLE if SANITIZE else SMALL),
                *SANITIZE,
                *(WARNINGS if DEV else []),
            ],
            # CFLAGS reach the linker too, where gcc's fast-math adds code that flushes the whole
            # process's subnormals: each of the three takes a flag back that another cannot.
            extra_link_args=["-pthread", "-O3", "-fno-fast-math", "-fno-unsafe-math-optimizations",
                             *SANITIZE],
        )
    ],
)
