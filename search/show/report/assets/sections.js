// The sections of a study: how sure, what the front is made of, how the search went, provenance.

/** How sure: points trained again with other seeds. */
function sureSection(study, body) {
  const sure = study.front.filter((point) => point.sure);
  const bands = Object.entries(study.bands).filter(([, points]) => points.length);
  if (!sure.length && !bands.length) {
    body.append(quiet("No point was trained again with other seeds yet."), command(`lmpareto confirm study=${quoted(study.name)} repeats=3`));
    return;
  }
  const node = el("div", { class: "plot" });
  body.append(node);
  const seen = [...sure.map((point) => [point.sure.size_bytes[0], point.sure.perplexity[0]]), ...bands.flatMap(([, points]) => points)];
  const view = { x: padded(seen.map(([x]) => x)), y: padded(seen.map(([, y]) => y)) };
  draw(node, (look) => {
    const dashes = { best: "dot", median: "solid", worst: "dash" };
    const lines = bands.map(([name, points]) => ({
      type: "scatter", mode: "lines", name: escaped(name), hoverinfo: "skip", x: points.map(([x]) => x), y: points.map(([, y]) => y),
      line: { color: look.accent, width: name === "median" ? 2 : 1.3, dash: dashes[name] ?? "longdash", shape: "hv" },
    }));
    const points = {
      type: "scatter", mode: "markers", name: "mean ± sd", x: sure.map((point) => point.sure.size_bytes[0]), y: sure.map((point) => point.sure.perplexity[0]),
      error_y: { type: "data", array: sure.map((point) => point.sure.perplexity[1]), color: look.ink, thickness: 1.3, width: 4 },
      error_x: { type: "data", array: sure.map((point) => point.sure.size_bytes[1]), color: look.ink, thickness: 1.3, width: 4 },
      marker: { color: look.ink, size: 8, symbol: "circle", line: { color: look.card, width: 1.2 } },
      hoverinfo: "text",
      hovertext: sure.map((point) => `<b>${escaped(point.label)}</b><br>${perplexity(point.sure.perplexity[0])} ± ${perplexity(point.sure.perplexity[1])}<br>on the front in ${percent(point.sure.on_front)} of ${point.sure.seeds} seeds`),
    };
    const y = axis(look, study.unit, { type: "log", range: view.y.map(Math.log10), nticks: 7, tickformat: "~f" });
    return { traces: [...lines, points], layout: { xaxis: sizeAxis(look, view.x), yaxis: y, showlegend: bands.length > 0, legend: { orientation: "h", y: 1.12, font: { size: 12 } }, margin: { l: 60, r: 16, t: 34, b: 52 } } };
  });
  if (!sure.length) return;
  const rows = sure.map((point) => {
    const [mean, spread] = point.sure.perplexity;
    const [bytes, size_spread] = point.sure.size_bytes;
    return el("tr", {},
      el("th", { scope: "row" }, point.label),
      el("td", { class: "number" }, point.sure.seeds),
      el("td", { class: "number" }, `${perplexity(mean)} ± ${perplexity(spread)}`),
      el("td", { class: "number" }, `${size(bytes)} ± ${size(size_spread)}`),
      el("td", {}, el("span", { class: "meter" }, el("i", { style: `width:${100 * point.sure.on_front}%` })), ` ${percent(point.sure.on_front)}`),
    );
  });
  const heads = ["point", "seeds", study.unit, "size", "on the front"].map((text, at) => el("th", { scope: "col", class: at > 0 && at < 4 ? "number" : null }, text));
  body.append(el("div", { class: "scroll" }, el("table", { class: "plain" }, el("thead", {}, el("tr", {}, heads)), el("tbody", {}, rows))));
}

