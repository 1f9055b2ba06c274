/** Puts the page together: creates its parts, connects them, and opens the view for the address. */

import { TextGeneration } from "../headrace.js";
import { createAnnouncer } from "./announce.js";
import { Chat } from "./chat.js";
import { Compare } from "./compare.js";
import { Composer } from "./composer.js";
import { byId } from "./dom.js";
import { ModelChoice, Models } from "./models.js";
import { Notice } from "./notice.js";
import { changeSettings, loadSettings, optionsOf, watchSettings } from "./settings.js";
import { SettingsDialog } from "./settings-dialog.js";
import { Sidebar } from "./sidebar.js";
import { openStore } from "./store.js";

/** @import { Summary } from "./conversation.js" */
/** @import { Settings } from "./settings.js" */

const COMPARE = "#/compare";
const NEW = "#/";

let settings = loadSettings();
/** @type {Summary[]} */
let summaries = [];
let isComparing = false;
let numRoutes = 0;
/** Called when the API key may have changed. @type {(() => void)[]} */
let waiting = [];

const notice = new Notice();
const announce = createAnnouncer(byId("status", HTMLDivElement));
const stage = byId("stage", HTMLDivElement);
const modelSelect = byId("model", HTMLSelectElement);
const compareButton = byId("compare-button", HTMLButtonElement);

const dialog = new SettingsDialog(applySettings, showTheme);
document.body.append(dialog.element);

const sidebar = new Sidebar({ onOpen: (id) => go(id === null ? NEW : hashOf(id)), onDelete: remove });
const composer = new Composer(send, () => view().stop());
const choice = new ModelChoice(modelSelect, settings.model, (model) => {
  notice.hide("model");
  settings = changeSettings(settings, { model });
});
const models = new Models({
  onModels: setModels,
  onProblem: showServerProblem,
  onKeyNeeded: askForKey,
  isMissing: () => choice.isMissing || compare.isMissing,
});
const surroundings = { announce, onAsk: () => composer.focus(), onKeyNeeded: askForKey };
const compare = new Compare(() => settings, { ...surroundings, onChange: update });

showTheme(settings.theme);
TextGeneration.configure({ baseUrl: new URL("./", document.baseURI), apiKey: settings.apiKey || null });

const store = openStore();
const chat = new Chat(
  store,
  {
    ...surroundings,
    settings: () => ({
      options: optionsOf({ ...settings, model: choice.value }),
      systemPrompt: settings.systemPrompt,
    }),
  },
  {
    onChange: update,
    onList: setSummaries,
    onProblem: (text) => notice.show("storage", text),
    onRemoved: () => {
      leaveRemoved();
      notice.show("conversation", "This conversation was deleted in another tab.");
    },
  },
);
addEventListener("hashchange", route);
byId("settings-button", HTMLButtonElement).addEventListener("click", () => dialog.open(settings));
compareButton.addEventListener("click", () => go(isComparing ? hashOf(chat.conversation.id) : COMPARE));
// The server may have loaded another model meanwhile.
modelSelect.addEventListener("focus", () => models.ask());
document.addEventListener("visibilitychange", () => document.visibilityState === "visible" && models.ask());
watchSettings(() => useSettings({ ...loadSettings(), model: settings.model }));
byId("skip", HTMLAnchorElement).addEventListener("click", (event) => {
  event.preventDefault(); // the link's hash would be taken for a conversation
  composer.focus();
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape" || event.defaultPrevented || event.isComposing) return;
  if (document.querySelector("dialog[open]")) return; // the dialog closes itself
  if (sidebar.isDrawerOpen) sidebar.closeDrawer();
  else view().stop();
});

// Slow work comes after all listeners are connected, so that no click is lost.
composer.focus();
models.ask();
chat.list();
route();
sayWhetherKept();

/** The open view, to which messages go. */
function view() {
  return isComparing ? compare : chat;
}

/** @param {string} text */
function send(text) {
  const isSent = view().send(text);
  // A conversation gets an address with its first message.
  if (isSent && !isComparing) {
    history.replaceState(null, "", hashOf(chat.conversation.id));
    composer.open(draftName());
  }
  return isSent;
}

