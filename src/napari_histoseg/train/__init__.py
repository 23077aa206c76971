"""One loop that turns annotations into weights, for every method."""
