"""The SQL of versions and of all that is told of them: keys, payloads, history, snapshots, settings.

Each function works in the transaction of its caller. None of them knows of files.
"""
