"""The report page in a real browser: no console message, every figure drawn and nothing cut, the switches work.

Chromium has no remote control here, so the page gets a second script, allowed by its hash, that presses the buttons and
tells a frame around it what it saw; the frame also makes the page as narrow as a phone.
"""

import html
import json
import re
import shutil
import subprocess
from base64 import b64encode
from hashlib import sha256

import pytest
from report_pages import HOSTILE, Page, full, page_of, read

CHROMIUM = next(
    (path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None
)  # fmt: skip
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="chromium is not installed")
PHONE, SCREEN = 390, 1280
SLACK = 2
"""Pixels by which the box of a glyph may differ from what is drawn."""
WAIT = 20_000
"""Virtual milliseconds, which pass as fast as the page has nothing to do."""
DRIVER = """
(async () => {
  const root = document.documentElement;
  const until = async (is) => { while (!is()) await new Promise((done) => setTimeout(done, 20)); };
  const buttons = { theme: document.getElementById("theme"), plain: document.getElementById("plain") };
  const masked = [...document.querySelectorAll(".masked")];
  const words = () => masked.map((span) => span.textContent);
  const paper = () => getComputedStyle(document.body).backgroundColor;
  const ink = () => getComputedStyle(document.querySelector(".plot .xtick text")).fill;
  const seen = { width: innerWidth };
  await until(() => root.dataset.drawn);
  seen.plots = document.querySelectorAll(".plot").length;
  seen.drawn = [...document.querySelectorAll(".plot")].filter((plot) => plot.querySelector(".main-svg")).length;
  seen.panels = [...document.querySelectorAll(".plot")].map((plot) => new Set(
    [...plot.querySelectorAll(".annotation")].map((title) => Math.round(title.getBoundingClientRect().bottom))
  ).size);
  seen.wide = root.scrollWidth;
  seen.cut = [];
  for (const plot of document.querySelectorAll(".plot")) {
    const box = plot.getBoundingClientRect();
    for (const text of plot.querySelectorAll(".main-svg text")) {
      const own = text.getBoundingClientRect();
      if (!own.width || text.closest(".hoverlayer")) continue;
      if (own.left < box.left - SLACK || own.right > box.right + SLACK || own.bottom > box.bottom + SLACK)
        seen.cut.push(`${plot.getAttribute("aria-label")}: ${text.textContent}`);
    }
  }
  seen.light = [paper(), ink(), buttons.theme.textContent];
  delete root.dataset.drawn;
  buttons.theme.click();
  await until(() => root.dataset.drawn);
  seen.dark = [paper(), ink(), buttons.theme.textContent];
  seen.masked = words();
  buttons.plain.click();
  seen.plain = words();
  seen.offers = buttons.plain.textContent;
  buttons.plain.click();
  seen.again = words();
  seen.images = document.images.length;
  const first = document.querySelector("a, button, [tabindex]");
  first.focus();
  seen.skip = [first.getAttribute("href"), first.getBoundingClientRect().left >= 0];
  document.querySelector("summary").click();
  seen.opened = document.querySelector("details").open;
  document.querySelectorAll("details").forEach((card) => { card.open = true; });
  seen.unreached = [...document.querySelectorAll("a[href], button, summary, [tabindex='0']")].filter((stop) => {
    stop.focus();
    return document.activeElement !== stop;
  }).map((stop) => stop.outerHTML);
  parent.postMessage(seen, "*");
})();
""".replace("SLACK", str(SLACK))
FRAME = """<!doctype html><meta charset="utf-8"><body style="margin:0">
<iframe src="page.html" style="border:0;width:{width}px;height:900px"></iframe><pre id="seen"></pre>
<script>addEventListener("message", (event) => {{
  document.getElementById("seen").textContent = JSON.stringify(event.data);
}});</script>"""


def driven(page: str) -> str:
    """A page with the driver in it."""
    digest = b64encode(sha256(DRIVER.encode()).digest()).decode()
    allowed = page.replace("script-src ", f"script-src &#39;sha256-{digest}&#39; ", 1)
    return allowed.replace("</body>", f"<script>{DRIVER}</script></body>")


def visit(folder, page: str, width: int, *options: str) -> tuple[dict, list[str]]:
    """What the driver saw, and what the console said."""
    folder.mkdir()
    (folder / "page.html").write_text(driven(page))
    (folder / "frame.html").write_text(FRAME.format(width=width))
    command = [
        CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--enable-logging=stderr",
        f"--user-data-dir={folder / 'profile'}", f"--window-size={max(width, 500)},1000",
        f"--virtual-time-budget={WAIT}", *options, "--dump-dom", (folder / "frame.html").as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=300)
    told = re.search(r'<pre id="seen">(.*?)</pre>', done.stdout, re.DOTALL)[1]
    console = [line for line in done.stderr.splitlines() if "CONSOLE" in line]
    assert told, (console, done.stderr[-2000:])
    return json.loads(html.unescape(told)), console


@pytest.fixture(scope="module")
def page(finished) -> str:
    return page_of(full(read(finished), text=HOSTILE))


@pytest.fixture(scope="module", params=[PHONE, SCREEN], ids=["phone", "screen"])
def visited(request, page, tmp_path_factory):
    return request.param, *visit(tmp_path_factory.mktemp("seen") / "own", page, request.param)


def test_the_console_is_silent(visited):
    _, _, console = visited
    assert not console


def test_every_figure_is_drawn_and_nothing_is_cut(visited, page):
    width, seen, _ = visited
    assert seen["width"] == width
    assert seen["drawn"] == seen["plots"] == len(Page(page).all("figure")) == 10
    assert not seen["cut"]
    assert seen["wide"] <= width, "the page itself does not scroll sideways"


def test_panels_stand_one_above_the_other_only_on_a_phone(visited):
    width, seen, _ = visited
    panels = {1, 2, 4, 5} if width == PHONE else {1}
    assert set(seen["panels"]) - {0} == panels, seen["panels"]


def test_the_switch_shows_plain_text_as_text_and_masks_it_again(visited):
    _, seen, _ = visited
    assert HOSTILE in seen["plain"] and seen["offers"] == "Mask insults and slurs"
    assert seen["again"] == seen["masked"]
    assert "stupid" not in " ".join(seen["masked"])
    assert seen["images"] == 0, "markup in a text is no markup"


def test_the_other_switch_changes_paper_and_ink(visited):
    _, seen, _ = visited
    assert seen["light"] == ["rgb(255, 255, 255)", "rgb(28, 32, 36)", "Dark"]
    assert seen["dark"] == ["rgb(21, 25, 29)", "rgb(232, 236, 240)", "Light"]


def test_the_first_stop_skips_to_the_answer_and_cards_open(visited):
    _, seen, _ = visited
    assert seen["skip"] == ["#main", True]
    assert seen["unreached"] == []
    assert seen["opened"]


def test_the_page_follows_a_dark_system(page, tmp_path):
    seen, console = visit(tmp_path / "own", page, PHONE, "--blink-settings=preferredColorScheme=0")
    assert not console
    assert seen["light"][0] == "rgb(21, 25, 29)"
    assert seen["dark"][0] == "rgb(255, 255, 255)"
