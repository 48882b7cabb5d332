"use strict";

// What the controls are set to, and its form in the page's address, so that it can be linked to.

function nearest(values, wanted) {
  return values.reduce((best, value) =>
    Math.abs(value - wanted) < Math.abs(best - wanted) ? value : best,
  );
}

/** A situation with every part within what was exported; the rest is that of `otherwise`. */
function completed(wanted, otherwise) {
  const { surfaces, optimizers, lrs, momenta, steps } = store.index;
  const known = (table, key, other) =>
    [key, other].find((each) => Object.hasOwn(table, each)) ?? Object.keys(table)[0];
  const side = (given, other) => ({
    optimizer: known(optimizers, given?.optimizer, other.optimizer),
    lr: nearest(lrs, given?.lr ?? other.lr),
    momentum: nearest(momenta, given?.momentum ?? other.momentum),
  });
  const surface = known(surfaces, wanted.surface, otherwise.surface);
  const whole = (value, other, limit) => Math.max(0, Math.min(limit, Math.round(value ?? other)));
  return {
    surface,
    start: whole(wanted.start, otherwise.start, surfaces[surface].starts.length - 1),
    step: whole(wanted.step, otherwise.step, steps),
    a: side(wanted.a, otherwise.a),
    b: side(wanted.b, otherwise.b),
    coordinates: ["0", "1", "both"].find((each) => each === wanted.coordinates) ?? otherwise.coordinates,
    numbers: ["short", "exact", "bits"].find((each) => each === wanted.numbers) ?? otherwise.numbers,
  };
}

/** The situation as the part of an address behind "#". */
function toHash(situation) {
  const side = ({ optimizer, lr, momentum }) => `${optimizer},${lr},${momentum}`;
  const { surface, start, step, a, b, coordinates, numbers } = situation;
  const parts = { surface, start, a: side(a), b: side(b), step, coordinates, numbers };
  return `#${Object.entries(parts).map((part) => part.join("=")).join("&")}`;
}

/** What an address says, as far as it can be read. */
function fromHash(hash) {
  const said = new URLSearchParams(hash.replace(/^#/, ""));
  const number = (text) => (text && Number.isFinite(Number(text)) ? Number(text) : undefined);
  const side = (text) => {
    const [optimizer, lr, momentum] = (text ?? "").split(",");
    return { optimizer, lr: number(lr), momentum: number(momentum) };
  };
  return {
    surface: said.get("surface"),
    start: number(said.get("start")),
    step: number(said.get("step")),
    a: side(said.get("a")),
    b: side(said.get("b")),
    coordinates: said.get("coordinates"),
    numbers: said.get("numbers"),
  };
}
