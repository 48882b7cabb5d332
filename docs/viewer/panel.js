"use strict";

// One of the two optimizers: its controls, its map and its plots.

class Panel {
  /** `changed(parts)` is called when the reader changes the optimizer or its hyperparameters. */
  constructor(key, changed) {
    const copy = document.getElementById("panel").content.cloneNode(true);
    this.root = copy.querySelector(".panel");
    this.root.dataset.side = key;
    const find = (selector) => this.root.querySelector(selector);
    this.optimizer = find("select.optimizer");
    this.lr = find("input.lr");
    this.momentum = find("input.momentum");
    this.canvas = find("canvas");
    this.svg = find(".map svg");
    this.plots = find(".plots");
    const { optimizers, lrs, momenta } = store.index;
    for (const [name, { title }] of Object.entries(optimizers)) {
      this.optimizer.append(new Option(title, name));
    }
    this.optimizer.setAttribute("aria-label", `Optimizer ${key.toUpperCase()}`);
    this.lr.max = lrs.length - 1;
    this.momentum.max = momenta.length - 1;
    this.optimizer.addEventListener("change", () => changed({ optimizer: this.optimizer.value }));
    this.lr.addEventListener("input", () => changed({ lr: lrs[this.lr.value] }));
    this.momentum.addEventListener("input", () => changed({ momentum: momenta[this.momentum.value] }));
    new ResizeObserver(() => this.drawSurface()).observe(this.canvas);
  }

  /** Set the controls to a side of the situation. */
  set({ optimizer, lr, momentum }) {
    const { optimizers, lrs, momenta } = store.index;
    const chosen = optimizers[optimizer];
    this.title = chosen.title;
    this.optimizer.value = optimizer;
    this.#slide(this.lr, lrs.indexOf(lr), String(lr));
    this.#slide(this.momentum, momenta.indexOf(momentum), chosen.momentum ? String(momentum) : "none");
    this.momentum.disabled = !chosen.momentum;
    this.root.querySelector(".momentum-name").textContent = chosen.momentum || "momentum";
    const call = chosen.call.replace("{lr}", lr).replace("{momentum}", momentum);
    this.root.querySelector(".call").textContent = call;
  }

  #slide(input, value, text) {
    input.value = value;
    input.setAttribute("aria-valuetext", text);
    input.parentElement.querySelector("output").textContent = text;
  }

  drawSurface() {
    if (this.surface && this.canvas.clientWidth) drawContours(this.canvas, this.surface);
  }

  /** Show a run as it is after a step. */
  show(surface, run, other, step, how) {
    if (surface !== this.surface) {
      this.surface = surface;
      this.drawSurface();
    }
    drawPath(this.svg, surface, run, other, step);
    const where = this.where(surface, run, step, how);
    this.root.querySelector(".where").replaceChildren(...where);
    this.svg.setAttribute("aria-label", `Path of ${this.title} on the surface’s contours`);
    this.#showPlots(surface, run, step, how);
  }

  /** Where the parameters are after a step, and the loss there. */
  where(surface, run, step, how) {
    const shown = [0, 1].map((c) => [surface.names[c], run.after(step, "param", c)]);
    return [...shown, ["f", run.loss(step)]].map(([name, value]) =>
      element("span", "", element("var", "", name), " = ", element("span", "value", spelt(value, how))),
    );
  }

  #showPlots(surface, run, step, how) {
    const series = (read) => Array.from({ length: run.steps + 1 }, (_, k) => read(k));
    const losses = [series((k) => run.loss(k).number)];
    const drawn = [{ name: "f", about: "the loss", series: losses, now: [run.loss(step)] }];
    for (const name of run.stateNames) {
      drawn.push({
        name,
        about: store.index.notes[name] ?? "",
        series: [0, 1].map((c) => series((k) => run.after(k, name, c)?.number ?? NaN)),
        now: [0, 1].map((c) => run.after(step, name, c)),
      });
    }
    this.plots.replaceChildren(...drawn.map((plot) => this.#plot(plot, surface, step, run.steps, how)));
  }

  #plot({ name, about, series, now }, surface, step, steps, how) {
    const { width, height } = PLOT;
    const svg = shape("svg", { viewBox: `0 0 ${width} ${height}`, preserveAspectRatio: "none" });
    svg.setAttribute("aria-hidden", "true");
    const isLog = drawPlot(svg, series, step, steps, name === "f");
    const values = now.map((value, i) =>
      element(
        "span",
        `key c${i}`,
        now.length > 1 ? `${surface.names[i]} ` : "",
        element("span", "value", value ? spelt(value, how) : "–"),
      ),
    );
    const title = element("span", "about", isLog ? `${about}, logarithmic` : about);
    const caption = element("figcaption", "", element("var", "", name), " ", title);
    const figure = element("figure", "plot", caption, svg, element("div", "keys", ...values));
    figure.dataset.name = name;
    return figure;
  }
}
