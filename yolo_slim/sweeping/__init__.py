"""A point of a sweep's grid, and who makes it."""
