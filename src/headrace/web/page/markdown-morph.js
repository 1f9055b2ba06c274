/** `morph`: changes an element into another one, and keeps equal nodes, so that selection and layout are kept. */

/**
 * @template {ChildNode} Node
 * @param {Node} before the node on the page
 * @param {Node} after the node to show
 * @returns {Node} the node now on the page, one of the two
 */
export function morph(before, after) {
  if (before.isEqualNode(after)) return before;
  if (before instanceof Text && after instanceof Text) {
    if (after.data.startsWith(before.data)) before.appendData(after.data.slice(before.length));
    else before.data = after.data;
    return before;
  }
  if (!before.cloneNode(false).isEqualNode(after.cloneNode(false))) {
    before.replaceWith(after);
    return after;
  }
  const children = [...before.childNodes];
  const wanted = [...after.childNodes];
  for (const [index, child] of wanted.entries()) {
    if (index < children.length) morph(children[index], child);
    else before.appendChild(child);
  }
  for (const child of children.slice(wanted.length)) child.remove();
  return before;
}
