"""The same models on NVIDIA GPUs: kernels, layers and the executor of `device="cuda"`.

Architectures, layouts, pages and the scheduler are those of the CPU; a `layers.CudaBuilder` stands
where `tvm.layers.Builder` does.
"""
