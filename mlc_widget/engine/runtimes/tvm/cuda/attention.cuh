// Attention of many rows: see tensor_attention_many.py.

constexpr int PAGE = 16;
constexpr float NONE = -1e30f;

__device__ __forceinline__ int fetch_int(const int* p) {
  int v;
  asm volatile("ld.global.cg.s32 %0, [%1];" : "=r"(v) : "l"(p) : "memory");
  return v;
}

__device__ __forceinline__ uint2 fetch8(const void* p) {
  uint2 v;
  asm volatile("ld.global.v2.u32 {%0, %1}, [%2];" : "=r"(v.x), "=r"(v.y) : "l"(p) : "memory");
  return v;
}

__device__ __forceinline__ uint4 fetch16(const void* p) {
  uint4 v;
  asm volatile("ld.global.v4.u32 {%0, %1, %2, %3}, [%4];"
               : "=r"(v.x), "=r"(v.y), "=r"(v.z), "=r"(v.w) : "l"(p) : "memory");
  return v;
}

__device__ __forceinline__ void mma(float* c, const uint4& a, unsigned b0, unsigned b1) {
  asm volatile("mma.sync.aligned.m16n8k16.row.col.f32.f16.f16.f32 "
               "{%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"
               : "+f"(c[0]), "+f"(c[1]), "+f"(c[2]), "+f"(c[3])
               : "r"(a.x), "r"(a.y), "r"(a.z), "r"(a.w), "r"(b0), "r"(b1));
}

__device__ __forceinline__ unsigned pack(float low, float high) {
  const __half2 both = __floats2half2_rn(low, high);
  return *(const unsigned*)&both;
}

__device__ __forceinline__ float over(float value, int mask) {
  return __shfl_xor_sync(0xffffffffu, value, mask, 32);
}

// A block of WARPS warps for TILES tiles of 16 slots, each of ROWS rows with HEADS query heads.
template <int HQ, int HKV, int D, int WINDOW, bool CAPPED, int TILES, int WARPS, int PAGES,
          int EXPECTED>
struct Many {
  static constexpr int TILE_COUNT = TILES, WARP_COUNT = WARPS;
  static constexpr int GROUP = HQ / HKV, HEADS = GROUP < 16 ? GROUP : 16, ROWS = 16 / HEADS;
  static constexpr int PARTS = (GROUP + HEADS - 1) / HEADS;  // blocks of a key head
  static constexpr int PART = WARPS * PAGES;                 // pages of a part
  static constexpr int CHUNKS = D / 16, OUT = D / 2, DIMS = D / 4;
  static constexpr int EACH = 2 * DIMS + 4, OWN = (DIMS + WARPS - 1) / WARPS;
  static constexpr int THREADS = WARPS * 32, KEPT = 2 * OWN + 4;
  static constexpr int ROOM = TILES * WARPS * EACH * 32, JOINED = TILES * KEPT * THREADS;
  static constexpr int QUERIES = TILES * CHUNKS * 32 * 4;  // words
  static_assert((ROOM + JOINED + QUERIES + TILES * 16) * 4 == EXPECTED);

  float *room, *joined;
  uint4* queries;
  int* positions;
  float softened, cap;  // of the soft cap
  int warp, lane, g, j;

  __device__ __forceinline__ float limited(float value) const {
    const float power = fminf(fmaxf(value * softened, -126.0f), 126.0f);
    return cap - 2 * cap / (1.0f + exp2f(power));
  }

  // Where the thread has what it has joined so far: of a tile, OWN dimensions, top and total of two
  // slots.
  __device__ __forceinline__ float& own(int tile, int i) const {
    return joined[(tile * KEPT + i) * THREADS + threadIdx.x];
  }

  static __device__ __forceinline__ bool visible(int key, int position) {
    return key <= position && (WINDOW == 0 || key > position - WINDOW);
  }

