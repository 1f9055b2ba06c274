/** `Field`: an input with a label, a hint and an error text. */

import { element } from "./dom.js";
import { newId } from "./ids.js";
import { problemOf } from "./settings.js";

/** @import { SettingName } from "./settings.js" */

/**
 * @typedef {object} FieldOptions
 * @property {string} label
 * @property {string} [hint]
 * @property {number} [rows] makes it a field of several lines
 * @property {Record<string, string>} [choices] makes it a select; the label of each value
 * @property {boolean} [isNumber]
 * @property {boolean} [isSecret]
 */

export class Field {
  /**
   * @param {SettingName} name
   * @param {FieldOptions} options
   */
  constructor(name, { label, hint, ...options }) {
    this.name = name;
    const id = newId();
    this.input = inputOf(id, options);
    this.problem = element("p", { class: "field-problem", id: `${id}-problem`, hidden: true });
    this.element = element(
      "div",
      { class: "field" },
      element("label", { for: id, text: label }),
      this.input,
      this.problem,
    );
    const described = [`${id}-problem`];
    if (hint) {
      this.element.append(element("p", { class: "hint", id: `${id}-hint`, text: hint }));
      described.push(`${id}-hint`);
    }
    this.input.setAttribute("aria-describedby", described.join(" "));
  }

  get value() {
    return this.input.value;
  }

  set value(value) {
    this.input.value = value;
    this.say("");
  }

  /** Returns whether the value is allowed; if not, shows why. */
  check() {
    const problem = problemOf(this.name, this.value);
    this.say(problem);
    return !problem;
  }

  /** @param {string} problem "" for none */
  say(problem) {
    this.problem.textContent = problem;
    this.problem.hidden = !problem;
    if (problem) this.input.setAttribute("aria-invalid", "true");
    else this.input.removeAttribute("aria-invalid");
  }
}

/**
 * @param {string} id
 * @param {Omit<FieldOptions, "label" | "hint">} options
 */
function inputOf(id, { rows, choices, isNumber, isSecret }) {
  if (choices) {
    const options = Object.entries(choices).map(([value, text]) => element("option", { value, text }));
    return element("select", { id }, ...options);
  }
  if (rows) return element("textarea", { id, rows, dir: "auto", spellcheck: "false" });
  // Not type="number": such a field returns "" for text that is not a number.
  return element("input", {
    id,
    type: isSecret ? "password" : "text",
    inputmode: isNumber ? "decimal" : null,
    autocomplete: "off",
    spellcheck: "false",
  });
}
