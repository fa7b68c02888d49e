"""Matching: the phrase automaton, regex sets, and the layers of decoded text they run over."""

from prism.match.layers import DecodeBudgetError
from prism.match.matcher import Matcher, Scanner
from prism.match.regexes import RegexError, check_regex

__all__ = ["DecodeBudgetError", "Matcher", "RegexError", "Scanner", "check_regex"]
