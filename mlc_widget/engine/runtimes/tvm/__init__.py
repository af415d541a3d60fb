"""The embedded runtime: MLC-format models, compiled and run by apache-tvm from PyPI.

From bottom to top: `kernels` (hand-written TIR), `layouts` (MLC's tensors to the kernels'),
`layers` and `architectures` (models as `relax.frontend.nn` modules), `compile` and `cache` (to
machine code, once), `executor` (one step), `pages` and `scheduler` (many sequences), `loading` (all
of it from a folder) and `runtime` (the seam). Only what is above `scheduler`, and what compiles,
imports tvm, and only when a model is loaded.
"""
