// A document for React to render into, and animation frames that come when a test says so.
import { after } from "node:test";

import { JSDOM } from "jsdom";

const dom = new JSDOM("", { pretendToBeVisual: true });
after(() => dom.window.close());

export const document = dom.window.document;

// React looks for these when it is loaded, so this module comes before it.
globalThis.window = /** @type {typeof globalThis.window} */ (/** @type {unknown} */ (dom.window));
globalThis.document = document;
globalThis.navigator ??= dom.window.navigator;
globalThis.requestAnimationFrame = dom.window.requestAnimationFrame;
globalThis.cancelAnimationFrame = dom.window.cancelAnimationFrame;

/** What waits for the next frame. @type {Map<number, FrameRequestCallback>} */
export const frames = new Map();
let last = 0;

/** From now on, let frames come only when `drawFrame` is called. */
export function holdFrames() {
  frames.clear();
  globalThis.requestAnimationFrame = (run) => {
    frames.set(++last, run);
    return last;
  };
  globalThis.cancelAnimationFrame = (id) => {
    frames.delete(id);
  };
}

/** The screen is drawn; gives how many were waiting for that. */
export function drawFrame() {
  const due = [...frames.values()];
  frames.clear();
  for (const run of due) run(0);
  return due.length;
}
