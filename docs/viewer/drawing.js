"use strict";

// Pictures of exported numbers: the surface's contours, the paths on it, small plots of the state.
// Whatever is computed here ends as a place on the screen.

const SVG = "http://www.w3.org/2000/svg";
const MAP = { width: 400, height: 300 };
const PLOT = { width: 300, height: 84, top: 8, bottom: 6 };

function shape(name, attributes, text) {
  const element = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== undefined) element.textContent = text;
  return element;
}

/** Numbers of a surface, unpacked once. */
function heights(surface) {
  surface.heights ??= new Float32Array(unpacked(surface.values));
  return surface.heights;
}

/** Draw a surface: shaded bands between the levels, and the levels' contours. */
function drawContours(canvas, surface) {
  const style = getComputedStyle(canvas);
  const scale = Math.min(window.devicePixelRatio || 1, 2);
  canvas.width = Math.max(1, Math.round(canvas.clientWidth * scale));
  canvas.height = Math.max(1, Math.round(canvas.clientHeight * scale));
  const context = canvas.getContext("2d");
  const [low, high] = ["--low", "--high"].map((name) =>
    style.getPropertyValue(name).split(",").map(Number),
  );
  context.putImageData(shaded(canvas, surface, low, high), 0, 0);
  context.strokeStyle = style.getPropertyValue("--contour");
  context.lineWidth = 0.8 * scale;
  for (const level of surface.levels) context.stroke(contour(canvas, surface, level));
}

function shaded(canvas, surface, low, high) {
  const { columns, rows, levels } = surface;
  const values = heights(surface);
  const image = new ImageData(canvas.width, canvas.height);
  const colours = Array.from({ length: levels.length + 1 }, (_, band) =>
    low.map((part, i) => part + ((high[i] - part) * band) / levels.length),
  );
  for (let py = 0, at = 0; py < canvas.height; py += 1) {
    const row = (1 - (py + 0.5) / canvas.height) * (rows - 1);
    const i = Math.min(Math.floor(row), rows - 2);
    for (let px = 0; px < canvas.width; px += 1, at += 4) {
      const column = ((px + 0.5) / canvas.width) * (columns - 1);
      const j = Math.min(Math.floor(column), columns - 2);
      const corner = i * columns + j;
      const right = column - j;
      const lower = values[corner] + (values[corner + 1] - values[corner]) * right;
      const above = corner + columns;
      const upper = values[above] + (values[above + 1] - values[above]) * right;
      const height = lower + (upper - lower) * (row - i);
      let band = 0;
      while (band < levels.length && height > levels[band]) band += 1;
      image.data.set(colours[band], at);
      image.data[at + 3] = 255;
    }
  }
  return image;
}

/** Marching squares: the lines along which the surface has one height. */
function contour(canvas, surface, level) {
  const { columns, rows } = surface;
  const values = heights(surface);
  const path = new Path2D();
  const place = (column, row) => [
    (column / (columns - 1)) * canvas.width,
    (1 - row / (rows - 1)) * canvas.height,
  ];
  for (let i = 0; i + 1 < rows; i += 1) {
    for (let j = 0; j + 1 < columns; j += 1) {
      const corners = [[j, i], [j + 1, i], [j + 1, i + 1], [j, i + 1]];
      const ends = [];
      corners.forEach(([x, y], n) => {
        const [u, v] = corners[(n + 1) % 4];
        const [from, to] = [values[y * columns + x] - level, values[v * columns + u] - level];
        if (from < 0 === to < 0) return;
        const share = from / (from - to);
        ends.push(place(x + (u - x) * share, y + (v - y) * share));
      });
      for (let n = 0; n + 1 < ends.length; n += 2) {
        path.moveTo(...ends[n]);
        path.lineTo(...ends[n + 1]);
      }
    }
  }
  return path;
}

/** Where a point of the surface is on the map, kept within what can be drawn; null if not finite. */
function placed(surface, x, y) {
  if (!Number.isFinite(x) || !Number.isFinite(y)) return null;
  const [left, right, bottom, top] = surface.frame;
  const bounded = (value) => Math.max(-1e4, Math.min(1e4, value));
  return [
    bounded(((x - left) / (right - left)) * MAP.width),
    bounded((1 - (y - bottom) / (top - bottom)) * MAP.height),
  ];
}

/** The places of a run on the map, from the start to a step; null where a number is not finite. */
function trail(surface, run, step) {
  return Array.from({ length: step + 1 }, (_, k) =>
    placed(surface, run.after(k, "param", 0).number, run.after(k, "param", 1).number),
  );
}

function line(points, attributes) {
  const drawn = points.filter((point) => point !== null);
  return shape("polyline", { points: drawn.map((p) => p.join(",")).join(" "), ...attributes });
}

