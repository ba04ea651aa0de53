"""What the outside gets to see of a running server: calls as they end, figures, spans, and the pages that show them."""
