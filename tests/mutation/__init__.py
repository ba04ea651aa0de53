"""Mutation testing of the rules and of the SQL: would the tests notice if one expression there were wrong?

`mutants` makes the wrong variants of a module, `judging` runs the tests against one, `survivors` explains those that no
test can tell from the original. Run by `make mutation`. A runner of our own, since a mutant here is a compiled module
that a forked process imports in place of the file: no file changes, and what the tests need is imported once.
"""
