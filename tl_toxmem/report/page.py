"""The page: its sections in their order, its style and scripts within it, and what it may run.

The content-security policy names both scripts by their hashes, so that no other runs, wherever it came from, and lets
nothing be fetched. Data of figures are JSON, which does not run. Styles may stand inline: plotly adds style sheets of
its own, which differ between its versions, and sets style attributes. As nothing can be fetched, no style tells anybody
anything.
"""

import re
from base64 import b64encode
from collections.abc import Callable
from hashlib import sha256
from importlib import resources
from pathlib import Path
from typing import Any

import jinja2
from plotly.offline import get_plotlyjs

from tl_toxmem.files import write_bytes
from tl_toxmem.report.answer import answer_section
from tl_toxmem.report.blocks import Section
from tl_toxmem.report.controls import controls_section
from tl_toxmem.report.examples import examples_section
from tl_toxmem.report.front import front_section
from tl_toxmem.report.judges import judges_section
from tl_toxmem.report.neurons import neurons_section
from tl_toxmem.report.origin import certificate_section, provenance_section
from tl_toxmem.report.results import Results, model_name, read_results
from tl_toxmem.report.tasks import tasks_section
from tl_toxmem.report.where import robustness_section, where_section
from tl_toxmem.store import OURS, RunFolder

SECTIONS: tuple[Callable[[Results], Section | None], ...] = (
    answer_section,
    where_section,
    neurons_section,
    examples_section,
    front_section,
    controls_section,
    tasks_section,
    judges_section,
    robustness_section,
    certificate_section,
    provenance_section,
)
"""In the order of the page; one that has no data makes None."""


def write_report(path: Path) -> Path:
    """Write `8_report.html` into a finished run folder.

    Raises:
        ToxmemError: an artefact is missing (naming it) or damaged.
    """
    folder = RunFolder(path)
    write_bytes(folder.report, page_html(read_results(folder)).encode("utf-8"))
    return folder.report


def make_sections(results: Results) -> list[Section]:
    """The sections that there are data for."""
    return [section for make in SECTIONS if (section := make(results)) is not None]


def page_html(results: Results) -> str:
    """The whole page."""
    assets = resources.files("tl_toxmem") / "assets" / "report"
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(str(assets)),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["unbroken"] = _unbroken
    environment.policies["json.dumps_kwargs"] = {"sort_keys": True, "allow_nan": False}
    style, script = ((assets / name).read_text("utf-8") for name in ("page.css", "page.js"))
    values: dict[str, Any] = {
        "sections": make_sections(results),
        "model": model_name(results.cfg),
        "version": results.provenance["versions"][OURS],
        "style": style,
        "script": script,
        "plotly": get_plotlyjs(),
    }
    return environment.get_template("page.html.jinja").render(**values, policy=_policy(values))


def _unbroken(text: str) -> str:
    """No line ends between a number and its percent sign, or within "n = 40"."""
    return re.sub(r"\bn = (?=\d)", "n\u00a0=\u00a0", re.sub(r"(?<=\d) %", "\u00a0%", text))


def _policy(values: dict[str, Any]) -> str:
    scripts = " ".join(_hash(values[name]) for name in ("plotly", "script"))
    return (
        f"default-src 'none'; script-src {scripts}; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; "
        "form-action 'none'"
    )


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"