/** Draw a run's path up to a step, and the other run's thinly behind it. */
function drawPath(svg, surface, run, other, step) {
  const points = trail(surface, run, step);
  const known = points.filter((point) => point !== null);
  const parts = [...ticks(surface), line(trail(surface, other, step), { class: "other" })];
  parts.push(line(points, { class: "halo" }), line(points, { class: "path" }));
  known.forEach(([cx, cy]) => parts.push(shape("circle", { cx, cy, r: 2.2, class: "visited" })));
  const [sx, sy] = points[0];
  parts.push(shape("circle", { cx: sx, cy: sy, r: 5, class: "start" }));
  const last = points.at(-1);
  if (step > 0 && points[step - 1] !== null) parts.push(downhill(run, step, points[step - 1]));
  if (last === null) {
    parts.push(note("not a finite number any more", MAP.width / 2, 24, "middle"));
  } else if (isInside(last)) {
    parts.push(shape("circle", { cx: last[0], cy: last[1], r: 6, class: "here" }));
  } else {
    parts.push(...outside(last));
  }
  svg.replaceChildren(...parts);
}

function isInside([x, y]) {
  return x >= 0 && x <= MAP.width && y >= 0 && y <= MAP.height;
}

/** A short arrow in the direction opposite to the gradient that a step was given. */
function downhill(run, step, [x, y]) {
  const gradient = [0, 1].map((coordinate) => run.gradient(step, coordinate).number);
  const length = Math.hypot(...gradient);
  if (!Number.isFinite(length) || length === 0 || !isInside([x, y])) return shape("g", {});
  const [dx, dy] = [-gradient[0] / length, gradient[1] / length];
  const [ex, ey] = [x + 30 * dx, y + 30 * dy];
  const head = [-0.5, 0.5].map((turn) => {
    const [c, s] = [Math.cos(turn), Math.sin(turn)];
    return `M${ex},${ey} l${-7 * (dx * c - dy * s)},${-7 * (dx * s + dy * c)}`;
  });
  return shape("path", { d: `M${x},${y} L${ex},${ey} ${head.join(" ")}`, class: "downhill" });
}

/** Mark the edge of the map behind which a path is. */
function outside([x, y]) {
  const cx = Math.max(9, Math.min(MAP.width - 9, x));
  const cy = Math.max(9, Math.min(MAP.height - 9, y));
  const anchor = cx > MAP.width / 2 ? "end" : "start";
  const tx = Math.max(22, Math.min(MAP.width - 22, cx));
  const ty = Math.max(28, Math.min(MAP.height - 20, cy));
  return [
    shape("circle", { cx, cy, r: 6, class: "here gone" }),
    note("outside the map", tx, ty, anchor),
  ];
}

function note(text, x, y, anchor) {
  return shape("text", { x, y, class: "note", "text-anchor": anchor }, text);
}

/** Whole numbers along two edges of the map. */
function ticks(surface) {
  const [left, right, bottom, top] = surface.frame;
  const every = right - left > 7 ? 2 : 1;
  const parts = [];
  for (let n = Math.ceil(left / every) * every; n < right; n += every) {
    const [x] = placed(surface, n, 0);
    if (x < 14 || x > MAP.width - 24) continue;
    parts.push(shape("text", { x, y: MAP.height - 5, class: "tick" }, n));
  }
  for (let n = Math.ceil(bottom / every) * every; n < top; n += every) {
    const [, y] = placed(surface, 0, n);
    if (y < 14 || y > MAP.height - 24) continue;
    parts.push(shape("text", { x: 9, y: y + 3.5, class: "tick" }, n));
  }
  parts.push(shape("text", { x: MAP.width - 7, y: MAP.height - 5, class: "axis" }, surface.names[0]));
  parts.push(shape("text", { x: 9, y: 13, class: "axis" }, surface.names[1]));
  return parts;
}

/** Draw series of values over the steps, with a mark at the current one. */
function drawPlot(svg, series, step, steps, isLogarithmic) {
  const all = series.flat().filter((value) => Number.isFinite(value));
  const isLog = isLogarithmic && all.every((value) => value > 0);
  const height = (value) => (isLog ? Math.log(value) : value);
  const bounds = isLog ? all : [...all, 0];
  const [lowest, highest] = [Math.min(...bounds.map(height)), Math.max(...bounds.map(height))];
  const span = highest - lowest || 1;
  const inner = PLOT.height - PLOT.top - PLOT.bottom;
  const x = (k) => 8 + (k / steps) * (PLOT.width - 16);
  const y = (value) => PLOT.top + (1 - (height(value) - lowest) / span) * inner;
  const parts = [];
  if (!isLog) {
    const zero = y(0);
    parts.push(shape("line", { x1: 4, x2: PLOT.width - 4, y1: zero, y2: zero, class: "zero" }));
  }
  parts.push(
    shape("line", { x1: x(step), x2: x(step), y1: 2, y2: PLOT.height - 2, class: "now" }),
  );
  series.forEach((values, i) => {
    const points = values.map((value, k) => (Number.isFinite(value) ? [x(k), y(value)] : null));
    parts.push(line(points, { class: `future c${i}` }));
    parts.push(line(points.slice(0, step + 1), { class: `series c${i}` }));
    const here = points[step];
    // A line of no length with round ends stays round where the plot is stretched.
    if (here) parts.push(line([here, here], { class: `dot c${i}` }));
  });
  svg.replaceChildren(...parts);
  return isLog;
}
