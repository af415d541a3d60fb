// Products of up to eight rows: see tensor_matmul_streams.py, which adds `decode4`, `decode8`,
// `inverse_root` and instructions.cuh above.

constexpr int SLICES = 16, NORM_WARPS = 8;

// Arrive, and have the phase end only when so many bytes are there.
__device__ __forceinline__ void expect(unsigned barrier, int bytes) {
  asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;"
               :: "r"(barrier), "r"(bytes) : "memory");
}

__device__ __forceinline__ void copy(unsigned to, const void* from, int bytes, unsigned barrier) {
  asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes "
               "[%0], [%1], %2, [%3];"
               :: "r"(to), "l"(from), "r"(bytes), "r"(barrier) : "memory");
}

__device__ __forceinline__ void store16(unsigned to, const unsigned* v) {
  asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};"
               :: "r"(to), "r"(v[0]), "r"(v[1]), "r"(v[2]), "r"(v[3]) : "memory");
}

__device__ __forceinline__ void mma(float* c, const unsigned* a, const unsigned* b) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
               "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));
}

// A block makes items blockIdx.x, blockIdx.x + BLOCKS, … of COUNT. An item has TILES tiles of 16
// rows of W, tile t being number item * FACTOR + t * APART. Template arguments are attributes of
// `tensor_matmul_streams.Streams`.
template <int K, int BITS, int TILES, int FACTOR, int APART, int COUNT, int ROWS, int BLOCKS,
          int CHUNK, int DEPTH, bool BULK, bool FAR, int EXPECTED>
struct Streams {
  static constexpr int STEPS = (K + 63) / 64, PER = (STEPS + SLICES - 1) / SLICES;
  static constexpr bool EVEN = STEPS == PER * SLICES, WHOLE = EVEN && K % 64 == 0;
  static constexpr int WORDS = BITS * 128, SCALES = BITS < 16 ? 64 : 0;  // bytes of a step
  static constexpr int CHUNKS = PER / CHUNK, SLOT = CHUNK * TILES * (WORDS + SCALES);
  static constexpr int LINE = PER * 128 + (ROWS > 1 ? 64 : 0);  // of x; no two rows share banks
  static constexpr int COLUMNS = ROWS > 1 ? ROWS + 1 : 1;
  static constexpr int MAKERS = SLICES * 32, ADDERS = ROWS > 1 ? 4 : 1;  // threads, warps
  // In shared memory: for each warp mbarriers of its slots and of x; mbarriers of sums; sums of
  // squares; slots; x; sums of two items.
  static constexpr int OWN = (DEPTH + 1) * 8;
  static constexpr int FULL = SLICES * OWN, EMPTY = FULL + 16, SQUARES = EMPTY + 16;
  static constexpr int SLOTS = (SQUARES + NORM_WARPS * 4 + 127) / 128 * 128;
  static constexpr int INPUTS = SLOTS + SLICES * DEPTH * SLOT;
  static constexpr int SUMS = INPUTS + (FAR ? 0 : SLICES * ROWS * LINE);
  static constexpr int SUM = SLICES * TILES * 16 * COLUMNS * 4, BYTES = SUMS + 2 * SUM;
  static_assert(BYTES == EXPECTED && PER % CHUNK == 0);

  unsigned shared;
  const char *w, *s;
  int warp, lane;

  __device__ __forceinline__ Streams(void* memory, const void* w, const void* s)
      : w((const char*)w), s((const char*)s), warp(threadIdx.x / 32), lane(threadIdx.x % 32) {
    // So that it is not computed again each time.
    asm volatile("mov.u32 %0, %1;" : "=r"(shared) : "r"((unsigned)__cvta_generic_to_shared(memory)));
  }

  // Steps of a chunk of the warp's slice.
  __device__ __forceinline__ int steps_of(int chunk) const {
    if (EVEN) return CHUNK;
    const int left = STEPS - (warp * PER + chunk * CHUNK);
    return left < 0 ? 0 : left > CHUNK ? CHUNK : left;
  }

