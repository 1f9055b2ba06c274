"""Decoding in a few lines, for the tests of this folder."""

from __future__ import annotations


def decode(context, rows):
    """Decodes rows of (token, position, sequence, wants logits)."""
    n = len(rows)
    columns = (context.tokens, context.positions, context.sequences, context.outputs)
    for column, values in zip(columns, zip(*rows, strict=True), strict=True):
        column[:n] = values
    return context.decode(n, sum(row[3] for row in rows))


def prefill(context, tokens, sequence=0, start=0):
    rows = [(token, start + i, sequence, i == len(tokens) - 1) for i, token in enumerate(tokens)]
    return decode(context, rows)[0].copy()


def greedy(context, tokens, n, sequence=0):
    chosen = [int(prefill(context, tokens, sequence).argmax())]
    while len(chosen) < n:
        position = len(tokens) + len(chosen) - 1
        chosen.append(int(decode(context, [(chosen[-1], position, sequence, 1)])[0].argmax()))
    return chosen
