"use strict";

// How numbers are spelt: as Python spells them, so that what is shown can be compared as text.

function hexadecimal(bits, digits) {
  return `0x${bits.toString(16).padStart(digits, "0")}`;
}

/** The bits of a number that is a float32 already. */
function singleBits(number) {
  return hexadecimal(new Uint32Array(Float32Array.of(number).buffer)[0], 8);
}

/** Spell a value: "short" with 6 digits, "exact" so that it reads back, "bits" as an integer. */
function spelt(value, how) {
  if (value.dtype === "int") return String(value.number);
  if (how === "bits") return value.bits;
  if (Number.isNaN(value.number)) return "nan";
  if (!Number.isFinite(value.number)) return value.number > 0 ? "inf" : "-inf";
  return how === "exact" ? pythonic(value.number, undefined) : pythonic(value.number, 6);
}

/** Python's repr(number), or f"{number:.6g}" where a number of digits is given. */
function pythonic(number, digits) {
  const sign = number < 0 || Object.is(number, -0) ? "-" : "";
  const shortest = Math.abs(number).toExponential(digits && digits - 1);
  const [mantissa, power] = shortest.split("e");
  const exponent = Number(power);
  let figures = mantissa.replace(".", "");
  if (digits) figures = figures.replace(/0+$/, "") || "0";
  if (exponent < -4 || exponent >= (digits ?? 16)) return sign + scientific(figures, exponent);
  const whole = exponent < 0 ? "0" : figures.slice(0, exponent + 1).padEnd(exponent + 1, "0");
  const rest = exponent < 0 ? "0".repeat(-exponent - 1) + figures : figures.slice(exponent + 1);
  if (!Number(figures)) return `${sign}0${digits ? "" : ".0"}`;
  return sign + whole + (rest ? `.${rest}` : digits ? "" : ".0");
}

function scientific(figures, exponent) {
  const mantissa = figures.length > 1 ? `${figures[0]}.${figures.slice(1)}` : figures;
  const sign = exponent < 0 ? "-" : "+";
  return `${mantissa}e${sign}${String(Math.abs(exponent)).padStart(2, "0")}`;
}
