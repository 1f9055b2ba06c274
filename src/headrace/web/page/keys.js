/** The keys of the message box. */

/**
 * Returns whether a key sends the message. Enter does, but not with Shift, and not if it ends the composition of a
 * character. A browser that has already ended the composition reports the key code 229.
 *
 * @param {KeyboardEvent} event
 */
export function isSendKey(event) {
  return event.key === "Enter" && !event.shiftKey && !event.isComposing && event.keyCode !== 229;
}
