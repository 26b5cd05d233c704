// Draws the figures in the page's colours, and works its two switches.
"use strict";
(() => {
  const root = document.documentElement;
  const system = matchMedia("(prefers-color-scheme: dark)");
  const phone = matchMedia("(max-width: 720px)");
  const theme = document.getElementById("theme");
  const plain = document.getElementById("plain");
  const figures = [...document.querySelectorAll("figure")].map((figure) => ({
    place: figure.querySelector(".plot"),
    spec: JSON.parse(figure.querySelector("script").textContent),
  }));

  const isDark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);

  function template() {
    const style = getComputedStyle(root);
    const colour = (name) => style.getPropertyValue(name).trim();
    const ink = colour("--ink");
    const axis = {
      automargin: true, gridcolor: colour("--grid"), linecolor: colour("--line"), zerolinecolor: colour("--line"),
      title: { standoff: 12 },
    };
    return {
      layout: {
        font: { color: ink, family: "system-ui, sans-serif" },
        paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
        hoverlabel: { bgcolor: colour("--card"), bordercolor: colour("--line"), font: { color: ink } },
        modebar: { bgcolor: "rgba(0,0,0,0)", color: colour("--soft"), activecolor: ink },
        shapedefaults: { line: { color: colour("--soft") } },
        xaxis: axis, yaxis: axis,
      },
      data: { bar: [{ error_y: { color: ink } }] },
    };
  }

  // A black line is one of the palette's colours; on dark paper it has to be light.
  function onPaper(trace) {
    if (!isDark() || !trace.line || trace.line.color !== "#000000") return trace;
    return { ...trace, line: { ...trace.line, color: "#f0f0f0" } };
  }

  async function draw() {
    const narrow = phone.matches;
    const config = {
      responsive: true, displaylogo: false, showTips: false, displayModeBar: narrow ? false : "hover",
      modeBarButtons: [["zoom2d", "pan2d", "resetScale2d", "toImage"]],
    };
    const look = template();
    for (const { place, spec } of figures) {
      // Plotly writes into what it is given.
      const { data, wide, narrow: small } = structuredClone(spec);
      const layout = { ...(narrow ? small : wide), template: look };
      await Plotly.react(place, data.map(onPaper), layout, config);
    }
    theme.textContent = isDark() ? "Light" : "Dark";
    root.dataset.drawn = String(figures.length);
  }

  function decode(text) {
    return new TextDecoder().decode(Uint8Array.from(atob(text), (letter) => letter.charCodeAt(0)));
  }

  let shown = false;
  function unmask() {
    shown = !shown;
    for (const span of document.querySelectorAll(".masked")) {
      span.dataset.mask ??= span.textContent;
      span.textContent = shown ? decode(span.dataset.plain) : span.dataset.mask;
    }
    plain.textContent = shown ? "Mask insults and slurs" : "Show insults and slurs";
  }

  theme.addEventListener("click", () => {
    root.dataset.theme = isDark() ? "light" : "dark";
    draw();
  });
  plain.addEventListener("click", unmask);
  for (const query of [system, phone]) query.addEventListener("change", draw);
  draw();
})();
