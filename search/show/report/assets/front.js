// The plot of the front: all studies of the report in one plane, and its legend.

const MARGIN = { l: 58, r: 18, t: 14, b: 50 };
const SOURCE_SYMBOLS = [
  ...["circle-open", "square-open", "triangle-up-open", "pentagon-open", "star-open"],
  ...["hexagram-open", "triangle-left-open", "hourglass-open", "bowtie-open", "star-triangle-up-open"],
];

const rowsOf = (study, wanted) => {
  const { state, size_bytes, perplexity: values, stopped_early } = study.trials;
  const rows = [];
  for (let row = 0; row < study.size; row++)
    if (size_bytes[row] > 0 && values[row] > 0 && wanted(state[row], Boolean(stopped_early?.[row]))) rows.push(row);
  return rows;
};

/** The lines of a point's hover text and of the panel. */
function linesOf(state, [at, kind, index]) {
  const study = state.report.studies[at];
  const title = (label) => (state.report.studies.length > 1 ? `${study.name}: ${label}` : label);
  const place = (one) => `${size(one.size_bytes)}, ${study.unit} ${perplexity(one.perplexity)}`;
  if (kind === "front") {
    const point = study.front[index];
    const speed = point.tokens_per_second;
    return [
      title(point.label) + (point.name === study.knee ? ", the knee" : ""),
      place(point) + (point.ratio ? `, ${short3(point.ratio)} x smaller` : ""),
      ...(missing(speed) ? [] : [`${count(speed)} tokens/s`]),
      ...(missing(point.relative_speed) ? [] : [timesFaster(point)]),
      ...folded(point.recipe),
    ];
  }
  if (kind === "mark") {
    const mark = state.marks[index];
    return [mark.label, `${size(mark.size_bytes)}, perplexity ${perplexity(mark.perplexity)}`, mark.source, ...mark.text.split("\n")].filter(Boolean);
  }
  const file = kind === "file" ? study.files : study.trials;
  const one = { size_bytes: file.size_bytes[index], perplexity: file.perplexity[index] };
  const row = kind === "file" ? study.rowOf.get(file.trial[index]) : index;
  const early = kind === "row" && study.trials.stopped_early?.[row] ? ", stopped early" : "";
  const what = kind === "file" ? `, at rung ${short(file.rung[index])}` : `, ${study.trials.state[row]}${early}`;
  return [title(`trial ${study.trials.number[row]}${what}`), place(one), ...recipeOf(study, row)];
}

const timesFaster = (point) => `${short3(point.relative_speed)} x the dense model's speed, exported`;
const short3 = (value) => Number(value.toPrecision(value < 10 ? 2 : 3)).toString();
const recipeOf = (study, row) => folded(recipeText(study, row).split("\n").filter(Boolean));

/** The recipe of a row in words: its form, with the row's own numbers in it. */
function recipeText(study, row) {
  const numbers = (study.trials.values?.[row] ?? "").split(" ");
  let next = 0;
  return (study.recipes[study.trials.recipe?.[row]] ?? "").replaceAll("¤", () => numbers[next++] ?? "…");
}

/** Lines of a recipe, each with the lines that go on with it. */
function folded(lines) {
  const whole = [];
  for (const line of lines)
    if (/^\s/.test(line) && whole.length) whole[whole.length - 1] += ` ${line.trim()}`;
    else whole.push(line);
  return whole;
}

