// Charts in the colours of the page. Every variant has its colour, its mark and its dash, so that none depends on colour.

const SYMBOLS = { base: "x", aligned: "circle", narrowed: "square", shuffled: "triangle-up", labels: "diamond" };
const DASHES = { base: "solid", aligned: "solid", narrowed: "dot", shuffled: "dash", labels: "dashdot" };
const OTHERS = ["aligned", "shuffled", "labels", "base", "narrowed"];
const CONFIG = { displayModeBar: false, displaylogo: false, responsive: true, scrollZoom: false };
const hasMouse = matchMedia("(pointer: fine)").matches;
const drawn = new Map(); // element -> the function that draws it

const colorOf = (name) => getComputedStyle(document.documentElement).getPropertyValue(`--${name}`).trim();

function seriesKey(line, index) {
  return line.key in SYMBOLS ? line.key : OTHERS[index % OTHERS.length];
}

function axis(title, more = {}) {
  return {
    title: { text: title, standoff: 8 }, automargin: true, gridcolor: colorOf("line"), zeroline: false,
    linecolor: colorOf("line"), tickfont: { color: colorOf("quiet"), size: 11 }, fixedrange: !hasMouse, ...more,
  };
}

function layout(x, y, more = {}) {
  return {
    xaxis: x, yaxis: y, margin: { l: 54, r: 12, t: 8, b: 44 }, paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)", font: { color: colorOf("ink"), family: "system-ui, sans-serif", size: 12 },
    hoverlabel: { bgcolor: colorOf("card"), bordercolor: colorOf("quiet"), font: { color: colorOf("ink") } },
    legend: { orientation: "h", y: 1.02, yanchor: "bottom", x: 0, font: { size: 11 } }, hovermode: "closest",
    dragmode: hasMouse ? "zoom" : false, ...more,
  };
}

function plot(element, traces, look) {
  return Plotly.react(element, traces, look, CONFIG);
}

function trace(chart, line, index) {
  const key = seriesKey(line, index), color = colorOf(`series-${key}`);
  const isSecond = !chart.is_scatter && chart.lines.slice(0, index).some((other) => other.key === line.key);
  return {
    x: line.x, y: line.y, text: line.labels, name: line.name, type: "scatter",
    mode: chart.is_scatter ? "markers" : "lines+markers",
    line: { color, width: isSecond ? 1.2 : 2.2, dash: DASHES[key] },
    marker: { color, symbol: SYMBOLS[key], size: chart.is_scatter ? 7 : 5, opacity: chart.is_scatter ? 0.75 : 1 },
    hovertemplate: chart.is_scatter
      ? `%{text}<br>${chart.hover[0]} %{x:.1f} mm, ${chart.hover[1] || "%{fullData.name}"} %{y:.1f} mm<extra></extra>`
      : "step %{x}: %{y:.4g}<extra>%{fullData.name}</extra>",
  };
}

function drawChart(element, chart) {
  const look = layout(axis(chart.x_label), axis(chart.y_label, { tickformat: "~g" }), { showlegend: true });
  if (chart.is_scatter) {
    const values = chart.lines.flatMap((line) => [...line.x, ...line.y]);
    const low = Math.min(...values) * 0.95, high = Math.max(...values) * 1.05;
    const ends = { type: "line", x0: low, y0: low, x1: high, y1: high };
    look.shapes = [{ ...ends, layer: "below", line: { color: colorOf("quiet"), dash: "dot", width: 1 } }];
    look.xaxis.range = [low, high];
    look.yaxis.range = [low, high];
  }
  return plot(element, chart.lines.map((line, index) => trace(chart, line, index)), look);
}

// Draws when the element comes into view, and again when the colours change.
const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) {
    if (!entry.isIntersecting) continue;
    seen.unobserve(entry.target);
    drawn.get(entry.target)();
  }
}, { rootMargin: "200px" });

function drawWhenSeen(element, draw) {
  drawn.set(element, draw);
  seen.observe(element);
}

function redraw(element) {
  if (element.data) drawn.get(element)();
}

matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => [...drawn.keys()].forEach(redraw));

const CHARTS = readJson("charts-data");
for (const element of document.querySelectorAll("[data-chart]")) {
  drawWhenSeen(element, () => drawChart(element, CHARTS[Number(element.dataset.chart)]));
}
