/** A block of code, with its language, a button that copies it, and its own scroll bar. */

import { copyButton } from "./copy.js";
import { element } from "./dom.js";

/**
 * @param {string} language "" for none
 * @returns {{ figure: HTMLElement, body: HTMLElement }} `body` is where the code goes
 */
export function codeFigure(language) {
  const body = element("code", language ? { class: `language-${language}` } : {});
  const copy = copyButton("Copy code", () => body.textContent ?? "");
  const head = element("figcaption", {}, element("span", { class: "language", text: language }), copy);
  const label = language ? `Code in ${language}` : "Code";
  const pre = element("pre", { tabindex: 0, role: "group", "aria-label": label }, body);
  return { figure: element("figure", { class: "code" }, head, pre), body };
}
