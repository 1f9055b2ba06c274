/** The error for a value that the client refuses before it sends anything. */

import { InvalidRequestError } from "./errors.js";

const SHOWN = 100; // characters of a value

/**
 * Makes the error for a value that is not allowed.
 *
 * @param {string} name of the option, setting or argument
 * @param {unknown} value
 * @param {string} allowed says what is allowed instead
 */
export function invalidValue(name, value, allowed) {
  return invalidRequest(name, `${name} is ${describe(value)}; allowed: ${allowed}`, "invalid_value");
}

/**
 * Makes the error for a value that may be a secret: the message does not show it.
 *
 * @param {string} name
 * @param {string} allowed says what is allowed instead
 */
export function invalidSecret(name, allowed) {
  return invalidRequest(name, `${name} cannot be sent as it is; allowed: ${allowed}`, "invalid_value");
}

/**
 * Makes the error for a name that no option or setting has.
 *
 * @param {string} name
 * @param {string} reason why it is refused
 * @param {readonly string[]} allowed the names that there are
 */
export function unknownName(name, reason, allowed) {
  return invalidRequest(name, `${name}: ${reason}; allowed: ${allowed.join(", ")}`, "unknown_option");
}

/** Shows a value in a message, shortened. @param {unknown} value */
export function describe(value) {
  try {
    return String(typeof value === "object" ? JSON.stringify(value) : value).slice(0, SHOWN);
  } catch {
    return String(value);
  }
}

/** @param {string} param @param {string} message @param {string} code */
function invalidRequest(param, message, code) {
  return new InvalidRequestError(message, { code, param });
}
