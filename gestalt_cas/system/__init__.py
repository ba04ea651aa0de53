"""What the operating system and the interpreter give and refuse: syncs, locks, owners, memory, processors.

Of the store these modules know its errors and nothing else.
"""
