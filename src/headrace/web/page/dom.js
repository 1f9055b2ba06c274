/** Helpers that create and find elements. */

/**
 * @typedef {{ [name: string]: string | number | boolean | null | undefined | ((event: any) => void) }} Properties
 */

/**
 * Returns a new element. The property `text` is its text. Functions such as `onclick` are listeners. true is an
 * attribute without a value; false, null and undefined are left out. All other properties are attributes.
 *
 * @template {keyof HTMLElementTagNameMap} Tag
 * @param {Tag} tag
 * @param {Properties} [properties]
 * @param {...(Node | string)} children
 * @returns {HTMLElementTagNameMap[Tag]}
 */
export function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === false || value === null || value === undefined) continue;
    if (typeof value === "function") made.addEventListener(name.slice(2), value);
    else if (name === "text") made.textContent = String(value);
    else made.setAttribute(name, value === true ? "" : String(value));
  }
  made.append(...children);
  return made;
}

/**
 * Returns the page's element with this id, which must have this type.
 *
 * @template {HTMLElement} Type
 * @param {string} id
 * @param {new () => Type} type
 * @returns {Type}
 */
export function byId(id, type) {
  const found = document.getElementById(id);
  if (!(found instanceof type)) throw new Error(`the page has no ${type.name} with the id ${id}`);
  return found;
}

/**
 * Returns a button with a text.
 *
 * @param {string} name
 * @param {() => void} onclick
 * @param {Properties} [properties]
 */
export function button(name, onclick, properties = {}) {
  return element("button", { type: "button", class: "quiet", text: name, ...properties, onclick: () => onclick() });
}
