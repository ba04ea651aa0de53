"""What a crash may leave of a store: recordings of real processes, the disk states they imply, and the judgement.

shim.py, shim.c    record what processes do to the files below a directory; make chosen operations fail
workloads.py       the work that is recorded, on real stores
session.py         how it calls the store, and marks each call
preparing.py       the stores that it begins with
recorder.py        runs it in forks of one child process
disk.py            what is durable after each operation, what is pending, and the state that a choice leaves
enumeration.py     which choices are looked at
expectations.py    what had been promised at each point
trees.py           makes one state after the other stand in a directory
judgement.py       opens the store there and compares it with the promises
sites.py           every sync in the package, and how to leave one out
campaign.py        all of it together, and the command line
"""
