/** Tells screen readers, in one place and politely, that an answer begins and that it is finished. */

const LENGTH = 300;

/**
 * @param {HTMLElement} status the element with the role "status"
 * @returns {(text: string) => void}
 */
export function createAnnouncer(status) {
  return (text) => {
    // The same words again are no change, and would not be read; a space that nobody hears makes them one.
    status.textContent = status.textContent === text ? `${text}\u00a0` : text;
  };
}

/**
 * The beginning of a text.
 *
 * @param {string} text
 */
export function beginningOf(text) {
  const characters = Array.from(text.slice(0, 2 * LENGTH));
  return characters.slice(0, LENGTH).join("");
}
