"""What executes models: the seam (`base`) and the runtimes behind it."""