  // Scores of a page's keys.
  __device__ __forceinline__ void score(float (&s)[TILES][8], const uint4 (&k)[CHUNKS]) const {
#pragma unroll
    for (int t = 0; t < TILES; ++t)
#pragma unroll
      for (int i = 0; i < 8; ++i) s[t][i] = 0;
#pragma unroll
    for (int c = 0; c < CHUNKS; ++c)
#pragma unroll
      for (int t = 0; t < TILES; ++t) {
        const uint4 a = queries[(t * CHUNKS + c) * 32 + lane];
        mma(s[t], a, k[c].x, k[c].y);
        mma(s[t] + 4, a, k[c].z, k[c].w);
      }
    if constexpr (CAPPED)
#pragma unroll
      for (int t = 0; t < TILES; ++t)
#pragma unroll
        for (int i = 0; i < 8; ++i) s[t][i] = limited(s[t][i]);
  }

  // As `soften` in tensor_attention.py, for all tiles: scores of a page become weights. It does the
  // same for all slots before it goes on, as each step waits for the one before it. ALL is whether
  // all slots see all keys of the page.
  template <bool ALL>
  __device__ __forceinline__ void soften(float (&s)[TILES][8], float (&o)[TILES][OUT],
                                         float (&top)[TILES][2], float (&total)[TILES][2],
                                         int key) const {
    constexpr int SLOTS = TILES * 2;
    float most[SLOTS], shrink[SLOTS];
    bool seen[SLOTS][4];
#pragma unroll
    for (int n = 0; n < SLOTS; ++n) {
      const int t = n / 2, half = n % 2;
      const int position = ALL ? 0 : positions[t * 16 + g + 8 * half];
      most[n] = top[t][half];
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        seen[n][i] = ALL || visible(key + i / 2 * 8 + i % 2, position);
        if (seen[n][i]) most[n] = fmaxf(most[n], s[t][i / 2 * 4 + half * 2 + i % 2]);
      }
    }
#pragma unroll
    for (int mask = 1; mask < 4; mask *= 2) {
      float other[SLOTS];
#pragma unroll
      for (int n = 0; n < SLOTS; ++n) other[n] = over(most[n], mask);
#pragma unroll
      for (int n = 0; n < SLOTS; ++n) most[n] = fmaxf(most[n], other[n]);
    }
#pragma unroll
    for (int n = 0; n < SLOTS; ++n) {
      shrink[n] = exp2f(top[n / 2][n % 2] - most[n]);
      top[n / 2][n % 2] = most[n];
    }
#pragma unroll
    for (int n = 0; n < SLOTS; ++n)
#pragma unroll
      for (int i = 0; i < 4; ++i) {
        float& value = s[n / 2][i / 2 * 4 + n % 2 * 2 + i % 2];
        value = seen[n][i] ? exp2f(value - most[n]) : 0.0f;
      }
#pragma unroll
    for (int n = 0; n < SLOTS; ++n) {
      const float* mine = s[n / 2] + n % 2 * 2;
      float& sum = total[n / 2][n % 2];
      sum = __fmaf_rn(sum, shrink[n], (mine[0] + mine[1]) + (mine[4] + mine[5]));
#pragma unroll
      for (int d = 0; d < OUT / 2; ++d) o[n / 2][d / 2 * 4 + n % 2 * 2 + d % 2] *= shrink[n];
    }
  }

  // As `end_part` in tensor_attention.py, for all tiles.
  __device__ __forceinline__ void end_part(float (&o)[TILES][OUT], float (&top)[TILES][2],
                                           float (&total)[TILES][2]) const {
    __syncthreads();
#pragma unroll
    for (int t = 0; t < TILES; ++t) {
      float* to = room + (t * WARPS + warp) * EACH * 32 + lane;
#pragma unroll
      for (int d = 0; d < DIMS; ++d)
#pragma unroll
        for (int i = 0; i < 2; ++i) to[(d * 2 + i) * 32] = o[t][d / 2 * 4 + i * 2 + d % 2];
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        total[t][i] = total[t][i] + over(total[t][i], 1);
        total[t][i] = total[t][i] + over(total[t][i], 2);
        to[(2 * DIMS + i) * 32] = top[t][i];
        to[(2 * DIMS + 2 + i) * 32] = total[t][i];
        top[t][i] = NONE;
        total[t][i] = 0;
      }
#pragma unroll
      for (int d = 0; d < OUT; ++d) o[t][d] = 0;
    }
    __syncthreads();
