"""The test side of the wire: an independent client, processes to talk to, and the fixtures that bring them together.

Nothing here imports `gestalt_cas` or the Gestalt SDK. Message shapes are written down once more, from the contract, so
that a mistake in the package's own descriptors cannot hide behind the tests using the same ones.
"""
