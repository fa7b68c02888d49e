"""Let vLLM look through the modules of a process that has loaded Numba.

On the CPU without Triton, vLLM's worker replaces Triton's kernels by functions of its own and looks
for them in every attribute of every loaded module (``vllm.triton_utils.dispatcher``). One of them,
the library handle of llvmlite, which comes with Numba, makes up a function for whatever it is asked
for, ``__dict__`` too, and the worker dies of ``'_lib_fn_wrapper' object has no attribute 'get'``.
So it is where the engine runs in the caller's process (``VLLM_ENABLE_V1_MULTIPROCESSING=0``): Numba
comes first there, with the policies. And where a script that uses Numba is imported again by the
processes that vLLM starts.
"""

from __future__ import annotations

import sys


def settle() -> None:
    """Have llvmlite's library handle, where it is loaded, answer ``__dict__`` with an empty one.

    The handle keeps what it was once asked for in a table; the answer is put there. A later
    llvmlite whose handle has no such table is left as it is. Harmless when repeated.
    """
    ffi = sys.modules.get("llvmlite.binding.ffi")
    table = getattr(ffi.lib, "_fntab", None) if ffi is not None else None
    if isinstance(table, dict):
        table["__dict__"] = {}
