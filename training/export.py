"""The fine-tuned encoder as an int8 ONNX graph, written out operator by operator.

Weights of matrices are symmetric, 7 bits per output column (the eighth would overflow the 16-bit
sums of processors without VNNI), activations 8 bits, scaled at run time; word vectors are 8 bits
per word. What is small or sensitive stays float32.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from training.encoder import HALVED_AT, HEADS, LAYERS, LONGEST, WIDTH, Encoder

_MS = "com.microsoft"


def quantise_columns(
    weights: NDArray[np.float32], bits: int = 7
) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Return int8 ``[in, out]`` and a scale per column of float32 ``[in, out]``."""
    top = 2 ** (bits - 1) - 1
    scale = np.maximum(np.abs(weights).max(axis=0), 1e-8) / top
    return np.clip(np.rint(weights / scale), -top, top).astype(np.int8), scale.astype(np.float32)


class _Graph:
    def __init__(self) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []

    def const(self, name: str, value: NDArray[np.generic]) -> str:
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(value), name))
        return name

    def op(
        self, kind: str, inputs: list[str], out: str, domain: str = "", **attributes: Any
    ) -> str:
        self.nodes.append(
            helper.make_node(kind, inputs, [out], name=out, domain=domain, **attributes)
        )
        return out

    def linear(
        self, x: str, name: str, weight: NDArray[np.float32], bias: NDArray[np.float32]
    ) -> str:
        """``x @ weight.T + bias`` in int8; ``weight`` as torch keeps it, ``[out, in]``."""
        small, scale = quantise_columns(weight.T)
        inputs = [
            x,
            self.const(f"{name}.weight", small),
            self.const(f"{name}.scale", scale),
            self.const(f"{name}.zero", np.zeros(len(scale), np.int8)),
            self.const(f"{name}.bias", bias),
        ]
        return self.op("DynamicQuantizeMatMul", inputs, f"{name}.out", _MS)


def _halved(g: _Graph, x: str, length: str) -> str:
    """The mean of each two neighbouring tokens; an odd last one stands for both."""
    two = g.const("two", np.array([2], np.int64))
    one = g.const("one", np.array([1], np.int64))
    start = g.const("start", np.zeros(1, np.int64))
    half = g.op("Div", [g.op("Add", [length, one], "length.up"), two], "length.half")
    table = g.const("firsts", np.arange(0, LONGEST, 2, dtype=np.int64))
    first = g.op("Slice", [table, start, half, start], "first")
    last = g.op("Sub", [length, one], "last")
    second = g.op("Min", [g.op("Add", [first, one], "second.any"), last], "second")
    parts = [g.op("Gather", [x, at], f"{at}.rows", axis=1) for at in (first, second)]
    weight = g.const("half", np.array(0.5, np.float32))
    return g.op("Mul", [g.op("Add", parts, "pairs"), weight], "halved")


def to_onnx(model: Encoder) -> bytes:
    """Return the serialised graph: ``ids`` and ``types`` int64 ``[b, s]`` → ``logits``."""
    w = {k.replace("/", "."): v.detach().float().numpy() for k, v in model.body.items()}
    words = model.words.float().numpy()
    g = _Graph()
    scale = np.maximum(np.abs(words).max(axis=1, keepdims=True), 1e-8) / 127
    table = np.clip(np.rint(words / scale), -127, 127).astype(np.int8)
    row = g.op("Gather", [g.const("words", table), "ids"], "words.row")
    row = g.op("Cast", [row], "words.float", to=TensorProto.FLOAT)
    size = g.op("Gather", [g.const("words.scale", scale.astype(np.float32)), "ids"], "words.size")
    x = g.op("Mul", [row, size], "words.out")
    shape = g.op("Shape", ["ids"], "length", start=1, end=2)
    position = g.const("positions", w["embeddings.position_embeddings.weight"])
    zero = g.const("zero", np.zeros(1, np.int64))
    position = g.op("Slice", [position, zero, shape, zero], "positions.out")
    kinds = g.const("kinds", w["embeddings.token_type_embeddings.weight"])
    kinds = g.op("Gather", [kinds, "types"], "kinds.out")
    x = g.op("Add", [g.op("Add", [x, position], "placed"), kinds], "summed")

    def norm(name: str) -> list[str]:
        return [g.const(f"{name}.{part}", w[f"{name}.{part}"]) for part in ("weight", "bias")]

    def add_norm(x: str, y: str, name: str) -> str:
        # The fused SkipLayerNormalization is five times slower than the two apart.
        both = g.op("Add", [x, y], f"{name}.sum")
        return g.op("LayerNormalization", [both, *norm(name)], f"{name}.out", epsilon=1e-12)

    inputs = [x, *norm("embeddings.LayerNorm")]
    x = g.op("LayerNormalization", inputs, "embedded", epsilon=1e-12)
    for i in range(LAYERS):
        at = f"encoder.layer.{i}."
        if i == HALVED_AT:
            x = _halved(g, x, shape)
        parts = [f"{at}attention.self.{part}" for part in ("query", "key", "value")]
        weight = np.concatenate([w[f"{part}.weight"] for part in parts])
        bias = np.concatenate([w[f"{part}.bias"] for part in parts])
        qkv = g.linear(x, f"{at}qkv", weight, bias)
        sizes = g.const(f"{at}sizes", np.full(3, WIDTH, np.int64))
        names = [f"{at}{part}" for part in "qkv"]
        g.nodes.append(helper.make_node("Split", [qkv, sizes], names, axis=-1, name=f"{at}split"))
        a = g.op("MultiHeadAttention", names, f"{at}attended", _MS, num_heads=HEADS)
        name = f"{at}attention.output."
        a = g.linear(a, name + "dense", w[name + "dense.weight"], w[name + "dense.bias"])
        x = add_norm(x, a, name + "LayerNorm")
        name = f"{at}intermediate.dense"
        h = g.linear(x, name, w[f"{name}.weight"], w[f"{name}.bias"])
        h = g.op("FastGelu", [h], f"{at}gelu", _MS)
        name = f"{at}output."
        h = g.linear(h, name + "dense", w[name + "dense.weight"], w[name + "dense.bias"])
        x = add_norm(x, h, name + "LayerNorm")
    axis = g.const("axis", np.array([1], np.int64))
    mean = g.op("ReduceMean", [x, axis], "mean", keepdims=0)
    most = g.op("ReduceMax", [x, axis], "most", keepdims=0)
    pooled = g.op("Concat", [mean, most], "pooled", axis=-1)
    head = g.const("head", model.head.detach().numpy())
    g.op(
        "Gemm",
        [pooled, head, g.const("head.bias", model.bias.detach().numpy())],
        "logits",
        transB=1,
    )

    def value(name: str, kind: int, dims: list[str | int]) -> onnx.ValueInfoProto:
        return helper.make_tensor_value_info(name, kind, dims)

    graph = helper.make_graph(
        g.nodes,
        "prism-encoder",
        [value(name, TensorProto.INT64, ["batch", "length"]) for name in ("ids", "types")],
        [value("logits", TensorProto.FLOAT, ["batch", len(model.bias)])],
        g.constants,
    )
    opsets = [helper.make_opsetid("", 18), helper.make_opsetid(_MS, 1)]
    out = helper.make_model(graph, opset_imports=opsets, ir_version=8, producer_name="prism")
    return bytes(out.SerializeToString())
