"""Broken and hostile input: one kind a file, each case made from a number alone."""
