"""The policies of tenants in effect: each compiled once, however many tenants have it.

A tenant's policy is what the tenant's file names (or else the server's own), with the tenant's
overrides and mode laid over it as the last layer of inheritance, and then, whatever came of that,
the stricter of it and the floor, rule by rule. So no tenant's file can loosen the floor; that none
did is checked once more on the result.

What a tenant's file names is read again when it has changed. The floor and the server's own policy
stay as they were when the server started: its self-test and its token layer know them so.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Sequence
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
from prism.tenants.watch import State, Watched, is_settled

Ref = str | Path
_OWN = ""
"""Stands for the server's own policy among what tenants name."""


class _Source:
    """A policy as it was read last, when it was right.

    ``version`` counts those readings; ``problems``: what is wrong with the files since.
    """

    def __init__(self, ref: Ref) -> None:
        """Raises ``PolicyError``."""
        self._ref = ref
        self.version = 0
        self.problems: tuple[Problem, ...] = ()
        self.files = Watched()
        self.layers = read_layers(ref, before=self.files.note)

    def refresh(self) -> bool:
        """Read the files again if they have changed; return whether that gave something new."""
        if not self.files.changed():
            return False
        files = Watched()
        try:
            layers = read_layers(self._ref, before=files.note)
        except ProblemsError as error:
            self.files, self.problems = files, error.problems
            return False
        self.files, self.problems, self.layers = files, (), layers
        self.version += 1
        return True


class Shelf:
    """Compiles policies above one floor and keeps them, by what they say and by digest."""

    def __init__(self, default: Ref, floor: Ref | None = None) -> None:
        self._default = default
        self._floor_ref = floor
        self._floor: CompiledPolicy | None = None
        self._sources: dict[str, _Source] = {}
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
        return self._get(None, None)

    def plain(self, ref: Ref) -> CompiledPolicy:
        """Return the policy at ``ref`` in effect. Raises ``PolicyError``."""
        return self._get(ref, None)

    def effective(self, ref: Ref | None, file: TenantFile, document: Document) -> CompiledPolicy:
        """Return the policy of the tenant ``file`` that starts from ``ref``, in effect.

        ``None`` is the server's own. Raises ``PolicyError`` or ``TenantError`` with everything that
        is wrong.
        """
        return self._get(ref, _overlay(file, document))

    def refresh(self) -> tuple[Problem, ...]:
        """Read again what tenants name and has changed; return what is wrong with any of it.

        A policy that is wrong now counts as it was when it was right.
        """
        for name, source in self._sources.items():
            if name != _OWN and source.refresh():
                self._made = {key: made for key, made in self._made.items() if key[0] != name}
        return tuple(p for source in self._sources.values() for p in source.problems)

    def version(self, ref: Ref | None) -> int:
        """Return a number that is another one when what ``ref`` names was read anew."""
        source = self._sources.get(_name(ref))
        return source.version if source is not None else 0

    def stamp(self) -> tuple[State, ...] | None:
        """Return what changes when a file does; ``None`` while that isn't certain yet."""
        sources = [source for name, source in self._sources.items() if name != _OWN]
        now = tuple(state for source in sources for state in source.files.now())
        return now if all(map(is_settled, now)) else None

    def keep(self, refs: Collection[Ref], policies: Collection[CompiledPolicy]) -> None:
        """Forget everything else: what nobody names, and what was in effect once."""
        named = {_OWN, *map(_name, refs)}
        digests = {policy.digest for policy in policies}
        self._sources = {name: s for name, s in self._sources.items() if name in named}
        self._made = {
            key: made
            for key, made in self._made.items()
            if key[0] in named and (made.digest in digests or key == (_OWN, ""))
        }
        self._by_digest = {made.digest: made for made in self._made.values()}

    def held(self, ref: Ref | None, file: TenantFile, document: Document) -> tuple[str, ...]:
        """Return ids of the floor's rules that the tenant's own policy lacks or would loosen."""
        if self.floor is None:
            return ()
        own = self._compile(ref, _overlay(file, document))
        return tuple(rule.id for rule in missing_from(own, self.floor))

    def _get(self, ref: Ref | None, overlay: _Overlay | None) -> CompiledPolicy:
        key = (_name(ref), overlay.key if overlay is not None else "")
        if key not in self._made:
            policy = self._compile(ref, overlay)
            if self.floor is not None:
                policy = apply_floor(policy, self.floor)
                if missing_from(policy, self.floor):
                    raise RuntimeError("a policy came out looser than the floor")
            # Equal digests mean equal behaviour: one object, one automaton, one moderator.
            self._made[key] = self._by_digest.setdefault(policy.digest, policy)
        return self._made[key]

    def _compile(self, ref: Ref | None, overlay: _Overlay | None) -> CompiledPolicy:
        source = self._sources.get(_name(ref))
        if source is None:
            source = self._sources[_name(ref)] = _Source(self._default if ref is None else ref)
        layers = source.layers
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


def _name(ref: Ref | None) -> str:
    return _OWN if ref is None else str(ref)


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