/** The groups of the plot, each with its look, its points and its place in the legend. */
function groupsOf(state, look) {
  const { studies } = state.report;
  const several = studies.length > 1;
  const many = (number) => plural(number, "model");
  const merged = (wanted) => studies.flatMap((study, at) => {
    const { size_bytes, perplexity: values } = study.trials;
    return visible(rowsOf(study, wanted), size_bytes, values, state.seen ?? state.view).map((row) => [size_bytes[row], values[row], [at, "row", row]]);
  });
  const total = (wanted) => studies.reduce((sum, study) => sum + rowsOf(study, wanted).length, 0);
  const beaten = (name) => name === "dominated" || name === "duplicate";
  const groups = [];
  const add = (key, name, points, settings) => points.length && groups.push({ key, name, points, ...settings });
  const faint = (key, name, wanted, marker) => {
    const points = merged(wanted);
    const fine = points.length > 1500 ? { size: marker.size - 2 } : {};
    add(key, `${name}: ${many(total(wanted))}`, points, { marker: { color: look.faint, ...marker, ...fine } });
  };

  const files = studies.flatMap((study, at) => {
    const { trial = [], size_bytes = [], perplexity: values = [], state: states = [] } = study.files ?? {};
    const rows = trial.map((_, row) => row).filter((row) => states[row] !== "front" && size_bytes[row] > 0 && values[row] > 0);
    return visible(rows, size_bytes, values, state.seen ?? state.view).map((row) => [size_bytes[row], values[row], [at, "file", row]]);
  });
  add("files", "at earlier rungs", files, { marker: { color: look.faint, size: 3, symbol: "circle", opacity: 0.7 } });
  faint("dominated", "dominated", (name, early) => beaten(name) && !early, { size: 6, symbol: "circle" });
  faint("stopped", "stopped early", (name, early) => beaten(name) && early, { size: 7, symbol: "triangle-down-open", line: { width: 1.2 } });
  faint("infeasible", "over a limit", (name) => name === "infeasible", { size: 6, symbol: "x-thin", line: { width: 1.4, color: look.faint } });

  const sources = [...new Set(state.marks.map((mark) => mark.source).filter(Boolean))];
  sources.forEach((source, number) => {
    const points = state.marks.flatMap((mark, index) => (mark.source === source ? [[mark.size_bytes, mark.perplexity, [0, "mark", index]]] : []));
    add(`source ${source}`, source, points, {
      marker: { color: look.muted, size: 8, symbol: SOURCE_SYMBOLS[number % SOURCE_SYMBOLS.length], line: { width: 1.6 } },
      labels: points.map(([, , [, , index]]) => state.marks[index].label),
      font: { color: look.muted, size: 11 },
      published: true,
    });
  });

  studies.forEach((study, at) => {
    const colour = several ? look.series[at % 6] : look.accent;
    const { symbol, dash } = STUDY_LOOKS[at % STUDY_LOOKS.length];
    const name = several ? study.name : "front";
    const predicted = study.predicted.map(([x, y]) => [x, y, null]);
    add(`predicted ${at}`, several ? `${name}, predicted` : "predicted, untrained", predicted, { line: { color: look.muted, width: 1.3, dash: "dash", shape: "hv" } });
    const third = study.objectives.length > 2 && study.front.some((point) => !missing(point.relative_speed));
    const points = study.front.map((point, index) => [point.size_bytes, point.perplexity, [at, "front", index]]);
    const colouring = third
      ? { color: study.front.map((point) => point.relative_speed), colorscale: "Cividis", showscale: at === 0, colorbar: { title: { text: "speed, x dense", font: { size: 11 } }, thickness: 10, outlinewidth: 0, tickfont: { size: 11, color: look.muted } } }
      : { color: colour };
    add(`front ${at}`, `${name}: ${many(points.length)}`, points, {
      line: { color: colour, width: 2, dash, shape: "hv" },
      marker: { size: 9, symbol, line: { color: look.card, width: 1.2 }, ...colouring },
      colour,
    });
  });

  const baselines = state.marks.flatMap((mark, index) => (mark.source ? [] : [[mark.size_bytes, mark.perplexity, [0, "mark", index]]]));
  add("baselines", "measured beside the search", baselines, {
    marker: { color: look.ink, size: 10, symbol: "diamond", line: { color: look.card, width: 1.2 } },
    labels: baselines.map(([, , [, , index]]) => state.marks[index].label),
    font: { color: look.ink, size: 12, weight: 600 },
    kept: baselines.length <= 8,
  });
  return groups;
}

