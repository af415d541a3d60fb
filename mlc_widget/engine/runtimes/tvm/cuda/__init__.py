"""The same models on NVIDIA GPUs: kernels, layers and the executor of `device="cuda"`.

Architectures, pages and the scheduler are those of the CPU; a `layers.CudaBuilder` stands where
`tvm.layers.CpuBuilder` does. Models in float16 get a `tensor_layers.TensorBuilder`, whose kernels
(`tensor_matmul`, `tensor_attention`, `tensor_rope`) multiply on tensor cores and read the weights
as `fragments` arranges them; the others (`matmul`, `attention`) are computed in float32 and lie as
on the CPU. `executor` runs them, `decode` as one CUDA graph.
"""
