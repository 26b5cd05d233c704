"""Plotly's figures as the page draws them: the title as text beside them, a layout for screens and one for phones.

Titles are text of the page, since plotly does not wrap them. Colours of text, grid and paper are the page's own, dark
or light, so templates are left out. On a phone the panels of a row stand one above the other.
"""

import copy
import html
import json
from typing import Any

import plotly.graph_objects as go

from tl_toxmem.report.blocks import Figure

_TOP, _BOTTOM = 50, 60
"""Pixels above the first panel, for its title, and below the last, for tick labels and the axis' title."""
_GAP = 120
"""Pixels between two panels on a phone: labels and title of one, title of the next."""
_LINE = 24
"""Pixels of a line of the legend."""
_SUB = "<br><sup>"


def page_figure(figure: go.Figure) -> Figure:
    """A figure as a block of the page."""
    # Through plotly's own encoder, so that NaN is null and arrays are lists.
    values = json.loads(figure.to_json())
    layout = values["layout"]
    layout.pop("template", None)
    text = layout.pop("title", {}).get("text", "")
    first, _, rest = text.partition(_SUB)
    height = layout["height"] - layout["margin"]["t"] - layout["margin"]["b"]
    wide = {**layout, "height": height + _TOP + _BOTTOM}
    wide["margin"] = {"l": 70, "r": 20, "t": _TOP, "b": _BOTTOM}
    return Figure(
        title=_plain(first),
        notes=tuple(_plain(line) for line in rest.removesuffix("</sup>").split("<br>") if line),
        data=values["data"],
        wide=wide,
        narrow=_narrow(layout, values["data"], height),
    )


def _plain(text: str) -> str:
    """Text of a figure without its markup; the template escapes it anew."""
    return html.unescape(text.replace("<br>", " "))


def _narrow(layout: dict[str, Any], data: list[dict[str, Any]], height: int) -> dict[str, Any]:
    """The layout for a phone."""
    found = copy.deepcopy(layout)
    names = [name.removeprefix("xaxis") for name in found if name.startswith("xaxis")]
    panels = sorted(names, key=lambda name: int(name or 1))
    whole = len(panels) * height + (len(panels) - 1) * _GAP
    if len(panels) > 1:
        _stack(found, panels, height / whole, _GAP / whole)
    below = _BOTTOM
    if "coloraxis" in found:
        bar = found["coloraxis"]["colorbar"]
        place = {"orientation": "h", "thickness": 12, "len": 0.9, "yanchor": "top"}
        title = {**_title(bar), "side": "top"}
        found["coloraxis"]["colorbar"] = {**bar, **place, "title": title, "y": -55 / whole}
        below += 75
    entries = sum(trace.get("showlegend", True) and "name" in trace for trace in data)
    if entries > 1:
        place = {"orientation": "h", "yanchor": "top", "y": -65 / whole, "x": 0}
        found["legend"] = {**found.get("legend", {}), **place}
        below += _LINE * entries
    found["height"] = whole + _TOP + below
    found["margin"] = {"l": 50, "r": 10, "t": _TOP, "b": below}
    found["font"] = {"size": 11}
    found["dragmode"] = False  # a finger scrolls the page
    return found


def _stack(layout: dict[str, Any], panels: list[str], share: float, gap: float) -> None:
    """Panels of a row one above the other, each with its own title and labels."""
    titles = [a for a in layout.get("annotations", []) if a.get("yref") == "paper" and a["y"] == 1]
    tops = [1 - i * (share + gap) for i in range(len(panels))]
    first = layout["yaxis"].get("title")
    for i, (name, top) in enumerate(zip(panels, tops, strict=True)):
        bottom = max(0.0, top - share)
        layout[f"xaxis{name}"] |= {"domain": [0, 1]}
        axis = layout[f"yaxis{name}"]
        shared = axis.pop("showticklabels", True) is False
        axis |= {"domain": [bottom, top], "showticklabels": True}
        if shared and first:
            axis["title"] = first
        if i < len(titles):
            titles[i] |= {"x": 0, "xanchor": "left", "align": "left", "y": top}


def _title(bar: dict[str, Any]) -> dict[str, Any]:
    title = bar.get("title", {})
    return {**title, "text": title.get("text", "").replace("<br>", " ")}
