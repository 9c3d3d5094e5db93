// The legend of the front, the slider for the size limit, and the panel of the chosen model.

const MOST_OPEN = 12; // sites: a longer table is shown when it is asked for

const SHAPES = {
  circle: "M6 1.5a4.5 4.5 0 1 0 0 9a4.5 4.5 0 1 0 0-9z",
  square: "M2 2h8v8h-8z",
  diamond: "M6 .8l5.2 5.2-5.2 5.2-5.2-5.2z",
  triangle: "M6 1.5l4.8 8.5h-9.6z",
  down: "M6 10.5l4.8-8.5h-9.6z",
  left: "M1.5 6l8.5-4.8v9.6z",
  pentagon: "M6 1l5 3.7-1.9 5.8h-6.2l-1.9-5.8z",
  star: "M6 .8l1.5 3.4 3.7.4-2.8 2.5.8 3.7-3.2-1.9-3.2 1.9.8-3.7-2.8-2.5 3.7-.4z",
  hexagon: "M3.2 1.2h5.6l2.8 4.8-2.8 4.8h-5.6l-2.8-4.8z",
  x: "M2 2l8 8M10 2l-8 8",
  line: "M0 6h12",
  hourglass: "M1.5 1.5h9l-9 9h9z",
  bowtie: "M1.5 1.5v9l9-9v9z",
};

function shapeOf(symbol) {
  if (symbol.startsWith("triangle-down")) return SHAPES.down;
  if (symbol.startsWith("triangle-left")) return SHAPES.left;
  if (symbol.startsWith("star-triangle")) return SHAPES.triangle;
  if (symbol.startsWith("hexagram")) return SHAPES.hexagon;
  if (symbol.startsWith("x")) return SHAPES.x;
  const name = Object.keys(SHAPES).find((one) => symbol.startsWith(one));
  return SHAPES[name];
}

function legend(state) {
  const items = state.groups.map((group) => {
    const { marker, line } = group;
    const open = marker && (marker.symbol.endsWith("-open") || marker.symbol.startsWith("x"));
    const colour = group.colour ?? marker?.color ?? line.color;
    const dash = { dash: "3 2", dot: "1 2", dashdot: "4 2 1 2", longdash: "5 2", longdashdot: "6 2 1 2" }[line?.dash];
    const paths = [
      ...(line ? [svg("path", { d: SHAPES.line, stroke: colour, "stroke-width": 2, "stroke-dasharray": dash ?? "none" })] : []),
      ...(marker ? [svg("path", { d: shapeOf(marker.symbol), transform: marker.size < 5 ? "translate(3 3) scale(.5)" : "", fill: open ? "none" : colour, stroke: open ? colour : "none", "stroke-width": 1.5 })] : []),
    ];
    const button = el("button", { type: "button", "aria-pressed": String(!state.hidden.has(group.key)) },
      svg("svg", { viewBox: "0 0 12 12", class: "key", "aria-hidden": "true" }, ...paths),
      group.name,
    );
    button.addEventListener("click", () => {
      if (!state.hidden.delete(group.key)) state.hidden.add(group.key);
      redraw();
    });
    return [group, button];
  });
  const row = (name, wanted) => {
    const buttons = items.filter(([group]) => Boolean(group.published) === wanted).map(([, button]) => button);
    return buttons.length ? el("div", { class: "keys" }, name ? el("span", { class: "muted" }, name) : null, buttons) : null;
  };
  $("legend").replaceChildren(...[row("", false), row("literature, test text:", true)].filter(Boolean));
}

/** The best point of a study's front that fits the limit: its index, or -1. */
function bestUnder(study, limit) {
  let best = -1;
  study.front.forEach((point, index) => {
    if (point.size_bytes <= limit && (best < 0 || point.perplexity < study.front[best].perplexity)) best = index;
  });
  return best;
}

/** The next point of a front that is the best under some limit: to the left where `by` is -1, to the
 * right where it is 1. With speed as an objective, others lie between. */
function neighbour(study, index, by) {
  for (let at = index + by; study.front[at]; at += by)
    if (bestUnder(study, study.front[at].size_bytes) === at) return study.front[at];
  return undefined;
}

