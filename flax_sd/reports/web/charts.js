// Draws each element of class "chart" from the JSON inside it, with uPlot. The plots are in `plots`,
// in the order of the page.
"use strict";
const plots = [];
const DARK = matchMedia("(prefers-color-scheme: dark)");
const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();

// A colour of the page, of which a share is seen: in the dark more of it, as pale is harder to see.
function colour(number, share = 1) {
  const value = css(`--line-${number % 8}`);
  const seen = DARK.matches ? share ** 0.75 : share;
  return value + Math.round(255 * seen).toString(16).padStart(2, "0");
}

function shown(value) {
  if (value == null) return "–";
  const size = Math.abs(value);
  if (size && (size < 1e-3 || size >= 1e6)) return value.toExponential(2);
  return String(Number(value.toPrecision(4)));
}

// uPlot's series of a line: itself, and the two edges of its band.
function seriesOf(line) {
  const own = {
    label: line.label,
    stroke: () => colour(line.colour, line.strength),
    width: line.dots ? 0 : 1.75,
    paths: line.dots ? () => null : undefined,
    points: { show: line.dots || line.x.length <= 12, size: line.dots ? 5 : 6 },
    spanGaps: true,
    value: (plot, value, place, index) => {
      // Without a pointer, the last value.
      const at = index ?? plot.data[place].findLastIndex((y) => y != null);
      const y = plot.data[place][at];
      const high = line.band && y != null ? plot.data[place + 2][at] : null;
      return shown(y) + (high == null ? "" : ` ± ${shown(high - y)}`);
    },
  };
  if (line.dots) own.points.fill = own.stroke;
  const edge = { width: 0, points: { show: false }, spanGaps: true, class: "edge" };
  return line.band ? [own, edge, edge] : [own];
}

// The lines' values over the x of all of them; a logarithm has room for what is above zero alone.
function dataOf(lines, log) {
  const fit = (values) => values.map((y) => (log && y !== null && y <= 0 ? null : y));
  const tables = lines.map((line) => [line.x, line.y, ...(line.band || [])]);
  return uPlot.join(tables.map(([x, ...columns]) => [x, ...columns.map(fit)]));
}

function axis(more) {
  const lines = { stroke: () => css("--quiet"), grid: { stroke: () => css("--rule"), width: 1 } };
  return { ...lines, ticks: { show: false }, font: "12px system-ui, sans-serif", ...more };
}

// A band goes and comes with its line, when a click in the legend hides it.
function hideBand(plot, i, change) {
  if (change.show == null || plot.series[i].class === "edge") return;
  for (let j = i + 1; plot.series[j] && plot.series[j].class === "edge"; j++)
    plot.setSeries(j, { show: change.show });
}

function draw(element, chart, log) {
  const series = [{ label: chart.across, value: (plot, x) => shown(x ?? plot.data[0].at(-1)) }];
  const bands = [];
  for (const line of chart.lines) {
    const first = series.length;
    series.push(...seriesOf(line));
    if (line.band)
      bands.push({ series: [first + 2, first + 1], fill: () => colour(line.colour, 0.16) });
  }
  const options = {
    width: element.clientWidth,
    height: chart.wide ? 320 : 240,
    series,
    bands,
    scales: { x: { time: false }, y: { distr: log ? 3 : 1 } },
    axes: [axis({ size: 28 }), axis({ size: 62, values: (plot, ys) => ys.map((y) => (y == null ? "" : shown(y))) })],
    cursor: { sync: chart.across === "step" ? { key: "step", setSeries: false } : undefined },
    hooks: { setSeries: [hideBand] },
  };
  const plot = new uPlot(options, dataOf(chart.lines, log), element);
  const image = element.querySelector(".u-wrap");
  image.setAttribute("role", "img");
  image.setAttribute("aria-label", chart.text);
  return plot;
}

function place(element) {
  const chart = JSON.parse(element.querySelector("script").textContent);
  const title = document.createElement("h3");
  title.textContent = chart.title;
  const box = document.createElement("input");
  const label = document.createElement("label");
  box.type = "checkbox";
  label.append(box, " logarithmic axis");
  const head = document.createElement("div");
  head.className = "head";
  head.append(title, label);
  const canvas = document.createElement("div");
  const note = document.createElement("p");
  note.className = "quiet";
  note.textContent = chart.note;
  element.append(head, canvas, note);
  const kept = `${location.pathname} log ${chart.title}`;
  const number = plots.length;
  box.checked = chart.log;
  if (sessionStorage.getItem(kept)) box.checked = sessionStorage.getItem(kept) === "true";
  plots.push(draw(canvas, chart, box.checked));
  box.onchange = () => {
    sessionStorage.setItem(kept, box.checked);
    plots[number].destroy();
    plots[number] = draw(canvas, chart, box.checked);
  };
  new ResizeObserver(() => {
    const { width, height } = plots[number];
    if (canvas.clientWidth && canvas.clientWidth !== width)
      plots[number].setSize({ width: canvas.clientWidth, height });
  }).observe(canvas);
}

addEventListener("DOMContentLoaded", () => document.querySelectorAll(".chart").forEach(place));
DARK.addEventListener("change", () => plots.forEach((plot) => plot.redraw(false)));
