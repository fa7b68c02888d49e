"""YAML files as data with positions: read, check against a model, say what is wrong where."""

from prism.documents.problems import Problem, ProblemsError, did_you_mean, one_of
from prism.documents.shipped import shipped_dir
from prism.documents.tree import (
    MAX_BYTES,
    Document,
    Node,
    NodePath,
    dotted,
    kind,
    parse,
    read,
    read_text,
)
from prism.documents.validate import Model, custom_error, validate

__all__ = [
    "MAX_BYTES",
    "Document",
    "Model",
    "Node",
    "NodePath",
    "Problem",
    "ProblemsError",
    "custom_error",
    "did_you_mean",
    "dotted",
    "kind",
    "one_of",
    "parse",
    "read",
    "read_text",
    "shipped_dir",
    "validate",
]
