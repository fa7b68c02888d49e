"""Numba's library handle, as vLLM's scan of the loaded modules reads it, without an engine.

``test_vllm_scores`` starts the engine in one process with it.
"""

import sys

from llvmlite import binding
from llvmlite.binding import ffi

from vllm_prism import scannable


def test_its_attributes_can_be_read_like_any_objects():
    scannable.settle()
    scannable.settle()
    assert vars(ffi.lib).get("kernel") is None
    assert dict(vars(ffi.lib)) == {}


def test_it_still_finds_what_llvmlite_asks_for():
    scannable.settle()
    assert len(binding.llvm_version_info) == 3
    assert "-" in binding.get_default_triple()


def test_a_handle_that_keeps_no_table_is_left_alone(monkeypatch):
    handle = object()
    monkeypatch.setattr(ffi, "lib", handle)
    scannable.settle()
    assert ffi.lib is handle


def test_nothing_is_loaded_for_it(monkeypatch):
    monkeypatch.delitem(sys.modules, "llvmlite.binding.ffi")
    scannable.settle()
    assert "llvmlite.binding.ffi" not in sys.modules
