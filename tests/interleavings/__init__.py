"""Two processes on one store, let on step by step: what an upload, a backup or a rollback meets beside a gc at work.

A step ends before each call by which a process can notice another one or be noticed: system calls on names and locks,
and SQL statements. Stopping anywhere between two such calls is the same as stopping before the second, so these steps
are all that there is to interleave. Both processes hold the store open and obey a controller, which lets each run so
many steps, or until it has to wait for a lock, or to its end. A third process prepares the store and judges it after
each schedule, while the others are at rest.

All payloads have digests that begin with the byte 0, and only these are collected and judged: the other 255 directories
would add steps and nothing else.

    processes.py   a process under control
    scenarios.py   what the two processes do
    judge.py       what must hold afterwards
    broken.py      faults that have to be caught
    schedules.py   who runs when
    __main__.py    the commands
"""
