// All trials as a table. Only the rows in sight exist, so that 50,000 scroll as well as 50.

const ROW = 34; // pixels, as in page.css
const HEIGHT = 560;
const SHOWN = {
  number: ["trial", String],
  state: ["state", String],
  size_bytes: ["size", size],
  perplexity: ["perplexity", perplexity],
  epochs: ["epochs", short],
  rung: ["rung", short],
  stopped_early: ["stopped early", (value) => (value ? "yes" : "")],
  tokens_per_second: ["tokens/s", count],
  relative_speed: ["speed, x dense", short],
  seconds: ["time", duration],
  started: ["started (UTC)", date],
  method: ["method", String],
  recipe: ["recipe", String],
  failure: ["failure", String],
};
const WIDTHS = { number: 76, epochs: 84, rung: 76, stopped_early: 134, seconds: 84, method: 150, recipe: 360, failure: 320, started: 150 };

function tableSection(state, at, body, { select: chosen }) {
  const study = state.report.studies[at];
  if (!study.size) return body.append(quiet("No trial was started yet."));
  const measure = measureColumn(study);
  const columns = columnsOf(study, measure);
  const shown = Object.fromEntries(Object.entries(SHOWN).map(([name, as]) => (name === "perplexity" ? [measure, [study.unit, perplexity]] : [name, as])));
  const plainColumns = Object.keys(shown).filter((name) => columns[name]?.some((value) => !missing(value) && value !== "" && value !== false));
  const parameters = Object.keys(study.parameters);
  const kept = memory.read(`table ${study.name}`) ?? {};
  const view = { rows: [], by: "number", down: false, filter: "", wide: false, ...kept };
  const textOf = searchable(study, columns, plainColumns, parameters);

  const filter = el("input", { type: "search", placeholder: "size < 1MB and svd", "aria-label": "Filter the trials", value: view.filter, spellcheck: "false" });
  const problem = el("p", { class: "problem", role: "alert", hidden: true });
  const found = el("span", { class: "muted", "aria-live": "polite" });
  const wide = el("input", { type: "checkbox", checked: view.wide });
  const save = el("button", { type: "button" }, "Download CSV");
  const scroller = el("div", { class: "rows", tabindex: "0", role: "region", "aria-label": "All trials" });
  body.append(
    el("div", { class: "controls" }, filter, found,
      parameters.length ? el("label", { class: "check" }, wide, " parameters") : null, save),
    problem, scroller,
    el("p", { class: "note" }, "A filter has words, and comparisons with any column or parameter: size < 1MB, " + `${measure} <= ${study.front.length ? perplexity(study.front.at(-1).perplexity) : 120}` + ", state = front. Press a column's head to sort by it, a row to see it in the plot."),
  );

  const head = el("thead");
  const rows = el("tbody");
  const table = el("table", { class: "virtual" }, el("colgroup"), head, rows);
  scroller.append(table);
  const names = () => [...plainColumns, ...(view.wide ? parameters : [])];
  const keep = () => memory.write(`table ${study.name}`, { by: view.by, down: view.down, filter: view.filter, wide: view.wide });
  const write = (name, row) => {
    const value = columns[name][row];
    if (missing(value)) return "";
    if (name === "recipe") return value.replaceAll("\n", "; ");
    return name in shown ? shown[name][1](value) : short(value);
  };
  const numbers = (name) => typeof columns[name].find((value) => !missing(value)) === "number";

  const drawHead = () => {
    table.querySelector("colgroup").replaceChildren(...names().map((name) => el("col", { style: `width:${widthOf(name, study, shown)}px` })));
    table.style.width = `${names().reduce((sum, name) => sum + widthOf(name, study, shown), 0)}px`;
    head.replaceChildren(el("tr", {}, names().map((name) => {
      const direction = view.by === name ? (view.down ? "descending" : "ascending") : "none";
      const title = shown[name]?.[0] ?? name;
      const sort = () => {
        view.down = view.by === name && !view.down;
        view.by = name;
        update();
        drawHead();
      };
      return el("th", { scope: "col", "aria-sort": direction, class: numbers(name) ? "number" : null },
        el("button", { type: "button", onclick: sort, title }, title, el("i", { "aria-hidden": "true" }, { ascending: " ↑", descending: " ↓", none: "" }[direction])));
    })));
  };
  const drawRows = () => {
    const most = Math.ceil(HEIGHT / ROW) + 12;
    const first = Math.max(0, Math.min(Math.floor(scroller.scrollTop / ROW) - 6, view.rows.length - most));
    const last = Math.min(view.rows.length, first + most);
    const space = (height) => el("tr", { class: "space", "aria-hidden": "true", style: `height:${height}px` }, el("td", { colspan: names().length }));
    const lines = view.rows.slice(first, last).map((row, place) =>
      el("tr", { "data-row": row, "aria-rowindex": first + place + 2, "aria-selected": String(state.chosen?.[0] === at && rowOfChosen(state) === row) },
        names().map((name) => {
          const text = write(name, row);
          return el("td", { class: numbers(name) ? "number" : null, title: text.length > 12 ? text : null }, text);
        })));
    rows.replaceChildren(space(first * ROW), ...lines, space((view.rows.length - last) * ROW));
  };
  const update = () => {
    try {
      const test = parseFilter(view.filter, columns, textOf);
      const all = [];
      for (let row = 0; row < study.size; row++) if (test(row)) all.push(row);
      view.rows = sorted(all, columns[view.by] ?? columns.number, view.down);
      problem.hidden = true;
    } catch (error) {
      problem.textContent = error.message;
      problem.hidden = false;
    }
    found.textContent = `${count(view.rows.length)} of ${plural(study.size, "trial")}`;
    table.setAttribute("aria-rowcount", view.rows.length + 1);
    keep();
    drawRows();
  };
  filter.addEventListener("input", () => {
    view.filter = filter.value;
    scroller.scrollTop = 0;
    update();
  });
  wide.addEventListener("change", () => {
    view.wide = wide.checked;
    update();
    drawHead();
  });
  save.addEventListener("click", () => download(`${study.name.replace(/[^\w.\-]+/g, "_") || "study"}.csv`, csv(columns, view.rows)));
  scroller.addEventListener("scroll", () => requestAnimationFrame(drawRows), { passive: true });
  rows.addEventListener("click", (event) => {
    const line = event.target.closest("tr[data-row]");
    if (line && getSelection().isCollapsed) chosen(chosenOfRow(study, at, Number(line.dataset.row)));
  });
  drawHead();
  update();
  /** Shows a row: leaves the filter where it would hide it, and scrolls to it. */
  return (row, scroll) => {
    if (scroll && row !== null) {
      if (!view.rows.includes(row)) {
        filter.value = view.filter = "";
        update();
      }
      const top = view.rows.indexOf(row) * ROW;
      if (top < scroller.scrollTop || top > scroller.scrollTop + scroller.clientHeight - 3 * ROW) scroller.scrollTop = Math.max(0, top - scroller.clientHeight / 2);
    }
    drawRows();
  };
}

