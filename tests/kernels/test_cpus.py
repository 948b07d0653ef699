"""The same source on other CPUs: registers of 16, 32 or 64 bytes, with FMA and conversions of float16 or without.

NUMBA_CPU_NAME alone proves nothing, for the features of the CPU that runs stay on: both variables are set.
"""

import math
import os
import platform
import re
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import llvmlite.binding
import ml_dtypes
import numba
import numpy as np
import pytest

from softargmax.kernels import simd
from softargmax.kernels._compile import kernel
from tests.kernels.test_kernels import SHOW, decode, in_a_fresh_interpreter

X86 = platform.machine() in ("x86_64", "AMD64")
x86_only = pytest.mark.skipif(not X86, reason="names of x86 CPUs and registers")

_NEHALEM = "+64bit,+cmov,+cx16,+cx8,+fxsr,+mmx,+popcnt,+sahf,+sse,+sse2,+sse3,+sse4.1,+sse4.2,+ssse3"
_HASWELL = ",+avx,+avx2,+bmi,+bmi2,+f16c,+fma,+fsgsbase,+lzcnt,+movbe,+pclmul,+rdrnd,+xsave,+xsaveopt"
FEATURES = {"nehalem": _NEHALEM, "haswell": _NEHALEM + _HASWELL}


def host_features():
    return llvmlite.binding.get_host_cpu_features() if X86 else {}


def environment(cpu, folder, *, without=""):
    """As if this were another CPU, with a cache of its own."""
    if cpu == "host":
        return {"NUMBA_CACHE_DIR": str(folder)}
    features = FEATURES[cpu].split(",")
    has = host_features()
    missing = [name for name in features if not has.get(name[1:], False)]
    if missing:
        pytest.skip(f"this CPU cannot run code of {cpu}: {missing}")
    chosen = ",".join(name for name in features if name != without)
    return {"NUMBA_CPU_NAME": cpu, "NUMBA_CPU_FEATURES": chosen, "NUMBA_CACHE_DIR": str(folder)}


# ---- the code, and the results of it ----

PRECISE = """
    import sys
    from numba.core.dispatcher import Dispatcher
    from tests.kernels import test_precision as precision

    for dtype, sizes, laws in WANTED:
        for k in sizes:
            for path, share in precision.all_shares(precision.few(dtype, k), laws):
                assert share <= 1, (dtype, k, path, share)
    if CAMPAIGN:
        for dtype in precision.DTYPES:
            precision.test_100_000_rows_of_each_dtype(dtype)
    modules = [module for name, module in sys.modules.items() if name.startswith("softargmax.kernels.")]
    kernels = {each for module in modules for each in vars(module).values() if isinstance(each, Dispatcher)}
    print("ASSEMBLY", *(text for each in kernels for text in each.inspect_asm().values()), sep="\\n")
"""

_SOME = [
    ("float32", (10, 100), ("softmax",)),
    ("float64", (10,), ("entropy",)),
    ("float16", (100,), ("log_softmax",)),
]
_ALL = [(dtype, (1, 2, 10, 16, 24, 25, 100, 1000), None) for dtype in ("float32", "float64", "float16", "bfloat16")]


def budgets_and_assembly(cpu, folder, wanted, *, campaign):
    laws = "(*precision.LAWS, *precision.INNER_LAWS)"
    program = textwrap.dedent(PRECISE).replace("WANTED", repr(wanted).replace("None", laws))
    shown = in_a_fresh_interpreter(program.replace("CAMPAIGN", repr(campaign)), **environment(cpu, folder))
    shares, _, assembly = shown.partition("ASSEMBLY")
    print(cpu, shares, sep="\n")
    return assembly


def called(assembly):
    return set(re.findall(r"(?:call\w*|jmp|movabsq)\s+\*?\$?([A-Za-z_]\w*)", assembly))


