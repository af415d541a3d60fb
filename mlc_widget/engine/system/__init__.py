"""What the engine needs from the operating system: child processes, threads and memory."""