/** @param {string} id */
function hashOf(id) {
  return chat.conversation.id === id && !chat.conversation.messages.length ? NEW : `#/c/${encodeURIComponent(id)}`;
}

/** The name under which the draft in the message box is kept. */
function draftName() {
  return isComparing ? COMPARE : hashOf(chat.conversation.id);
}

/** @param {string} hash */
function go(hash) {
  // Not by setting the hash: text typed before the `hashchange` event would go to the previous conversation.
  if (location.hash !== hash) history.pushState(null, "", hash);
  route();
}

/** Open the view for the address. */
async function route() {
  const route = ++numRoutes;
  composer.leave();
  notice.hide("conversation");
  isComparing = location.hash === COMPARE;
  if (!isComparing) compare.stop(); // outside the comparison, there is no button to stop it
  if (!isComparing) {
    const id = idOf(location.hash);
    const isNewAlready = id === null && !chat.conversation.messages.length;
    if (!isNewAlready && !(await chat.open(id))) {
      history.replaceState(null, "", NEW);
      notice.show(
        "conversation",
        "This conversation is not in this browser, or another version of this page has written it.",
      );
    }
  }
  if (route !== numRoutes) return; // the address has changed meanwhile
  stage.replaceChildren(view().element);
  update();
  composer.open(draftName());
  if (matchMedia("(pointer: fine)").matches) composer.focus();
}

/** @param {string} hash */
function idOf(hash) {
  const found = /^#\/c\/(.+)$/.exec(hash);
  if (!found) return null;
  try {
    return decodeURIComponent(found[1]);
  } catch {
    return found[1];
  }
}

/** Show a hint if the browser keeps no data for the page. */
async function sayWhetherKept() {
  const { isKept } = await store;
  const hint = byId("storage-hint", HTMLParagraphElement);
  hint.textContent = isKept ? "" : "This browser lets the page keep nothing: conversations are gone when it is closed.";
  hint.hidden = isKept;
}

/** Update the parts of the page around the conversation. */
function update() {
  composer.setWriting(view().isWriting);
  compareButton.setAttribute("aria-pressed", String(isComparing));
  modelSelect.hidden = isComparing;
  const { conversation } = chat;
  const isNew = !conversation.messages.length;
  document.title = isComparing ? "Comparison · headrace" : isNew ? "headrace" : `${conversation.title} · headrace`;
  sidebar.show(summaries, isComparing ? "" : conversation.id);
}

/** @param {Summary[]} list */
function setSummaries(list) {
  summaries = list;
  update();
}

/** @param {string} id */
async function remove(id) {
  await chat.remove(id);
  if (id === chat.conversation.id) await leaveRemoved();
}

async function leaveRemoved() {
  if (isComparing) await chat.open(null);
  else go(NEW);
}

/** @param {string[]} names */
function setModels(names) {
  notice.hide("server");
  const told = [choice.show(names), compare.setModels(names)].find((text) => text);
  if (told) notice.show("model", told);
  else notice.hide("model");
}

/** @param {string} text */
function showServerProblem(text) {
  notice.show("server", `${text} Trying again.`, { name: "Try now", press: () => models.ask() });
}

/** @param {Partial<Settings>} changes */
function applySettings(changes) {
  useSettings(changeSettings(settings, changes));
}

/** @param {Settings} changed */
function useSettings(changed) {
  settings = changed;
  showTheme(settings.theme);
  TextGeneration.configure({ apiKey: settings.apiKey || null });
  models.ask();
  const resolves = waiting;
  waiting = [];
  for (const resolve of resolves) resolve();
}

/** @param {string} theme */
function showTheme(theme) {
  document.documentElement.dataset.theme = theme;
}

/** @returns {Promise<void>} when the settings were changed, here or in another tab */
function askForKey() {
  /** @type {Promise<void>} */
  const isChanged = new Promise((resolve) => {
    waiting.push(resolve);
  });
  dialog.open(
    settings,
    settings.apiKey ? "The server does not accept this API key." : "This server asks for an API key.",
  );
  return isChanged;
}