  // Start copying the weights of a chunk of the warp's slice of the block's item `number`.
  __device__ __forceinline__ void fill(int number, int chunk, int slot) const {
    const int item = blockIdx.x + number * BLOCKS, steps = steps_of(chunk);
    const unsigned to = shared + SLOTS + (warp * DEPTH + slot) * SLOT;
    const unsigned first = item * (FACTOR * STEPS) + warp * PER + chunk * CHUNK;
    if (BULK) {
      if (item >= COUNT || lane > 0) return;
      const unsigned barrier = shared + warp * OWN + slot * 8;
      expect(barrier, steps * TILES * (WORDS + SCALES));
      if (!EVEN && steps == 0) return;
#pragma unroll
      for (int t = 0; t < TILES; ++t) {
        const size_t step = first + t * APART * STEPS;
        copy(to + t * CHUNK * WORDS, w + step * WORDS, steps * WORDS, barrier);
        if (SCALES)
          copy(to + TILES * CHUNK * WORDS + t * CHUNK * SCALES, s + step * SCALES, steps * SCALES,
               barrier);
      }
      return;
    }
    if (item < COUNT) {
#pragma unroll
      for (int t = 0; t < TILES; ++t) {
        const char* from = w + (size_t)(first + t * APART * STEPS) * WORDS + lane * 16;
#pragma unroll
        for (int i = 0; i < CHUNK * WORDS / 512; ++i)
          if (EVEN || i < steps * (WORDS / 512))
            copy16(to + t * CHUNK * WORDS + lane * 16 + i * 512, from + i * 512);
      }
#pragma unroll
      for (int i = 0; i < (TILES * CHUNK * SCALES + 511) / 512; ++i) {
        constexpr int EACH = CHUNK * 4;  // copies of a tile's scales
        const int at = lane + i * 32, t = at / EACH;
        const size_t step = first + t * APART * STEPS;
        if (t < TILES && (EVEN || at % EACH < steps * 4))
          copy16(to + TILES * CHUNK * WORDS + at * 16, s + step * SCALES + at % EACH * 16);
      }
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
  }

  // Make the mbarriers, and start copying the first weights.
  __device__ __forceinline__ void begin() const {
    if (threadIdx.x == MAKERS)
      for (int p = 0; p < 2; ++p) {
        make_barrier(shared + FULL + p * 8, SLICES);
        make_barrier(shared + EMPTY + p * 8, ADDERS);
      }
    if (threadIdx.x < MAKERS) {
      if (lane == 0) {
        for (int i = 0; i <= DEPTH; ++i) make_barrier(shared + warp * OWN + i * 8, 1);
        asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
        asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
      }
      __syncwarp();
#pragma unroll
      for (int q = 0; q < DEPTH; ++q) fill(q / CHUNKS, q % CHUNKS, q);
    }
    __syncthreads();
  }

  // Bring the warp's slice of x into shared memory.
  __device__ __forceinline__ void inputs(const void* x, int rows) const {
    if (FAR) return;
    const int first = warp * PER * 64, left = K - first;
    const int bytes = (left < 0 ? 0 : left > PER * 64 ? PER * 64 : left) * 2;
    const unsigned to = shared + INPUTS + warp * ROWS * LINE;
    if (!WHOLE) {  // beyond the last input
      const unsigned zeros[4] = {};
      for (int r = 0; r < ROWS; ++r)
        for (int at = bytes + lane * 16; at < PER * 128; at += 512)
          store16(to + r * LINE + at, zeros);
      __syncwarp();
    }
    if (bytes == 0) return;
    if (ROWS == 1) {
      constexpr int EACH = (PER * 8 + 31) / 32;
      unsigned v[EACH][4];
#pragma unroll
      for (int i = 0; i < EACH; ++i) {
        const int at = lane * 16 + i * 512;
        if (at < bytes) fetch16(v[i], (const char*)x + first * 2 + at);
      }
#pragma unroll
      for (int i = 0; i < EACH; ++i) {
        const int at = lane * 16 + i * 512;
        if (at < bytes) store16(to + at, v[i]);
      }
      __syncwarp();
      return;
    }
    const unsigned barrier = shared + warp * OWN + DEPTH * 8;
    if (lane == 0) {
      expect(barrier, rows * bytes);
      for (int r = 0; r < rows; ++r)
        copy(to + r * LINE, (const char*)x + ((size_t)r * K + first) * 2, bytes, barrier);
    }
    __syncwarp();
    await(barrier, 0);
  }

  // Wait for the only row of x, and put the warp's slice of its RMSNorm into shared memory. All
  // that makes the result is in the order of `rows.make_rms_norm`.
  template <int H>
  __device__ __forceinline__ void normed(const float* x, const float* weight, float eps) const {
    static_assert(ROWS == 1 && !FAR);
    constexpr int THREADS = NORM_WARPS * 32, HELD = (K + THREADS - 1) / THREADS;
    const int first = warp * PER * 64 + lane * 2;
    float scale[PER][2], own[PER][2], held[HELD], part = 0, parts[NORM_WARPS];
    auto pair = [](float* v, const float* from) {
      asm volatile("ld.global.v2.f32 {%0, %1}, [%2];"
                   : "=f"(v[0]), "=f"(v[1]) : "l"(from) : "memory");
    };
#pragma unroll
    for (int i = 0; i < PER; ++i)
      if (WHOLE || first + i * 64 < K) pair(scale[i], weight + first + i * 64);
    asm volatile("griddepcontrol.wait;" ::: "memory");
    if (warp < NORM_WARPS)
#pragma unroll
      for (int j = 0; j < HELD; ++j)
        if (K % THREADS == 0 || j * THREADS + threadIdx.x < K)
          asm volatile("ld.global.f32 %0, [%1];"
                       : "=f"(held[j]) : "l"(x + j * THREADS + threadIdx.x) : "memory");
#pragma unroll
    for (int i = 0; i < PER; ++i)
      if (WHOLE || first + i * 64 < K) pair(own[i], x + first + i * 64);
    if (warp < NORM_WARPS) {
#pragma unroll
      for (int j = 0; j < HELD; ++j)
        if (K % THREADS == 0 || j * THREADS + threadIdx.x < K)
          part = __fmaf_rn(held[j], held[j], part);
#pragma unroll
      for (int lanes = 16; lanes > 0; lanes /= 2) part += __shfl_xor_sync(~0u, part, lanes);
      if (lane == 0)
        asm volatile("st.shared.f32 [%0], %1;"
                     :: "r"(shared + SQUARES + warp * 4), "f"(part) : "memory");
    }
    asm volatile("bar.sync 1, %0;" :: "n"(MAKERS) : "memory");
#pragma unroll
    for (int i = 0; i < NORM_WARPS; ++i)
      asm volatile("ld.shared.f32 %0, [%1];"
                   : "=f"(parts[i]) : "r"(shared + SQUARES + i * 4) : "memory");
    part = 0;
#pragma unroll
    for (int i = 0; i < NORM_WARPS; ++i) part += parts[i];
    const float inverse = inverse_root(part, H, eps);
#pragma unroll
    for (int i = 0; i < PER; ++i) {
      unsigned both = 0;  // beyond the last input
      if (WHOLE || first + i * 64 < K) {
        __half v[2];
#pragma unroll
        for (int j = 0; j < 2; ++j)
          v[j] = __float2half_rn(
              fminf(fmaxf(__fmul_rn(__fmul_rn(own[i][j], inverse), scale[i][j]), -65504.0f),
                    65504.0f));
        both = __half_as_ushort(v[0]) | (unsigned)__half_as_ushort(v[1]) << 16;
      }
      asm volatile("st.shared.u32 [%0], %1;"
                   :: "r"(shared + INPUTS + warp * LINE + i * 128 + lane * 4), "r"(both)
                   : "memory");
    }
    __syncwarp();
  }

  // Make the warp's slice of the block's item `number`.
  __device__ __forceinline__ void make(const void* x, int rows, int number) const {
    const int g = lane / 4, j = lane % 4;
    const unsigned near = shared + INPUTS + (warp * ROWS + (ROWS > 1 ? g : 0)) * LINE + j * 16;
    const int offset = warp * PER * 128 + j * 16;
    const char* far = (const char*)x + (size_t)(g < rows ? g : 0) * K * 2 + offset;
    float acc[TILES][4] = {};
    unsigned b[CHUNK][8], next[CHUNK][8];
    auto ahead = [&](int chunk) {
#pragma unroll
      for (int i = 0; i < CHUNK * 2; ++i) {
        const int at = chunk * CHUNK * 128 + i * 64;
        if (WHOLE || offset + at < K * 2) {
          fetch16(next[i / 2] + i % 2 * 4, far + at);
        } else {
          for (int v = 0; v < 4; ++v) next[i / 2][i % 2 * 4 + v] = 0;
        }
      }
    };
    if (FAR) ahead(0);
#pragma unroll
    for (int chunk = 0; chunk < CHUNKS; ++chunk) {
      const int q = number * CHUNKS + chunk, slot = q % DEPTH, steps = steps_of(chunk);
      const unsigned from = shared + SLOTS + (warp * DEPTH + slot) * SLOT;
      if (FAR) {
#pragma unroll
        for (int i = 0; i < CHUNK * 8; ++i) b[i / 8][i % 8] = next[i / 8][i % 8];
        if (chunk + 1 < CHUNKS) ahead(chunk + 1);
      }
      if (BULK) {
        await(shared + warp * OWN + slot * 8, q / DEPTH);
      } else {
        asm volatile("cp.async.wait_group %0;" :: "n"(DEPTH - 1) : "memory");
        __syncwarp();
      }
#pragma unroll
      for (int u = 0; u < CHUNK; ++u)
        if (EVEN || u < steps) {
          if (!FAR) {
            load16(b[u], near + (chunk * CHUNK + u) * 128);
            load16(b[u] + 4, near + (chunk * CHUNK + u) * 128 + 64);
          }
#pragma unroll
          for (int t = 0; t < TILES; ++t) {
            unsigned words[BITS], scales[2];
#pragma unroll
            for (int i = 0; i < BITS; i += 4)
              load16(words + i, from + (t * CHUNK + u) * WORDS + i / 4 * 512 + lane * 16);
            if (SCALES)
              asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];"
                           : "=r"(scales[0]), "=r"(scales[1])
                           : "r"(from + TILES * CHUNK * WORDS + (t * CHUNK + u) * SCALES + g * 8));
#pragma unroll
            for (int p = 0; p < 4; ++p) {
              unsigned a[4];
              if constexpr (BITS == 4) {
                decode4(a[0], a[1], a[2], a[3], words[p], scales[p / 2]);
              } else if constexpr (BITS == 8) {
                decode8(a[0], a[1], a[2], a[3], words[2 * p], words[2 * p + 1], scales[p / 2]);
              } else {
#pragma unroll
                for (int i = 0; i < 4; ++i) a[i] = words[4 * p + i];
              }
              mma(acc[t], a, b[u] + 2 * p);
            }
          }
        }
      __syncwarp();
      fill(number + (chunk + DEPTH) / CHUNKS, (chunk + DEPTH) % CHUNKS, slot);
    }
    if (number >= 2) await(shared + EMPTY + number % 2 * 8, number / 2 - 1);
    const unsigned to = shared + SUMS + number % 2 * SUM + warp * (SUM / SLICES);
#pragma unroll
    for (int t = 0; t < TILES; ++t)
#pragma unroll
      for (int v = 0; v < 4; ++v) {
        const int place = (t * 16 + g + v / 2 * 8) * COLUMNS + (ROWS > 1 ? 2 * j + v % 2 : 0);
        if (ROWS > 1 || (j == 0 && v % 2 == 0))
          asm volatile("st.shared.f32 [%0], %1;" :: "r"(to + place * 4), "f"(acc[t][v]) : "memory");
      }
    __syncwarp();
    if (lane == 0) arrive(shared + FULL + number % 2 * 8);
  }
};

