// What mattered: importance for each objective, parallel coordinates, slices.

const MOST_LINES = 1500; // of the parallel coordinates

function matteredSection(study, body) {
  const names = ranked(study);
  const measured = rowsOf(study, (name) => name !== "infeasible");
  if (!names.length || !measured.length) return body.append(quiet("No trial with parameters was measured."));
  const importance = Object.entries(study.importance).filter(([, shares]) => Object.keys(shares).length);
  if (importance.length)
    body.append(el("div", { class: "columns" }, importance.map(([objective, shares]) =>
      el("div", {}, el("h4", {}, `Importance for ${objective === "perplexity" ? study.unit : spaced(objective)}`),
        bars(Object.entries(shares).sort((a, b) => b[1] - a[1]).slice(0, 12), percent)))));
  else body.append(quiet("Too few trials were measured to say how much each parameter mattered."));
  if (measured.length < 2) return;
  slices(study, body, names, measured);
  parallel(study, body, names, measured);
}

/** The parameters that took more than one value, the most important first. */
function ranked(study) {
  const worth = {};
  for (const shares of Object.values(study.importance))
    for (const [name, value] of Object.entries(shares)) worth[name] = (worth[name] ?? 0) + value;
  const varied = Object.keys(study.parameters).filter((name) => new Set(study.parameters[name].filter((one) => !missing(one))).size > 1);
  return varied.sort((a, b) => (worth[b] ?? -1) - (worth[a] ?? -1) || a.localeCompare(b));
}

/** A column as numbers, with the names of its ticks where it has texts; log where it spans much. */
function numeric(values) {
  const known = values.filter((one) => !missing(one));
  if (known.every((one) => typeof one === "number")) {
    const [low, high] = ends(known);
    return { numbers: values, log: low > 0 && high / low > 20 };
  }
  const kinds = [...new Set(known.map(String))].sort();
  return { numbers: values.map((one) => (missing(one) ? null : kinds.indexOf(String(one)))), kinds };
}

/** One parameter against one objective, front and others told apart. */
function slices(study, body, names, measured) {
  const objectives = { perplexity: study.unit, size_bytes: "size" };
  if (study.trials.tokens_per_second?.some((one) => !missing(one))) objectives.tokens_per_second = "tokens per second";
  if (study.trials.relative_speed?.some((one) => !missing(one))) objectives.relative_speed = "speed, x dense";
  let [parameter, objective] = [names[0], "perplexity"];
  const node = el("div", { class: "plot" });
  const show = () => draw(node, (look) => {
    const { numbers, log, kinds } = numeric(study.parameters[parameter]);
    const values = study.trials[objective];
    const asked = measured.filter((row) => !missing(numbers[row]) && values[row] > 0);
    const jitter = (row) => (kinds ? numbers[row] + 0.3 * (((row * 0.618034) % 1) - 0.5) : numbers[row]);
    const trace = (name, rows, marker) => {
      const shown = thin(rows, 3000);
      return { type: "scatter", mode: "markers", name, x: shown.map(jitter), y: shown.map((row) => values[row]), marker, hoverinfo: "text", hovertext: shown.map((row) => `<b>trial ${study.trials.number[row]}</b><br>${escaped(parameter)}: ${escaped(short(study.parameters[parameter][row]))}<br>${size(study.trials.size_bytes[row])}, ${escaped(study.unit)} ${perplexity(study.trials.perplexity[row])}`) };
    };
    const front = (row) => study.trials.state[row] === "front";
    const y = objective === "size_bytes" ? sizeAxis(look, padded(asked.map((row) => values[row])), { title: { text: "size of the file", font: { size: 13, color: look.muted } } }) : axis(look, objectives[objective], { type: "log", nticks: 7, tickformat: "~f" });
    return {
      traces: [
        trace("other trials", asked.filter((row) => !front(row)), { color: look.faint, size: 6 }),
        trace("on the front", asked.filter(front), { color: look.accent, size: 8, symbol: "diamond", line: { color: look.card, width: 1 } }),
      ],
      layout: {
        xaxis: axis(look, parameter, kinds ? { tickvals: kinds.map((_, at) => at), ticktext: kinds.map(escaped), range: [-0.6, kinds.length - 0.4] } : { type: log ? "log" : "linear", nticks: 8 }),
        yaxis: y,
        showlegend: true,
        legend: { orientation: "h", y: 1.13, font: { size: 12 } },
        margin: { l: 66, r: 16, t: 34, b: 52 },
      },
    };
  });
  body.append(
    el("h4", {}, "Slices"),
    el("div", { class: "controls" },
      select("Parameter", names.map((name) => [name, name]), parameter, (name) => {
        parameter = name;
        show();
      }),
      choice("Objective", Object.entries(objectives), objective, (key) => {
        objective = key;
        show();
      }),
    ),
    node,
  );
  lazily(node, show);
}

