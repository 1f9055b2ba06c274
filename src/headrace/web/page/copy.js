/** A button that copies a text to the clipboard, and shows that it did. */

import { element } from "./dom.js";

const FEEDBACK_MS = 2000;

/**
 * Returns a button that copies the text returned by `text`.
 *
 * @param {string} name
 * @param {() => string} text
 */
export function copyButton(name, text) {
  const made = element("button", { type: "button", class: "quiet copy", text: name });
  /** @type {number | undefined} */
  let timer;
  made.addEventListener("click", async () => {
    const isCopied = await copyText(text());
    made.textContent = isCopied ? "Copied" : "Copying is not allowed";
    clearTimeout(timer);
    timer = setTimeout(() => {
      made.textContent = name;
    }, FEEDBACK_MS);
  });
  return made;
}

/**
 * @param {string} text
 * @returns {Promise<boolean>} whether the text was copied
 */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // There is no permission, or no `navigator.clipboard`, as on a page loaded by plain http.
    return copySelected(text);
  }
}

/** @param {string} text */
function copySelected(text) {
  const focused = document.activeElement;
  const area = element("textarea", { class: "unseen", "aria-hidden": "true" });
  area.value = text;
  document.body.append(area);
  area.select();
  const isCopied = document.execCommand("copy");
  area.remove();
  if (focused instanceof HTMLElement) focused.focus({ preventScroll: true });
  return isCopied;
}
