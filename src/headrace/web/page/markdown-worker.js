/** Lexes Markdown away from the page, which ends this worker where that takes too long. */

import { blocksOf } from "./markdown-blocks.js";

/** @typedef {import("./markdown-blocks.js").Job} Job */
/** @typedef {import("./markdown-blocks.js").Result} Result */
/** @typedef {{ kind: "ready" } | { kind: "result", result: Result } | { kind: "error", message: string }} Reply */

/** @type {(reply: Reply) => void} */
const reply = (message) => postMessage(message);

addEventListener("message", (/** @type {MessageEvent<Job>} */ { data }) => {
  try {
    reply({ kind: "result", result: blocksOf(data) });
  } catch (error) {
    // Too deep for the stack, say.
    reply({ kind: "error", message: String(error) });
  }
});
reply({ kind: "ready" });
