/** Renders Markdown with marked, restricted: no HTML from the model, no images, and links to other sites only. */

import { Lexer, Parser, Renderer, Tokenizer } from "../vendor/marked.js";
import { COLUMNS, DEPTH, LANGUAGE, TAGS } from "./markdown-limits.js";

/** @typedef {import("../vendor/marked.js").Token} Token */
/** @typedef {import("../vendor/marked.js").MarkedToken} MarkedToken */
/** @typedef {import("../vendor/marked.js").Tokens.Code} Code */
/** @typedef {import("../vendor/marked.js").Tokens.List} List */
/** @typedef {import("../vendor/marked.js").Tokens.ListItem} ListItem */
/** @typedef {import("../vendor/marked.js").Tokens.Table} Table */
/** @typedef {import("../vendor/marked.js").Tokens.TableCell} TableCell */
/** @typedef {import("./markdown-blocks.js").Block} Block */
/** @typedef {import("./markdown-blocks.js").Definition} Definition */

const LINK = /^(?:https?:\/\/|mailto:)/i;
const LANGUAGE_NAME = new RegExp(`^[\\w+#.-]{1,${LANGUAGE}}(?=\\s|$)`);
/** @type {Record<string, string>} */
const ESCAPES = { "&": "&amp;", "<": "&lt;", ">": "&gt;", '"': "&quot;", "'": "&#39;" };

/**
 * Returns HTML that shows a text as it is.
 * @param {string} text
 */
