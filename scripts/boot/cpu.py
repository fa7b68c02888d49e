"""Which instructions llama.cpp may be built with on this machine.

A native build (llama.cpp's default) asks the compiler what the CPU is, and the compiler believes
what a virtual machine advertises: AMX, for one, may be advertised and still not be allowed, and
the process dies with "Illegal instruction". So nothing is native here: a level is chosen from what
the system says, tried out, and lowered if the try dies.
"""

from __future__ import annotations

import platform
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from boot.tree import digest

COMMON = ("-DLLAVA_BUILD=OFF",)
"""Image models are not served here, and their tools take a third of the build's time."""

AVX512 = frozenset({"avx512f", "avx512cd", "avx512bw", "avx512dq", "avx512vl"})
"""What ggml's GGML_AVX512 compiles with; any of them missing is an illegal instruction."""

AVX2 = frozenset({"avx", "avx2", "fma", "f16c", "bmi2"})
"""What ggml takes for granted on x86-64 unless it is told not to."""

OFF = tuple(f"-DGGML_{name}=OFF" for name in ("AVX", "AVX2", "FMA", "F16C", "BMI2"))


@dataclass(frozen=True)
class Build:
    """One way to build llama-cpp-python."""

    level: str
    flags: tuple[str, ...]

    @property
    def cmake_args(self) -> str:
        """The value of ``CMAKE_ARGS``."""
        return " ".join(self.flags)

    @property
    def digest(self) -> str:
        """Tells apart wheels that differ in flags or in the kind of machine."""
        return digest(platform.system(), platform.machine(), *self.flags)


def cpu_flags(cpuinfo: str) -> frozenset[str]:
    """Return the features named in the text of ``/proc/cpuinfo``; of the weakest core, if many."""
    rows = re.findall(r"^(?:flags|Features)\s*:\s*(.*)$", cpuinfo, flags=re.MULTILINE)
    if not rows:
        return frozenset()
    return frozenset.intersection(*(frozenset(row.split()) for row in rows))


def builds(system: str, machine: str, cpuinfo: str) -> Sequence[Build]:
    """Return the builds worth trying, best first. Each is safe where the one before is not."""
    if system == "Darwin":
        # Real hardware, and Metal: llama.cpp's own defaults are right.
        return (Build("default", COMMON),)
    plain = ("-DGGML_NATIVE=OFF", *COMMON)
    if machine.lower() not in {"x86_64", "amd64"}:
        return (Build("portable", plain),)
    flags = cpu_flags(cpuinfo)
    found: list[Build] = []
    if flags >= AVX512 | AVX2:
        vnni = ("-DGGML_AVX512_VNNI=ON",) if "avx512_vnni" in flags else ()
        found.append(Build("AVX-512", ("-DGGML_NATIVE=OFF", "-DGGML_AVX512=ON", *vnni, *COMMON)))
    if not flags or flags >= AVX2:  # unknown: likely, and the try-out will tell
        found.append(Build("AVX2", plain))
    found.append(Build("SSE", ("-DGGML_NATIVE=OFF", *OFF, *COMMON)))
    return found


def builds_here() -> Sequence[Build]:
    """Return the builds worth trying on this machine."""
    return builds(platform.system(), platform.machine(), _cpuinfo())


def cpu_digest() -> str:
    """Identify the kind of CPU: a build that ran on one kind has proved nothing about another."""
    names = re.findall(r"^model name\s*:\s*(.*)$", _cpuinfo(), flags=re.MULTILINE)
    return digest(platform.machine(), *sorted(cpu_flags(_cpuinfo())), *sorted(set(names)))


def _cpuinfo() -> str:
    path = Path("/proc/cpuinfo")
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