/** At most `most` of the rows, evenly. */
const thin = (rows, most) => (rows.length <= most ? rows : rows.filter((_, at) => at % Math.ceil(rows.length / most) === 0));

/** Lines through the most important parameters and the objectives; the front stands out. */
function parallel(study, body, names, measured) {
  body.append(el("h4", {}, "Parallel coordinates"));
  if (!webgl()) return body.append(quiet("Not drawn: this browser has no WebGL."));
  const front = measured.filter((row) => study.trials.state[row] === "front");
  const others = thin(measured.filter((row) => study.trials.state[row] !== "front"), MOST_LINES);
  const rows = [...others, ...front];
  const shown = names.filter((name) => rows.filter((row) => !missing(study.parameters[name][row])).length > rows.length / 2).slice(0, 7);
  const node = el("div", { class: "plot", style: `min-width:${116 * (shown.length + 2)}px` });
  const left = measured.length - rows.length;
  body.append(el("div", { class: "scroll" }, node), el("p", { class: "note" },
    `Drag along an axis to keep a range. Dark lines are on the front.${left ? ` ${count(left)} trials are left out.` : ""} A parameter that most trials were not asked for is not shown.`));
  const dimension = (name, column) => {
    const { numbers, kinds, log } = numeric(rows.map((row) => column[row]));
    const values = numbers.map((one) => (missing(one) ? null : log ? Math.log10(one) : one));
    const [low, high] = ends(values.filter((one) => one !== null));
    const filled = values.map((one) => one ?? low);
    const span = high > low ? [low, high] : [low - 0.5, high + 0.5];
    const at = [0, 1, 2, 3, 4].map((part) => span[0] + ((span[1] - span[0]) * part) / 4);
    const write = (value) => short(Number((log ? 10 ** value : value).toPrecision(3)));
    const ticks = kinds ? { tickvals: kinds.map((_, place) => place), ticktext: kinds.map((text) => escaped(clippedMiddle(text, 14))) } : { tickvals: at, ticktext: at.map(write) };
    return { label: escaped(clippedMiddle(name.replace(/^sites\./, ""), 16)), values: filled, range: span, ...ticks };
  };
  lazily(node, () => draw(node, (look) => ({
    traces: [{
      type: "parcoords",
      dimensions: [
        ...shown.map((name) => dimension(name, study.parameters[name])),
        sized(rows.map((row) => study.trials.size_bytes[row])),
        dimension(study.unit, study.trials.perplexity),
      ],
      line: { color: rows.map((_, at) => (at < others.length ? 0 : 1)), colorscale: [[0, look.faint], [1, look.accent]], cmin: 0, cmax: 1 },
      labelfont: { size: 12, color: look.ink },
      tickfont: { size: 11, color: look.muted },
      rangefont: { size: 11, color: look.muted },
      unselected: { line: { opacity: 0.05 } },
    }],
    layout: { margin: { l: 92, r: 50, t: 44, b: 20 } },
  })));
}

/** The axis of sizes, by their logs. */
function sized(sizes) {
  const values = sizes.map(Math.log10);
  const [low, high] = ends(values);
  const span = high > low ? [low, high] : [low - 0.5, high + 0.5];
  const at = [0, 1, 2, 3, 4].map((part) => span[0] + ((span[1] - span[0]) * part) / 4);
  return { label: "size", values, range: span, tickvals: at, ticktext: at.map((value) => size(10 ** value)) };
}
