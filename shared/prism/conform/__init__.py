"""The conformance suite: complaints about text moderation, replayed against a running server.

``suite`` runs the checks, ``checks/`` holds them by what was complained of, ``upstream`` is the
scripted engine that stands behind the server under test.
"""

from prism.conform.check import Outcome, Result
from prism.conform.suite import Report, run
from prism.conform.target import Options
from prism.conform.texts import POLICY

__all__ = ["POLICY", "Options", "Outcome", "Report", "Result", "run"]
