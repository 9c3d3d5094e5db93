// The size-perplexity plane: what of it is seen at first, and where labels fit.

/** What is seen at first: the front, the baselines, and the other points near them. Collapsed models
 * of the front do not count, so that they do not press all others together. */
function viewOf(studies) {
  const own = [];
  const others = [];
  for (const study of studies) {
    const best = Math.min(...study.front.map((point) => point.perplexity));
    const at = (point) => [point.size_bytes, point.perplexity];
    own.push(...study.front.map(at).filter(([, value]) => value <= 2.2 * best));
    for (const mark of study.marks) (mark.source ? others : own).push(at(mark));
    const { size_bytes, perplexity: values } = study.trials;
    const step = Math.ceil(study.size / 3000);
    for (let row = 0; row < study.size; row += step)
      if (size_bytes[row] > 0 && values[row] > 0) others.push([size_bytes[row], values[row]]);
  }
  let shown = own;
  if (own.length) {
    const [left, right] = ends(own.map(([x]) => x));
    const [low, high] = ends(own.map(([, y]) => y));
    const near = ([x, y]) => x >= left / 2 && x <= right * 2 && y >= low / 1.3 && y <= high * 1.15;
    shown = own.concat(others.filter(near));
  } else if (others.length) shown = others;
  if (!shown.length) shown = [[1e5, 80], [1e7, 150]];
  return { x: padded(shown.map(([x]) => x)), y: padded(shown.map(([, y]) => y)) };
}

function ends(values) {
  let [low, high] = [Infinity, -Infinity];
  for (const value of values) {
    low = Math.min(low, value);
    high = Math.max(high, value);
  }
  return [low, high];
}

/** The ends, each moved out by 6% of their distance in logs, at least by 12%: no axis is without a tick. */
function padded(values) {
  const [low, high] = ends(values);
  const factor = Math.max((high / low) ** 0.06, 1.12);
  return [low / factor, high * factor];
}

/** From data to pixels of a plot of this size with these margins, as it is seen now. */
function placing(node, margin, x, y) {
  const width = node.clientWidth - margin.l - margin.r;
  const height = node.clientHeight - margin.t - margin.b;
  return {
    margin,
    width,
    height,
    x: (value) => margin.l + width * share(value, ...x),
    y: (value) => margin.t + height * (1 - share(value, ...y)),
  };
}

const SIDES = ["middle right", "middle left", "top center", "bottom center"];

/** Gives each labelled point a side where its label hides nothing; a label without one is left out
 * unless it is `kept`. The first labels choose first. */
function placeLabels(place, labels, points, size = 12) {
  const taken = points.map(([x, y]) => [place.x(x) - 6, place.y(y) - 6, place.x(x) + 6, place.y(y) + 6]);
  const right = place.margin.l + place.width;
  const bottom = place.margin.t + place.height;
  return labels.map(({ at, text, kept }) => {
    const [x, y] = [place.x(at[0]), place.y(at[1])];
    const [wide, high, gap] = [0.6 * size * text.length, 1.25 * size, 9];
    const box = (side) => {
      const [down, across] = side.split(" ");
      const left = { right: x + gap, left: x - gap - wide, center: x - wide / 2 }[across];
      const top = { middle: y - high / 2, top: y - gap - high, bottom: y + gap }[down];
      return [left, top, left + wide, top + high];
    };
    const lost = ([l, t, r, b]) => {
      const over = taken.reduce((sum, [left, top, right, bottom]) =>
        sum + Math.max(0, Math.min(r, right) - Math.max(l, left)) * Math.max(0, Math.min(b, bottom) - Math.max(t, top)), 0);
      const out = Math.max(0, place.margin.l - l) + Math.max(0, r - right) + Math.max(0, place.margin.t - t) + Math.max(0, b - bottom);
      return over + 40 * out;
    };
    const side = SIDES.map((side) => [lost(box(side)), side]).sort((a, b) => a[0] - b[0])[0];
    const seen = x >= place.margin.l && x <= right && y >= place.margin.t && y <= bottom;
    if (!seen || (!kept && side[0] > 0.1 * wide * high)) return ["", "middle right"];
    taken.push(box(side[1]));
    return [text, side[1]];
  });
}

/** The corners of the staircase through points that are sorted by size: of those, the ones that no
 * smaller point beats. */
function staircase(points) {
  const kept = [];
  for (const [x, y] of [...points].sort((a, b) => a[0] - b[0] || a[1] - b[1]))
    if (!kept.length || y < kept.at(-1)[1]) kept.push([x, y]);
  return kept;
}
