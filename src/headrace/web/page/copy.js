/** Puts a text on the clipboard, and says so on the button that was pressed. */

import { element } from "./dom.js";

const FEEDBACK_MS = 2000;

/**
 * A button that copies what `text` gives.
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
 * @returns {Promise<boolean>} whether it is on the clipboard
 */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    // No permission, or a page that came by plain http, where there is no `navigator.clipboard` at all.
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
