"""Compiled code that Ctrl-C can interrupt.

A signal's handler runs when the main thread is back in Python, and one call of compiled code may
take hours. So such a call is made in a thread of its own, and the main thread waits in Python.
"""

import contextvars
import threading
from collections.abc import Callable
from typing import TypeVar

Result = TypeVar("Result")
THREAD = "compiled call"
"""Name of the thread."""


def interruptible(
    work: Callable[[], Result], stop: Callable[[], None] = lambda: None
) -> Result:
    """What `work()` gives or raises; if the wait for it is interrupted, that exception, at once.

    Compiled code in `work` must let go of Python's lock (`systol_sim.jit.compiled` has it do so).
    Then `stop` is called, which should make it end soon; what does not, goes on beside, and ends
    with the process. Outside of the main thread, which no signal reaches, `work` is simply called.
    """
    if threading.current_thread() is not threading.main_thread():
        return work()
    results: list[Result] = []
    errors: list[BaseException] = []
    ended = threading.Event()
    context = contextvars.copy_context()

    def run() -> None:
        try:
            results.append(context.run(work))
        except BaseException as error:
            errors.append(error)
        finally:
            ended.set()

    threading.Thread(target=run, name=THREAD, daemon=True).start()
    try:
        ended.wait()
    except BaseException:
        stop()
        raise
    if errors:
        raise errors[0]
    return results[0]
