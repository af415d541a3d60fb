// Products on Hopper's tensor cores: see tensor_matmul_warpgroups.py, which adds `wgmma`,
// `decode4`, `decode8` and instructions.cuh above.

constexpr int SLICES = 16;
constexpr int LINE = 128;  // bytes of a row of x in a step

__device__ __forceinline__ void stream16(unsigned* v, const char* p) {
  asm volatile("ld.global.nc.L1::no_allocate.L2::128B.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v[0]), "=r"(v[1]), "=r"(v[2]), "=r"(v[3]) : "l"(p));
}

__device__ __forceinline__ void stream8(unsigned* v, const char* p) {
  asm volatile("ld.global.nc.v2.u32 {%0, %1}, [%2];" : "=r"(v[0]), "=r"(v[1]) : "l"(p));
}

constexpr int divisor_of(int steps) { return steps % 4 == 0 ? 4 : steps % 2 == 0 ? 2 : 1; }

// A block: GROUPS groups of ACROSS warpgroups. A warpgroup makes 64 rows of W for ROWS rows of x. If
// there is one group, another warpgroup brings x; otherwise the first thread of a group does.
template <int K, int BITS, int ROWS, int ACROSS, int GROUPS, int STAGES, bool GATED>
struct Block {
  static constexpr int STEPS = (K + 63) / 64, PER_SLICE = (STEPS + SLICES - 1) / SLICES;
  static constexpr int COUNT = GROUPS == 1 ? STEPS : SLICES / GROUPS * PER_SLICE;  // of a group
  static constexpr int WARPS = 4 * ACROSS, LOADS = BITS / 4;
  static constexpr bool BROUGHT = GROUPS == 1;
  static constexpr int MAKERS = GROUPS * WARPS * 32;              // threads
  static constexpr int STAGE = ROWS * LINE, COPIED = STAGES - 2;  // steps copied ahead
  static constexpr int READ = divisor_of(COUNT);                  // steps of W read ahead
  static constexpr int SUMS = ROWS / 2, OWN = SUMS / GROUPS;      // of a thread
  static constexpr int DEPTH = STAGES;
  static constexpr bool CODED = BITS < 16, HAS_GATES = GATED;
  static_assert(GROUPS == 1 || STEPS == SLICES * PER_SLICE);

  const char *x, *w, *s;
  float* exchange;
  unsigned stages, filled, empty;
  int group, warp, lane, padded, row;

  // The group's i-th step: round r has slice GROUPS r + group.
  __device__ __forceinline__ int step_of(int i) const {
    return GROUPS == 1 ? i : i + (i / PER_SLICE * (GROUPS - 1) + group) * PER_SLICE;
  }

  __device__ __forceinline__ void read(unsigned* words, unsigned* scales, int i) const {
    const long long step = step_of(i);
#pragma unroll
    for (int part = 0; part < LOADS; ++part)
      stream16(words + 4 * part, w + (step * LOADS + part) * 512);
    if (BITS < 16) stream8(scales, s + step * 64);
  }

  // Copy the rows of x of the group's i-th step, as `arrange` has laid them out.
  __device__ __forceinline__ void copy(int i) const {
    const int stage = i % STAGES;
    if (i >= STAGES) await(empty + stage * 8, i / STAGES - 1);
    const char* from = x + (step_of(i) * (long long)padded + row) * LINE;
    const unsigned full = filled + stage * 8;
    asm volatile("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;"
                 :: "r"(full), "n"(STAGE) : "memory");
    asm volatile("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes "
                 "[%0], [%1], %2, [%3];"
                 :: "r"(stages + stage * STAGE), "l"(from), "n"(STAGE), "r"(full) : "memory");
  }

  __device__ __forceinline__ void multiply(float (&sums)[SUMS], const unsigned* words,
                                           const unsigned* scales, int stage, bool add) const {
    unsigned a[4][4];
#pragma unroll
    for (int p = 0; p < 4; ++p) {
      unsigned* f = a[p];
      if constexpr (BITS == 4) {
        decode4(f[0], f[1], f[2], f[3], words[p], scales[p / 2]);
      } else if constexpr (BITS == 8) {
        decode8(f[0], f[1], f[2], f[3], words[2 * p], words[2 * p + 1], scales[p / 2]);
      } else {
#pragma unroll
        for (int j = 0; j < 4; ++j) f[j] = words[4 * p + j];
      }
    }
    // K-major, swizzled, 1024 bytes from eight rows to the next eight.
    const unsigned long long layout = 1ull << 62 | 64ull << 32 | 1ull << 16;
    const unsigned long long b = layout | (stages + stage * STAGE) >> 4;
    asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
    for (int p = 0; p < 4; ++p) wgmma(sums, a[p], b + 2 * p, add || p > 0);
    asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
  }

  // Add a round's slices, ascending, to this thread's totals.
  __device__ __forceinline__ void add(float (&total)[OWN], const float (&sums)[SUMS]) const {
    if constexpr (GROUPS == 1) {
      // Not `+=`, which the compiler could move before the products are there.
#pragma unroll
      for (int i = 0; i < SUMS; ++i)
        asm volatile("add.f32 %0, %0, %1;" : "+f"(total[i]) : "f"(sums[i]));
    } else {
      const int thread = warp * 32 + lane;
      float* all = exchange + thread;
      meet();
#pragma unroll
      for (int i = 0; i < SUMS; ++i)
        asm volatile("st.shared.f32 [%0], %1;"
                     :: "r"((unsigned)__cvta_generic_to_shared(all + (group * SUMS + i) * WARPS * 32)),
                        "f"(sums[i]) : "memory");
      meet();
#pragma unroll
      for (int i = 0; i < OWN; ++i)
#pragma unroll
        for (int z = 0; z < GROUPS; ++z)
          total[i] += all[(z * SUMS + group * OWN + i) * WARPS * 32];
    }
  }

  // Wait for all threads that make products.
  __device__ __forceinline__ void meet() const {
    asm volatile("bar.sync 1, %0;" :: "n"(MAKERS) : "memory");
  }

  // Half of the totals of warps with gates for half of those of the warps with their ups.
  __device__ __forceinline__ void swap(float (&total)[OWN]) const {
    constexpr int HALF = OWN / 2;
    const bool ups = warp % 4 >= 2;
    const int thread = (group * WARPS + warp) * 32 + lane;
    float* all = exchange;
    meet();
#pragma unroll
    for (int i = 0; i < HALF; ++i)
      all[i * WARPS * GROUPS * 32 + thread] = ups ? total[i] : total[HALF + i];
    meet();
#pragma unroll
    for (int i = 0; i < HALF; ++i) {
      const float other = all[i * WARPS * GROUPS * 32 + (thread ^ 64)];
      if (ups) total[i] = other;
      else total[HALF + i] = other;
    }
    // Warps with gates now have gates and ups of the first half, the others of the second.
  }
};

// Bytes of shared memory before the rows of x: mbarriers, and what aligns them.
constexpr int HEAD = 2048;

template <class B>
__device__ __forceinline__ B block_of(const void* x, void* shared, int padded, int row) {
  const unsigned begin = (unsigned)__cvta_generic_to_shared(shared);
  const unsigned start = (begin + 1023) / 1024 * 1024;
  B block;
  block.group = B::BROUGHT ? 0 : threadIdx.x / 32 / B::WARPS;
  block.warp = threadIdx.x / 32 % B::WARPS, block.lane = threadIdx.x % 32;
  block.x = (const char*)x;
  block.filled = start + block.group * 2 * B::DEPTH * 8;
  block.empty = block.filled + B::DEPTH * 8;
  block.stages = start + 1024 + block.group * B::DEPTH * B::STAGE;
  block.exchange = (float*)((char*)shared + (start - begin) + 1024
                            + (B::BROUGHT ? 0 : B::MAKERS / (B::WARPS * 32) * B::DEPTH * B::STAGE));
  block.padded = padded, block.row = row;
  return block;
}

// Make the block's mbarriers. All its threads call it at one place, before their ways part.
template <class B>
__device__ __forceinline__ void ready(void* shared) {
  const B block = block_of<B>(nullptr, shared, 0, 0);
  if (threadIdx.x < B::MAKERS && block.warp == 0 && block.lane == 0) {  // a group's first thread
    for (int i = 0; i < B::DEPTH; ++i) {
      asm volatile("mbarrier.init.shared::cta.b64 [%0], 1;" :: "r"(block.filled + i * 8));
      asm volatile("mbarrier.init.shared::cta.b64 [%0], %1;"
                   :: "r"(block.empty + i * 8), "n"(B::WARPS));
    }
    asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
  }
  __syncthreads();
}

// Wait for the inputs.
__device__ __forceinline__ void begin() {
  asm volatile("griddepcontrol.wait;" ::: "memory");
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
}

// For the warpgroup after those that make products.
template <class B>
__device__ __forceinline__ void bring(const void* x, void* shared, int padded, int row) {
  asm volatile("setmaxnreg.dec.sync.aligned.u32 40;");
  const B block = block_of<B>(x, shared, padded, row);
  begin();
  if (threadIdx.x == B::MAKERS)
#pragma unroll 1
    for (int i = 0; i < B::COUNT; ++i) block.copy(i);
}

// Sums of products in `sums`: `Block::OWN` of them for each thread. For a block with gates, half are
// gates, and the other half their ups. The address of the last byte of `shared` is there because TVM
// allocates only what it sees used.
template <class B>
__device__ __forceinline__ void products(float* sums, const void* x, const void* w, const void* s,
                                         void* shared, void*, int padded, int row, int tile) {
  if constexpr (B::BROUGHT) asm volatile("setmaxnreg.inc.sync.aligned.u32 232;");
  float (&total)[B::OWN] = *reinterpret_cast<float (*)[B::OWN]>(sums);
  B block = block_of<B>(x, shared, padded, row);
  const int lane = block.lane;
  block.w = (const char*)w + ((long long)tile * B::STEPS * B::LOADS * 32 + lane) * 16;
  block.s = (const char*)s + ((long long)tile * B::STEPS * 8 + lane / 4) * 8;
  const bool copies = !B::BROUGHT && block.warp == 0 && lane == 0;

  unsigned words[B::READ][B::LOADS * 4], scales[B::READ][2];
#pragma unroll
  for (int i = 0; i < B::READ; ++i) block.read(words[i], scales[i], i);
  begin();
  if (copies)
    for (int i = 0; i < B::COPIED && i < B::COUNT; ++i) block.copy(i);
  float acc[B::SUMS];
#pragma unroll
  for (int i = 0; i < B::SUMS; ++i) acc[i] = 0;
#pragma unroll
  for (int i = 0; i < B::OWN; ++i) total[i] = 0;
  int in_slice = 0, stage = 0, round = 0, last = 0;
#pragma unroll 1
  for (int first = 0; first < B::COUNT; first += B::READ) {
#pragma unroll
    for (int u = 0; u < B::READ; ++u) {
      const int i = first + u;
      if (copies && i + B::COPIED < B::COUNT) block.copy(i + B::COPIED);
      if (!B::BROUGHT) __syncwarp();
      await(block.filled + stage * 8, round);
      block.multiply(acc, words[u], scales[u], stage, in_slice > 0);
      // Codes have been taken apart into other registers; floats are in use until step i is done.
      if (B::CODED && i + B::READ < B::COUNT) block.read(words[u], scales[u], i + B::READ);
      if (++in_slice == B::PER_SLICE || i + 1 == B::COUNT) {
        await_products<0>();
        block.add(total, acc);
        in_slice = 0;
      } else {
        await_products<B::READ == 1 ? 0 : 1>();
      }
      if (!B::CODED) {
        const int done = B::READ == 1 ? i : i - 1, at = (u + B::READ - 1) % B::READ;
        if (done >= 0 && done + B::READ < B::COUNT)
          block.read(words[at], scales[at], done + B::READ);
      }
      if (i > 0 && lane == 0) arrive(block.empty + last * 8);  // step i - 1 is done
      last = stage;
      if (++stage == B::DEPTH) stage = 0, ++round;
    }
  }
  if constexpr (B::HAS_GATES) block.swap(total);
}

// Lay out rows of x for `Block::copy`: (steps, padded rows, 64 inputs). A half's inputs are in the
// order of W's: pair p of its 16 goes to 4 (p % 4) + p / 4. The 16-byte pieces of a row are in the
// order that the tensor cores call 128-byte swizzle. `thread` is that of all (steps, padded, 8).
template <int K>
__device__ __forceinline__ void arrange(void* to, const void* x, int rows, int padded, int thread) {
  const int place = thread % 8, row = thread / 8 % padded, step = thread / 8 / padded;
  const int piece = place ^ row % 8, input = step * 64 + piece / 4 * 32 + piece % 4 * 2;
  unsigned pairs[4] = {0, 0, 0, 0};
  if (step < (K + 63) / 64) {
    if (row < rows && step * 64 + piece / 4 * 32 < K)
#pragma unroll
      for (int j = 0; j < 4; ++j)
        asm volatile("ld.global.u32 %0, [%1];" : "=r"(pairs[j])
                     : "l"((const __half*)x + (long long)row * K + input + j * 8) : "memory");
    ((uint4*)to)[thread] = make_uint4(pairs[0], pairs[1], pairs[2], pairs[3]);
  }
}
