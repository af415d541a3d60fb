"""MLC's own engine as a runtime: the GPUs it serves, tensor parallelism, speculative decoding.

It runs in a Python environment with MLC's wheels, which bring a TVM of their own. Nothing here but
`constructor`, `compilation_child` and `embedding` imports mlc_llm or tvm, and none of them before a
load.
"""
