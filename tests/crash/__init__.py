"""What a crash may leave of a store: recordings of real processes, the disk states they imply, and the judgement.

shim.py, shim.c    record what processes do to the files below a directory, and make chosen operations fail
"""
