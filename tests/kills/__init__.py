"""Killing the real server under load, over and over on one data directory, against a ledger of what it answered.

ledger.py      what was asked for and what was answered, key by key; compares that with what a store holds
groups.py      the same for keys of which several are changed at once, and for what snapshots show
versions.py    what both are made of
writers.py     threads that call a server over its socket and write the ledger
keepers.py     processes on the directory that make batches, rollbacks and snapshots, and write it down
audit.py       the look at a store after a kill: rows, files and SQLite itself
campaign.py    the rounds; also a program: python -m kills.campaign --help
"""
