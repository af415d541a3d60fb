// Products of 9 to 32 rows: see tensor_matmul_wide.py, which adds `wgmma`, `decode4`, `decode8`
// and instructions.cuh above.

constexpr int SLICES = 16, LINE = 128;     // bytes of a row of x in a step
constexpr int MAKERS = 512, BRINGERS = 128;  // threads

__device__ __forceinline__ void store16(unsigned to, unsigned a, unsigned b, unsigned c,
                                        unsigned d) {
  asm volatile("st.shared.v4.u32 [%0], {%1, %2, %3, %4};"
               :: "r"(to), "r"(a), "r"(b), "r"(c), "r"(d) : "memory");
}

// A block makes 64 * ACROSS rows of W, 16 by each warp that makes, for ROWS rows of x. Its GROUPS
// groups of ACROSS warpgroups, and the CLUSTER blocks of a cluster, make some of the slices each.
// Four more warps bring x into shared memory. Template arguments are attributes of
// `tensor_matmul_wide.Wide`; EARLY is whether the next kernel may start before this one's inputs
// are there.
template <int K, int BITS, int ROWS, int ACROSS, int CLUSTER, int STAGES, int CHUNK, int DEPTH,
          bool GATED, bool EARLY, int EXPECTED>
struct Wide {
  static constexpr int STEPS = (K + 63) / 64, PER = STEPS / SLICES, GROUPS = 4 / ACROSS;
  static constexpr int OWN = SLICES / CLUSTER / GROUPS, COUNT = OWN * PER;  // of a group
  static constexpr bool SENT = CLUSTER * GROUPS > 1;
  static constexpr int WIDTH = 64 * ACROSS;  // rows of W of a block
  static constexpr int WORDS = BITS * 128, SCALES = BITS < 16 ? 64 : 0;  // bytes of a step
  static constexpr int STAGE = CHUNK * ROWS * LINE, SLOT = CHUNK * (WORDS + SCALES);
  static constexpr int CHUNKS = COUNT / CHUNK, IN_SLICE = PER / CHUNK;
  static constexpr int SUMS = ROWS / 2;          // of a thread
  static constexpr int MINE = ROWS / CLUSTER;    // rows of x whose slices this block adds up
  static constexpr int OUTPUTS = WIDTH * MINE / (GATED ? 2 : 1);
  static constexpr int EACH = (OUTPUTS + MAKERS - 1) / MAKERS;  // of a thread
  static constexpr bool IS_EARLY = EARLY;
  static constexpr int HEAD = 1024;              // mbarriers
  static constexpr int RING = HEAD + GROUPS * STAGES * STAGE, RECEIVED = RING + 16 * DEPTH * SLOT;
  static constexpr int BYTES = RECEIVED + (SENT ? SLICES * WIDTH * MINE * 4 : 0) + 1024;
  static_assert(STEPS == PER * SLICES && PER % CHUNK == 0 && BYTES == EXPECTED);

  unsigned start;
  int warp, lane, rank, group;

  __device__ __forceinline__ Wide(void* shared)
      : start(((unsigned)__cvta_generic_to_shared(shared) + 1023) / 1024 * 1024),
        warp(threadIdx.x / 32), lane(threadIdx.x % 32),
        rank(CLUSTER > 1 ? blockIdx.x % CLUSTER : 0),
        group(warp < 16 ? warp / (4 * ACROSS) : (warp - 16) % GROUPS) {}

  // The first of the group's steps among all, and the warp's tile among the block's.
  __device__ __forceinline__ int first() const { return (rank * GROUPS + group) * COUNT; }
  __device__ __forceinline__ int tile() const { return warp % (4 * ACROSS); }

  // The mbarriers of a stage of the group's x.
  __device__ __forceinline__ unsigned full(int stage) const {
    return start + (group * 2 * STAGES + stage) * 8;
  }
  __device__ __forceinline__ unsigned empty(int stage) const { return full(STAGES + stage); }

