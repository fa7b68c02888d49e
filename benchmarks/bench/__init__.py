"""The benchmarks behind ``make bench``: parts, their rows, and the report they end up in."""
