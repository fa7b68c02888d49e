from __future__ import annotations

import pytest

from boot.cpu import Build, builds, cpu_flags

BASE = "fpu sse sse2 ssse3 sse4_1 sse4_2"
WITH_AVX2 = f"{BASE} avx avx2 fma f16c bmi1 bmi2"
WITH_AVX512 = f"{WITH_AVX2} avx512f avx512cd avx512bw avx512dq avx512vl"


def cpuinfo(*cores: str) -> str:
    return "\n".join(
        f"processor\t: {number}\nmodel name\t: Test\nflags\t\t: {flags}\nbugs\t\t:\n"
        for number, flags in enumerate(cores)
    )


def levels(found: object) -> list[str]:
    return [build.level for build in found]  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (WITH_AVX512, ["AVX-512", "AVX2", "SSE"]),
        (f"{WITH_AVX512} avx512_vnni amx_tile amx_int8", ["AVX-512", "AVX2", "SSE"]),
        (WITH_AVX512.replace(" avx512vl", ""), ["AVX2", "SSE"]),
        (WITH_AVX2, ["AVX2", "SSE"]),
        (WITH_AVX2.replace(" f16c", ""), ["SSE"]),
        (f"{BASE} avx", ["SSE"]),
    ],
)
def test_a_level_needs_every_instruction_it_compiles_with(flags: str, expected: list[str]) -> None:
    assert levels(builds("Linux", "x86_64", cpuinfo(flags, flags))) == expected


def test_vnni_only_where_the_cpu_has_it() -> None:
    without = builds("Linux", "x86_64", cpuinfo(WITH_AVX512))[0]
    having = builds("Linux", "x86_64", cpuinfo(f"{WITH_AVX512} avx512_vnni"))[0]

    assert "VNNI" not in without.cmake_args
    assert "-DGGML_AVX512_VNNI=ON" in having.cmake_args


def test_nothing_on_linux_is_native_and_amx_is_never_asked_for() -> None:
    everything = f"{WITH_AVX512} avx512_vnni amx_bf16 amx_tile amx_int8"

    for machine, info in [("x86_64", cpuinfo(everything)), ("aarch64", "Features\t: asimd fphp")]:
        for build in builds("Linux", machine, info):
            assert "-DGGML_NATIVE=OFF" in build.flags
            assert "AMX" not in build.cmake_args


def test_the_weakest_core_decides() -> None:
    assert cpu_flags(cpuinfo(WITH_AVX512, WITH_AVX2)) == frozenset(WITH_AVX2.split())


def test_without_cpuinfo_the_likely_level_is_tried_and_a_safe_one_follows() -> None:
    assert levels(builds("FreeBSD", "amd64", "")) == ["AVX2", "SSE"]


def test_other_platforms_have_one_build() -> None:
    assert levels(builds("Darwin", "arm64", "")) == ["default"]
    assert levels(builds("Linux", "aarch64", "Features\t: fp asimd")) == ["portable"]


def test_image_tools_are_left_out_everywhere() -> None:
    for system, machine in [("Linux", "x86_64"), ("Linux", "aarch64"), ("Darwin", "arm64")]:
        for build in builds(system, machine, cpuinfo(WITH_AVX512)):
            assert "-DLLAVA_BUILD=OFF" in build.flags


def test_the_digest_follows_the_flags() -> None:
    one, same, other = Build("a", ("-DX=1",)), Build("b", ("-DX=1",)), Build("a", ("-DX=2",))

    assert one.digest == same.digest
    assert one.digest != other.digest
