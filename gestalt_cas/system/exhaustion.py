"""What becomes of a process that gets no more memory: it ends, with one line that says so.

grpcio hands calls out on one thread. When that ends by an exception the process looks alive and answers nothing, for
ever; so does a server whose first thread for a kind of calls cannot be started. Commits are crash-safe and whoever
started the process sees its end, so ending it is what helps.
"""

from __future__ import annotations

import errno
import os
import threading
from functools import cache

from gestalt_cas.errors import OutcomeUnknown, StoreError, TooManyStreams
from gestalt_cas.system.refusals import MORE_FILES, is_want_of_files

EXIT_CODE = 5
"""`gestalt-cas`'s code for a limit on room that is reached."""
_NO_THREAD = "can't start new thread"


def is_exhaustion(error: BaseException | None) -> bool:
    """Whether memory, or what a thread takes, was refused."""
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, MemoryError) or (isinstance(error, RuntimeError) and _NO_THREAD in str(error))


def told(error: BaseException, then: str = "") -> str:
    """The sentence for a person; `then` is what is done about it."""
    what, limits = "out of memory", "ulimit -v, MemoryMax="
    if isinstance(error, RuntimeError):  # there were too many already, or there was no room for one more stack
        what, limits = "no more threads can be started", f"ulimit -u, TasksMax=; on memory, {limits}"
    return f"{what}{then}; a higher limit ({limits}), or lower limits.concurrentReads and -Writes, would help"


def explained(error: Exception, *, changing: bool = False) -> Exception:
    """What to answer in place of an exception that ended a call: a StoreError if the system had no more to give.

    A thread is only ever wanted before a call has done anything, so that one can be tried again; memory at any moment,
    so of a call that is `changing` something nobody knows whether it had done so.
    For want of files the store has words of its own; here are those of whatever is around it. Else the error itself.
    """
    if is_want_of_files(error):
        return TooManyStreams(f"too many open files; {MORE_FILES}")
    if not is_exhaustion(error):
        return error
    if isinstance(error, RuntimeError):
        return TooManyStreams(told(error))
    return OutcomeUnknown(f"outcome unknown: {told(error)}") if changing else StoreError(told(error))


def leave(error: BaseException) -> None:
    """End the process now. Written without the log, which may need memory itself."""
    os.write(2, f"gestalt-cas: {told(error, ': leaving')}\n".encode())
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
