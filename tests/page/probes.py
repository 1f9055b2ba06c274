"""Questions to a page that only script in it can answer."""

from __future__ import annotations

__all__ = [
    "FOCUS",
    "FOCUS_IS_SEEN",
    "IS_KEPT",
    "LIVE_REGIONS",
    "NAMELESS",
    "NOTE_SAID",
    "NOTE_SHIFTS",
    "SCROLLER",
    "SPOIL",
    "STICKS_OUT",
]

# Tag and name of what has the focus.
FOCUS = """
() => {
  const one = document.activeElement;
  const name = one.getAttribute("aria-label") || one.labels?.[0]?.textContent || one.textContent;
  return `${one.tagName.toLowerCase()} ${name.trim()}`;
}
"""

# Whether one can see where the focus is.
FOCUS_IS_SEEN = """
() => {
  const one = document.activeElement;
  if (one === document.body) return true;
  const isOutlined = (style) => style.outlineStyle !== "none" && parseFloat(style.outlineWidth) > 0;
  const styles = [getComputedStyle(one), getComputedStyle(one.parentElement)];
  const box = one.getBoundingClientRect();
  return styles.some((style) => isOutlined(style) || style.boxShadow !== "none")
    && box.width > 0 && box.bottom > 0 && box.top < innerHeight;
}
"""

# Whether a text is in a record of the browser's store.
IS_KEPT = """
async (text) => {
  const done = (request) => new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
  for (const {name} of await indexedDB.databases()) {
    const database = await done(indexedDB.open(name));
    const stores = [...database.objectStoreNames];
    const reads = stores.map((store) => done(database.transaction(store).objectStore(store).getAll()));
    const records = await Promise.all(reads);
    database.close();
    if (JSON.stringify(records).includes(text)) return true;
  }
  return false;
}
"""

# What can be pressed or filled in, and has no name.
NAMELESS = """
() => [...document.querySelectorAll("button, a[href], input, select, textarea")]
  .filter((one) => one.checkVisibility())
  .filter((one) => !one.getAttribute("aria-label") && !one.textContent.trim() && !one.labels?.length)
  .map((one) => one.outerHTML)
"""

# What speaks up by itself.
LIVE_REGIONS = """
() => [...document.querySelectorAll("[aria-live], [role=log], [role=status], [role=alert]")]
  .filter((one) => one.getAttribute("aria-live") !== "off")
  .map((one) => one.getAttribute("role") ?? one.outerHTML.slice(0, 100))
"""

# Notes in `said` what such regions say from now on.
NOTE_SAID = """
() => {
  window.said = [];
  new MutationObserver((changes) => {
    const changed = changes.map(({target}) => (target.closest ? target : target.parentElement));
    const selector = "[aria-live], [role=log], [role=status], [role=alert]";
    const regions = new Set(changed.map((one) => one?.closest(selector)));
    for (const one of regions) {
      const text = one?.textContent.trim();
      if (text && one.getAttribute("aria-live") !== "off") said.push(text);
    }
  }).observe(document.body, {childList: true, characterData: true, subtree: true});
}
"""

# Notes in `shifts` what moves by itself from now on; what follows an input within half a second was wanted.
NOTE_SHIFTS = """
() => {
  window.shifts = [];
  new PerformanceObserver((list) => {
    for (const one of list.getEntries()) {
      if (!one.hadRecentInput) {
        const elements = one.sources.map(({node}) => (node instanceof Text ? node.parentElement : node));
        const moved = elements.map((node) => node?.outerHTML.slice(0, 80) ?? "something that is gone");
        shifts.push([one.value, moved]);
      }
    }
  }).observe({type: "layout-shift"});
}
"""

# Marks what scrolls a conversation, given something in it.
SCROLLER = """
(one) => {
  for (; one; one = one.parentElement) {
    if (/auto|scroll/.test(getComputedStyle(one).overflowY) && one.scrollHeight > one.clientHeight) {
      one.setAttribute("data-scroller", "");
      return true;
    }
  }
  return false;
}
"""

# What sticks out to a side, or scrolls sideways, but for code, tables and fields, which scroll by themselves.
STICKS_OUT = """
() => {
  const overflow = (one) => getComputedStyle(one).overflowX;
  const holds = (one) => one.matches("textarea, input, select")
    || (overflow(one) !== "visible" && one.closest(".answer-text, .thinking, .tool-call, button, summary"));
  const found = [];
  for (const one of document.querySelectorAll("body *")) {
    const box = one.getBoundingClientRect();
    if (!one.checkVisibility({visibilityProperty: true}) || box.width <= 1 || box.height <= 1) continue;
    let isHeld = holds(one);
    for (let above = one.parentElement; above && above !== document.body; above = above.parentElement) {
      isHeld ||= holds(above);
    }
    const shown = one.outerHTML.slice(0, 150);
    if ((box.left < -1 || box.right > innerWidth + 1) && !(isHeld && !holds(one))) found.push(`sticks out: ${shown}`);
    if (!isHeld && /auto|scroll/.test(overflow(one)) && one.scrollWidth > one.clientWidth + 1) {
      found.push(`scrolls sideways: ${shown}`);
    }
  }
  const width = document.scrollingElement.scrollWidth;
  if (width > innerWidth) found.push(`the page is ${width} wide, and the window ${innerWidth}`);
  return found;
}
"""

# Overwrites all that is kept: each key of localStorage, and each record of each object store.
SPOIL = """
async (rubbish) => {
  const text = typeof rubbish === "string" ? rubbish : JSON.stringify(rubbish);
  for (const key of Object.keys(localStorage)) localStorage.setItem(key, text);
  const done = (request, event) => new Promise((resolve, reject) => {
    request[event] = () => resolve(request.result);
    request.onerror = request.onabort = () => reject(request.error);
  });
  for (const {name} of await indexedDB.databases()) {
    const database = await done(indexedDB.open(name), "onsuccess");
    for (const store of database.objectStoreNames) {
      const transaction = database.transaction(store, "readwrite");
      const records = transaction.objectStore(store);
      const {keyPath} = records;
      for (const key of await done(records.getAllKeys(), "onsuccess")) {
        if (keyPath === null) records.put(rubbish, key);
        else records.put({...(typeof rubbish === "object" ? rubbish : {}), [keyPath]: key});
      }
      await done(transaction, "oncomplete");
    }
    database.close();
  }
}
"""
