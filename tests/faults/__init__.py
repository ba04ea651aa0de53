"""Every operation of the store with the disk failing it at every point, once and for a while.

cases.py      the operations: what each needs before, the call, and whether its effect is there; more in
              past.py and keeping.py
catalogue.py  all of them
sweep.py      the points: fails the n-th operation of the disk for every n, and judges how the call ended; a program
serving.py    `gestalt-cas serve` that takes orders to fail, for the same over a socket
"""