/** Of all studies, the best under the limit: [study, "front", index], or null. */
function bestOfAll({ report, limit }) {
  let best = null;
  report.studies.forEach((study, at) => {
    const index = bestUnder(study, limit);
    if (index >= 0 && (!best || study.front[index].perplexity < report.studies[best[0]].front[best[2]].perplexity)) best = [at, "front", index];
  });
  return best;
}

/** The smallest limit of three digits that a size fits. */
function roomFor(bytes) {
  const step = 10 ** Math.max(0, Math.floor(Math.log10(bytes)) - 2);
  return Math.ceil(bytes / step) * step;
}

/** The slider and the typed limit; `changed()` after each change. */
function limitControls(state, changed) {
  const slider = $("limit");
  const [low, high] = state.view.x;
  const place = () => {
    slider.value = Math.round(1000 * Math.min(1, Math.max(0, share(state.limit, low, high))));
    slider.setAttribute("aria-valuetext", size(state.limit));
  };
  slider.addEventListener("input", () => {
    const bytes = low * (high / low) ** (slider.value / 1000);
    const step = 10 ** Math.max(0, Math.floor(Math.log10(bytes)) - 2);
    setLimit(state, Math.round(bytes / step) * step, changed);
    slider.setAttribute("aria-valuetext", size(state.limit));
  });
  slider.parentNode.style.setProperty("--left", `${state.margin.l}px`);
  slider.parentNode.style.setProperty("--right", `${state.margin.r}px`);
  state.placeSlider = place;
  place();
}

function setLimit(state, bytes, changed) {
  state.limit = bytes;
  state.chosen = bestOfAll(state);
  memory.write("limit", bytes);
  changed();
}

/** The panel: the typed limit, and the chosen model with its recipe, sites and export command. */
function panel(state, changed) {
  const input = el("input", { id: "typed", type: "text", inputmode: "text", autocomplete: "off", spellcheck: "false", "aria-describedby": "typed-problem" });
  const problem = el("p", { id: "typed-problem", class: "problem", role: "alert", hidden: true });
  const body = el("div", { "aria-live": "polite" });
  const hide = () => {
    problem.hidden = true;
    input.removeAttribute("aria-invalid");
  };
  input.addEventListener("change", () => {
    const bytes = parseSize(input.value);
    if (bytes > 0) {
      hide();
      setLimit(state, bytes, changed);
      state.placeSlider();
    } else {
      problem.textContent = `“${input.value}” is no size: write 1 MB, 500 kB or 123456.`;
      problem.hidden = false;
      input.setAttribute("aria-invalid", "true");
    }
  });
  const typed = [el("label", { class: "typed", for: "typed" }, el("span", {}, "The best model of at most"), input), problem];
  $("chosen").replaceChildren(...(state.limit === null ? [] : typed), body);
  return () => {
    if (document.activeElement !== input || !input.hasAttribute("aria-invalid")) {
      input.value = size(state.limit);
      hide();
    }
    body.replaceChildren(...chosenModel(state, changed));
  };
}