#pragma unroll 1
    for (int t = 0; t < TILES; ++t) {
      const float* from = room + t * WARPS * EACH * 32 + lane;
      float weight[WARPS][2], most[2], sum[2], mine[2], other[2];
#pragma unroll
      for (int i = 0; i < 2; ++i) most[i] = NONE, sum[i] = 0;
#pragma unroll
      for (int w = 0; w < WARPS; ++w)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          weight[w][i] = from[(w * EACH + 2 * DIMS + i) * 32];
          most[i] = fmaxf(most[i], weight[w][i]);
        }
#pragma unroll
      for (int w = 0; w < WARPS; ++w)
#pragma unroll
        for (int i = 0; i < 2; ++i) {
          weight[w][i] = exp2f(weight[w][i] - most[i]);
          sum[i] = __fmaf_rn(from[(w * EACH + 2 * DIMS + 2 + i) * 32], weight[w][i], sum[i]);
        }
#pragma unroll
      for (int i = 0; i < 2; ++i) {
        const float before = own(t, 2 * OWN + i), after = fmaxf(before, most[i]);
        mine[i] = exp2f(before - after), other[i] = exp2f(most[i] - after);
        own(t, 2 * OWN + i) = after;
        float& joined_sum = own(t, 2 * OWN + 2 + i);
        joined_sum = __fmaf_rn(joined_sum, mine[i], __fmul_rn(sum[i], other[i]));
      }
#pragma unroll
      for (int e = 0; e < OWN; ++e) {
        const int d = warp * OWN + e;
        if (DIMS % WARPS == 0 || d < DIMS) {
          sum[0] = sum[1] = 0;
#pragma unroll
          for (int w = 0; w < WARPS; ++w)
#pragma unroll
            for (int i = 0; i < 2; ++i)
              sum[i] = __fmaf_rn(from[(w * EACH + d * 2 + i) * 32], weight[w][i], sum[i]);
#pragma unroll
          for (int i = 0; i < 2; ++i) {
            float& value = own(t, 2 * e + i);
            value = __fmaf_rn(value, mine[i], __fmul_rn(sum[i], other[i]));
          }
        }
      }
    }
  }
};

// The queries of `count` rows from number `first` on, in block `by` of a sequence. `keys` and
// `values` are where the first page's of the block's key head and layer are, and `stride` is the
// number of elements from one page to the next. `table` has the numbers of the sequence's pages,
// `most` at most; `width` is the number of elements of a row of y. The address of the last element
// of `shared` is there because TVM allocates only what it sees used.
template <class M, int HQ, int HKV, int D, int WINDOW>
__device__ __forceinline__ void attend(const void* q, const void* keys, const void* values,
                                       const int* position, const int* table, void* y, void* shared,
                                       void*, int first, int count, int by, int most,
                                       long long stride, int width, float softened, float cap) {
  constexpr int TILES = M::TILE_COUNT, WARPS = M::WARP_COUNT, CHUNKS = M::CHUNKS;
  M m;
  m.queries = (uint4*)shared;
  m.room = (float*)shared + M::QUERIES;
  m.joined = m.room + M::ROOM;
  m.positions = (int*)(m.joined + M::JOINED);
  m.softened = softened, m.cap = cap;
  m.warp = threadIdx.x / 32, m.lane = threadIdx.x % 32, m.g = m.lane / 4, m.j = m.lane % 4;
  const int head = by / M::PARTS * M::GROUP + by % M::PARTS * M::HEADS;
  const int heads = min(M::HEADS, M::GROUP - by % M::PARTS * M::HEADS);
  auto row_of = [&](int tile, int slot) { return tile * M::ROWS + slot / M::HEADS; };
  auto is_there = [&](int tile, int slot) {
    return slot / M::HEADS < M::ROWS && row_of(tile, slot) < count && slot % M::HEADS < heads;
  };
  // What the kernels before do not make comes while they run.
  const int first_position = fetch_int(position + first);
  const int last_position = fetch_int(position + first + count - 1);
  const int end = last_position / PAGE + 1;
  const int begin = WINDOW ? max(first_position + 1 - WINDOW, 0) / PAGE : 0;
  const int last = WINDOW ? end - 1 : most - 1;  // without a window, it need not wait for positions
  int p = begin + (m.warp - begin % WARPS + WARPS) % WARPS;
  const int now = fetch_int(table + min(p, last));
  int then = fetch_int(table + min(p + WARPS, last));
  if (threadIdx.x < TILES * 16) {
    const int tile = threadIdx.x / 16, slot = threadIdx.x % 16;
    m.positions[threadIdx.x] =
        is_there(tile, slot) ? fetch_int(position + first + row_of(tile, slot)) : -1;
  }
  asm volatile("griddepcontrol.wait;" ::: "memory");
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
  uint4 k[CHUNKS], v[CHUNKS];
  auto load = [&](uint4 (&to)[CHUNKS], const void* pages, int number) {
    const __half* from = (const __half*)pages + number * stride + m.lane * 8;
#pragma unroll
    for (int c = 0; c < CHUNKS; ++c) to[c] = fetch16(from + c * 256);
  };
  if (p < end) {
    load(k, keys, now);
    load(v, values, now);
  }
  for (int at = m.warp; at < TILES * CHUNKS; at += WARPS) {
    uint2 both[2];
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int tile = at / CHUNKS, slot = m.g + 8 * i;
      both[i] = make_uint2(0, 0);
      if (is_there(tile, slot))
        both[i] = fetch8((const __half*)q + (long long)(first + row_of(tile, slot)) * (HQ * D)
                         + (head + slot % M::HEADS) * D + at % CHUNKS * 16 + m.j * 4);
    }
    m.queries[at * 32 + m.lane] = make_uint4(both[0].x, both[1].x, both[0].y, both[1].y);
  }
  float o[TILES][M::OUT], top[TILES][2], total[TILES][2];
