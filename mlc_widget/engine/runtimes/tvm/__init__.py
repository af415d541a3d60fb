"""The embedded runtime: compiles and runs models with apache-tvm from PyPI.

From bottom to top: `kernels` (hand-written TIR), `layouts` (from MLC's tensors to the kernels'),
`layers` and `architectures` (models as `relax.frontend.nn` modules), `compile` and `cache` (to
machine code, once), `executor` (one step), `pages` and `scheduler` (many sequences), `loading` (all
of these from a model folder) and `runtime` (the `ModelRuntime`). Only the modules that compile, and
those above `scheduler`, import tvm, and only when a model is loaded.
"""