  // Start copying the weights of a chunk of the block's steps.
  __device__ __forceinline__ void fill(const char* w, const char* s, int chunk, int slot) const {
    if (chunk < CHUNKS) {
      const unsigned to = start + RING + (warp * DEPTH + slot) * SLOT;
      const char* from = w + chunk * (CHUNK * WORDS) + lane * 16;
#pragma unroll
      for (int i = 0; i < CHUNK * WORDS / 512; ++i)
        copy16(to + lane * 16 + i * 512, from + i * 512);
#pragma unroll
      for (int i = 0; i < (CHUNK * SCALES + 511) / 512; ++i)
        if (lane + i * 32 < CHUNK * SCALES / 16)
          copy16(to + CHUNK * WORDS + lane * 16 + i * 512,
                 s + chunk * (CHUNK * SCALES) + lane * 16 + i * 512);
    }
    asm volatile("cp.async.commit_group;" ::: "memory");
  }

  // Bring x, in the order of W's inputs: see `arrange` in warpgroups.cuh. A warp has two steps
  // under way.
  __device__ __forceinline__ void bring(const char* x, int rows) const {
    constexpr int EACH = ROWS / 16, WARPS = BRINGERS / 32 / GROUPS;
    unsigned v[2][EACH][16];
    const int own = (warp - MAKERS / 32) / GROUPS, half = lane % 2;
    auto fetch = [&](int i, int b) {
#pragma unroll
      for (int t = 0; t < EACH; ++t) {
        const int row = lane / 2 + t * 16, input = (first() + i) * 64 + half * 32;
        if (row < rows && (K % 64 == 0 || input < K)) {
          const char* from = x + ((size_t)row * K + input) * 2;
#pragma unroll
          for (int j = 0; j < 4; ++j) fetch16(v[b][t] + 4 * j, from + 16 * j);
        } else {
#pragma unroll
          for (int j = 0; j < 16; ++j) v[b][t][j] = 0;
        }
      }
    };
    auto store = [&](int i, int b) {
      const int chunk = i / CHUNK, stage = chunk % STAGES;
      if (chunk >= STAGES) await(empty(stage), chunk / STAGES - 1);
#pragma unroll
      for (int t = 0; t < EACH; ++t) {
        const int row = lane / 2 + t * 16;
        const unsigned to = start + HEAD + (group * STAGES + stage) * STAGE
                            + i % CHUNK * (ROWS * LINE) + row * LINE;
#pragma unroll
        for (int p = 0; p < 4; ++p)
          store16(to + ((half * 4 + p) ^ row % 8) * 16, v[b][t][p], v[b][t][4 + p], v[b][t][8 + p],
                  v[b][t][12 + p]);
      }
      asm volatile("fence.proxy.async.shared::cta;" ::: "memory");
      __syncwarp();
      if (lane == 0) arrive(full(stage));
    };
    if (own < COUNT) fetch(own, 0);
#pragma unroll 1
    for (int i = own; i < COUNT; i += 2 * WARPS) {
      if (i + WARPS < COUNT) fetch(i + WARPS, 1);
      store(i, 0);
      if (i + 2 * WARPS < COUNT) fetch(i + 2 * WARPS, 0);
      if (i + WARPS < COUNT) store(i + WARPS, 1);
    }
  }

  __device__ __forceinline__ void begin(const char* w, const char* s) const {
    if (threadIdx.x == MAKERS) {
      for (int g = 0; g < GROUPS; ++g)
        for (int i = 0; i < STAGES; ++i) {
          make_barrier(start + (g * 2 * STAGES + i) * 8, CHUNK);
          make_barrier(start + (g * 2 * STAGES + STAGES + i) * 8, 4 * ACROSS);
        }
      asm volatile("fence.mbarrier_init.release.cluster;" ::: "memory");
    }
    if (threadIdx.x < MAKERS)
#pragma unroll
      for (int q = 0; q < DEPTH; ++q) fill(w, s, q, q);
    __syncthreads();
    if (CLUSTER > 1) asm volatile("barrier.cluster.arrive.relaxed.aligned;" ::: "memory");
  }

