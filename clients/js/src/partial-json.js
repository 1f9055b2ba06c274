/** `parsePartialJson`: parses JSON that is still growing. */

/**
 * Parse a JSON text that may end anywhere. An incomplete string is kept up to the text's end; everything else that is
 * incomplete is left out.
 *
 * @param {string} text
 * @returns {unknown} the value; undefined if there is none yet
 */
export function parsePartialJson(text) {
  try {
    return JSON.parse(text);
  } catch {
    // The text ends too early, or is not JSON.
  }
  try {
    return JSON.parse(completed(text));
  } catch {
    return undefined;
  }
}

/** Cut a JSON text after its last complete value, and close its open objects and arrays. @param {string} text */
function completed(text) {
  /** The closing brackets of the open objects and arrays, the innermost last. @type {string[]} */
  const open = [];
  // Where to cut: after the last complete value. The same objects and arrays are open here as at the text's end.
  let cut = 0;
  // Whether the next string is a key of an object.
  let isKey = false;
  for (let at = 0; at < text.length; at++) {
    const character = text[at] ?? "";
    if (character === '"') {
      const end = endOfString(text, at);
      if (end.isComplete) {
        at = end.at;
        if (!isKey) cut = at + 1;
        continue;
      }
      if (isKey) break;
      return `${text.slice(0, end.at)}"${closing(open)}`;
    }
    if (character === "{" || character === "[") {
      open.push(character === "{" ? "}" : "]");
      isKey = character === "{";
      cut = at + 1;
    } else if (character === "}" || character === "]") {
      open.pop();
      isKey = false;
      cut = at + 1;
    } else if (character === ",") {
      isKey = open.at(-1) === "}";
    } else if (character === ":") {
      isKey = false;
    } else if (/[-\w]/.test(character)) {
      const length = /^[-+.\w]+/.exec(text.slice(at))?.[0].length ?? 1;
      if (at + length === text.length) break; // the number or word may go on
      at += length - 1;
      cut = at + 1;
    }
  }
  return text.slice(0, cut) + closing(open);
}

/** Returns the closing brackets in order. @param {string[]} open */
function closing(open) {
  return open.toReversed().join("");
}

/**
 * Find the end of a string; of an incomplete string, the end of its last complete character or escape.
 *
 * @param {string} text
 * @param {number} start the index of the opening quotation mark
 */
function endOfString(text, start) {
  let usable = start + 1;
  for (let at = start + 1; at < text.length; usable = at) {
    if (text[at] === '"') return { at, isComplete: true };
    if (text[at] !== "\\") at += 1;
    else if (text[at + 1] !== "u") at += 2;
    else at += isFirstHalf(text, at) ? 12 : 6;
    if (at > text.length) return { at: usable, isComplete: false };
  }
  return { at: usable, isComplete: false };
}

/**
 * Whether an escape is the first half of a surrogate pair, which only makes a character with the second half.
 *
 * @param {string} text
 * @param {number} at
 */
function isFirstHalf(text, at) {
  return /^\\u[dD][89abAB]/.test(text.slice(at, at + 4)) && "\\u".startsWith(text.slice(at + 6, at + 8));
}
