"""CPU kernels, written by hand in TIR on vectors of 16 float32 lanes.

Rules that every kernel here keeps:

- **A row's bits depend on that row alone.** Each reduction has one order, written in the kernel's
  docstring, whatever the number of rows, their place in the batch, or the number of threads.
  Products are added by an explicit fused multiply-add where the CPU has one (`Isa.fma`), so that
  the compiler has nothing to choose.
- **Features are padded** to a multiple of 32 (`pad`), and padding is zero in parameters and
  activations alike, so no kernel has a tail.
- What lies beyond a sequence's last token is left out by bounds or `Select`, never multiplied by
  zero: it may be NaN.
"""
