/** Makes the errors for options and arguments that the client itself refuses, before it sends anything. */

import { InvalidRequestError } from "./errors.js";

const MAX_SHOWN = 100; // characters of a value in a message

/**
 * Make the error for a value that is not allowed.
 *
 * @param {string} name the option, setting or argument
 * @param {unknown} value
 * @param {string} allowed describes the allowed values
 */
export function invalidValue(name, value, allowed) {
  return invalidRequest(name, `${name} is ${describe(value)}; allowed: ${allowed}`, "invalid_value");
}

/**
 * Make the error for a secret that is not allowed; the message does not show the value.
 *
 * @param {string} name
 * @param {string} allowed describes the allowed values
 */
export function invalidSecret(name, allowed) {
  return invalidRequest(name, `${name} cannot be sent as it is; allowed: ${allowed}`, "invalid_value");
}

/**
 * Make the error for a name that no option or setting has.
 *
 * @param {string} name
 * @param {string} reason why the name is refused
 * @param {readonly string[]} allowed the names that exist
 */
export function unknownName(name, reason, allowed) {
  return invalidRequest(name, `${name}: ${reason}; allowed: ${allowed.join(", ")}`, "unknown_option");
}

/** Format a value for a message, shortened. @param {unknown} value */
export function describe(value) {
  try {
    return String(typeof value === "object" ? JSON.stringify(value) : value).slice(0, MAX_SHOWN);
  } catch {
    return String(value);
  }
}

/** @param {string} param @param {string} message @param {string} code */
function invalidRequest(param, message, code) {
  return new InvalidRequestError(message, { code, param });
}