#pragma unroll
  for (int t = 0; t < TILES; ++t) {
#pragma unroll
    for (int d = 0; d < M::OUT; ++d) o[t][d] = 0;
#pragma unroll
    for (int i = 0; i < 2; ++i) top[t][i] = NONE, total[t][i] = 0;
#pragma unroll
    for (int i = 0; i < M::KEPT; ++i) m.own(t, i) = i / 2 == M::OWN ? NONE : 0.0f;
  }
  __syncthreads();
#pragma unroll 1
  for (int part = begin / M::PART; part * M::PART < end; ++part) {
    const int after = min(end, (part + 1) * M::PART);
#pragma unroll 1
    for (; p < after; p += WARPS) {
      const bool more = p + WARPS < end;
      const bool all = p * PAGE + PAGE - 1 <= first_position
                       && (WINDOW == 0 || p * PAGE > last_position - WINDOW);
      const int key = p * PAGE + 2 * m.j, later = table[min(p + 2 * WARPS, end - 1)];
      float s[TILES][8];
      m.score(s, k);
      if (more) load(k, keys, then);
      if (all) m.template soften<true>(s, o, top, total, key);
      else m.template soften<false>(s, o, top, total, key);
      uint4 weights[TILES];
#pragma unroll
      for (int t = 0; t < TILES; ++t)
        weights[t] = make_uint4(pack(s[t][0], s[t][1]), pack(s[t][2], s[t][3]),
                                pack(s[t][4], s[t][5]), pack(s[t][6], s[t][7]));
#pragma unroll
      for (int c = 0; c < CHUNKS; ++c)
#pragma unroll
        for (int t = 0; t < TILES; ++t) {
          mma(o[t] + c * 8, weights[t], v[c].x, v[c].y);
          mma(o[t] + c * 8 + 4, weights[t], v[c].z, v[c].w);
        }
      if (more) load(v, values, then);
      then = later;
    }
    m.end_part(o, top, total);
  }
#pragma unroll
  for (int t = 0; t < TILES; ++t)
#pragma unroll
    for (int i = 0; i < 2; ++i) {
      const int slot = m.g + 8 * i;
      if (!is_there(t, slot)) continue;
      __half* to = (__half*)y + (long long)(first + row_of(t, slot)) * width
                   + (head + slot % M::HEADS) * D + 2 * m.j;
      const float sum = m.own(t, 2 * M::OWN + 2 + i);
#pragma unroll
      for (int e = 0; e < M::OWN; ++e) {
        const int d = m.warp * M::OWN + e;
        if (M::DIMS % WARPS == 0 || d < M::DIMS)
          to[d / 2 * 8 + d % 2] = __float2half_rn(m.own(t, 2 * e + i) / sum);
      }
    }
  if (by == 0 && threadIdx.x < width - HQ * D)
    for (int i = 0; i < count; ++i)
      ((__half*)y)[(long long)(first + i) * width + HQ * D + threadIdx.x] = __half();
}
