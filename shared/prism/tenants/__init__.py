"""Tenants: whose request it is, under which policy, and how much of the server they may use."""

from prism.tenants.directory import Directory, Found, KeyState, Tenant
from prism.tenants.errors import TenantError
from prism.tenants.keys import PEPPER_ENV, NewKey, Pepper
from prism.tenants.limits import Bucket, Meter
from prism.tenants.model import ANONYMOUS, TenantFile, TenantLimits
from prism.tenants.shelf import Shelf
from prism.tenants.store import TenantStore

__all__ = [
    "ANONYMOUS",
    "PEPPER_ENV",
    "Bucket",
    "Directory",
    "Found",
    "KeyState",
    "Meter",
    "NewKey",
    "Pepper",
    "Shelf",
    "Tenant",
    "TenantError",
    "TenantFile",
    "TenantLimits",
    "TenantStore",
]