NOT_CALLED = re.compile(r"fmaf?|expf?|exp2f?|_*gnu_\w+|__extend\w+|__trunc\w+|__float\w+")


def check_assembly(cpu, assembly):
    assert "xmm" in assembly
    assert not [name for name in called(assembly) if NOT_CALLED.fullmatch(name)]
    assert "zmm" not in assembly
    assert ("ymm" in assembly) == ("vfmadd" in assembly) == ("vcvtph2ps" in assembly) == (cpu == "haswell")
    assert cpu == "haswell" or not re.search(r"\bv(add|mul|mov)[sp][sd]\b", assembly)


@x86_only
@pytest.mark.parametrize("cpu", FEATURES)
def test_some_kernels_of_other_cpus_keep_their_budgets(cpu, tmp_path):
    check_assembly(cpu, budgets_and_assembly(cpu, tmp_path, _SOME, campaign=False))


@pytest.mark.slow
@x86_only
@pytest.mark.parametrize("cpu", [*FEATURES, "host"])
def test_all_kernels_of_other_cpus_keep_their_budgets_on_100_000_rows(cpu, tmp_path):
    assembly = budgets_and_assembly(cpu, tmp_path, _ALL, campaign=True)
    if cpu != "host":
        check_assembly(cpu, assembly)


def test_the_check_of_assembly_rejects_what_it_is_for():
    good = "movaps (%rdi), %xmm0\nmovabsq $NRT_incref, %rax\ncallq *%rax\n"
    check_assembly("nehalem", good)
    bad = ["vaddps %ymm0, %ymm1, %ymm2", "vmulps %xmm0, %xmm1, %xmm2", "callq __gnu_h2f_ieee"]
    bad += ["movabsq $fmaf, %rax", "callq\t__truncsfhf2@PLT", "vfmadd231ss %xmm0, %xmm1, %xmm2", "movaps %zmm0, (%rdi)"]
    for line in bad:
        with pytest.raises(AssertionError):
            check_assembly("nehalem", good + line + "\n")


def exp_of(x, out):
    one = x.dtype.type(1)
    for i in range(0, len(x), simd.LANES):
        simd.store(out, i, simd.exp(simd.load(one, x, i)))


@x86_only
def test_width_and_fma_are_those_of_the_cpu_that_runs():
    # under qemu this is the emulated one
    compiled = numba.njit(error_model="numpy")(exp_of)
    compiled(np.zeros(16, np.float32), np.zeros(16, np.float32))
    assembly = "".join(compiled.inspect_asm().values())
    features = os.environ.get("NUMBA_CPU_FEATURES")
    has = host_features() if features is None else {name[1:]: True for name in features.split(",")}
    assert ("vfmadd" in assembly) == has.get("fma", False)
    assert ("ymm" in assembly or "zmm" in assembly) == has.get("avx", False)
    assert "zmm" not in assembly or has["avx512f"]


@pytest.mark.parametrize("features", ["", "+sse4.2", "+avx,+avx2,+fma"])
@x86_only
def test_other_features_of_no_named_cpu_give_the_same_results(features, tmp_path):
    program = (
        SHOW
        + """
    import sys
    from numba.core.dispatcher import Dispatcher
    kernels = vars(sys.modules["softargmax.kernels.softmax"]).values()
    kernels = [each for each in kernels if isinstance(each, Dispatcher)]
    assembly = "".join(text for each in kernels for text in each.inspect_asm().values())
    import os
    assert "xmm" in assembly
    fma = "+fma" in os.environ["NUMBA_CPU_FEATURES"]
    assert ("vfmadd" in assembly) == fma
    assert "fmaf" not in assembly
    assert ("ymm" in assembly) == ("+avx2" in os.environ["NUMBA_CPU_FEATURES"])
    assert "zmm" not in assembly
    """
    )
    given = {"NUMBA_CPU_NAME": "generic", "NUMBA_CPU_FEATURES": features, "NUMBA_CACHE_DIR": str(tmp_path)}
    if any(not host_features().get(name[1:], False) for name in features.split(",") if name):
        pytest.skip("this CPU lacks some of them")
    usual = decode(in_a_fresh_interpreter(SHOW))
    for one, other in zip(usual, decode(in_a_fresh_interpreter(program, **given)), strict=True):
        np.testing.assert_allclose(one, other, rtol=2 * (8 + math.log(40) + 40) * np.finfo(np.float32).eps)