  // Slices are added up, ascending, or sent to the blocks that do so.
  __device__ __forceinline__ void make(float* sums, const char* w, const char* s) const {
    float acc[SUMS], total[SUMS];
#pragma unroll
    for (int i = 0; i < SUMS; ++i) acc[i] = total[i] = 0;
    int slot = 0, stage = 0, round = 0, chunk = 0, last = -1;
    const unsigned words_at = start + RING + warp * (DEPTH * SLOT) + lane * 16;
    const unsigned scales_at = start + RING + warp * (DEPTH * SLOT) + CHUNK * WORDS + lane / 4 * 8;
    // K-major, swizzled, 1024 bytes from eight rows to the next eight.
    const unsigned long long layout = 1ull << 62 | 64ull << 32 | 1ull << 16;
#pragma unroll 1
    for (int slice = 0; slice < OWN; ++slice) {
#pragma unroll 1
      for (int part = 0; part < IN_SLICE; ++part) {
        asm volatile("cp.async.wait_group %0;" :: "n"(DEPTH - 1) : "memory");
        __syncwarp();
#pragma unroll
        for (int u = 0; u < CHUNK; ++u) {
          unsigned words[BITS], scales[2], a[4][4];
#pragma unroll
          for (int i = 0; i < BITS; i += 4)
            load16(words + i, words_at + slot * SLOT + u * WORDS + i / 4 * 512);
          if (SCALES)
            asm volatile("ld.shared.v2.u32 {%0, %1}, [%2];" : "=r"(scales[0]), "=r"(scales[1])
                         : "r"(scales_at + slot * SLOT + u * SCALES));
#pragma unroll
          for (int p = 0; p < 4; ++p) {
            if constexpr (BITS == 4) {
              decode4(a[p][0], a[p][1], a[p][2], a[p][3], words[p], scales[p / 2]);
            } else if constexpr (BITS == 8) {
              decode8(a[p][0], a[p][1], a[p][2], a[p][3], words[2 * p], words[2 * p + 1],
                      scales[p / 2]);
            } else {
#pragma unroll
              for (int i = 0; i < 4; ++i) a[p][i] = words[4 * p + i];
            }
          }
          if (u == 0) await(full(stage), round);
          const unsigned long long b =
              layout | (start + HEAD + (group * STAGES + stage) * STAGE + u * (ROWS * LINE)) >> 4;
          asm volatile("wgmma.fence.sync.aligned;" ::: "memory");
#pragma unroll
          for (int p = 0; p < 4; ++p) wgmma(acc, a[p], b + 2 * p, part > 0 || u > 0 || p > 0);
          asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory");
          if (u + 1 == CHUNK) {
            __syncwarp();
            fill(w, s, chunk + DEPTH, slot);
          }
          if (CHUNK % 2 && u + 1 == CHUNK) await_products<0>();
          else await_products<1>();
          if (u == 0 && last >= 0 && lane == 0) arrive(empty(last));  // the chunk before is done
        }
        last = stage;
        if (++stage == STAGES) stage = 0, ++round;
        ++chunk;
        if (++slot == DEPTH) slot = 0;
      }
      await_products<0>();
      if constexpr (!SENT) {
        // Not `+=`, which the compiler could move before the products are there.
#pragma unroll
        for (int i = 0; i < SUMS; ++i)
          asm volatile("add.f32 %0, %0, %1;" : "+f"(total[i]) : "f"(acc[i]));
      } else {
        if (CLUSTER > 1 && slice == 0) asm volatile("barrier.cluster.wait.aligned;" ::: "memory");
        send(acc, (rank * GROUPS + group) * OWN + slice);
      }
    }
    if constexpr (CLUSTER > 1) {
      asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
      asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
    } else if (SENT) {
      asm volatile("bar.sync 1, %0;" :: "n"(MAKERS) : "memory");
    }
    if constexpr (SENT) {
      add(sums);
    } else {
      if constexpr (GATED) swap(total);
#pragma unroll
      for (int i = 0; i < SUMS; ++i) sums[i] = total[i];
    }
  }

  // What the other threads do of the barriers of a cluster.
  __device__ __forceinline__ void accompany() const {
    if (CLUSTER > 1) {
      asm volatile("barrier.cluster.wait.aligned;" ::: "memory");
      asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory");
      asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory");
    }
  }

