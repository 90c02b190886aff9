"""The core without Python: compiled alone, checked against long double, hashed on every target."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

HERE = Path(__file__).parent / "core"
if not HERE.exists() or not (HERE.parent.parent / "csrc").exists():
    pytest.skip("the sources of the core are not here", allow_module_level=True)

TARGETS = {
    "cc": (["cc"], ""),
    "gcc": (["gcc"], ""),
    "clang": (["clang-19", "clang"], ""),
    "aarch64": (["aarch64-linux-gnu-gcc"], "qemu-aarch64 -L /usr/aarch64-linux-gnu"),
}

# Of all results of the core's program. New bits are a new constant here, in the change that makes
# them.
GOLDEN = "c93e7dc5a32d6944"


def without_preload():
    """Compilers and emulators are not to run under the sanitizer that watches the interpreter."""
    return {k: v for k, v in os.environ.items() if k not in ("LD_PRELOAD", "MAKEFLAGS", "CC")}


# By one process, which then makes and runs each program once.
pytestmark = pytest.mark.xdist_group("core")


def compiler_of(target):
    return next(filter(shutil.which, TARGETS[target][0]), None)


def character_of(compiler):
    """All that it defines before it reads anything: of what name it has, nothing."""
    return subprocess.run([compiler, "-dM", "-E", "-x", "c", os.devnull], env=without_preload(),
                          check=True, capture_output=True, text=True).stdout


@pytest.fixture(scope="module")
def hash_of(tmp_path_factory):
    """target -> the hash its program prints, having passed its own checks; run once each."""
    known = {}

    def run(target):
        compilers, emulator = TARGETS[target]
        compiler = compiler_of(target)
        for program in [compiler, *emulator.split()[:1]]:
            if not program or not shutil.which(program):
                pytest.skip(f"no {program or compilers[0]} on this machine")
        if compiler not in known:
            out = tmp_path_factory.mktemp(target)
            command = ["make", "-j2", "-C", HERE, f"CC={compiler}", f"RUN={emulator}",
                       f"ARGS={'emulated' * bool(emulator)}", f"OUT={out}", "run"]
            done = subprocess.run(command, env=without_preload(), capture_output=True, text=True)
            assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-6000:]
            known[compiler], = re.findall(r"^hash (\w+)$", done.stdout, re.MULTILINE)
        return known[compiler]

    return run


def test_checks_pass(hash_of):
    assert len(hash_of("cc")) == 16


def test_bits_change_on_purpose_only(hash_of):
    assert hash_of("cc") == GOLDEN


@pytest.mark.parametrize("target", ["gcc", "clang", "aarch64"])
def test_same_bits_as_other_compilers_and_machines(hash_of, target):
    compiler, cc = compiler_of(target), compiler_of("cc")
    if compiler and cc and character_of(compiler) == character_of(cc):
        pytest.skip(f"cc is {target}")
    assert hash_of(target) == hash_of("cc")
