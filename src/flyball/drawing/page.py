"""The frame of every self-contained page: one style for light and dark, and a policy that forbids everything else.

The surprise: such a page runs nothing. No script, no font, no address, so the file can be mailed and kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from html import escape

from flyball.drawing.charts import CHART_CSS

__all__ = ["page"]

PAGE_CSS = """
:root { color-scheme: light dark; --paper: #fff; --ink: #1b1f24; --ink-soft: #5a6470; --rule: #dfe3e8; --one: #0b63b0;
  --two: #b3541e; --three: #5f6b2d; --alarm: #8a5a00; --good: #1a6b3c; --bad: #a8232f; --card: #f6f7f9; }
@media (prefers-color-scheme: dark) { :root { --paper: #14171b; --ink: #e8eaed; --ink-soft: #a3acb7; --rule: #333a42;
  --one: #6db3f2; --two: #f0a070; --three: #b7c776; --alarm: #e5b454; --good: #6fcf97; --bad: #f28b94;
  --card: #1d2127; } }
* { box-sizing: border-box; }
body { margin: 0 auto; max-width: 860px; padding: 24px 16px 48px; background: var(--paper); color: var(--ink);
  font: 15px/1.5 system-ui, sans-serif; }
h1 { font-size: 24px; margin: 0 0 4px; } h2 { font-size: 17px; margin: 32px 0 8px; } p { margin: 0 0 12px; }
.soft { color: var(--ink-soft); }
.figures { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 8px; padding: 0;
  margin: 16px 0; }
.figures div { background: var(--card); border-radius: 6px; padding: 10px 12px; }
.figures dt { color: var(--ink-soft); font-size: 13px; } .figures dd { margin: 0; font-size: 20px;
  font-variant-numeric: tabular-nums; }
.scroll { overflow-x: auto; }
table { border-collapse: collapse; width: 100%; font-size: 14px; } th, td { text-align: left; padding: 6px 10px 6px 0;
  border-bottom: 1px solid var(--rule); vertical-align: top; } th { font-weight: 600; }
th:first-child, td:first-child { white-space: nowrap; } .scroll td:last-child { min-width: 15em; }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }
.promoted { color: var(--good); } .rolled_back { color: var(--bad); } .paused { color: var(--alarm); }
.narrow { display: none; }
@media (max-width: 560px) { .wide { display: none; } .narrow { display: block; } }
"""
POLICY = "default-src 'none'; style-src 'unsafe-inline'; base-uri 'none'; form-action 'none'"


def page(title: str, body: Sequence[str]) -> str:
    """Return a whole HTML page.

    Args:
        title: Plain text.
        body: HTML parts, in order.
    """
    return (
        '<!doctype html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{POLICY}">\n'
        f"<title>{escape(title)}</title>\n<style>{PAGE_CSS}{CHART_CSS}</style>\n</head>\n<body>\n"
        + "\n".join(body)
        + "\n</body>\n</html>\n"
    )
