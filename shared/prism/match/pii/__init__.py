"""Personal data: numbers with check digits, addresses, secrets, and names."""

from prism.match.pii.kinds import Wanted
from prism.match.pii.names import NamesUnavailableError
from prism.match.pii.scanner import PiiScanner, PiiSet

__all__ = ["NamesUnavailableError", "PiiScanner", "PiiSet", "Wanted"]
