"use strict";

// The worked arithmetic of a step: each operation in symbols, and then with its numbers.

function element(name, className, ...content) {
  const made = document.createElement(name);
  if (className) made.className = className;
  made.append(...content);
  return made;
}

/** Fill a pattern such as "{0} + {2} × {1}": `fill(n, isFirst)` gives what takes the place of {n}. */
function filled(pattern, fill) {
  return pattern.split(/(\{\d+\})/).flatMap((part, position) => {
    const place = part.match(/^\{(\d+)\}$/);
    return place ? fill(Number(place[1]), position === 1 && pattern.startsWith("{")) : [part];
  });
}

/** Typeset a formula of hyperparameters, such as 1 - beta2**step. */
function typeset(formula) {
  return formula.split(/(\*\*[\w.]+)/).map((part) =>
    part.startsWith("**")
      ? element("sup", "", part.slice(2))
      : part.replaceAll(" * ", " × ").replaceAll("-", "−"),
  );
}

/** Tell whether a formula must stand in brackets beside a multiplication. */
function isCompound(formula) {
  let inside = formula;
  while (/\([^()]*\)/.test(inside)) inside = inside.replaceAll(/\([^()]*\)/g, "");
  return inside.startsWith("-") || inside.includes(" ");
}

function symbol(argument, value) {
  if (argument.name) return [element("var", "", argument.name)];
  const formula = argument.origin || spelt(value, "short");
  const inner = element("span", "origin", ...typeset(formula));
  return isCompound(formula) ? ["(", inner, ")"] : [inner];
}

/** The line in symbols: what is computed, by the names that the optimizer's code has for it. */
function symbolic(run, step, operation) {
  const right = filled(operation.pattern, (n) => {
    const argument = operation.arguments[n];
    return symbol(argument, argument.name ? null : run.argument(step, argument, 0));
  });
  return element("div", "symbolic", element("var", "", operation.result), " = ", ...right);
}

/** The line with numbers, for one coordinate. */
function numeric(run, step, operation, coordinate, options) {
  const parts = filled(operation.pattern, (n, isFirst) => {
    const text = spelt(run.argument(step, operation.arguments[n], coordinate), options.numbers);
    const number = element("span", "operand", text);
    number.dataset.argument = n;
    return text.startsWith("-") && !isFirst ? ["(", number, ")"] : [number];
  });
  const result = spelt(run.result(step, operation, coordinate), options.numbers);
  const says = operation.pattern === "{0}" || operation.pattern === parts.join("");
  const worked = says ? [] : [element("span", "worked", ...parts), element("span", "equals", " = ")];
  const name = "slot" in operation ? "" : options.names[coordinate];
  const line = element(
    "div",
    "numeric",
    element("span", "coordinate", name),
    element("span", "line", ...worked, element("strong", "result", result)),
  );
  line.dataset.coordinate = coordinate;
  return line;
}

function worked(run, step, operation, options) {
  const coordinates = "slot" in operation ? options.coordinates.slice(0, 1) : options.coordinates;
  return element(
    "li",
    "operation",
    symbolic(run, step, operation),
    ...coordinates.map((coordinate) => numeric(run, step, operation, coordinate, options)),
    element("code", "code", operation.code),
  );
}

/** What a step is given: the parameter, and the gradient there. */
function given(run, step, options) {
  const lines = options.coordinates.map((coordinate) =>
    element(
      "div",
      "numeric",
      element("span", "coordinate", options.names[coordinate]),
      element(
        "span",
        "line",
        element("var", "", "param"),
        " = ",
        element("span", "param", spelt(run.after(step - 1, "param", coordinate), options.numbers)),
        ",  ",
        element("var", "", "grad"),
        " = ",
        element("span", "grad", spelt(run.gradient(step, coordinate), options.numbers)),
      ),
    ),
  );
  return element("div", "given", element("div", "caption", "Before the step"), ...lines);
}

/** Show the arithmetic of a step in an element of the page. */
function showArithmetic(place, run, step, options) {
  if (step === 0) {
    const words = "No step yet. Take the first one to see what it computes.";
    place.replaceChildren(element("p", "empty", words));
    return;
  }
  const list = element("ol", "operations");
  list.append(...run.operations(step).map((each) => worked(run, step, each, options)));
  place.replaceChildren(given(run, step, options), list);
}
