"""The worker's side: the kernel application and the handler."""
