"""The recipes: one stage a file, read top to bottom. Each is a function of a Config and ends by writing its record."""
