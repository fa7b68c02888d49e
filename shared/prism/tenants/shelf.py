"""The policies of tenants in effect: each compiled once, however many tenants have it.

A tenant's policy is what the tenant's file names (or else the server's own), with the tenant's
overrides and mode laid over it as the last layer of inheritance, and then, whatever came of that,
the stricter of it and the floor, rule by rule. So no tenant's file can loosen the floor; that none
did is checked once more on the result.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from prism.documents import Document, Node, Problem, ProblemsError
from prism.policy.compiled import CompiledPolicy
from prism.policy.compiler import compile_policy, load_policy
from prism.policy.compose import apply_floor, compose, missing_from
from prism.policy.loader import Layer, read_layers
from prism.policy.model import SCHEMA_VERSION, PolicyFile
from prism.tenants.errors import TenantError
from prism.tenants.model import TenantFile

Ref = str | Path


class Shelf:
    """Compiles policies above one floor and keeps them, by what they say and by digest."""

    def __init__(self, default: Ref, floor: Ref | None = None) -> None:
        self._default = default
        self._floor_ref = floor
        self._floor: CompiledPolicy | None = None
        self._layers: dict[str, tuple[Layer, ...]] = {}
        self._made: dict[tuple[str, str], CompiledPolicy] = {}
        self._by_digest: dict[str, CompiledPolicy] = {}

    @property
    def floor(self) -> CompiledPolicy | None:
        """What nobody may loosen. Raises ``PolicyError``."""
        if self._floor is None and self._floor_ref is not None:
            self._floor = load_policy(self._floor_ref)
        return self._floor

    def default(self) -> CompiledPolicy:
        """Return the server's own policy in effect. Raises ``PolicyError``."""
        return self._get(self._default, None)

    def plain(self, ref: Ref) -> CompiledPolicy:
        """Return the policy at ``ref`` in effect. Raises ``PolicyError``."""
        return self._get(ref, None)

    def effective(self, ref: Ref | None, file: TenantFile, document: Document) -> CompiledPolicy:
        """Return the policy of the tenant ``file`` that starts from ``ref``, in effect.

        Raises ``PolicyError`` or ``TenantError`` with everything that is wrong.
        """
        return self._get(self._default if ref is None else ref, _overlay(file, document))

    def held(self, ref: Ref | None, file: TenantFile, document: Document) -> tuple[str, ...]:
        """Return ids of the floor's rules that the tenant's own policy lacks or would loosen."""
        if self.floor is None:
            return ()
        base = self._default if ref is None else ref
        own = self._compile(base, _overlay(file, document))
        return tuple(rule.id for rule in missing_from(own, self.floor))

    def _get(self, ref: Ref, overlay: _Overlay | None) -> CompiledPolicy:
        key = (str(ref), overlay.key if overlay is not None else "")
        if key not in self._made:
            policy = self._compile(ref, overlay)
            if self.floor is not None:
                policy = apply_floor(policy, self.floor)
                if missing_from(policy, self.floor):
                    raise RuntimeError("a policy came out looser than the floor")
            # Equal digests mean equal behaviour: one object, one automaton, one moderator.
            self._made[key] = self._by_digest.setdefault(policy.digest, policy)
        return self._made[key]

    def _compile(self, ref: Ref, overlay: _Overlay | None) -> CompiledPolicy:
        layers = self._layers.get(str(ref))
        if layers is None:
            layers = self._layers[str(ref)] = read_layers(ref)
        if overlay is None:
            composed, problems = compose(layers)
        else:
            composed, problems = compose([*layers, overlay.layer(layers)])
        try:
            policy = compile_policy(composed)
        except ProblemsError as error:
            problems.extend(error.problems)
        if problems:
            raise TenantError(overlay.placed(problems) if overlay is not None else problems)
        return policy


class _Overlay:
    """A tenant's overrides and mode as a layer of inheritance, positions and all."""

    def __init__(self, file: TenantFile, document: Document, data: dict[str, Any]) -> None:
        self._id = file.tenant
        self._data = data
        self.key = json.dumps(data, sort_keys=True)
        root = document.root
        overrides = root.child("overrides")
        values: dict[str, Node] = dict(overrides.value) if overrides is not None else {}
        keys = dict(overrides.keys or {}) if overrides is not None else {}
        if "mode" in data:
            values["mode"], keys["mode"] = root.value["mode"], (root.keys or {})["mode"]
        self._document = Document(document.file, Node(values, root.line, root.column, keys))

    def layer(self, below: Sequence[Layer]) -> Layer:
        """Return the layer. It keeps the name of the policy it lies over: many tenants share it."""
        data = {"prism": SCHEMA_VERSION, "id": below[-1].file.id, **self._data}
        return Layer(Path(self._document.file), self._document, PolicyFile.model_validate(data))

    def placed(self, problems: Sequence[Problem]) -> list[Problem]:
        """Return ``problems`` with the keys as they stand in the tenant's file."""
        return [
            replace(p, key=f"overrides.{p.key}" if p.key else "overrides")
            if p.file == self._document.file
            else p
            for p in problems
        ]


def _overlay(file: TenantFile, document: Document) -> _Overlay | None:
    data: dict[str, Any] = {}
    node = document.root.child("overrides")
    if file.overrides is not None and node is not None:
        data.update(node.data())
    if file.mode is not None:
        data["mode"] = file.mode
    return _Overlay(file, document, data) if data else None
