/** `Store`: keeps conversations in the browser's IndexedDB or, without one, in memory while the page is open. */

/** @import { ConversationRecord, Summary } from "./conversation.js" */

const DATABASE = "headrace";
const VERSION = 1;
const CONVERSATIONS = "conversations";
// The index's keys are all that the list shows, so listing conversations does not read their messages.
const BY_TIME = "by-time";

/**
 * @typedef {object} Store
 * @property {boolean} isKept whether conversations outlive the page
 * @property {() => Promise<Summary[]>} list newest first
 * @property {(id: string) => Promise<unknown>} get undefined where there is no such conversation
 * @property {(record: ConversationRecord) => Promise<void>} put
 * @property {(id: string) => Promise<void>} remove
 */

/** @returns {Promise<Store>} */
export async function openStore() {
  try {
    return new DatabaseStore(await openDatabase());
  } catch (error) {
    console.info("Conversations are not kept:", error);
    return new MemoryStore();
  }
}

/** @returns {Promise<IDBDatabase>} */
function openDatabase() {
  return new Promise((resolve, reject) => {
    const opening = indexedDB.open(DATABASE, VERSION);
    opening.onupgradeneeded = () => {
      opening.result.createObjectStore(CONVERSATIONS, { keyPath: "id" }).createIndex(BY_TIME, ["updated", "title"]);
    };
    opening.onsuccess = () => {
      const database = opening.result;
      // Another tab with a newer version of this page must not have to wait for this tab.
      database.onversionchange = () => database.close();
      if (isOurs(database)) resolve(database);
      else reject(new Error(`the database ${DATABASE} is not of this page`));
    };
    opening.onerror = () => reject(opening.error);
    opening.onblocked = () => reject(new Error(`the database ${DATABASE} is held by another tab`));
  });
}

/** @param {IDBDatabase} database */
function isOurs(database) {
  return (
    database.objectStoreNames.contains(CONVERSATIONS) &&
    database.transaction(CONVERSATIONS).objectStore(CONVERSATIONS).indexNames.contains(BY_TIME)
  );
}

/** @implements {Store} */
class DatabaseStore {
  isKept = true;
  #database;

  /** @param {IDBDatabase} database */
  constructor(database) {
    this.#database = database;
  }

  /** @returns {Promise<Summary[]>} */
  async list() {
    /** @type {Summary[]} */
    const summaries = [];
    await this.#run("readonly", (conversations) => {
      const request = conversations.index(BY_TIME).openKeyCursor(null, "prev");
      request.onsuccess = () => {
        const cursor = request.result;
        if (!cursor) return;
        const [, title] = /** @type {IDBValidKey[]} */ (cursor.key);
        summaries.push({ id: String(cursor.primaryKey), title: String(title) });
        cursor.continue();
      };
    });
    return summaries;
  }

  /** @param {string} id */
  async get(id) {
    /** @type {IDBRequest<unknown> | undefined} */
    let request;
    await this.#run("readonly", (conversations) => {
      request = conversations.get(id);
    });
    return request?.result;
  }

  /** @param {ConversationRecord} record */
  put(record) {
    return this.#run("readwrite", (conversations) => conversations.put(record));
  }

  /** @param {string} id */
  remove(id) {
    return this.#run("readwrite", (conversations) => conversations.delete(id));
  }

  /**
   * Run a transaction to its end.
   *
   * @param {IDBTransactionMode} mode
   * @param {(conversations: IDBObjectStore) => void} work
   * @returns {Promise<void>}
   */
  #run(mode, work) {
    return new Promise((resolve, reject) => {
      const transaction = this.#database.transaction(CONVERSATIONS, mode);
      transaction.oncomplete = () => resolve();
      transaction.onabort = () => reject(transaction.error ?? new Error("the browser ended the transaction"));
      work(transaction.objectStore(CONVERSATIONS));
      // Commits at once, without waiting for the requests: the page may be closed before they are done.
      if (mode === "readwrite") transaction.commit();
    });
  }
}

/** @implements {Store} */
class MemoryStore {
  isKept = false;
  /** @type {Map<string, ConversationRecord>} */
  #records = new Map();

  async list() {
    return [...this.#records.values()]
      .sort((one, other) => other.updated - one.updated)
      .map(({ id, title }) => ({ id, title }));
  }

  /** @param {string} id */
  async get(id) {
    return structuredClone(this.#records.get(id));
  }

  /** @param {ConversationRecord} record */
  async put(record) {
    this.#records.set(record.id, structuredClone(record));
  }

  /** @param {string} id */
  async remove(id) {
    this.#records.delete(id);
  }
}
