/** How long the client waits, in milliseconds, and the error for a wait that was too long. */

import { ConnectionLostError } from "./errors.js";

/** The most milliseconds that `setTimeout` can wait. */
export const LONGEST_TIMEOUT = 2 ** 31 - 1;
/** How long a connection may be silent before it counts as lost; the server sends something every 15 s. */
export const IDLE_TIMEOUT = 60_000;
/** How long the client tries to reach the server again after a resumable stream has lost its connection. */
export const RECONNECT_TIMEOUT = 30_000;
/** How long the server has to send the counts of a stream that was cancelled, or to close one that has ended. */
export const LAST_WORDS_TIMEOUT = 2000;

/** Makes the error for a server that has sent nothing for so long. @param {number} ms */
export function silenceError(ms) {
  return new ConnectionLostError(`the server was silent for ${ms} ms`, { code: "silent" });
}
