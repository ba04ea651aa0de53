"""Histories of concurrent calls, and whether each could have come from one store that does one call at a time.

operations.py   what a client asked and what it was told, with the times of both
model.py        what one call does to a group of keys, one after the other
checker.py      whether a history is linearizable
clients.py      processes of clients that record what they do; also a program, started by harness.py
harness.py      servers, clients, background work and kills on one data directory; also a program
"""
