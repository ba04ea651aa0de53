"""What becomes of a process that gets no more memory: it ends, with one line that says so.

grpcio hands calls out on one thread. When that ends by an exception the process looks alive and answers nothing, for
ever; so does a server whose first thread for a kind of calls cannot be started. Commits are crash-safe and whoever
started the process sees its end, so ending it is what helps.
"""

from __future__ import annotations

import os
import threading
from functools import cache

EXIT_CODE = 5
"""`gestalt-cas`'s code for a limit on room that is reached."""
_NO_THREAD = "can't start new thread"


def is_exhaustion(error: BaseException | None) -> bool:
    """Whether memory, or what a thread takes, was refused."""
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _NO_THREAD in str(error))


def told(error: BaseException) -> str:
    """The sentence for a person."""
    what = "no more threads can be started" if isinstance(error, RuntimeError) else "out of memory"
    return f"{what}: leaving; a higher limit (ulimit -v, MemoryMax=), or limits.concurrentReads and -Writes, would help"


def leave(error: BaseException) -> None:
    """End the process now. Written without the log, which may need memory itself."""
    os.write(2, f"gestalt-cas: {told(error)}\n".encode())
    os._exit(EXIT_CODE)


@cache  # a second time would put a hook around this one
def end_process_with_thread() -> None:
    """From now on a thread of this process that ends for want of memory takes the process with it."""
    before = threading.excepthook

    def hook(arguments: threading.ExceptHookArgs) -> None:
        if arguments.exc_value is not None and is_exhaustion(arguments.exc_value):
            leave(arguments.exc_value)
        before(arguments)

    threading.excepthook = hook
