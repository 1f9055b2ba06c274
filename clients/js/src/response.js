/** Reads the server's responses: their text, their JSON, and the errors that they tell of. */

import {
  AuthenticationError,
  ConnectionLostError,
  HeadraceError,
  HttpError,
  InvalidRequestError,
  NotFoundError,
  QueueFullError,
  StreamTimeoutError,
  UnavailableError,
} from "./errors.js";

/** The class of error for each HTTP status. @type {Record<number, typeof HttpError>} */
const HTTP_ERRORS = {
  400: InvalidRequestError,
  401: AuthenticationError,
  403: AuthenticationError,
  404: NotFoundError,
  410: NotFoundError,
  413: InvalidRequestError,
  415: InvalidRequestError,
  422: InvalidRequestError,
  429: QueueFullError,
  431: InvalidRequestError,
  503: UnavailableError,
};

/**
 * Reads a response to its end.
 *
 * @param {Response} response
 * @param {AbortSignal} [signal] of the request
 */
export async function textOf(response, signal) {
  try {
    return await response.text();
  } catch (error) {
    if (signal?.aborted) throw signal.reason;
    throw new ConnectionLostError("the connection was lost in mid-answer", { code: "connection_lost", cause: error });
  }
}

/**
 * Parses a text that has to be a JSON object.
 *
 * @param {string} text
 * @returns {Record<string, unknown>}
 */
export function objectOf(text) {
  try {
    const value = JSON.parse(text);
    if (typeof value === "object" && value !== null) return value;
  } catch {
    // The error below says what is wrong.
  }
  throw new HeadraceError(`this is no answer of a headrace server: ${text.slice(0, 100)}`, { code: "protocol_error" });
}

/**
 * Makes the error that a response with an error's status tells of.
 *
 * @param {Response} response
 * @param {AbortSignal} [signal] of the request
 */
export async function httpError(response, signal) {
  const { status, headers } = response;
  const text = await textOf(response, signal).catch(() => "");
  /** @type {Record<string, string | null>} */
  let told = {};
  try {
    told = JSON.parse(text).error ?? {};
  } catch {
    // The text is not JSON: a proxy's own page, perhaps.
  }
  const seconds = Number(headers.get("Retry-After") ?? Number.NaN);
  const details = {
    status,
    code: told.code ?? null,
    type: told.type ?? null,
    param: told.param ?? null,
    retryAfterMs: Number.isFinite(seconds) ? seconds * 1000 : null,
  };
  const message = told.message ?? `HTTP ${status}: ${text.slice(0, 200) || "no details"}`;
  if (status === 504) return new StreamTimeoutError(message, details);
  return new (HTTP_ERRORS[status] ?? HttpError)(message, details);
}
