/** `Sidebar`: the list of conversations. On narrow screens it is a drawer. */

import { button, byId, element } from "./dom.js";

/** @import { Summary } from "./conversation.js" */

/**
 * @typedef {object} SidebarEvents
 * @property {(id: string | null) => void} onOpen null for a new conversation
 * @property {(id: string) => void} onDelete called after the reader has confirmed
 */

export class Sidebar {
  /** @param {SidebarEvents} events */
  constructor(events) {
    this.#events = events;
    byId("new-button", HTMLButtonElement).addEventListener("click", () => this.#choose(null));
    this.#menuButton.addEventListener("click", () => this.openDrawer());
    for (const id of ["close-menu-button", "backdrop"]) {
      byId(id, HTMLElement).addEventListener("click", () => this.closeDrawer());
    }
    matchMedia("(min-width: 720px)").addEventListener("change", () => this.closeDrawer());
    document.body.append(this.#dialog);
  }

  #events;
  #menuButton = byId("menu-button", HTMLButtonElement);
  #newButton = byId("new-button", HTMLButtonElement);
  #nav = byId("sidebar", HTMLElement);
  #list = byId("conversation-list", HTMLUListElement);
  #backdrop = byId("backdrop", HTMLDivElement);
  #behind = [byId("header", HTMLElement), byId("main", HTMLElement)];
  /** @type {{ summaries: Summary[], current: string }} */
  #shown = { summaries: [], current: "" };
  #question = element("p");
  #confirm = button("Delete", () => {}, { class: "primary danger" });
  #dialog = element(
    "dialog",
    { class: "confirm", "aria-label": "Delete conversation" },
    this.#question,
    element(
      "div",
      { class: "dialog-buttons" },
      button("Cancel", () => this.#dialog.close()),
      this.#confirm,
    ),
  );

  get isDrawerOpen() {
    return this.#nav.classList.contains("is-open");
  }

  openDrawer() {
    this.#setDrawer(true);
    this.#newButton.focus();
  }

  closeDrawer() {
    if (!this.isDrawerOpen) return;
    this.#setDrawer(false);
    this.#menuButton.focus();
  }

  /**
   * @param {Summary[]} summaries
   * @param {string} current the id of the open conversation, or ""
   */
  show(summaries, current) {
    if (summaries === this.#shown.summaries && current === this.#shown.current) return;
    const hasMoved = current !== this.#shown.current || !this.#list.querySelector("[aria-current]");
    this.#shown = { summaries, current };
    const focused = this.#list.contains(document.activeElement)
      ? document.activeElement?.getAttribute("data-key")
      : null;
    this.#list.replaceChildren(...summaries.map((summary) => this.#row(summary, summary.id === current)));
    if (focused) this.#focusKey(focused);
    if (hasMoved) this.#list.querySelector("[aria-current]")?.scrollIntoView({ block: "nearest" });
  }

  /**
   * @param {Summary} summary
   * @param {boolean} isCurrent
   */
  #row({ id, title }, isCurrent) {
    return element(
      "li",
      {},
      button(title, () => this.#choose(id), {
        class: "quiet conversation",
        title,
        dir: "auto",
        "data-key": `open ${id}`,
        "aria-current": isCurrent ? "page" : null,
      }),
      button("×", () => this.#ask(id, title), {
        class: "quiet delete",
        "data-key": `delete ${id}`,
        "aria-label": `Delete ${title}`,
        title: "Delete",
      }),
    );
  }

  /** @param {string | null} id */
  #choose(id) {
    this.closeDrawer();
    this.#events.onOpen(id);
  }

  /**
   * @param {string} id
   * @param {string} title
   */
  #ask(id, title) {
    this.#question.textContent = `Delete “${title}” for good?`;
    this.#confirm.onclick = () => {
      this.#dialog.close();
      this.#focusBeside(id);
      this.#events.onDelete(id);
    };
    this.#dialog.showModal();
  }

  /**
   * Before a conversation is removed, move the focus to the next one, the previous one, or the button above.
   *
   * @param {string} id
   */
  #focusBeside(id) {
    const rows = [...this.#list.children];
    const index = rows.findIndex((row) => row.querySelector(`[data-key="${CSS.escape(`open ${id}`)}"]`));
    const beside = (rows[index + 1] ?? rows[index - 1])?.querySelector("button") ?? this.#newButton;
    beside.focus();
  }

  /** @param {string} key */
  #focusKey(key) {
    const found = this.#list.querySelector(`[data-key="${CSS.escape(key)}"]`);
    (found instanceof HTMLElement ? found : this.#newButton).focus();
  }

  /** @param {boolean} isOpen */
  #setDrawer(isOpen) {
    this.#nav.classList.toggle("is-open", isOpen);
    this.#menuButton.setAttribute("aria-expanded", String(isOpen));
    this.#backdrop.hidden = !isOpen;
    for (const part of this.#behind) part.inert = isOpen;
  }
}
