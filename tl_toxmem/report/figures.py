"""Plotly's figures as the page draws them: the title as text beside them, a layout for screens and one for phones.

Titles are text of the page, since plotly does not wrap them. Colours of text, grid and paper are the page's own, dark
or light, so templates are left out. On a phone the panels of a row stand one above the other.
"""

import copy
import html
import json
import textwrap
from typing import Any

import plotly.graph_objects as go

from tl_toxmem.report.blocks import Figure

_BAR, _TITLE, _BOTTOM = 36, 40, 60
"""Pixels above the first panel, for plotly's buttons and for its title; below the last, for labels and axis title."""
_GAP = 120
"""Pixels between two panels on a phone: labels and title of one, title of the next."""
_LINE, _LETTER = 24, 7
"""Pixels of a line of the legend, and of a letter of a label that stands upright."""
_LETTERS = 40
"""What fits on a line of a phone."""
_SUB = "<br><sup>"


def page_figure(figure: go.Figure, *notes: str) -> Figure:
    """A figure as a block of the page; `notes` are more lines below its title."""
    # Through plotly's own encoder, so that NaN is null and arrays are lists.
    values = json.loads(figure.to_json())
    layout = values["layout"]
    layout.pop("template", None)
    text = layout.pop("title", {}).get("text", "")
    first, _, rest = text.partition(_SUB)
    height = layout["height"] - layout["margin"]["t"] - layout["margin"]["b"]
    top = _TITLE if _panel_titles(layout) else 0
    wide = {**layout, "height": height + _BAR + top + _BOTTOM}
    wide["margin"] = {"l": 70, "r": 20, "t": _BAR + top, "b": _BOTTOM}
    return Figure(
        title=_plain(first),
        notes=(*(_plain(x) for x in rest.removesuffix("</sup>").split("<br>") if x), *notes),
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
    gap = max(_GAP, _upright(data) + _BOTTOM)
    whole = len(panels) * height + (len(panels) - 1) * gap
    if len(panels) > 1:
        _stack(found, panels, height / whole, gap / whole)
    for name in panels:
        _wrap(found[f"xaxis{name}"].get("title", {}))
    below = max(_BOTTOM + 15, _upright(data) + 10)
    if "coloraxis" in found:
        bar = found["coloraxis"]["colorbar"]
        place = {"orientation": "h", "thickness": 12, "len": 0.9, "yanchor": "top"}
        title = {"text": bar["title"]["text"].replace("<br>", " "), "side": "top"}
        found["coloraxis"]["colorbar"] = {**bar, **place, "title": title, "y": -55 / whole}
        below += 70
    entries = sum(trace.get("showlegend", True) and "name" in trace for trace in data)
    if entries > 1:
        place = {"orientation": "h", "yanchor": "top", "y": -75 / whole, "x": 0}
        found["legend"] = {**found.get("legend", {}), **place}
        below += _LINE * entries
    top = _TITLE if _panel_titles(layout) else 10
    found["height"] = whole + top + below
    found["margin"] = {"l": 50, "r": 10, "t": top, "b": below}
    found["font"] = {"size": 11}
    found["dragmode"] = False  # a finger scrolls the page
    return found


def _upright(data: list[dict[str, Any]]) -> int:
    """Pixels that the longest name below an axis takes when it stands upright; 0 without names."""
    names = [x for trace in data if trace["type"] == "bar" for x in trace["x"]]
    lines = [line for name in names if isinstance(name, str) for line in name.split("<br>")]
    return _LETTER * max(map(len, lines), default=0)


def _wrap(title: dict[str, Any]) -> None:
    """Break a title's lines where a phone's edge would cut them."""
    if "text" in title:
        lines = title["text"].split("<br>")
        wrapped = (textwrap.fill(line, _LETTERS, break_long_words=False) for line in lines)
        title["text"] = "<br>".join(wrapped).replace("\n", "<br>")


def _stack(layout: dict[str, Any], panels: list[str], share: float, gap: float) -> None:
    """Panels of a row one above the other, each with its own title and labels."""
    titles = _panel_titles(layout)
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
            titles[i]["font"] = {"size": 13}
            _wrap(titles[i])


def _panel_titles(layout: dict[str, Any]) -> list[dict[str, Any]]:
    """What plotly puts above the panels of a row."""
    return [a for a in layout.get("annotations", []) if a.get("yref") == "paper" and a["y"] == 1]
