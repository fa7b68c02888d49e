"""What reading or changing tenants can raise."""

from __future__ import annotations

from prism.documents import ProblemsError


class TenantError(ProblemsError):
    """A tenant's file, the folder of tenants or the pepper is wrong; see ``problems``."""