# ---- half precision, bit for bit, with the CPU's conversions and without ----


@kernel
def read(x, out, one_by_one):
    one = out.dtype.type(1)
    for i in range(0, len(x), simd.LANES):
        if one_by_one:
            for j in range(i, i + simd.LANES):
                out[j] = simd.load_one(one, x, j)
        else:
            simd.store(out, i, simd.load(one, x, i))
    simd.store_part(out, 0, 5, simd.load_part(one, x, 0, 5, 0.0))


@kernel
def write(x, out, one_by_one):
    one = x.dtype.type(1)
    for i in range(0, len(x), simd.LANES):
        if one_by_one:
            for j in range(i, i + simd.LANES):
                simd.store_one(one, out, j, x[j])
        else:
            simd.store(out, i, simd.load(one, x, i))
    simd.store_part(out, 0, 5, simd.load(one, x, 0))


HALVES = {"float16": (np.float16, np.uint16), "bfloat16": (ml_dtypes.bfloat16, np.int16)}


def float32s_around(dtype):
    """Every number of the dtype, the ties between neighbours, what lies next to those, NaN, and any bits."""
    numbers = np.arange(1 << 16, dtype=np.uint16).view(dtype).astype(np.float32)
    numbers = np.sort(numbers[np.isfinite(numbers)])
    beyond = float(ml_dtypes.finfo(dtype).max) * (1 + float(ml_dtypes.finfo(dtype).eps) / 4)  # the first that is inf
    ties = np.concatenate([(numbers[1:] * 0.5 + numbers[:-1] * 0.5), np.float32([beyond, -beyond])])
    ties = np.concatenate([ties, ((numbers[1:].astype(float) + numbers[:-1]) / 2).astype(np.float32)])
    bits = np.random.default_rng(0).integers(0, 1 << 32, 1 << 20, dtype=np.uint32).view(np.float32)
    special = np.array([0x7F800000, 0x7F800001, 0x7FBFFFFF, 0x7FC00000, 0x7FFFFFFF, 1, 0x007FFFFF], np.uint32)
    special = np.concatenate([special, special | 0x80000000]).astype(np.uint32).view(np.float32)
    near = [np.nextafter(ties, np.float32(np.inf)), np.nextafter(ties, np.float32(-np.inf))]
    values = np.concatenate([special, ties, *near, numbers, bits])
    return values[: len(values) // 16 * 16]


def check_halves():
    with np.errstate(all="ignore"):
        for dtype, word in HALVES.values():
            memory = np.arange(1 << 16, dtype=np.uint16)
            wanted = memory.view(dtype).astype(np.float32)
            for one_by_one in (False, True):
                for lanes in (np.float32, np.float64):
                    found = np.empty(1 << 16, lanes)
                    read(memory.view(word), found, one_by_one)
                    np.testing.assert_array_equal(found, wanted)
                    np.testing.assert_array_equal(np.signbit(found)[wanted == 0], np.signbit(wanted)[wanted == 0])
            values = float32s_around(dtype)
            wanted = values.astype(dtype)
            for one_by_one in (False, True):
                found = np.empty(len(values), word)
                write(values, found, one_by_one)
                nan = np.isnan(wanted)
                np.testing.assert_array_equal(np.isnan(found.view(dtype)), nan)
                np.testing.assert_array_equal(found.view(np.uint16)[~nan], wanted.view(np.uint16)[~nan])


def test_halves_are_converted_exactly():
    check_halves()


HALVES_ELSEWHERE = """
    from tests.kernels import test_cpus
    test_cpus.check_halves()
    assembly = "".join(text for each in (test_cpus.read, test_cpus.write) for text in each.inspect_asm().values())
    assert "cvt" in assembly
    print("vcvtph2ps" in assembly, "vcvtps2ph" in assembly, "ymm" in assembly)
"""


@x86_only
@pytest.mark.parametrize(
    ("cpu", "without", "uses"),
    [("nehalem", "", [False] * 3), ("haswell", "+f16c", [False, False, True]), ("haswell", "", [True] * 3)],
)
def test_halves_are_converted_exactly_elsewhere(cpu, without, uses, tmp_path):
    shown = in_a_fresh_interpreter(HALVES_ELSEWHERE, **environment(cpu, tmp_path, without=without))
    assert shown.split() == [str(use) for use in uses]


# ---- another CPU, emulated whole ----

emulated = pytest.mark.skipif(sys.platform != "linux" or not X86, reason="qemu-x86_64 runs programs of Linux on x86-64")

# the others start interpreters of their own, which would not be emulated
EMULATED = "not without_numba and not cache and not caching and not elsewhere and not other and not host"
TESTS = ["-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", EMULATED]
TESTS += [str(Path(__file__).with_name("test_kernels.py")), __file__]


def emulator(cpu):
    """The words before a command that is to run on this CPU, and on no better one."""
    qemu = shutil.which("qemu-x86_64")
    if qemu is None:
        pytest.skip("qemu-x86_64 is not installed; on Debian it is in the package qemu-user")
    return [qemu, "-cpu", cpu.capitalize()]


def python(*words, on=(), given):
    usual = {name: value for name, value in os.environ.items() if not name.startswith("NUMBA_CPU")}
    command = [*on, sys.executable, *words]
    return subprocess.run(command, env=usual | given, capture_output=True, text=True, check=False)


def succeeded(result):
    print(result.stdout[-2000:])
    assert result.returncode == 0, result.stdout[-5000:] + result.stderr[-2000:]
    return result.stdout


@pytest.mark.slow
@emulated
@pytest.mark.parametrize("cpu", FEATURES)
def test_the_tests_of_kernels_pass_on_an_emulated_cpu(cpu, tmp_path):
    # to compile inside the emulator takes more than half an hour: the cache is filled outside, with code for this CPU
    on, given = emulator(cpu), environment(cpu, tmp_path)
    succeeded(python(*TESTS, given=given))
    compiled = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nbc")}
    assert compiled
    succeeded(python(*TESTS, on=on, given=given))
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.nbc")} == compiled


@pytest.mark.slow
@emulated
@pytest.mark.parametrize("cpu", FEATURES)
def test_an_emulated_cpu_compiles_for_itself(cpu, tmp_path):
    program = """
        from tests.kernels import test_cpus
        test_cpus.test_width_and_fma_are_those_of_the_cpu_that_runs()
        print(test_cpus.host_features().get("fma", False))
    """
    program = textwrap.dedent(program) + textwrap.dedent(SHOW)
    shown = succeeded(python("-c", program, on=emulator(cpu), given=environment("host", tmp_path / "emulated")))
    fma, *results = shown.split()
    assert fma == str(cpu == "haswell")
    usual = succeeded(python("-c", textwrap.dedent(SHOW), given=environment(cpu, tmp_path / "outside")))
    assert results == usual.split()


@pytest.mark.slow
@emulated
def test_an_emulated_cpu_refuses_what_it_has_no_instructions_for(tmp_path):
    program, given = textwrap.dedent(SHOW), environment("haswell", tmp_path)
    succeeded(python("-c", program, given=given))
    succeeded(python("-c", program, on=emulator("haswell"), given=given))
    refused = python("-c", program, on=emulator("nehalem"), given=given)
    assert refused.returncode == -signal.SIGILL, refused.stderr[-2000:]