  // A slice's sums lie as (16 slices, 256 rows of W, MINE rows of x).
  __device__ __forceinline__ void send(const float (&acc)[SUMS], int slice) const {
    const int g = lane / 4, j = lane % 4;
    static_assert(MINE % 2 == 0);
#pragma unroll
    for (int c = 0; c < ROWS / 8; ++c) {
      const int column = c * 8 + 2 * j, owner = column / MINE;
      const unsigned to =
          start + RECEIVED + ((slice * WIDTH + tile() * 16 + g) * MINE + column % MINE) * 4;
      unsigned there;
      asm volatile("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(there) : "r"(to), "r"(owner));
#pragma unroll
      for (int v = 0; v < 2; ++v)
        asm volatile("st.shared::cluster.v2.f32 [%0], {%1, %2};"
                     :: "r"(there + v * 8 * MINE * 4), "f"(acc[c * 4 + v * 2]),
                        "f"(acc[c * 4 + v * 2 + 1]) : "memory");
    }
  }

  // Add up the slices of the thread's outputs, ascending. Output number o of a block is that of row
  // of x o % MINE; with gates, `total` has EACH gates, then their ups.
  __device__ __forceinline__ void add(float* total) const {
#pragma unroll
    for (int e = 0; e < EACH; ++e) {
      const int output = threadIdx.x + e * MAKERS, row = output / MINE;
      if (OUTPUTS % MAKERS && output >= OUTPUTS) break;
#pragma unroll
      for (int t = 0; t < (GATED ? 2 : 1); ++t) {
        const int of_w = GATED ? row / 32 * 64 + t * 32 + row % 32 : row;
        const unsigned from = start + RECEIVED + (of_w * MINE + output % MINE) * 4;
        float v[SLICES], sum = 0;
#pragma unroll
        for (int i = 0; i < SLICES; ++i)
          asm volatile("ld.shared.f32 %0, [%1];"
                       : "=f"(v[i]) : "r"(from + i * (WIDTH * MINE * 4)) : "memory");
#pragma unroll
        for (int i = 0; i < SLICES; ++i) sum += v[i];
        total[t * EACH + e] = sum;
      }
    }
  }

  // Half of the totals of warps with gates for half of those of the warps with their ups.
  __device__ __forceinline__ void swap(float (&total)[SUMS]) const {
    constexpr int HALF = SUMS / 2;
    const bool ups = warp % 4 >= 2;
    const unsigned all = start + HEAD;  // where x was
    static_assert(HALF * MAKERS * 4 <= GROUPS * STAGES * STAGE);
    asm volatile("bar.sync 1, %0;" :: "n"(MAKERS) : "memory");
#pragma unroll
    for (int i = 0; i < HALF; ++i)
      asm volatile("st.shared.f32 [%0], %1;" :: "r"(all + (i * MAKERS + threadIdx.x) * 4),
                   "f"(ups ? total[i] : total[HALF + i]) : "memory");
    asm volatile("bar.sync 1, %0;" :: "n"(MAKERS) : "memory");
#pragma unroll
    for (int i = 0; i < HALF; ++i) {
      float other;
      asm volatile("ld.shared.f32 %0, [%1];"
                   : "=f"(other) : "r"(all + (i * MAKERS + (threadIdx.x ^ 64)) * 4) : "memory");
      if (ups) total[i] = other;
      else total[HALF + i] = other;
    }
    // Warps with gates now have gates and ups of the first half, the others of the second.
  }
};

// Sums of products of a thread that makes, in `sums`: of its 16 rows of W, or those that `add` has
// added up. The address of the last byte of `shared` is there because TVM allocates only what it
// sees used.
template <class W>
__device__ __forceinline__ void products(float* sums, const void* x, const void* w, const void* s,
                                         void* shared, void*, int rows, int tile) {
  const W wide(shared);
  const size_t first = (size_t)tile * W::STEPS + wide.first();
  const char* words = (const char*)w + first * W::WORDS;
  const char* scales = (const char*)s + first * W::SCALES;
  wide.begin(words, scales);
  if (W::IS_EARLY) asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
  asm volatile("griddepcontrol.wait;" ::: "memory");
  if (!W::IS_EARLY) asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
  if (threadIdx.x >= MAKERS) {
    wide.bring((const char*)x, rows);
    wide.accompany();
  } else {
    wide.make(sums, words, scales);
  }
}
