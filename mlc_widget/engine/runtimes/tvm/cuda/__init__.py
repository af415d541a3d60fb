"""Kernels, layers and the executor for NVIDIA GPUs (`device="cuda"`).

Architectures, pages and the scheduler are those of the CPU; `layers.CudaBuilder` replaces
`tvm.layers.CpuBuilder`. Models in float16 get a `tensor_layers.TensorBuilder`, whose kernels
(`tensor_matmul`, `tensor_append`, `tensor_attention`) multiply on tensor cores, with weights in the
order of `fragments`. Other models are computed in float32 (`matmul`, `attention`), with the CPU's
layouts. `executor` runs steps; `decode` runs decode steps as one CUDA graph. `parts` divides
attention over the keys of long contexts. `shortlist` chooses tokens from logits on the GPU, which
`row_changes` has changed there by `change_logits`; `records` are what is left of them. What runs
steps needs TVM's runtime alone (`device`, `tensors`, `upload`, `cudart`); what makes kernels needs
its compiler.
"""
