// Puts the page together.

const SECTIONS = [
  ["sure", "How sure", "Points trained again with other seeds: mean and standard deviation, and the best, the median and the worst front of the seeds.", (state, at, body) => sureSection(state.report.studies[at], body)],
  ["made", "What the front is made of", "How each site is stored, along the front.", (state, at, body) => madeSection(state.report.studies[at], body)],
  ["mattered", "What mattered", "Which parameters moved the size and the measure.", (state, at, body) => matteredSection(state.report.studies[at], body)],
  ["course", "How the search went", "What was gained for the training spent.", (state, at, body) => courseSection(state.report.studies[at], body)],
  ["trials", "All trials", "", (state, at, body, actions) => (state.showRow = tableSection(state, at, body, actions))],
  ["provenance", "Provenance", "What this study was made with.", (state, at, body) => provenanceSection(state.report.studies[at], body)],
];
const REFRESH = 10; // seconds between two loads of a page that watches

/** What the page computes of each study when it opens. */
function prepare(study) {
  study.size = study.trials.number?.length ?? 0;
  study.rowOf = new Map((study.trials.number ?? []).map((number, row) => [number, row]));
  study.front.sort((a, b) => a.size_bytes - b.size_bytes || a.perplexity - b.perplexity);
}

/** A third objective is a colour, with its bar at the right of the plot. */
const marginOf = (studies) => ({ ...MARGIN, r: studies.some((study) => study.objectives.length > 2) ? 96 : MARGIN.r });

/** The marks of all studies, each once. A baseline that one study alone has is named after it. */
function marksOf(studies) {
  const marks = new Map();
  for (const study of studies)
    for (const mark of study.marks) {
      if (!(mark.size_bytes > 0 && mark.perplexity > 0)) continue;
      const key = JSON.stringify([mark.label, mark.source, mark.size_bytes, mark.perplexity]);
      marks.set(key, [...(marks.get(key) ?? []), [mark, study]]);
    }
  return [...marks.values()].map((same) => {
    const [mark, study] = same[0];
    const shared = mark.source || same.length > 1 || studies.length === 1;
    return shared ? mark : { ...mark, label: `${study.name}: ${mark.label}` };
  });
}

function knee(studies) {
  for (const study of studies) {
    const point = study.front.find((one) => one.name === study.knee);
    if (point) return point;
  }
  return studies.flatMap((study) => study.front)[0];
}

function factsOf(study) {
  const states = {};
  for (const one of study.trials.state ?? []) states[one] = (states[one] ?? 0) + 1;
  const parts = [plural(study.size - (states.waiting ?? 0), "trial"), `${count(study.front.length)} on the front`];
  for (const name of ["failed", "running", "waiting", "infeasible"]) if (states[name]) parts.push(`${count(states[name])} ${name === "infeasible" ? "over a limit" : name}`);
  return `${study.corpus ? `${study.corpus}: ` : ""}${parts.join(", ")}.`;
}

/** The sections of one study, each filled when it comes near the screen. */
function showStudy(state, at, actions) {
  const study = state.report.studies[at];
  state.study = at;
  state.showRow = null;
  const several = state.report.studies.length > 1;
  const sections = SECTIONS.map(([id, title, intro, make]) => {
    const body = el("div", { class: "body waiting" });
    lazily(body, () => {
      body.classList.remove("waiting");
      make(state, at, body, actions);
    });
    return el("section", { id, "aria-labelledby": `${id}-title` }, el("h2", { id: `${id}-title` }, title), intro ? el("p", { class: "intro" }, intro) : null, body);
  });
  const head = several ? [el("p", { class: "lead" }, study.sentence), el("p", { class: "facts" }, factsOf(study))] : [];
  $("study").replaceChildren(...head, ...study.notes.map((note) => el("p", { class: "note" }, note)), ...sections);
}