/** The measure's name among the columns: "perplexity", "error", "bits_per_byte". */
const measureColumn = (study) => study.unit.replace(/[^a-z]+/gi, "_").replace(/_$/, "");

function columnsOf(study, measure) {
  const { values: _, ...given } = study.trials;
  const columns = Object.fromEntries(Object.entries(given).map(([name, values]) => [name === "perplexity" ? measure : name, values]));
  return { ...columns, recipe: columns.number.map((_, row) => recipeText(study, row) || null), ...study.parameters };
}

const widthOf = (name, study, shown) =>
  WIDTHS[name] ?? (name in shown ? 108 : Math.min(240, Math.max(96, 30 + 7.2 * name.length, study.parameters[name]?.some((value) => typeof value === "string") ? 130 : 0)));

/** The text of a row that words of a filter are looked for in; recipes are shared by rows. */
function searchable(study, columns, names, parameters) {
  const cache = new Array(study.size);
  const texts = names.filter((name) => typeof columns[name].find((value) => !missing(value)) === "string");
  const words = parameters.filter((name) => typeof columns[name].find((value) => !missing(value)) === "string");
  return (row) => (cache[row] ??= `trial ${study.trials.number[row]} ${[...texts, ...words].map((name) => columns[name][row] ?? "").join(" ")} ${study.trials.stopped_early?.[row] ? "stopped early" : ""}`.toLowerCase());
}

/** The row of what is chosen, or null: a mark has none. */
function rowOfChosen({ report, chosen }) {
  if (!chosen || chosen[1] === "mark") return null;
  const study = report.studies[chosen[0]];
  if (chosen[1] === "row") return chosen[2];
  const number = chosen[1] === "file" ? study.files.trial[chosen[2]] : Number.parseInt(study.front[chosen[2]].name, 10);
  return study.rowOf.get(number) ?? null;
}

/** What pressing a row chooses: its point of the front, where it is one. */
function chosenOfRow(study, at, row) {
  const index = study.front.findIndex((point) => point.name === String(study.trials.number[row]));
  return index >= 0 ? [at, "front", index] : [at, "row", row];
}

function download(name, text) {
  const address = URL.createObjectURL(new Blob([text], { type: "text/csv" }));
  const link = el("a", { href: address, download: name });
  document.body.append(link);
  link.click();
  link.remove();
  setTimeout(() => URL.revokeObjectURL(address), 10000);
}
