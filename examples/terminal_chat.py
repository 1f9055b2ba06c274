"""A chat in the terminal, in asyncio: it has a memory, and Ctrl-C stops the answer but not the program.

Run it: `python examples/terminal_chat.py [model]`
"""

from __future__ import annotations

import asyncio
import signal
import sys

from headrace import AsyncModel, ConversationManager, HeadraceError

HELP = "Ctrl-C stops an answer, Ctrl-D leaves; /new starts anew, /stats says what there is."


async def chat(model: AsyncModel) -> None:
    """Read questions and answer them until the input ends."""
    conversation = ConversationManager(model, max_context_tokens=2048, system_prompt="You are a helpful assistant.")
    print(HELP)
    while True:
        try:
            question = (await asyncio.to_thread(input, "> ")).strip()  # in a thread: the event loop goes on
        except EOFError:
            return
        if question == "/new":
            conversation.clear_history()
        elif question == "/stats":
            print(conversation.get_stats())
        elif question:
            await answer(conversation, question)


async def answer(conversation: ConversationManager, question: str) -> None:
    """Show an answer while it is written. The conversation remembers the part that was shown."""
    try:
        stream = conversation.asend(question, max_tokens=300)
        async for token in stream:
            print(token.text, end="", flush=True)
        print(" [stopped]" if stream.finish_reason == "cancelled" else "")
    except HeadraceError as error:  # a question that is too long, or a deadline; the chat goes on
        print(f"[{error}]")


async def main(ref: str = "smollm2") -> None:
    async with await AsyncModel.load(ref) as model:
        # Python's own handler would end the program. Cancelling is not an error: the stream just ends.
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, model.cancel_generation)
        await chat(model)


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
