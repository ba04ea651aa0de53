"""Two moments of the store side by side: what differs, one digest of all that stood, and the way back."""
