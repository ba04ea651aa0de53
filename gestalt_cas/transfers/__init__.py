"""Directories moved to keys and back: the files below one, the keys that they stand for, and the steps to take."""
