"""The direct engine, and everything that is the same for all runtimes."""
