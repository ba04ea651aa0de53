"""Providers that are wrong on purpose, to show what the conformance kit finds."""
