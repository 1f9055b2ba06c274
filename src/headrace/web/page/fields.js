/** Fields with a label, a hint and a place where it says what is wrong with them. */

import { element } from "./dom.js";
import { newId } from "./ids.js";
import { problemOf } from "./settings.js";

/** @import { SettingName } from "./settings.js" */

/**
 * @typedef {object} FieldOptions
 * @property {string} label
 * @property {string} [hint]
 * @property {number} [rows] of a field with several lines
 * @property {Record<string, string>} [choices] the label of each value; makes it a select
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

  /** Whether the value is allowed; where it is not, the field says why. */
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
  // Not type="number": what such a field cannot read, it does not tell either.
  return element("input", {
    id,
    type: isSecret ? "password" : "text",
    inputmode: isNumber ? "decimal" : null,
    autocomplete: "off",
    spellcheck: "false",
  });
}
