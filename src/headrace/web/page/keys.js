/** What keys mean in a box for messages. */

/**
 * Whether this sends: Enter does, but not with Shift, nor where it only ends the composition of a character (a browser
 * that has closed the composition by then says so with the key code 229).
 *
 * @param {KeyboardEvent} event
 */
export function isSendKey(event) {
  return event.key === "Enter" && !event.shiftKey && !event.isComposing && event.keyCode !== 229;
}
