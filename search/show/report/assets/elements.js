// Elements, buttons, the theme, and what the page remembers when it loads itself anew.

const $ = (id) => document.getElementById(id);

/** An element. Texts become text nodes, so that nothing in the data acts as markup. */
function el(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) node.addEventListener(name.slice(2), value);
    else if (value === true) node.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return node;
}

function svg(tag, attributes, ...children) {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
}

/** The JSON document of the page. */
async function unpack(node) {
  const bytes = Uint8Array.from(atob(node.textContent), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).json();
}

/** Copies text, also where the page is a file and the browser has no clipboard for it. */
async function copy(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    const area = el("textarea", { class: "offscreen", "aria-hidden": "true" });
    area.value = text;
    document.body.append(area);
    area.select();
    const done = document.execCommand("copy");
    area.remove();
    return done;
  }
}

/** A command with a button that copies it. */
function command(text) {
  const button = el("button", { type: "button", class: "copy" }, "Copy");
  button.addEventListener("click", async () => {
    button.textContent = (await copy(text)) ? "Copied" : "Press Ctrl-C";
    setTimeout(() => (button.textContent = "Copy"), 1600);
  });
  return el("div", { class: "command" }, el("code", {}, text), button);
}

/** One of several choices, as a row of buttons; `choose` gets the key of the one pressed. */
function choice(label, options, chosen, choose) {
  const buttons = options.map(([key, text]) =>
    el("button", { type: "button", "aria-pressed": String(key === chosen), "data-key": key }, text),
  );
  for (const button of buttons)
    button.addEventListener("click", () => {
      for (const other of buttons) other.setAttribute("aria-pressed", String(other === button));
      choose(button.dataset.key);
    });
  return el("div", { class: "choice", role: "group", "aria-label": label }, buttons);
}

function select(label, options, chosen, choose) {
  const node = el("select", { "aria-label": label });
  for (const [key, text] of options) node.append(el("option", { value: key, selected: key === chosen }, text));
  node.addEventListener("change", () => choose(node.value));
  return el("label", { class: "select" }, el("span", {}, label), node);
}

/** Rows of a name, a bar and a number, longest name first come. */
function bars(rows, show = count) {
  const most = Math.max(...rows.map(([, value]) => value), 1e-12);
  return el("ul", { class: "bars" }, rows.map(([name, value]) =>
    el("li", {},
      el("span", { class: "name", title: name }, name),
      el("span", { class: "track" }, el("i", { style: `width:${(100 * value) / most}%` })),
      el("span", { class: "value" }, show(value)),
    ),
  ));
}

const quiet = (text) => el("p", { class: "quiet-line" }, text);

/** What stays when the page loads itself anew; a browser may refuse to keep it. */
const memory = {
  read(key) {
    try {
      return JSON.parse(sessionStorage.getItem(`lmpareto ${document.title} ${key}`));
    } catch {
      return null;
    }
  },
  write(key, value) {
    try {
      sessionStorage.setItem(`lmpareto ${document.title} ${key}`, JSON.stringify(value));
    } catch {
      // The page works without.
    }
  },
};

const THEMES = ["auto", "light", "dark"];

/** The button that changes the theme; `changed` draws again. */
function themeButton(button, changed) {
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const apply = (theme) => {
    document.documentElement.dataset.theme = theme === "auto" ? (dark.matches ? "dark" : "light") : theme;
    button.textContent = { auto: "Auto", light: "Light", dark: "Dark" }[theme];
    button.setAttribute("aria-label", `Colours: ${theme}`);
    memory.write("theme", theme);
  };
  let theme = memory.read("theme") ?? "auto";
  apply(theme);
  button.addEventListener("click", () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    apply(theme);
    changed();
  });
  dark.addEventListener("change", () => {
    apply(theme);
    changed();
  });
}
