"""Network blocks with at least two users."""
