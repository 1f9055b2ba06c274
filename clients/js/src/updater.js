/** `createThrottledUpdater`: shows growing text in an element, with at most one write per animation frame. */

/**
 * Show growing text in an element, with at most one write per animation frame, however many tokens come.
 *
 * @param {{ textContent: string | null }} element
 * @returns {{ append: (text: string) => void, reset: () => void, flush: () => void }} `reset` empties the element at
 *   once; `flush` writes the text so far at once
 */
export function createThrottledUpdater(element) {
  let text = "";
  /** @type {number | null} */
  let frame = null;
  const write = () => {
    frame = null;
    element.textContent = text;
  };
  const unschedule = () => {
    if (frame !== null) cancelAnimationFrame(frame);
    frame = null;
  };
  return {
    append(more) {
      text += more;
      frame ??= requestAnimationFrame(write);
    },
    reset() {
      unschedule();
      text = "";
      write();
    },
    flush() {
      unschedule();
      write();
    },
  };
}
