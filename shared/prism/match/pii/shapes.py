"""All shapes there are, in one table."""

from __future__ import annotations

from prism.match.pii import contacts, national, numbers, secrets

SHAPES = (*numbers.SHAPES, *contacts.SHAPES, *secrets.SHAPES, *national.SHAPES)
"""Every shape; a kind may have several."""
