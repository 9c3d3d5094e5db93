// The filter of the table: words, and comparisons such as "size < 1MB".

const OTHER_NAMES = {
  trial: "number", size: "size_bytes", speed: "tokens_per_second", bytes: "size_bytes", stopped: "stopped_early", early: "stopped_early",
};
const COMPARE = {
  "<": (a, b) => a < b, "<=": (a, b) => a <= b, ">": (a, b) => a > b, ">=": (a, b) => a >= b,
  "=": (a, b) => a === b, "==": (a, b) => a === b, "!=": (a, b) => a !== b,
};
const COMPARISON = /([^\s<>=!,"]+)\s*(<=|>=|!=|==|=|<|>)\s*("[^"]*"|'[^']*'|\d[\d.,]*\s*[kMG]?B\b|[^\s,]+)/gi;

/** A test of a row: `(row) => boolean`. Throws an Error, a sentence for who typed the filter. */
function parseFilter(text, columns, textOf) {
  const tests = [];
  const rest = text.replace(COMPARISON, (whole, name, sign, given) => {
    tests.push(comparison(name, sign, given.replace(/^(["'])(.*)\1$/, "$2").trim(), columns));
    return " ";
  });
  const stray = /[<>]/.exec(rest);
  if (stray) throw new Error(`“${rest.trim()}” is not understood: write a column, a sign and a value, as in size < 1MB.`);
  for (const word of rest.split(/[\s,]+/).filter((one) => one && one.toLowerCase() !== "and")) {
    const wanted = word.toLowerCase();
    tests.push((row) => textOf(row).includes(wanted));
  }
  return (row) => tests.every((test) => test(row));
}

function comparison(name, sign, given, columns) {
  const known = Object.keys(columns);
  const wanted = OTHER_NAMES[name.toLowerCase()] ?? name;
  const key = known.find((one) => one === wanted) ?? known.find((one) => one.toLowerCase() === wanted.toLowerCase());
  if (key === undefined) throw new Error(`There is no column “${name}”: there are ${known.slice(0, 12).map(spaced).join(", ")}${known.length > 12 ? ", …" : "."}`);
  const values = columns[key];
  const holds = COMPARE[sign];
  const sample = values.find((one) => !missing(one));
  if (typeof sample === "number") {
    const number = Number.isNaN(Number(given)) ? parseSize(given) : Number(given);
    if (Number.isNaN(number)) throw new Error(`“${given}” is no number to compare ${spaced(key)} with.`);
    return (row) => !missing(values[row]) && holds(values[row], number);
  }
  const text = given.toLowerCase();
  const lower = (value) => (typeof value === "boolean" ? (value ? "yes" : "no") : String(value).toLowerCase());
  const asked = { true: "yes", false: "no" }[text] ?? text;
  return (row) => (missing(values[row]) ? sign === "!=" : holds(lower(values[row]), typeof sample === "boolean" ? asked : text));
}

/** The rows sorted by a column; rows without a value come last either way. */
function sorted(rows, values, down) {
  const sign = down ? -1 : 1;
  const order = (a, b) => (typeof a === "string" && typeof b === "string" ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === typeof b ? a - b : String(a).localeCompare(String(b)));
  const known = rows.filter((row) => !missing(values[row]));
  const none = rows.filter((row) => missing(values[row]));
  return known.sort((a, b) => sign * order(values[a], values[b]) || a - b).concat(none);
}

/** Rows as CSV (RFC 4180). */
function csv(columns, rows) {
  const cell = (value) => {
    const text = missing(value) ? "" : String(value);
    return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
  };
  const names = Object.keys(columns);
  const lines = [names.map(cell).join(",")];
  for (const row of rows) lines.push(names.map((name) => cell(columns[name][row])).join(","));
  return `${lines.join("\r\n")}\r\n`;
}
