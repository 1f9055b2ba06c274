/** The caret at the end of a text that is being written. */

// Only so many characters of the last text are searched.
const TAIL = 100;

/**
 * Move the caret behind the last visible character. It lies over the text, so the text does not move. Call this in a
 * frame in which the text has changed: it forces a layout, which such a frame needs anyway.
 *
 * @param {HTMLElement} caret a child of the text's offset parent
 * @param {HTMLElement} text
 */
export function placeCaret(caret, text) {
  const origin = text.getBoundingClientRect();
  const end = endOf(text);
  const x = end ? Math.min(Math.max(end.left - origin.left, 0), origin.width) : 0;
  const y = end ? end.top - origin.top + end.height / 2 : 0;
  caret.style.transform = end ? `translate(${x}px, calc(${y}px - 50%))` : "";
}

/** @param {HTMLElement} text */
function endOf(text) {
  const walker = document.createTreeWalker(text, NodeFilter.SHOW_TEXT);
  for (let node = walker.lastChild(); node; node = walker.previousNode()) {
    if (!(node instanceof Text)) continue;
    const start = Math.max(0, node.length - TAIL);
    const length = node.substringData(start, TAIL).trimEnd().length;
    if (!length) continue;
    const range = document.createRange();
    range.setStart(node, start + length);
    const rectangle = range.getBoundingClientRect();
    if (rectangle.height) return rectangle;
  }
  return null;
}
