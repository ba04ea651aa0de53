"""Checking a store and repairing it: `checking.check` is the way in, `findings` what it reports."""