function escaped(text) {
  return text.replace(/[&<>"']/g, (character) => ESCAPES[character]);
}

/**
 * Returns HTML for text in Markdown, where a reference such as `&eacute;` is a character.
 * @param {string} text
 */
function escapedText(text) {
  return text.replace(/[<>"']|&(?!(?:#\d{1,7}|#x[\da-f]{1,6}|\w+);)/gi, (character) => ESCAPES[character]);
}

/** Leaves quotes and lists that are too deep, and tables that are too wide, as text. */
class BoundedTokenizer extends Tokenizer {
  #depth = 0;

  /** @override @param {string} source */
  blockquote(source) {
    return this.#inside(() => super.blockquote(source));
  }

  /** @override @param {string} source */
  list(source) {
    return this.#inside(() => super.list(source));
  }

  /** @override @param {string} source */
  table(source) {
    const end = source.indexOf("\n");
    const columns = source.slice(0, end < 0 ? undefined : end).split("|").length - 1;
    return columns > COLUMNS ? undefined : super.table(source);
  }

  /**
   * @template T
   * @param {() => T | undefined} lex
   */
  #inside(lex) {
    if (this.#depth >= DEPTH) return undefined;
    this.#depth += 1;
    try {
      return lex();
    } finally {
      this.#depth -= 1;
    }
  }
}

/**
 * Returns the top-level blocks of a text. Their inline content is not lexed.
 * @param {string} source
 */
export function lexBlocks(source) {
  const lexer = new Lexer({ gfm: true, tokenizer: new BoundedTokenizer() });
  lexer.blockTokens(source, lexer.tokens);
  return lexer.tokens;
}

/**
 * Returns the tokens of a text, with their inline content.
 * @param {string} source
 * @param {Iterable<Definition>} definitions the link definitions before the text
 */
export function lex(source, definitions) {
  const lexer = new Lexer({ gfm: true, tokenizer: new BoundedTokenizer() });
  for (const [label, link] of definitions) lexer.tokens.links[label] = { title: null, ...link };
  return lexer.lex(source);
}

/** @extends {Renderer<string, string>} */
class PageRenderer extends Renderer {
  #isInLink = false;

  /** @override @param {{ text: string, block?: boolean }} token */
  html({ text, block }) {
    return block ? `<p>${escaped(text.trimEnd()).replaceAll("\n", "<br>")}</p>` : escaped(text);
  }

  /** @override @param {import("../vendor/marked.js").Tokens.Text | import("../vendor/marked.js").Tokens.Escape} token */
  text(token) {
    return "tokens" in token && token.tokens ? this.parser.parseInline(token.tokens) : escapedText(token.text);
  }

  /** @override @param {{ checked: boolean }} token */
  checkbox({ checked }) {
    return checked ? "☑ " : "☐ ";
  }

  /** @override @param {Code} token */
  code({ text, lang }) {
    const language = languageOf(lang);
    const name = language ? ` class="language-${escaped(language)}"` : "";
    return `<pre><code${name}>${escaped(codeOf(text))}</code></pre>`;
  }

  /** @override @param {import("../vendor/marked.js").Tokens.Link} token */
  link({ href, title, text, tokens, autolink }) {
    const outer = this.#isInLink;
    this.#isInLink = true;
    const content = autolink ? escaped(text) : this.parser.parseInline(tokens);
    this.#isInLink = outer;
    return anchor(href, title, content, autolink);
  }

  /** @override @param {import("../vendor/marked.js").Tokens.Image} token */
  image({ href, title, text, tokens }) {
    const name = escapedText(tokens ? this.parser.parseInline(tokens, this.parser.textRenderer) : text);
    return this.#isInLink ? name : anchor(href, title, name || escapedText(href));
  }

  /** @override @param {Table} token */
  table(token) {
    const rows = token.rows.map((row) => this.row(row)).join("");
    return `<table><thead>${this.row(token.header)}</thead><tbody>${rows}</tbody></table>`;
  }

  /**
   * Empty cells at the end of a row are left out: otherwise a row of two characters could have thirty cells.
   * @param {TableCell[]} cells
   */
  row(cells) {
    const count = cells.findLastIndex((cell) => cell.text !== "") + 1;
    const kept = cells.slice(0, cells[0]?.header ? cells.length : Math.max(1, count));
    return `<tr>${kept.map((cell) => this.tablecell(cell).trimEnd()).join("")}</tr>`;
  }
}

/**
 * @param {string} href
 * @param {string | null | undefined} title
 * @param {string} content
 * @param {boolean} [isLiteral] whether `&amp;` is text, not a reference
 */
function anchor(href, title, content, isLiteral = false) {
  let address;
  try {
    address = encodeURI(href).replaceAll("%25", "%");
  } catch {
    // Half of a surrogate pair.
    return content;
  }
  if (!LINK.test(address)) return content;
  const safe = isLiteral ? escaped(address) : escapedText(address);
  return `<a href="${safe}"${title ? ` title="${escapedText(title)}"` : ""}>${content}</a>`;
}

/** @param {string | undefined} lang */
function languageOf(lang) {
  return LANGUAGE_NAME.exec(lang ?? "")?.[0] ?? "";
}

/** @param {string} text of a code token */
function codeOf(text) {
  return text.replace(/\n$/, "");
}

/**
 * Returns the HTML of one unit, or its source text if the HTML has too many tags.
 * @param {string} html
 * @param {string} raw
 * @param {string} before
 * @param {string} after
 */
function bounded(html, raw, before, after) {
  return html.split("<").length > TAGS ? `${before}${escaped(raw.trim())}${after}` : html;
}

/**
 * Returns the block for a token; null for a token that shows nothing.
 * @param {Token} anyToken
 * @returns {Block | null}
 */
export function renderBlock(anyToken) {
  const renderer = new PageRenderer();
  const parser = new Parser({ renderer });
  const token = /** @type {MarkedToken} */ (anyToken);
  const continues = false;
  switch (token.type) {
    case "space":
    case "def":
      return null;
    case "code":
      return { continues, kind: "code", language: languageOf(token.lang), units: [codeOf(token.text)] };
    case "list": {
      const units = token.items.map((item) => bounded(renderer.listitem(item).trim(), item.raw, "<li>", "</li>"));
      return { continues, kind: "list", tag: token.ordered ? "ol" : "ul", start: token.start || 0, units };
    }
    case "table": {
      const units = token.rows.map((row) => {
        const raw = row.map((cell) => cell.text).join(" | ");
        return bounded(renderer.row(row), raw, "<tr><td>", "</td></tr>");
      });
      return { continues, kind: "table", head: renderer.row(token.header), units };
    }
    default: {
      const html = parser.parse([token]).trim();
      if (html.split("<").length > TAGS) return { continues, kind: "plain", units: [token.raw.trimEnd()] };
      return { continues, kind: "html", html };
    }
  }
}
