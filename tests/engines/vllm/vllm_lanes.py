"""Runs the device's kernels on the CPU: Triton's language in NumPy, as far as they use it.

Triton has an interpreter of its own, and ``test_vllm_v2_triton`` runs the kernels in it. This one
is some thirty times faster, which brute force needs, and stricter: every access is checked against
the bounds of its tensor.
"""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

_program: dict[str, tuple[int, ...]] = {}
_PLUGIN = ("circling", "kernels", "scoring", "steps", "walk", "wellformed")


class Lanes(np.ndarray):
    """A tensor of Triton's: operators make a new one, also ``+=``."""

    def __array_wrap__(self, array, context=None, return_scalar=False):
        return lanes(array)

    def __iadd__(self, other):
        return lanes(np.asarray(self) + np.asarray(other))

    def to(self, dtype, bitcast=False):
        return self.view(dtype) if bitcast else lanes(np.asarray(self).astype(dtype))


def lanes(values: Any) -> Lanes:
    return np.asarray(values).view(Lanes)


class Pointer:
    """Places in a tensor. A place outside of it may be computed, but not read or written."""

    __array_ufunc__ = None

    def __init__(self, array: np.ndarray, at: Any = 0) -> None:
        self.array, self.at = array, lanes(np.asarray(at, np.int64))

    def __add__(self, other: Any) -> Pointer:
        return Pointer(self.array, self.at + np.asarray(other, np.int64))

    def __sub__(self, other: Any) -> Pointer:
        return Pointer(self.array, self.at - np.asarray(other, np.int64))

    def to(self, dtype, bitcast):
        assert bitcast
        return Pointer(self.array.view(dtype), self.at)

    def checked(self, at: np.ndarray) -> np.ndarray:
        assert not at.size or (at.min() >= 0 and at.max() < len(self.array)), "out of bounds"
        return at


def _load(pointer, mask=None, other=0):
    at = np.asarray(pointer.at)
    if mask is None:
        return lanes(pointer.array[pointer.checked(at)])
    at, mask = np.broadcast_arrays(at, np.asarray(mask))
    result = np.full(at.shape, other, pointer.array.dtype)
    result[mask] = pointer.array[pointer.checked(at[mask])]
    return lanes(result)


def _store(pointer, value, mask=True):
    at, value, mask = np.broadcast_arrays(pointer.at, np.asarray(value), np.asarray(mask))
    pointer.array[pointer.checked(np.asarray(at)[mask])] = value[mask]


def _exchange(pointer, value, mask):
    old = np.zeros(pointer.at.shape, pointer.array.dtype)
    for i in np.flatnonzero(mask):  # one after the other, as the device does in some order
        at = pointer.checked(np.asarray(pointer.at[i]))
        old[i], pointer.array[at] = pointer.array[at], value
    return lanes(old)


def _where(condition, a, b):
    if isinstance(a, int) and isinstance(b, int):
        a = np.int32(a) if -(2**31) <= a < 2**31 else np.int64(a)
    return lanes(np.where(condition, a, b))


class _Kernel:
    def __init__(self, function: Any) -> None:
        self._function = function

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._function(*args, **kwargs)

    def __getitem__(self, grid: tuple[int, ...]) -> Any:
        def launch(*args: Any, num_warps: int, **constants: Any) -> None:
            given = [_argument(arg) for arg in args]
            for place in np.ndindex(*grid):
                _program["id"], _program["grid"] = place, grid
                self._function(*given, **constants)

        return launch


def _argument(value: Any) -> Any:
    if isinstance(value, torch.Tensor):
        assert value.is_contiguous()
        return Pointer(value.view(-1).numpy())
    return lanes(np.int32(value) if -(2**31) <= value < 2**31 else np.int64(value))


def _language() -> types.ModuleType:
    tl = types.ModuleType("triton.language")
    given = {
        "constexpr": lambda value: value,
        "int32": np.int32,
        "int64": np.int64,
        "float64": np.float64,
        "pointer_type": lambda dtype: dtype,
        "load": _load,
        "store": _store,
        "atomic_xchg": _exchange,
        "atomic_max": lambda p, value: _store(p, np.maximum(_load(p), value)),
        "atomic_min": lambda p, value: _store(p, np.minimum(_load(p), value)),
        "arange": lambda start, end: lanes(np.arange(start, end, dtype=np.int32)),
        "full": lambda shape, value, dtype: lanes(np.full(shape, value, dtype)),
        "where": _where,
        "sum": lambda values, axis: lanes(np.sum(np.asarray(values), axis, values.dtype)),
        "sqrt": lambda values: lanes(np.sqrt(np.asarray(values))),
        "max": lambda values, axis: lanes(np.max(np.asarray(values), axis)),
        "maximum": lambda a, b: lanes(np.maximum(a, b)),
        "minimum": lambda a, b: lanes(np.minimum(a, b)),
        "reshape": lambda values, shape: lanes(np.reshape(values, shape)),
        "broadcast_to": lambda values, shape: lanes(np.broadcast_to(values, shape)),
        "debug_barrier": lambda: None,
        "static_range": range,
        "program_id": lambda axis: lanes(np.int32(_program["id"][axis])),
        "num_programs": lambda axis: lanes(np.int32(_program["grid"][axis])),
    }
    for name, value in given.items():
        setattr(tl, name, value)
    return tl


def _triton() -> dict[str, types.ModuleType]:
    triton = types.ModuleType("triton")
    language = _language()

    def jit(function: Any = None, **_: Any) -> Any:
        return _Kernel if function is None else _Kernel(function)

    triton.jit, triton.language = jit, language
    return {"triton": triton, "triton.language": language}


@contextmanager
def kernels_on(modules: dict[str, types.ModuleType] | None = None) -> Iterator[Any]:
    """Within, ``vllm_prism.walk`` runs its kernels here, or with the ``triton`` of ``modules``."""
    import vllm_prism

    names = [f"vllm_prism.{name}" for name in _PLUGIN]
    modules = _triton() if modules is None else modules
    kept = {name: sys.modules.pop(name, None) for name in (*names, *modules)}
    own = {name: vars(vllm_prism).pop(name, None) for name in _PLUGIN}
    sys.modules.update(modules)
    try:
        from vllm_prism import walk

        yield walk
    finally:
        for name, module in kept.items():
            sys.modules.pop(name, None)
            if module is not None:
                sys.modules[name] = module
        for name, module in own.items():
            vars(vllm_prism).pop(name, None)
            if module is not None:
                setattr(vllm_prism, name, module)
