"""Histories of calls made at the same time, and whether they could have been made one after the other."""
