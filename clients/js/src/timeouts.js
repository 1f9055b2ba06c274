/** Timeouts, in milliseconds, and the error for a silent server. */

import { ConnectionLostError } from "./errors.js";

/** The longest that `setTimeout` can wait. */
export const LONGEST_TIMEOUT = 2 ** 31 - 1;
/** How long a connection may be silent before it counts as lost; the server sends something every 15 s. */
export const IDLE_TIMEOUT = 60_000;
/** How long the client tries to reconnect a resumable stream. */
export const RECONNECT_TIMEOUT = 30_000;
/** How long the client waits for the token counts of a cancelled stream, and for the end of a finished response. */
export const CLOSING_TIMEOUT = 2000;

/** Make the error for a server that has sent nothing for this long. @param {number} ms */
export function silenceError(ms) {
  return new ConnectionLostError(`the server was silent for ${ms} ms`, { code: "silent" });
}
