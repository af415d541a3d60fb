"""The protocol between proxy and worker; imports neither of them."""
