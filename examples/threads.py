"""Threads and queues: workers take questions from one queue, and put pieces of the answers into another.

All workers share one loaded model. Their streams decode together, so four answers take much less than four times as
long as one. Run it: `python examples/threads.py [model]`
"""

from __future__ import annotations

import sys
import threading
from queue import Queue

from headrace import HeadraceError, Model

QUESTIONS = ["What is a river?", "What is the moon?", "What is bread?", "What is a violin?"]
NUM_WORKERS = 4

# The number of a question, and a piece of its answer, or None when the answer is complete.
Piece = tuple[int, str | None]


def work(model: Model, questions: Queue[tuple[int, str] | None], pieces: Queue[Piece]) -> None:
    """Answer questions until there are no more."""
    while (question := questions.get()) is not None:
        number, text = question
        try:
            for token in model.generate_stream(text, system_prompt="Answer in one sentence.", max_tokens=30):
                # If the queue is full, this thread waits. Then its stream pauses, and no other.
                pieces.put((number, token.text))
        except HeadraceError as error:
            pieces.put((number, f"[{error}]"))
        finally:
            pieces.put((number, None))


def main(ref: str = "smollm2") -> None:
    questions: Queue[tuple[int, str] | None] = Queue()
    pieces: Queue[Piece] = Queue(maxsize=64)
    with Model.load(ref) as model:
        for _ in range(NUM_WORKERS):
            # Daemon threads, so that a worker that waits for a full queue does not keep the program from ending.
            threading.Thread(target=work, args=(model, questions, pieces), daemon=True).start()
        for question in enumerate(QUESTIONS):
            questions.put(question)
        for _ in range(NUM_WORKERS):
            questions.put(None)

        answers = [""] * len(QUESTIONS)
        num_open = len(QUESTIONS)
        while num_open:
            number, text = pieces.get()
            if text is None:
                num_open -= 1
                print(f"{QUESTIONS[number]} {answers[number].strip()}\n")
            else:
                answers[number] += text  # or show it at once

        print(f"{model.metrics.completion_tokens} tokens in {model.metrics.steps} steps of the model")


if __name__ == "__main__":
    main(*sys.argv[1:])
