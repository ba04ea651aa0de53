"""The store's directory and the files in it: staged, published under their digest, set aside, kept in reserve.

Nothing here knows of versions: which files the rows need, `operations.payloads` decides.
"""
