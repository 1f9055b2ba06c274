/** Announces to screen readers that an answer begins and that it is finished. */

const LENGTH = 300;

/**
 * @param {HTMLElement} status the element with the role "status"
 * @returns {(text: string) => void}
 */
export function createAnnouncer(status) {
  return (text) => {
    // Screen readers read only changes. A space, which is not read aloud, makes the same text a change.
    status.textContent = status.textContent === text ? `${text}\u00a0` : text;
  };
}

/**
 * Returns the beginning of a text.
 *
 * @param {string} text
 */
export function beginningOf(text) {
  const characters = Array.from(text.slice(0, 2 * LENGTH));
  return characters.slice(0, LENGTH).join("");
}
