"""The direct engine, and what is the same for every runtime below it."""
