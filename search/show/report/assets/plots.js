// How plots look, and when they are drawn: what is out of sight waits until it comes into view.

const CONFIG = {
  responsive: true,
  displaylogo: false,
  showSendToCloud: false,
  modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
};
const TOUCH = matchMedia("(pointer: coarse)").matches;
const STUDY_LOOKS = [
  { symbol: "circle", dash: "solid" },
  { symbol: "square", dash: "dash" },
  { symbol: "triangle-up", dash: "dot" },
  { symbol: "pentagon", dash: "dashdot" },
  { symbol: "hexagon2", dash: "longdash" },
  { symbol: "star", dash: "longdashdot" },
];

function colours() {
  const style = getComputedStyle(document.documentElement);
  const read = (name) => style.getPropertyValue(`--${name}`).trim();
  const names = ["ink", "muted", "faint", "line", "paper", "card", "accent", "pick"];
  const series = [1, 2, 3, 4, 5, 6].map((number) => read(`series-${number}`));
  return { ...Object.fromEntries(names.map((name) => [name, read(name)])), series };
}

/** The settings of an axis, with a title. */
const axis = (look, title, settings = {}) => ({
  title: { text: escaped(title), font: { size: 13, color: look.muted }, standoff: 8 },
  gridcolor: look.line,
  linecolor: look.line,
  zeroline: false,
  tickcolor: look.line,
  tickfont: { size: 12, color: look.muted },
  ...settings,
});

/** A log axis of sizes in bytes, labelled at 1, 2 and 5 of each decade. */
function sizeAxis(look, [low, high], settings = {}) {
  const values = nice(low, high);
  return axis(look, "size of the file", {
    type: "log",
    range: [Math.log10(low), Math.log10(high)],
    tickvals: values,
    ticktext: values.map(size).map((text) => text.replace(/\.0+(?= )/, "")),
    ...settings,
  });
}

/** 1, 2 and 5 of each decade over the whole range that a plot may be zoomed out to. */
function nice(low, high) {
  const wide = Math.log10(high / low) > 2.5;
  const steps = wide ? [1, 3] : Math.log10(high / low) > 0.6 ? [1, 2, 5] : [1, 1.5, 2, 3, 4, 5, 6, 7, 8, 9];
  const values = [];
  for (let power = 0; power < 12; power++) for (const step of steps) values.push(step * 10 ** power);
  return values;
}

const drawn = new Map();

/** Loads plotly.js, which takes longer than all else of the page: called once, after what needs no
 * plot is on the screen. */
let loadPlotly;
const plotly = new Promise((loaded) => {
  loadPlotly = () => {
    const script = el("script", { src: "plotly.min.js", onload: loaded, onerror: loaded });
    document.head.append(script);
    return plotly;
  };
});

/** Draws what `make(colours)` returns, as soon as plotly.js is there, and again when the colours
 * change. The promise tells whether it is drawn: not without plotly.js, nor when something else is
 * to be drawn there. */
async function draw(node, make) {
  drawn.set(node, make);
  if (!window.Plotly) {
    await plotly;
    if (drawn.get(node) !== make || !node.isConnected) return false;
  }
  if (window.Plotly) react(node, make);
  else {
    drawn.delete(node);
    node.classList.remove("tall");
    node.replaceChildren(quiet("Not drawn: plotly.min.js is not beside this page."));
  }
  return Boolean(window.Plotly);
}

function react(node, make) {
  const look = colours();
  const { traces, layout } = make(look);
  const base = {
    font: { family: getComputedStyle(document.body).fontFamily, size: 13, color: look.ink },
    paper_bgcolor: "rgba(0,0,0,0)",
    plot_bgcolor: "rgba(0,0,0,0)",
    margin: { l: 60, r: 16, t: 14, b: 52 },
    showlegend: false,
    hovermode: "closest",
    dragmode: TOUCH ? false : "zoom",
    hoverlabel: { bgcolor: look.card, bordercolor: look.line, font: { color: look.ink }, align: "left" },
    uirevision: "kept",
  };
  window.Plotly.react(node, traces, { ...base, ...layout }, CONFIG);
}

/** Draws one plot again, or all. */
function redraw(only) {
  if (!window.Plotly) return;
  for (const [node, make] of drawn) {
    if (!node.isConnected) drawn.delete(node);
    else if (!only || node === only) react(node, make);
  }
}

const waiting = new Map();
const watcher = new IntersectionObserver(
  (entries) => entries.forEach((entry) => entry.isIntersecting && build(entry.target)),
  { rootMargin: "400px" },
);

function build(node) {
  const make = waiting.get(node);
  waiting.delete(node);
  watcher.unobserve(node);
  if (make && node.isConnected) make(node);
}

/** Calls `make(node)` when the node comes near the screen. */
function lazily(node, make) {
  waiting.set(node, make);
  watcher.observe(node);
}

/** Builds what lies above this place of a page that is not scrolled yet. */
function buildDownTo(bottom) {
  for (const node of [...waiting.keys()]) if (node.getBoundingClientRect().top < bottom) build(node);
}

function buildAll() {
  while (waiting.size) [...waiting.keys()].forEach(build);
}

/** Whether the browser has WebGL, which takes long to start: asked for only where it is needed. */
const webgl = () => {
  try {
    return Boolean(document.createElement("canvas").getContext("webgl2"));
  } catch {
    return false;
  }
};

const CELL = 4; // pixels

/** Of the rows that lie in this part of the plane, those that can be told apart: one for each cell
 * of a grid over the logs. `across` and `down` are the pixels of the plot. */
function visible(rows, xs, ys, { x, y }, across = 900, down = 500) {
  if (rows.length < 1000) return rows;
  const [columns, lines] = [across / CELL, down / CELL];
  const seen = new Set();
  return rows.filter((row) => {
    const column = Math.floor(share(xs[row], ...x) * columns);
    const line = Math.floor(share(ys[row], ...y) * lines);
    if (column < 0 || column > columns || line < 0 || line > lines) return false;
    const cell = column * 4096 + line;
    return !seen.has(cell) && seen.add(cell);
  });
}

const tip = {
  show(lines, event) {
    const [head, ...rest] = lines;
    const most = 18;
    const shown = rest.length > most ? [...rest.slice(0, most), "…"] : rest;
    $("tip").replaceChildren(el("strong", {}, head), ...shown.map((line) => el("div", {}, line)));
    $("tip").hidden = false;
    const box = $("tip").getBoundingClientRect();
    const x = event.clientX + 16 + box.width > innerWidth ? event.clientX - box.width - 16 : event.clientX + 16;
    const y = Math.min(event.clientY + 12, innerHeight - box.height - 8);
    $("tip").style.transform = `translate(${Math.max(8, x)}px, ${Math.max(8, y)}px)`;
  },
  hide() {
    $("tip").hidden = true;
  },
};