function frontFigure(state, node, look) {
  const { view } = state;
  const groups = groupsOf(state, look);
  state.groups = groups;
  const hidden = (group) => state.hidden.has(group.key);
  const { x, y } = state.seen ?? view;
  const place = placing(node, state.margin, x, y);
  const own = groups.filter((group) => !hidden(group) && (group.labels || group.key.startsWith("front")));
  const marked = own.flatMap((group) => group.points);
  const named = [...own].reverse().filter((group) => group.labels);
  const asked = named.flatMap((group) => group.points.map((at, index) => ({ at, text: clippedEnd(group.labels[index], 30), kept: group.kept })));
  const placed = placeLabels(place, asked, marked);
  let next = 0;
  for (const group of named) group.placed = group.points.map(() => placed[next++]);

  const traces = groups.flatMap((group) => {
    const { points, marker, line, labels } = group;
    const shared = { hoverinfo: "none", visible: !hidden(group), type: "scatter" };
    const stairs = line && [["x", 0], ["y", 1]].reduce((all, [name, part]) => ({ ...all, [name]: staircase(points).map((one) => one[part]) }), {});
    const way = line ? [{ ...shared, ...stairs, mode: "lines", line, hoverinfo: "skip" }] : [];
    if (!marker) return way;
    return [...way, {
      ...shared,
      x: points.map(([x]) => x),
      y: points.map(([, y]) => y),
      customdata: points.map(([, , data]) => data),
      mode: labels ? "markers+text" : "markers",
      marker,
      ...(labels && {
        text: (group.placed ?? points.map(() => ["", "middle right"])).map(([text]) => `\u00a0${escaped(text)}\u00a0`),
        textposition: (group.placed ?? points.map(() => ["", "middle right"])).map(([, side]) => side),
        textfont: group.font,
      }),
    }];
  });
  const unit = state.report.studies[0]?.unit ?? "perplexity";
  const layout = {
    margin: state.margin,
    xaxis: sizeAxis(look, view.x),
    yaxis: axis(look, `${unit}, on the validation text`, { type: "log", range: view.y.map(Math.log10), nticks: 8, tickformat: "~f", minor: { nticks: 1 } }),
  };
  return { traces, layout };
}

/** Draws the front, the legend, and the marks over it that follow the slider. */
async function frontPlot(state, { select }) {
  const node = $("plane");
  const overlay = svg("svg", { class: "overlay", "aria-hidden": "true" });
  state.groups = groupsOf(state, colours());
  legend(state);
  const good = await draw(node, (look) => {
    const figure = frontFigure(state, node, look);
    legend(state);
    return figure;
  });
  if (!good) return $("legend").replaceChildren();
  node.append(overlay);
  state.overlay = overlay;
  node.on("plotly_hover", ({ points, event }) => points[0].customdata && tip.show(linesOf(state, points[0].customdata), event));
  node.on("plotly_unhover", tip.hide);
  node.on("plotly_click", ({ points }) => points[0].customdata && select(points[0].customdata));
  node.on("plotly_relayout", () => {
    const { xaxis, yaxis } = node.layout;
    const seen = { x: xaxis.range.map((one) => 10 ** one), y: yaxis.range.map((one) => 10 ** one) };
    if (JSON.stringify(seen) === JSON.stringify(state.seen)) return;
    state.seen = seen;
    redraw(node);
  });
  node.on("plotly_afterplot", () => {
    if (overlay.parentNode !== node) node.append(overlay);
    markChosen(state);
  });
  markChosen(state);
}

/** The limit, what is over it, and a ring around the chosen model. */
function markChosen(state) {
  const { overlay, margin } = state;
  if (!overlay) return;
  const { xaxis, yaxis } = $("plane").layout;
  const place = placing($("plane"), margin, xaxis.range.map((one) => 10 ** one), yaxis.range.map((one) => 10 ** one));
  const [left, right] = [margin.l, margin.l + place.width];
  const within = (x, low, high) => Math.min(Math.max(x, low), high);
  const parts = [];
  if (state.limit) {
    const x = within(place.x(state.limit), left, right);
    parts.push(
      svg("rect", { x, y: margin.t, width: right - x, height: place.height, class: "over" }),
      svg("line", { x1: x, x2: x, y1: margin.t, y2: margin.t + place.height, class: "limit-line" }),
    );
  }
  const at = coordinatesOf(state);
  if (at) {
    const [x, y] = [place.x(at[0]), place.y(at[1])];
    if (x >= left && x <= right && y >= margin.t && y <= margin.t + place.height)
      parts.push(svg("circle", { cx: x, cy: y, r: 10, class: "ring" }), svg("circle", { cx: x, cy: y, r: 4.5, class: "core" }));
  }
  overlay.replaceChildren(...parts);
}

function coordinatesOf({ chosen, report, marks }) {
  if (!chosen) return null;
  const [at, kind, index] = chosen;
  const study = report.studies[at];
  if (kind === "front") return [study.front[index].size_bytes, study.front[index].perplexity];
  if (kind === "mark") return [marks[index].size_bytes, marks[index].perplexity];
  const table = kind === "file" ? study.files : study.trials;
  return table.size_bytes[index] > 0 ? [table.size_bytes[index], table.perplexity[index]] : null;
}
