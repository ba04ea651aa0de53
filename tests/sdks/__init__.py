"""Every published release of gestalt-sdk, each in an environment of its own, around our provider.

`releases` says what each release is, `judging` puts one release through everything, `matrix` is the command that prints
the outcome of all of them: `make sdk-matrix`, or with tests/ on PYTHONPATH `python -m sdks.matrix a8 a29 --json`. What
is in `in_release/` runs inside a release's environment and imports only what is there.
"""