function tabs(state, actions) {
  const { studies } = state.report;
  const buttons = studies.map((study, at) =>
    el("button", { type: "button", role: "tab", id: `tab-${at}`, "aria-controls": "study", onclick: () => open(at) }, study.name),
  );
  const open = (at) => {
    buttons.forEach((button, other) => {
      button.setAttribute("aria-selected", String(other === at));
      button.tabIndex = other === at ? 0 : -1;
    });
    memory.write("tab", at);
    showStudy(state, at, actions);
  };
  $("tabs").addEventListener("keydown", (event) => {
    const by = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!by) return;
    const next = (state.study + by + studies.length) % studies.length;
    open(next);
    buttons[next].focus();
  });
  $("tabs").replaceChildren(...buttons);
  $("tabs").hidden = studies.length < 2;
  return open;
}

/** Loads the page anew every few seconds, unless someone is typing or dragging, or it is not seen. */
function watch() {
  $("watching").hidden = false;
  let busy = 0;
  for (const name of ["input", "pointerdown", "keydown", "wheel"]) addEventListener(name, () => (busy = Date.now()), { passive: true });
  addEventListener("pagehide", () => memory.write("scroll", scrollY));
  setInterval(() => !document.hidden && Date.now() - busy > 4000 && location.reload(), REFRESH * 1000);
}

/** Until the screen shows what was made so far; in a tab that is not seen, a moment later. */
const painted = () => new Promise((done) => {
  requestAnimationFrame(() => setTimeout(done));
  setTimeout(done, 100);
});

async function main() {
  const report = await unpack($("data"));
  report.studies.forEach(prepare);
  const state = { report, marks: marksOf(report.studies), view: viewOf(report.studies), hidden: new Set(), chosen: null, margin: marginOf(report.studies) };
  $("contents").replaceChildren(...[["front", "Front"], ["sure", "How sure"], ["made", "Made of"], ["mattered", "Mattered"], ["course", "Course"], ["trials", "Trials"], ["provenance", "Provenance"]].map(([id, text]) => el("a", { href: `#${id}` }, text)));
  const several = report.studies.length > 1;
  $("facts").textContent = report.studies.map((study) => (several ? `${study.name}, ${factsOf(study)}` : factsOf(study))).join("\n");
  if (several) report.studies.forEach((_, at) => state.hidden.add(`predicted ${at}`));

  let showPanel = () => {};
  const changed = () => {
    markChosen(state);
    showPanel();
    if (state.chosen && state.chosen[0] === state.study) state.showRow?.(rowOfChosen(state), false);
    else state.showRow?.(null, false);
  };
  const select = (what) => {
    const [at, kind, index] = what;
    if (kind === "front") {
      state.limit = roomFor(report.studies[at].front[index].size_bytes);
      memory.write("limit", state.limit);
      state.placeSlider();
    }
    state.chosen = what;
    changed();
    if (kind !== "mark" && at !== state.study) open(at);
    state.showRow?.(rowOfChosen(state), true);
  };
  const actions = { select };

  themeButton($("theme"), redraw);
  const first = knee(report.studies);
  state.limit = memory.read("limit") ?? (first ? roomFor(first.size_bytes) : null);
  showPanel = panel(state, changed);
  if (first) {
    state.chosen = bestOfAll(state);
    limitControls(state, changed);
  } else document.querySelector(".limit").hidden = true;
  changed();
  let front = null;
  if (state.marks.length || report.studies.some((study) => rowsOf(study, () => true).length)) front = frontPlot(state, actions);
  else {
    document.querySelector(".stage").classList.add("bare");
    document.querySelector(".plane").remove();
  }
  const open = tabs(state, actions);
  if (report.studies.length) open(Math.min(memory.read("tab") ?? 0, report.studies.length - 1));

  addEventListener("beforeprint", () => {
    buildAll();
    state.theme = document.documentElement.dataset.theme;
    document.documentElement.dataset.theme = "light";
    redraw();
  });
  addEventListener("afterprint", () => {
    document.documentElement.dataset.theme = state.theme;
    redraw();
  });
  if (report.watching) {
    const scroll = memory.read("scroll");
    if (scroll) {
      buildDownTo(scroll + innerHeight);
      scrollTo({ top: scroll, behavior: "instant" });
    }
    watch();
  }
  document.documentElement.dataset.usable = "true";
  await painted();
  await loadPlotly();
  await front;
  document.documentElement.dataset.ready = "true";
}

await main();
