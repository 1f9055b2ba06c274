/** The worker that lexes Markdown. The page ends it if a job takes too long. */

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
    // For example, the nesting is too deep for the stack.
    reply({ kind: "error", message: String(error) });
  }
});
reply({ kind: "ready" });
