"""The rules of the contract and of S3 as functions from values to values: conditions, ranges, listings, signatures.

No directory, no database and no socket, so tables and properties test them whole.
"""
