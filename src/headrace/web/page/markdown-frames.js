/** `inFrames`: does the work of all views in short slices, one per frame, so that no frame becomes long. */

import { FRAME_MS, SLICE_MS } from "./markdown-limits.js";

// A hidden page has no frames. Its work goes on at this interval, in milliseconds.
const UNSEEN_MS = 250;
// The first and smallest slice. A smaller one would not help: on a busy machine all frames are long.
const LEAST_MS = 2;
const GROWTH = 1.25;

/**
 * @typedef {object} Task
 * @property {Iterator<void>} steps
 * @property {() => void} onSlice
 * @property {(ms: number) => void} resolve
 * @property {(error: unknown) => void} reject
 * @property {number} spent in milliseconds
 */

/** @type {Task[]} */
const tasks = [];
let isScheduled = false;
// Milliseconds of work per frame. It adapts to the time between frames, because layout and paint of changes may take
// many times as long as the changes themselves.
let slice = LEAST_MS;
/** When the last slice began; null if no slice is due in the next frame. @type {number | null} */
let previous = null;

/**
 * Do work in short steps, as many in each frame as there is time for.
 *
 * @param {Iterator<void>} steps
 * @param {() => void} onSlice called after each frame in which steps were done
 * @returns {Promise<number>} milliseconds that the steps took
 */
export function inFrames(steps, onSlice) {
  return new Promise((resolve, reject) => {
    tasks.push({ steps, onSlice, resolve, reject, spent: 0 });
    if (!isScheduled) schedule();
  });
}

/** @returns {Promise<void>} the next frame */
export function nextFrame() {
  return inFrames([][Symbol.iterator](), () => {}).then(() => {});
}

function schedule() {
  isScheduled = true;
  const cancel = () => {
    cancelAnimationFrame(frame);
    clearTimeout(timer);
    run();
  };
  const frame = requestAnimationFrame(cancel);
  const timer = setTimeout(cancel, UNSEEN_MS);
}

function run() {
  isScheduled = false;
  const start = performance.now();
  if (previous !== null) {
    slice = start - previous > FRAME_MS ? Math.max(LEAST_MS, slice / 2) : Math.min(SLICE_MS, slice * GROWTH);
  }
  const end = start + slice;
  const touched = new Set();
  while (tasks.length > 0 && performance.now() < end) {
    const task = tasks[0];
    touched.add(task);
    advance(task, end);
  }
  // The interrupted task goes behind the others.
  const [interrupted] = tasks;
  if (touched.has(interrupted)) tasks.push(...tasks.splice(0, 1));
  for (const task of touched) task.onSlice();
  previous = tasks.length > 0 ? start : null;
  if (tasks.length > 0 && !isScheduled) schedule();
}

/**
 * @param {Task} task
 * @param {number} end
 */
function advance(task, end) {
  const start = performance.now();
  try {
    let now = start;
    while (now < end) {
      const { done } = task.steps.next();
      now = performance.now();
      if (!done) continue;
      tasks.shift();
      task.resolve(task.spent + now - start);
      return;
    }
    task.spent += now - start;
  } catch (error) {
    tasks.shift();
    task.reject(error);
  }
}
