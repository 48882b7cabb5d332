"use strict";

// The page: its controls, its player, and what is shown where.

(() => {
  const { surfaces, steps, presets, opening } = store.index;
  const byId = (id) => document.getElementById(id);
  const otherwise = { ...opening, coordinates: "both", numbers: "short" };
  let situation = completed(fromHash(location.hash), otherwise);
  let timer = null;
  let drawing = 0;
  let addressing = null;

  const panels = Object.fromEntries(
    ["a", "b"].map((key) => [key, new Panel(key, (parts) => changeSide(key, parts))]),
  );
  const sheets = Object.fromEntries(
    ["a", "b"].map((key) => {
      const body = element("div", "sheet");
      const sheet = element("section", "worksheet", element("h3", ""), body);
      sheet.dataset.side = key;
      return [key, { sheet, body, title: sheet.firstChild }];
    }),
  );

  // What the reader does.

  function change(parts, isSpoken = true) {
    situation = completed({ ...situation, ...parts }, situation);
    render(isSpoken);
  }

  function changeSide(key, parts) {
    leavePreset();
    change({ [key]: { ...situation[key], ...parts } });
  }

  /** What a preset says to watch for stays: following it changes the controls. */
  function leavePreset() {
    for (const button of byId("presets").children) button.setAttribute("aria-pressed", "false");
  }

  function goTo(step) {
    pause();
    change({ step });
  }

  function play() {
    if (situation.step >= steps) change({ step: 0 }, false);
    document.body.classList.add("playing");
    byId("play").setAttribute("aria-label", "Pause");
    timer = setTimeout(tick, Number(byId("speed").value));
  }

  function tick() {
    change({ step: situation.step + 1 }, false);
    if (situation.step >= steps) pause();
    else timer = setTimeout(tick, Number(byId("speed").value));
  }

  function pause() {
    if (timer === null) return;
    clearTimeout(timer);
    timer = null;
    document.body.classList.remove("playing");
    byId("play").setAttribute("aria-label", "Play");
    render(true);
  }

  const toggle = () => (timer === null ? play() : pause());

  function onKey(event) {
    const { target, key } = event;
    if (event.altKey || event.ctrlKey || event.metaKey || target.matches("select")) return;
    if (target.matches("input") && !(key === " " && target.type === "range")) return;
    const steering = {
      ArrowRight: () => goTo(situation.step + 1),
      ArrowLeft: () => goTo(situation.step - 1),
      Home: () => goTo(0),
      End: () => goTo(steps),
      " ": target.matches("button, a") ? undefined : toggle,
    }[key];
    if (!steering) return;
    event.preventDefault();
    steering();
  }

  // What is shown.

  async function render(isSpoken) {
    const mine = (drawing += 1);
    const shown = situation;
    setControls();
    let runs;
    try {
      const { surface, start } = shown;
      runs = await Promise.all([Run.of(surface, start, shown.a), Run.of(surface, start, shown.b)]);
    } catch (error) {
      byId("trouble").textContent = `A part of the recorded runs is missing: ${error.message}.`;
      byId("trouble").hidden = false;
      return;
    }
    if (mine !== drawing) return; // something else has been chosen since
    byId("trouble").hidden = true;
    draw(shown, runs);
    if (isSpoken) speak(shown, runs);
  }

  function draw({ surface, step, coordinates, numbers }, runs) {
    const drawn = surfaces[surface];
    const options = {
      numbers,
      names: drawn.names,
      coordinates: coordinates === "both" ? [0, 1] : [Number(coordinates)],
    };
    ["a", "b"].forEach((key, i) => {
      panels[key].show(drawn, runs[i], runs[1 - i], step, numbers);
      sheets[key].title.textContent = panels[key].title;
      showArithmetic(sheets[key].body, runs[i], step, options);
    });
    document.body.dataset.shown = toHash(situation);
  }

  function setControls() {
    const { surface, start, step, coordinates, numbers } = situation;
    const { formula, about, starts, names } = surfaces[surface];
    byId("surface").value = surface;
    byId("formula").textContent = formula;
    byId("about").textContent = about;
    byId("step").value = step;
    byId("step").setAttribute("aria-valuetext", `step ${step} of ${steps}`);
    byId("counter").textContent = `step ${step} of ${steps}`;
    byId("of-step").textContent = step;
    byId("first").disabled = byId("back").disabled = step === 0;
    byId("forward").disabled = step === steps;
    for (const key of ["a", "b"]) panels[key].set(situation[key]);
    segments("starts", starts.map(([name], i) => [String(i), name]), String(start));
    segments("coordinates", [["0", names[0]], ["1", names[1]], ["both", "both"]], coordinates);
    segments("numbers", [["short", "6 digits"], ["exact", "exact"], ["bits", "bits"]], numbers);
    const hash = toHash(situation);
    byId("link").href = hash;
    clearTimeout(addressing); // browsers refuse addresses that change many times a second
    addressing = setTimeout(() => history.replaceState(null, "", hash), timer === null ? 0 : 400);
  }

  /** A row of radio buttons; built anew only where its choices change. */
  function segments(id, choices, chosen) {
    const row = byId(id);
    const wanted = JSON.stringify(choices);
    if (row.dataset.choices !== wanted) {
      row.dataset.choices = wanted;
      row.replaceChildren(
        ...choices.map(([value, text]) => {
          const input = element("input", "");
          Object.assign(input, { type: "radio", name: id, value });
          input.addEventListener("change", () => choose(id, value));
          return element("label", "", input, element("span", "", text));
        }),
      );
    }
    for (const input of row.querySelectorAll("input")) input.checked = input.value === chosen;
  }

  function choose(id, value) {
    if (id !== "starts") return change({ [id]: value });
    leavePreset();
    return change({ start: Number(value) });
  }

  /** Say a step for those who do not see it; not while it plays. */
  function speak({ surface, step }, runs) {
    if (timer !== null) return;
    const said = ["a", "b"].map((key, i) => {
      const where = panels[key].where(surfaces[surface], runs[i], step, "short");
      return `${panels[key].title}: ${where.map((each) => each.textContent).join(", ")}.`;
    });
    byId("spoken").textContent = `Step ${step}. ${said.join(" ")}`;
  }

  function showPreset(preset, button) {
    pause();
    leavePreset();
    button.setAttribute("aria-pressed", "true");
    byId("watch").textContent = preset.watch;
    change(preset);
  }

  function redraw() {
    for (const panel of Object.values(panels)) panel.drawSurface();
  }

  function setTheme(theme) {
    if (theme === "light" || theme === "dark") document.documentElement.dataset.theme = theme;
    else delete document.documentElement.dataset.theme;
    redraw();
  }

  // The page is set up.

  for (const [key, { title }] of Object.entries(surfaces)) {
    byId("surface").append(new Option(title, key));
  }
  for (const preset of presets) {
    const button = element("button", "preset", preset.title);
    button.type = "button";
    button.setAttribute("aria-pressed", "false");
    button.addEventListener("click", () => showPreset(preset, button));
    byId("presets").append(button);
  }
  byId("panels").append(panels.a.root, panels.b.root);
  byId("arithmetic").append(sheets.a.sheet, sheets.b.sheet);
  byId("step").max = steps;
  byId("step").addEventListener("input", (event) => goTo(Number(event.target.value)));
  byId("surface").addEventListener("change", (event) => {
    leavePreset();
    byId("watch").textContent = "";
    change({ surface: event.target.value, start: 0 });
  });
  byId("first").addEventListener("click", () => goTo(0));
  byId("back").addEventListener("click", () => goTo(situation.step - 1));
  byId("forward").addEventListener("click", () => goTo(situation.step + 1));
  byId("play").addEventListener("click", toggle);
  document.addEventListener("keydown", onKey);
  window.addEventListener("hashchange", () => {
    if (location.hash === toHash(situation)) return;
    pause();
    leavePreset();
    const { surface } = situation;
    change(fromHash(location.hash));
    if (situation.surface !== surface) byId("watch").textContent = "";
  });
  // A page that shows this one in a frame says how it looks; frames from files cannot look for themselves.
  window.addEventListener("message", ({ source, data }) => {
    if (source === window.parent && data && "optimlabTheme" in data) setTheme(data.optimlabTheme);
  });
  window.matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  document.body.classList.toggle("embedded", window.parent !== window);
  if (!location.hash) byId("watch").textContent = opening.watch;
  setTheme(new URLSearchParams(location.search).get("theme"));
  render(true);
})();
