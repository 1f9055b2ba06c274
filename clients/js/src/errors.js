/** The errors that the client throws. */

// Error
// └── HeadraceError
//     ├── HttpError                the server answered with an error: .status, .type, .param
//     │   ├── InvalidRequestError  400, 413, 415, 422, 431, and options that the client itself refuses (status 0)
//     │   ├── AuthenticationError  401, 403
//     │   ├── NotFoundError        404, 410
//     │   ├── QueueFullError       429: .retryAfterMs
//     │   └── UnavailableError     503
//     ├── GenerationError          the stream failed after it had begun: .partial
//     │   └── StreamTimeoutError
//     └── ConnectionLostError      the server is unreachable, or its answer broke off: .partial

/** @import { ErrorDetails } from "./types.js" */

/** The base class of all errors of this package. */
export class HeadraceError extends Error {
  /** @param {string} message @param {ErrorDetails} [details] */
  constructor(message, details = {}) {
    super(message, details.cause === undefined ? undefined : { cause: details.cause });
    this.name = new.target.name;
    /** The kind of error, for programs. */
    this.code = details.code ?? null;
    /** The result so far, if the stream had begun. */
    this.partial = details.partial ?? null;
  }
}

/** The server answered with an error. */
export class HttpError extends HeadraceError {
  /** @param {string} message @param {ErrorDetails} [details] */
  constructor(message, details = {}) {
    super(message, details);
    this.status = details.status ?? 0;
    this.type = details.type ?? null;
    /** The parameter that is wrong. */
    this.param = details.param ?? null;
    /** How many milliseconds to wait before another try. */
    this.retryAfterMs = details.retryAfterMs ?? null;
  }
}

/** The request is wrong; the message says how. */
export class InvalidRequestError extends HttpError {}
/** The API key is missing or wrong. */
export class AuthenticationError extends HttpError {}
/** The server has no such model, or no longer has the stream. */
export class NotFoundError extends HttpError {}
/** The server's queue is full. */
export class QueueFullError extends HttpError {}
/** The server is loading its model, or shutting down. */
export class UnavailableError extends HttpError {}
/** The stream failed after it had begun. */
export class GenerationError extends HeadraceError {}
/** The stream took longer than the server allows. */
export class StreamTimeoutError extends GenerationError {}
/** The server cannot be reached, or its answer broke off. */
export class ConnectionLostError extends HeadraceError {}
