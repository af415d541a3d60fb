"""CPU kernels, written by hand in TIR on vectors of 16 float32 lanes.

Every kernel here follows these rules:

- **The result of a row depends only on that row, bit for bit.** Each reduction has a fixed order,
  given in the kernel's docstring, whatever the number of rows, their position in the batch, or the
  number of threads. Products are added by an explicit fused multiply-add if the CPU has one
  (`Isa.fma`), so that the compiler has no choice.
- **Features are padded** to a multiple of 32 (`pad`). Padding is zero in parameters and in
  activations, so no kernel needs a special case for the last features.
- Memory beyond a sequence's last token may hold NaN. So it is excluded by loop bounds or `Select`,
  never multiplied by zero.
"""
