/** Lists the models of a server, and finds the one to use where the caller names none. */

import { InvalidRequestError } from "./errors.js";

/** @import { Server } from "./server.js" */
/** @import { ModelInfo } from "./types.js" */

/**
 * @param {Server} server
 * @param {AbortSignal} [signal]
 * @returns {Promise<ModelInfo[]>}
 */
export async function modelsOf(server, signal) {
  const answer = await server.json("GET", "v1/models", { signal });
  /** @type {{ id: string, context_length: number }[]} */
  const models = Array.isArray(answer.data) ? answer.data : [];
  return models.map((model) => ({ id: model.id, contextLength: model.context_length }));
}

/** The id of a server's only model, requested once and remembered. */
export class OnlyModel {
  /** Resolves to the model's id; pending during the request. @type {Promise<string> | null} */
  #id = null;

  /**
   * Returns the id of the server's only model. Rejects if the server has none or several.
   *
   * @param {Server} server is asked only if no id is remembered
   * @returns {Promise<string>}
   */
  find(server) {
    this.#id ??= modelsOf(server).then(
      (models) => {
        if (models.length === 1 && models[0] !== undefined) return models[0].id;
        this.forget();
        const names = models.map((model) => model.id).join(", ");
        const message = `model is missing, and the server has ${models.length}; allowed: ${names || "none yet"}`;
        throw new InvalidRequestError(message, { code: "missing_model", param: "model" });
      },
      (error) => {
        this.forget();
        throw error;
      },
    );
    return this.#id;
  }

  forget() {
    this.#id = null;
  }
}
