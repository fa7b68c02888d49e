"""What a row may teach: the shipped categories, and notions that only the training knows.

``harm`` is any harm but prompt injection, which is ``inj`` and never part of it. The notions keep
apart what data sets mean by "unsafe": ``tone`` (abusive wording), ``intent`` (asks for help with
harm), ``resp`` (the answer does harm), ``apc`` (soft target: what alt-profanity-check says).
"""

from __future__ import annotations

CATEGORIES = (
    "harm", "inj", "vcr", "ncr", "src", "cse", "dfm", "spc", "prv", "ipv", "iwp", "hte", "ssh",
    "sxc", "cyb", "fra", "dis", "ele", "tox",
)  # fmt: skip
NOTIONS = ("tone", "intent", "resp", "apc")
COLUMNS = CATEGORIES + NOTIONS
HAZARDS = CATEGORIES[2:]
COLUMN = {name: index for index, name in enumerate(COLUMNS)}
