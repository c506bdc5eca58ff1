"""A ladder as one HTML page that needs nothing else: no script, no other file, light and dark.

Everything on it comes from strangers, so everything is escaped, and the page forbids itself to load anything.
"""

from collections.abc import Sequence
from html import escape

from pcscf.capture.sip import Seen
from pcscf.capture.trace import Flow, Line, shown
from pcscf.printable import printable

_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<title>{title}</title>
<style>
:root {{ color-scheme: light dark; --esp: #05668d; --clear: #8a4b00; --bad: #b00020; --line: #8884; }}
@media (prefers-color-scheme: dark) {{ :root {{ --esp: #6cc4ee; --clear: #f0b35a; --bad: #ff8095; }} }}
body {{ font: 14px/1.45 system-ui, sans-serif; margin: 1.5rem; }}
.ladder {{ overflow-x: auto; }}
pre, summary {{ font: 13px/1.35 ui-monospace, "DejaVu Sans Mono", monospace; white-space: pre; margin: 0; }}
summary {{ cursor: pointer; list-style: none; }}
summary::-webkit-details-marker {{ display: none; }}
summary:hover, summary:focus-visible {{ background: #8882; }}
details > pre {{ margin: .3rem 0 .6rem 5rem; padding: .6rem; border-left: 3px solid var(--line); }}
.esp {{ color: var(--esp); }} .clear {{ color: var(--clear); }} .bad, .shut {{ color: var(--bad); }}
.head {{ font-weight: bold; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{count} messages. Double lines ride on ESP, single lines are clear, dashed ones could not be opened.
A click on a message shows it whole.</p>
<div class="ladder">
<pre class="head">{heading}</pre>
{rows}
</div>
</body>
</html>
"""


def page(title: str, flow: Flow, lines: Sequence[Line]) -> str:
    """The whole page."""
    return _PAGE.format(
        title=escape(printable(title)),
        count=sum(isinstance(line.item, Seen) for line in lines),
        heading=escape(flow.sheet.heading()),
        rows="\n".join(map(_row, lines)),
    )


def _row(line: Line) -> str:
    text = escape(line.text)
    if isinstance(line.item, Seen):
        whole = escape(shown(line.item.message))
        return f'<details><summary class="{line.kind}">{text}</summary><pre>{whole}</pre></details>'
    return f'<pre class="{line.kind}">{text}</pre>'
