"""The report of a run: one HTML file that needs nothing else, runs no script and loads nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from datetime import datetime
from html import escape

from prism.conform.check import Outcome, Result
from prism.conform.checks import COMPLAINTS
from prism.conform.suite import Report

_STYLE = """
:root{color-scheme:light dark}
body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}
table{border-collapse:collapse;width:100%;margin:.5rem 0 1.5rem}
th,td{padding:.3rem .7rem;text-align:left;vertical-align:top;border-bottom:1px solid #8884}
td.number{text-align:right;font-variant-numeric:tabular-nums}
code{font-size:.9em}small{opacity:.7}summary{cursor:pointer;margin:.4rem 0;font-weight:600}
.outcome{white-space:nowrap;font-weight:600}
.passed{color:#1a7f37}.failed{color:#cf222e}.error{color:#bc4c00}.not-applicable{opacity:.7}
@media(prefers-color-scheme:dark){
.passed{color:#3fb950}.failed{color:#ff7b72}.error{color:#ffa657}}
"""
_POLICY = "default-src 'none'; style-src 'unsafe-inline'"
_VERDICTS = {
    0: "Everything that could be asked passed.",
    2: "Not a result: something could not be carried out, or nothing could be asked.",
    3: "A check failed.",
}


def html(report: Report, when: datetime) -> str:
    """Return the report of what :func:`prism.conform.run` returned. ``when`` it was run is shown.

    Evidence and addresses come from a server that may be anybody's: all of it is escaped.
    """
    title = f"Conformance of {escape(report.url)}"
    counts = ", ".join(f"{number} {_mark(kind)}" for kind, number in report.counts.items())
    parts = [
        f"<h1>{title}</h1>",
        f"<p><strong>{_VERDICTS[report.exit_code]}</strong> {counts}. "
        f"<small>{escape(when.isoformat(sep=' ', timespec='seconds'))}</small></p>",
    ]
    for outcome in (Outcome.FAILED, Outcome.ERROR):
        found = [result for result in report.results if result.outcome is outcome]
        if found:
            parts.append(f"<h2>{outcome.value.capitalize()}</h2>{_checks(found)}")
    parts += [
        f"<h2>By complaint</h2>{_complaints(report.results)}",
        f"<h2>How the engine was made to speak</h2>{_voices(report.voices)}",
        "<h2>All checks</h2>",
    ]
    for number, name in COMPLAINTS.items():
        # A check may replay several complaints; here it stands with the first of them.
        found = [r for r in report.results if r.check.complaints[0] == number]
        if found:
            parts.append(
                f"<details><summary>{number}. {escape(name)} ({len(found)})</summary>"
                f"{_checks(found)}</details>"
            )
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{title}</title><style>{_STYLE}</style></head>"
        f"<body>{''.join(parts)}</body></html>\n"
    )


def _mark(outcome: Outcome) -> str:
    kind = outcome.value.replace(" ", "-")
    return f'<span class="outcome {kind}">{outcome.value}</span>'


def _checks(results: Iterable[Result]) -> str:
    rows = [
        [
            f"<td>{_mark(result.outcome)}</td>",
            f"<td><code>{escape(result.check.name)}</code></td>",
            f"<td>{escape(result.check.title)}<br><small>{escape(result.evidence)}</small></td>",
            f"<td>{', '.join(map(str, result.check.complaints))}</td>",
            f'<td class="number">{result.seconds:.2f}</td>',
        ]
        for result in results
    ]
    return _table(["outcome", "check", "what was asked, and seen", "complaints", "seconds"], rows)


def _complaints(results: Sequence[Result]) -> str:
    rows = []
    for number, name in COMPLAINTS.items():
        asked = Counter(r.outcome for r in results if number in r.check.complaints)
        cells = [f'<td class="number">{asked[outcome] or ""}</td>' for outcome in Outcome]
        rows.append([f"<td>{number}. {escape(name)}</td>", *cells])
    return _table(["", *(outcome.value for outcome in Outcome)], rows)


def _voices(voices: dict[str, str]) -> str:
    rows = [[f"<td>{escape(api)}</td>", f"<td>{escape(how)}</td>"] for api, how in voices.items()]
    return _table(["API", "how, or why not"], rows)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{cell}</th>" for cell in header)
    body = "".join(f"<tr>{''.join(cells)}</tr>" for cells in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"
