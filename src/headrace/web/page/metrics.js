/** The metrics of an answer as one line: tokens, speed, time to first token, cost. */

/** @import { Metrics } from "./conversation.js" */

const MILLISECONDS = new Intl.NumberFormat("en", { maximumFractionDigits: 0, useGrouping: false });

/**
 * @param {Metrics} metrics
 */
export function metricsText({ tokens, tokensPerSecond, firstTokenMs, cost, currency }) {
  const parts = [`${tokens} ${tokens === 1 ? "token" : "tokens"}`];
  if (tokensPerSecond !== null) parts.push(`${tokensPerSecond.toFixed(1)} tok/s`);
  if (firstTokenMs !== null) parts.push(`first token after ${MILLISECONDS.format(firstTokenMs)} ms`);
  if (cost !== null) parts.push(costText(cost, currency));
  return parts.join(" · ");
}

/**
 * Returns an amount of money with at least two significant digits.
 *
 * @param {number} cost
 * @param {string | null} currency
 */
export function costText(cost, currency) {
  const digits = cost > 0 && cost < 1 ? Math.min(20, 1 - Math.floor(Math.log10(cost))) : 2;
  const format = { minimumFractionDigits: 2, maximumFractionDigits: Math.max(2, digits) };
  try {
    return new Intl.NumberFormat("en", { ...format, style: "currency", currency: currency ?? "" }).format(cost);
  } catch {
    // The server's currency may be any text, but browsers format only codes of three letters.
    return `${new Intl.NumberFormat("en", format).format(cost)} ${currency ?? ""}`.trim();
  }
}
