"""What the operating system and the interpreter give and refuse: syncs, locks, sockets, owners, memory.

Of the store these modules know its errors and nothing else.
"""
