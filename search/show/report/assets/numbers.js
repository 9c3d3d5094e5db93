// Numbers as people write them, and sizes as they type them.

const STEPS = { B: 1, kB: 1e3, MB: 1e6, GB: 1e9 };

/** A size to three significant digits: "412 kB", "1.07 MB". */
function size(bytes) {
  if (bytes === null || bytes === undefined) return "–";
  if (bytes < 999.5) return `${Math.round(bytes)} B`;
  for (const unit of ["kB", "MB", "GB"]) {
    const number = bytes / STEPS[unit];
    if (number < 999.5 || unit === "GB")
      return `${number.toFixed(number < 9.995 ? 2 : number < 99.95 ? 1 : 0)} ${unit}`;
  }
}

/** Bytes from "1 MB", "500kB", "123456"; NaN for anything else. */
function parseSize(text) {
  const match = /^\s*(\d+(?:[.,]\d+)?)\s*([kmg]?b?)\s*$/i.exec(text);
  if (!match) return NaN;
  const unit = { "": "B", b: "B", k: "kB", kb: "kB", m: "MB", mb: "MB", g: "GB", gb: "GB" };
  return Number(match[1].replace(",", ".")) * STEPS[unit[match[2].toLowerCase()]];
}

const missing = (value) => value === null || value === undefined || Number.isNaN(value);
const decimals = (digits) => {
  const form = new Intl.NumberFormat("en", {
    minimumFractionDigits: digits,
    maximumFractionDigits: digits,
  });
  return (value) => (missing(value) ? "–" : form.format(value));
};
const count = decimals(0);
const perplexity = decimals(2);
const percent = (share) => (missing(share) ? "–" : `${(100 * share).toFixed(share > 0 && share < 0.1 ? 1 : 0)}%`);

/** Any number in few digits. */
function short(value) {
  if (missing(value)) return "–";
  if (typeof value !== "number") return String(value);
  if (Number.isInteger(value) && Math.abs(value) < 1e6) return String(value);
  return Number(value.toPrecision(4)).toString();
}

function duration(seconds) {
  if (missing(seconds)) return "–";
  if (seconds < 1) return `${seconds.toFixed(2)} s`;
  if (seconds < 120) return `${seconds.toFixed(seconds < 10 ? 1 : 0)} s`;
  if (seconds < 7200) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

const date = (seconds) =>
  missing(seconds) ? "–" : new Date(seconds * 1000).toISOString().slice(0, 16).replace("T", " ");

const plural = (number, noun) => `${count(number)} ${noun}${number === 1 ? "" : "s"}`;

/** A long text without its end. */
const clippedEnd = (text, most) => (text.length <= most ? text : `${text.slice(0, most - 1)}…`);

/** A long text without its middle: sites of a network differ at both ends. */
const clippedMiddle = (text, most) =>
  text.length <= most ? text : `${text.slice(0, Math.ceil((most - 1) / 2))}…${text.slice(-Math.floor((most - 1) / 2))}`;

/** A name for people: "tokens_per_second" as "tokens per second". */
const spaced = (name) => name.replaceAll("_", " ");

/** The logarithmic mean place of `value` between two ends, 0 to 1. */
const share = (value, low, high) => Math.log(value / low) / Math.log(high / low);

/** Text that Plotly takes for what it says: it would read tags and entities. */
const escaped = (text) =>
  String(text).replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