template <class S>
__device__ __forceinline__ void begin(void* memory, void*, const void* w, const void* s) {
  S(memory, w, s).begin();
}

// Make the warp's slices of all of the block's items. The address of the last byte of `memory` is
// there because TVM allocates only what it sees used.
template <class S, int COUNT, int BLOCKS>
__device__ __forceinline__ void make(void* memory, void*, const void* w, const void* s,
                                     const void* x, int rows) {
  const S streams(memory, w, s);
  streams.inputs(x, rows);
  for (int number = 0; blockIdx.x + number * BLOCKS < COUNT; ++number)
    streams.make(x, rows, number);
}

// Likewise for one row, of which the RMSNorm is x. It is called before the row is there.
template <class S, int COUNT, int BLOCKS, int H>
__device__ __forceinline__ void make_normed(void* memory, void*, const void* w, const void* s,
                                            const void* x, const void* weight, float eps) {
  const S streams(memory, w, s);
  streams.template normed<H>((const float*)x, (const float*)weight, eps);
  for (int number = 0; blockIdx.x + number * BLOCKS < COUNT; ++number)
    streams.make(nullptr, 1, number);
}

// Wait for all slices of the block's item `number`.
template <class S>
__device__ __forceinline__ void await_slices(void* memory, int number) {
  await(S(memory, nullptr, nullptr).shared + S::FULL + number % 2 * 8, number / 2);
}

// The sum of the slices, ascending, of an item's output for a row of x.
template <class S>
__device__ __forceinline__ float sum(void* memory, int number, int output, int row) {
  const unsigned from = S(memory, nullptr, nullptr).shared + S::SUMS + number % 2 * S::SUM
                        + (output * S::COLUMNS + (S::COLUMNS > 1 ? row : 0)) * 4;
  float v[SLICES], total = 0;
#pragma unroll
  for (int i = 0; i < SLICES; ++i)
    asm volatile("ld.shared.f32 %0, [%1];" : "=f"(v[i]) : "r"(from + i * (S::SUM / SLICES)));
#pragma unroll
  for (int i = 0; i < SLICES; ++i) total += v[i];
  return total;
}

// The sums of item `number` have been read.
template <class S>
__device__ __forceinline__ void release(void* memory, int number) {
  __syncwarp();
  if (threadIdx.x % 32 == 0)
    arrive(S(memory, nullptr, nullptr).shared + S::EMPTY + number % 2 * 8);
}
