/** Shares the time of the frames among all that want to change the page, so that no frame becomes long. */

import { FRAME_MS, SLICE_MS } from "./markdown-limits.js";

// A page that nobody sees has no frames; its work goes on, if slowly.
const UNSEEN_MS = 250;
// The slice begins this small, and never becomes smaller: on a busy machine all frames are long, whatever is put in.
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
// What is put in has to be laid out and painted, too, which takes many times as long as putting it in, or less. How long
// a frame takes with it is seen in the next one.
let slice = LEAST_MS;
/** When the last slice began, if the next one is for the very next frame. @type {number | null} */
let previous = null;

/**
 * Do some work in steps of which each is short: as many in each frame as there is time for.
 *
 * @param {Iterator<void>} steps
 * @param {() => void} onSlice called after each frame in which some were done
 * @returns {Promise<number>} the milliseconds that they took
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
  // The one that was interrupted lets the others go first.
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
