"""What the engine needs of the system: child processes, and memory given back."""
