"use strict";

// What the exporter wrote, and where each number of a run is found in it. No number is computed.

const store = { index: null, rules: {}, runs: {}, loading: {} };

/** Called by the files in data/, which hand their content over. */
const receive = {
  index(content) {
    store.index = content;
  },
  rule(key, content) {
    const buffer = unpacked(content.scalars);
    store.rules[key] = {
      kinds: content.kinds,
      scalars: new Float64Array(buffer),
      scalarBits: new BigUint64Array(buffer),
    };
  },
  runs(surface, key, content) {
    const buffer = unpacked(content);
    store.runs[`${surface}-${key}`] = {
      numbers: new Float32Array(buffer),
      bits: new Uint32Array(buffer),
    };
  },
};

/** Bytes from base64; they are little-endian, as is every machine that has a browser today. */
function unpacked(text) {
  return Uint8Array.from(atob(text), (character) => character.charCodeAt(0)).buffer;
}

/** Load a file of data/ once, as a script: a page opened from a file can read nothing else. */
function load(name) {
  store.loading[name] ??= new Promise((resolve, reject) => {
    const script = document.createElement("script");
    script.src = `data/${name}.js`;
    script.onload = resolve;
    script.onerror = () => {
      delete store.loading[name];
      reject(new Error(`data/${name}.js could not be loaded`));
    };
    document.head.append(script);
  });
  return store.loading[name];
}

/** One run: an optimizer with its learning rate and momentum, from one start on one surface. */
class Run {
  static async of(surface, start, side) {
    await Promise.all([load(side.optimizer), load(`${surface}-${side.optimizer}`)]);
    return new Run(surface, start, side);
  }

  constructor(surface, start, side) {
    const { lrs, momenta, steps, surfaces, optimizers } = store.index;
    this.rule = store.rules[side.optimizer];
    this.content = store.runs[`${surface}-${side.optimizer}`];
    this.steps = steps;
    const momentum = optimizers[side.optimizer].momentum ? momenta.indexOf(side.momentum) : 0;
    const columns = optimizers[side.optimizer].momentum ? momenta.length : 1;
    const pair = lrs.indexOf(side.lr) * columns + momentum;
    this.widths = this.rule.kinds.map((kind) => 2 + 2 * kind.places + 1);
    this.slots = this.rule.kinds.map((kind) => kind.slots);
    const width = 3 + this.widths[0] + (steps - 1) * this.widths[1];
    this.first = (pair * surfaces[surface].starts.length + start) * width;
    this.firstSlot = pair * (this.slots[0] + (steps - 1) * this.slots[1]);
  }

  operations(step) {
    return this.rule.kinds[step === 1 ? 0 : 1].operations;
  }

  /** The optimizer's state, by the names that a later step reads before it writes them. */
  get stateNames() {
    const read = this.operations(2).flatMap((operation) => operation.arguments);
    const names = read.filter((each) => each.name && !("operation" in each) && !("slot" in each));
    return [...new Set(names.map((each) => each.name))].filter(
      (name) => name !== "param" && name !== "grad",
    );
  }

  gradient(step, coordinate) {
    return this.#single(this.#offset(step) + coordinate);
  }

  loss(step) {
    const width = this.widths[step === 1 ? 0 : 1];
    return this.#single(step === 0 ? this.first + 2 : this.#offset(step) + width - 1);
  }

  /** The value that a name has after a step; null before the first. */
  after(step, name, coordinate) {
    if (step === 0) return name === "param" ? this.#single(this.first + coordinate) : null;
    const written = this.operations(step).filter((operation) => operation.result === name);
    return written.length ? this.result(step, written.at(-1), coordinate) : null;
  }

  result(step, operation, coordinate) {
    if ("slot" in operation) return this.#scalar(step, operation.slot, "float32");
    return this.#single(this.#offset(step) + 2 + 2 * operation.place + coordinate);
  }

  argument(step, argument, coordinate) {
    if ("slot" in argument) return this.#scalar(step, argument.slot, argument.dtype);
    if ("operation" in argument) {
      return this.result(step, this.operations(step)[argument.operation], coordinate);
    }
    if (argument.name === "grad") return this.gradient(step, coordinate);
    return this.after(step - 1, argument.name, coordinate);
  }

  #offset(step) {
    return this.first + 3 + (step === 1 ? 0 : this.widths[0] + (step - 2) * this.widths[1]);
  }

  #single(place) {
    const { numbers, bits } = this.content;
    return { number: numbers[place], bits: hexadecimal(bits[place], 8), dtype: "float32" };
  }

  #scalar(step, slot, dtype) {
    const before = step === 1 ? 0 : this.slots[0] + (step - 2) * this.slots[1];
    const place = this.firstSlot + before + slot;
    const number = this.rule.scalars[place];
    const bits =
      dtype === "float32" ? singleBits(number) : hexadecimal(this.rule.scalarBits[place], 16);
    return { number, bits, dtype };
  }
}
