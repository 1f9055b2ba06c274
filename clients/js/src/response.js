/** Reads HTTP responses: their text, their JSON, and the error that a failed one describes. */

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

/** Error classes by HTTP status. @type {Record<number, typeof HttpError>} */
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
 * Read a response to its end.
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
 * Parse a text that must be a JSON object.
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
 * Make the error for a response whose status is not 2xx.
 *
 * @param {Response} response
 * @param {AbortSignal} [signal] of the request
 */
export async function httpError(response, signal) {
  const { status, headers } = response;
  const text = await textOf(response, signal).catch(() => "");
  /** @type {Record<string, string | null>} */
  let reported = {};
  try {
    reported = JSON.parse(text).error ?? {};
  } catch {
    // The text is not JSON: perhaps a proxy's error page.
  }
  const seconds = Number(headers.get("Retry-After") ?? Number.NaN);
  const details = {
    status,
    code: reported.code ?? null,
    type: reported.type ?? null,
    param: reported.param ?? null,
    retryAfterMs: Number.isFinite(seconds) ? seconds * 1000 : null,
  };
  const message = reported.message ?? `HTTP ${status}: ${text.slice(0, 200) || "no details"}`;
  if (status === 504) return new StreamTimeoutError(message, details);
  return new (HTTP_ERRORS[status] ?? HttpError)(message, details);
}
