/** The sanitizer: makes elements of the renderer's HTML with DOMPurify, and allows only elements of Markdown. */

import { codeFigure } from "./code-block.js";
import { element } from "./dom.js";

// Exactly the elements and attributes that the renderer makes.
const TAGS =
  "a blockquote br code del em h1 h2 h3 h4 h5 h6 hr li ol p pre strong table tbody td th thead tr ul #text".split(" ");
const ATTRIBUTES = ["align", "class", "href", "start", "title"];
const LINK = /^(?:https?:|mailto:)/i;
const CLASS = /^language-[\w+#.-]+$/;

/** @typedef {(html: string) => DocumentFragment} Sanitise */

/**
 * Load DOMPurify. Rejects if it is not installed.
 *
 * @returns {Promise<Sanitise>}
 */
export async function loadSanitiser() {
  const { default: purify } = await import("../vendor/dompurify.js");
  purify.setConfig({
    ALLOWED_TAGS: TAGS,
    ALLOWED_ATTR: ATTRIBUTES,
    ALLOWED_URI_REGEXP: LINK,
    // Otherwise the values of these attributes would have to be links too.
    ADD_URI_SAFE_ATTR: ["align", "start"],
    ALLOW_DATA_ATTR: false,
    ALLOW_ARIA_ATTR: false,
    RETURN_DOM_FRAGMENT: true,
  });
  purify.addHook("uponSanitizeAttribute", (node, data) => {
    if (data.attrName === "class") data.keepAttr = node.nodeName === "CODE" && CLASS.test(data.attrValue);
  });
  purify.addHook("afterSanitizeAttributes", (node) => {
    if (!node.hasAttribute("href")) return;
    node.setAttribute("target", "_blank");
    node.setAttribute("rel", "noopener noreferrer nofollow");
  });
  return (html) => {
    const safe = /** @type {DocumentFragment} */ (/** @type {unknown} */ (purify.sanitize(html)));
    decorate(safe);
    return safe;
  };
}

/**
 * Put code into figures, and tables into scrollable elements.
 *
 * @param {DocumentFragment} safe
 */
function decorate(safe) {
  for (const code of safe.querySelectorAll("pre > code")) {
    const language = code.className.replace("language-", "");
    const { figure, body } = codeFigure(language);
    body.append(...code.childNodes);
    code.parentElement?.replaceWith(figure);
  }
  for (const table of safe.querySelectorAll(":is(li, blockquote) table")) {
    const scroller = tableScroller();
    table.replaceWith(scroller);
    scroller.append(table);
  }
}

/** Returns an element in which a table scrolls, also by keys. */
export function tableScroller() {
  return element("div", { class: "table", tabindex: 0, role: "group", "aria-label": "Table" });
}