function chosenModel(state, changed) {
  const { report, chosen } = state;
  const fronts = report.studies.flatMap((study) => study.front);
  if (!fronts.length && !chosen) return [quiet("No model is on the front yet.")];
  if (!chosen) {
    const least = Math.min(...fronts.map((point) => point.size_bytes));
    return [quiet(`No model fits in ${size(state.limit)}. The smallest has ${size(least)}.`)];
  }
  const [at, kind, index] = chosen;
  const study = report.studies[at];
  const back = el("button", { type: "button", class: "quiet", onclick: () => setLimit(state, state.limit, changed) }, "Back to the limit");
  if (kind === "mark") {
    const [title, ...lines] = linesOf(state, chosen);
    return [el("h3", {}, title), el("ul", { class: "recipe" }, lines.map((line) => el("li", {}, line))), back];
  }
  if (kind !== "front") {
    const table = kind === "file" ? study.files : study.trials;
    const [title, , ...recipe] = linesOf(state, chosen);
    return [el("h3", {}, title), figures(study, table.size_bytes[index], table.perplexity[index]), recipeList(recipe), back];
  }
  const point = study.front[index];
  const facts = [
    point.ratio ? `${short3(point.ratio)} x smaller than the dense model` : null,
    `${short(point.epochs)} epoch${point.epochs === 1 ? "" : "s"} of fine-tuning`,
    missing(point.tokens_per_second) ? null : `${count(point.tokens_per_second)} tokens/s`,
    missing(point.relative_speed) ? null : timesFaster(point),
    point.sure ? `${perplexity(point.sure.perplexity[0])} ± ${perplexity(point.sure.perplexity[1])} over ${plural(point.sure.seeds, "seed")}` : null,
  ].filter(Boolean);
  const step = (by, text) => {
    const other = neighbour(study, index, by);
    const go = () => {
      setLimit(state, roomFor(other.size_bytes), changed);
      state.placeSlider();
    };
    return el("button", { type: "button", class: "quiet", disabled: !other, onclick: go }, text);
  };
  const name = (report.studies.length > 1 ? `${study.name}: ` : "") + point.label + (point.name === study.knee ? " · knee" : "");
  return [
    el("div", { class: "named" }, el("h3", {}, name), el("span", {}, step(-1, "← smaller"), step(1, "better →"))),
    figures(study, point.size_bytes, point.perplexity),
    el("p", { class: "facts" }, facts.join(" · ")),
    el("h4", {}, "Take it home"),
    command(point.export),
    recipeList(folded(point.recipe)),
    sitesTable(state, point.sites),
    ...othersUnder(state, at),
  ];
}

/** What the other studies have under the limit. */
function othersUnder({ report, limit }, at) {
  const others = report.studies.filter((_, other) => other !== at);
  if (!others.length) return [];
  const lines = others.map((study) => {
    const best = bestUnder(study, limit);
    if (best < 0) return `${study.name}: nothing fits`;
    const point = study.front[best];
    return `${study.name}: ${point.label}, ${size(point.size_bytes)}, ${study.unit} ${perplexity(point.perplexity)}`;
  });
  return [el("h4", {}, "Under this limit, the others have"), el("ul", { class: "recipe" }, lines.map((line) => el("li", {}, line)))];
}

const figures = (study, bytes, value) =>
  el("dl", { class: "figures" },
    el("div", {}, el("dt", {}, "size"), el("dd", {}, size(bytes))),
    el("div", {}, el("dt", {}, study.unit), el("dd", {}, perplexity(value))),
  );

function recipeList(lines) {
  if (!lines.length) return quiet("Its recipe is not known.");
  const items = lines.map((line) => {
    const [, name, rest] = /^([^:]{1,40}): (.*)$/s.exec(line) ?? [null, "", line];
    return el("li", {}, name ? el("b", {}, name) : null, name ? " " : null, rest);
  });
  return el("details", { class: "fold", open: true }, el("summary", {}, "How it was made"), el("ul", { class: "recipe" }, items));
}

function sitesTable(state, sites) {
  if (!sites.length) return quiet("Its sites are not known.");
  const rows = sites.map((site) =>
    el("tr", {},
      el("th", { scope: "row" }, site.site),
      el("td", {}, [site.structure, site.rank].filter(Boolean).join(" ")),
      el("td", { class: "number" }, percent(site.zeros)),
      el("td", { class: "number", title: site.bits }, missing(site.bits_a_weight) ? site.bits || "–" : site.bits_a_weight.toFixed(2)),
      el("td", { class: "number" }, size(site.size_bytes)),
    ),
  );
  const heads = ["site", "structure", "zeros", "bits", "size"].map((text, at) => el("th", { scope: "col", class: at > 1 ? "number" : null, title: text === "bits" ? "bits a weight, in the file" : null }, text));
  const open = state.sitesOpen ?? sites.length <= MOST_OPEN;
  const kept = (event) => (state.sitesOpen = !event.target.parentElement.open);
  return el("details", { class: "fold", open }, el("summary", { onclick: kept }, `Its ${plural(sites.length, "site")}`),
    el("div", { class: "scroll" }, el("table", { class: "plain" }, el("thead", {}, el("tr", {}, heads)), el("tbody", {}, rows))));
}
