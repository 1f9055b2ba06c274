/** Shows growing text in an element of a page, with one write per frame however many tokens come. */

/**
 * Makes an updater for an element.
 *
 * @param {{ textContent: string | null }} element
 * @returns {{ append: (text: string) => void, reset: () => void, flush: () => void }} `reset` empties the element at
 *   once; `flush` writes at once what waits for the next frame
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
