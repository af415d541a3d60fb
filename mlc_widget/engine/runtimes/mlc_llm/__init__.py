"""MLC's own engine as a runtime, for its GPUs, tensor parallelism and speculative decoding.

It needs a Python environment with MLC's wheels, which bring their own TVM. Only `constructor`,
`compilation_child` and `embedding` import mlc_llm or tvm, and only when a model is loaded.
"""
