"""The report of an evaluation: one HTML file that needs nothing else, and no text of any row."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from typing import Any

from prism.assure import plots

TITLES = {
    "auprc": "AUPRC",
    "f1": "F1",
    "precision": "precision",
    "recall": "recall",
    "fpr": "false positives",
    "recall_at_fpr": "recall at 1 % FPR",
}
_STYLE = """
:root{color-scheme:light dark}
body{font:15px/1.5 system-ui,sans-serif;max-width:70rem;margin:2rem auto;padding:0 1rem}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin-top:2rem}
table{border-collapse:collapse;margin:.5rem 0 1.5rem;display:block;overflow-x:auto}
th,td{padding:.25rem .7rem;text-align:right;border-bottom:1px solid #8884;white-space:nowrap}
th:first-child,td:first-child{text-align:left}
small{opacity:.7}figure{display:inline-block;margin:0 1rem 1rem 0;width:26rem;max-width:100%}
figcaption{font-weight:600}svg{width:100%;height:auto}
svg text{font-size:11px;fill:currentColor}svg polyline{fill:none;stroke-width:2}
svg .grid{stroke:#8883}svg .ideal{stroke:#888;stroke-dasharray:4 4}
.key{display:inline-block;width:.8em;height:.8em;margin-right:.4em;border-radius:2px}
.sure{font-weight:600}
"""


def html(result: Mapping[str, Any]) -> str:
    """Return the report of what ``evaluate`` returned."""
    systems, data = result["systems"], result["data"]
    options = result["options"]
    parts = [
        f"<h1>Evaluation of {' and '.join(escape(s['name']) for s in systems)}</h1>",
        f"<p>{data['measured']} texts measured, {data['unsafe']} of them unsafe; of "
        f"{data['rows']} rows {data['unlabelled']} had no label, {data['bad']} were bad, "
        f"{data['without_score']} got no score. Score <code>{escape(options['key'])}</code>; F1, "
        f"precision, recall and false positives from {options['threshold']:g} on. Brackets are "
        f"95 % bootstrap intervals ({options['bootstrap']} resamplings, seed {options['seed']})."
        "</p>",
        _legend(systems),
        plots.precision_recall([s["curve"] for s in systems]),
        plots.reliability([s["reliability"] for s in systems]),
    ]
    if any(s["cost"]["single_ms_sample"] for s in systems):
        parts.append(plots.cost([s["cost"]["single_ms_sample"] for s in systems]))
    parts.append("<h2>Overall</h2>")
    parts.append(_table("", {s["name"]: s["overall"] for s in systems}))
    if result["difference"] is not None:
        parts.append(
            "<h2>Difference, second less first</h2><p>On the same rows and resamplings; "
            "bold where the interval leaves out zero.</p>"
        )
        parts.append(_differences("", {"overall": result["difference"]["overall"]}))
    for kind in ("file", "category", "language"):
        for system in systems:
            if members := system["groups"][kind]:
                of = f", {escape(system['name'])}" if len(systems) > 1 else ""
                parts.append(f"<h2>By {kind}{of}</h2>{_table(kind, members)}")
        if result["difference"] is not None and result["difference"]["groups"][kind]:
            parts.append(f"<h2>Difference by {kind}</h2>")
            parts.append(_differences(kind, result["difference"]["groups"][kind]))
    parts += [_decisions(systems), _costs(systems)]
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>PRISM evaluation</title><style>{_STYLE}</style></head>"
        f"<body>{''.join(parts)}</body></html>\n"
    )


def _legend(systems: Sequence[Mapping[str, Any]]) -> str:
    keys = zip(systems, plots.COLOURS, strict=False)
    return "<p>" + " &nbsp; ".join(
        f'<span class="key" style="background:{colour}"></span>{escape(system["name"])}'
        for system, colour in keys
    ) + "</p>"  # fmt: skip


def _grid(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    head = "".join(f"<th>{cell}</th>" for cell in header)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _table(kind: str, members: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [
        [escape(name), str(m["unsafe"]), str(m["safe"]), *(_cell(m[key]) for key in TITLES)]
        for name, m in members.items()
    ]
    return _grid([kind, "unsafe", "safe", *TITLES.values()], rows)


def _differences(kind: str, members: Mapping[str, Mapping[str, Any]]) -> str:
    rows = [[escape(name), *(_cell(m[key], "+") for key in TITLES)] for name, m in members.items()]
    return _grid([kind, *TITLES.values()], rows)


def _cell(measure: Mapping[str, Any] | None, sign: str = "") -> str:
    if measure is None:
        return "–"
    value = format(measure["value"], f"{sign}.3f")
    interval = measure["interval"]
    between = f" <small>[{interval[0]:{sign}.3f}, {interval[1]:{sign}.3f}]</small>" if (
        interval
    ) else ""  # fmt: skip
    return f'<span class="sure">{value}</span>{between}' if measure.get("sure") else value + between


def _decisions(systems: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for system in systems:
        for truth, counts in system["actions"].items():
            total = sum(counts.values())
            rows += [
                [escape(system["name"]), truth, escape(action), str(n), f"{n / total:.3f}"]
                for action, n in sorted(counts.items())
            ]
    if not rows:
        return ""
    return "<h2>What the policy does</h2>" + _grid(["", "texts", "action", "", "share"], rows)


def _costs(systems: Sequence[Mapping[str, Any]]) -> str:
    rows = []
    for system in systems:
        total = sum(system["tiers"].values())
        tiers = ", ".join(f"{escape(t)} {n / total:.1%}" for t, n in system["tiers"].items())
        cost = system["cost"]
        cpu = "–" if cost["cpu_ms_per_text"] is None else f"{cost['cpu_ms_per_text']:.2f}"
        single = cost["single_ms"]
        alone = [f"{single[q]:.2f}" for q in ("p50", "p90", "p99")] if single else ["–"] * 3
        rows.append([escape(system["name"]), tiers or "–", cpu, *alone])
    header = ["", "dearest tier that ran", "processor ms per text, batched"]
    return "<h2>Cost</h2>" + _grid([*header, "alone: median ms", "p90", "p99"], rows)