/** A word that a shell takes as it is, quoted where it would not. */
const quoted = (text) => (/^[\w.\-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

const QUANTITIES = {
  bits: ["bits a weight", (site) => site.bits_a_weight, (value) => value.toFixed(value < 0.095 ? 2 : 1)],
  bytes: ["bytes", (site) => site.size_bytes, size],
  zeros: ["zeros", (site) => site.zeros, percent],
  rank: ["rank", (site) => Number.parseFloat(site.rank) || null, (value, site) => site.rank],
  structure: ["structure", (site) => site.structure, (value) => String(value)],
};

/** What the front is made of: a heat map of its points and their sites. */
function madeSection(study, body) {
  const points = study.front.filter((point) => point.sites.length);
  if (!points.length) return body.append(quiet("No point of the front has sites to show."));
  const names = [...new Set(points.flatMap((point) => point.sites.map((site) => site.site)))];
  const node = el("div", { class: "plot", style: `height:${Math.max(220, 120 + 38 * names.length)}px` });
  let quantity = "bits";
  const show = () => draw(node, (look) => heatMap(study, points, names, quantity, look, node.clientWidth));
  const options = Object.entries(QUANTITIES).map(([key, [text]]) => [key, text]);
  body.append(choice("What the map shows", options, quantity, (key) => {
    quantity = key;
    show();
  }), node, el("p", { class: "note" }, "From the smallest model on the left to the best on the right. The stronger the colour, the larger the number."));
  show();
}

function heatMap(study, points, names, quantity, look, width) {
  const [title, value, write] = QUANTITIES[quantity];
  const siteOf = (point, name) => point.sites.find((site) => site.site === name);
  const cells = names.map((name) => points.map((point) => siteOf(point, name) ?? null));
  const raw = cells.map((row) => row.map((site) => (site ? value(site) : null)));
  const kinds = [...new Set(raw.flat().filter((one) => typeof one === "string"))].sort();
  const z = raw.map((row) => row.map((one) => (typeof one === "string" ? kinds.indexOf(one) : one)));
  const numbers = z.flat().filter((one) => !missing(one));
  const letters = Math.min(width < 700 ? 18 : 28, Math.max(...names.map((name) => name.length)));
  const left = 24 + 7 * letters;
  const fits = (width - left) / points.length;
  const texts = cells.map((row, y) => row.map((site, x) => (missing(raw[y][x]) ? "" : write(raw[y][x], site))));
  const longest = Math.max(...texts.flat().map((text) => text.length), 1);
  const labels = points.map((_, at) => at);
  const every = Math.ceil(58 / fits);
  return {
    traces: [{
      type: "heatmap", x: labels, y: names.map((_, at) => at), z, xgap: 2, ygap: 2, hoverinfo: "text", showscale: false,
      zmin: numbers.length ? Math.min(...numbers) : 0, zmax: numbers.length ? Math.max(...numbers, Math.min(...numbers) + 1e-9) : 1,
      colorscale: [[0, mix(look.accent, look.paper, 0.12)], [1, mix(look.accent, look.paper, 0.95)]],
      text: texts.map((row) => row.map(escaped)),
      texttemplate: fits > 6.2 * longest + 4 ? "%{text}" : "",
      textfont: { size: 11 },
      hovertext: cells.map((row, y) => row.map((site, x) => cellText(points[x], names[y], site))),
    }],
    layout: {
      margin: { l: left, r: 10, t: 10, b: 56 },
      dragmode: false,
      xaxis: axis(look, `size of the file: ${title} by site`, { tickvals: labels.filter((at) => at % every === 0), ticktext: labels.filter((at) => at % every === 0).map((at) => size(points[at].size_bytes)), showgrid: false, tickangle: 0, fixedrange: true }),
      yaxis: axis(look, "", { tickvals: names.map((_, at) => at), ticktext: names.map((name) => escaped(clippedMiddle(name, letters))), autorange: "reversed", showgrid: false, fixedrange: true }),
    },
  };
}

function cellText(point, name, site) {
  const head = `<b>${escaped(point.label)}</b>, ${size(point.size_bytes)}<br>${escaped(name)}: `;
  if (!site) return `${head}not in this model`;
  const form = [site.structure, site.rank && `rank ${site.rank}`, site.zeros ? `${percent(site.zeros)} zeros` : "", site.bits].filter(Boolean);
  return head + form.map(escaped).join(", ") + `<br>${size(site.size_bytes)}, ${short(site.bits_a_weight)} bits a weight`;
}

/** The colour that is `part` of one and the rest of another; both as #rrggbb. */
function mix(one, other, part) {
  const parse = (colour) => [1, 3, 5].map((at) => Number.parseInt(colour.slice(at, at + 2), 16));
  const [a, b] = [parse(one), parse(other)];
  return `rgb(${a.map((value, at) => Math.round(value * part + b[at] * (1 - part))).join(",")})`;
}

/** How the search went. */
function courseSection(study, body) {
  const { course } = study;
  const node = el("div", { class: "plot" });
  if (course.hypervolume.length > 1) {
    let against = "epochs";
    const show = () => draw(node, (look) => ({
      traces: [{ type: "scatter", mode: "lines", x: thinned(course[against]), y: thinned(course.hypervolume), line: { color: look.accent, width: 2, shape: "hv" }, fill: "tozeroy", fillcolor: mix(look.accent, look.paper, 0.12), hovertemplate: `%{y:.1%} at %{x:.3~g} ${against}<extra></extra>` }],
      layout: { xaxis: axis(look, against === "epochs" ? "epochs of training spent" : "hours since the first trial began", { rangemode: "tozero" }), yaxis: axis(look, "hypervolume, share of the last", { tickformat: ".0%", rangemode: "tozero" }) },
    }));
    const options = [["epochs", "over training spent"], ["hours", "over time"]].filter(([key]) => course[key].some((one) => !missing(one)));
    if (options.length > 1)
      body.append(choice("Hypervolume", options, against, (key) => {
        against = key;
        show();
      }));
    body.append(node);
    show();
  } else body.append(quiet("Too few files were measured for a curve of the hypervolume."));
  const group = (title, data, write, none) => {
    const rows = Object.entries(data).filter(([, value]) => value > 0);
    return el("div", {}, el("h4", {}, title), rows.length ? bars(rows, write) : quiet(none));
  };
  body.append(el("div", { class: "columns" },
    group("Trials that came to each rung", course.rungs, count, "No trial came to a rung."),
    group("Time by stage", course.stages, duration, "No times are known."),
  ), group("Failures by reason", course.failures, count, "No trial failed."));
}

/** At most 2,000 of the values, the last among them. */
function thinned(values) {
  const step = Math.ceil(values.length / 2000);
  return step === 1 ? values : values.filter((_, at) => at % step === 0 || at === values.length - 1);
}

/** Provenance: whatever plain data the record has. */
function provenanceSection(study, body) {
  const entries = Object.entries(study.provenance);
  if (!entries.length) return body.append(quiet("Nothing is known of where this study was made."));
  for (const [name, value] of entries) {
    if (missing(value) || value === "" || (typeof value === "object" && !Object.keys(value).length)) continue;
    if (name === "commands") body.append(el("h4", {}, "Commands"), ...Object.values(value).map(command));
    else body.append(el("details", { class: "fold", open: name !== "settings" }, el("summary", {}, spaced(name)), el("div", { class: "values" }, plain(value))));
  }
}

function plain(value) {
  if (Array.isArray(value)) return el("ul", { class: "recipe" }, value.map((one) => el("li", {}, plain(one))));
  if (value !== null && typeof value === "object")
    return el("dl", { class: "terms" }, Object.entries(value).map(([name, one]) => el("div", {}, el("dt", {}, spaced(name)), el("dd", {}, plain(one)))));
  if (typeof value === "string" && value.includes("\n")) return el("pre", {}, value);
  return String(value ?? "–");
}
