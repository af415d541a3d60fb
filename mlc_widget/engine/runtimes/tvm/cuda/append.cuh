// A row's queries, keys and values: see tensor_append.py, which adds `rotate` above.

__device__ __forceinline__ float fetch4(const float* p) {
  float v;
  asm volatile("ld.global.f32 %0, [%1];" : "=f"(v) : "l"(p) : "memory");
  return v;
}

// As in tensor_rope.py, for HEADS query heads from number `first` on and one key head. The queries
// go to shared memory, the key and the value to place `token` of a head's page.
template <int HQ, int HKV, int D, int R, int HEADS, int THREADS>
__device__ __forceinline__ void append_row(void* queries, const float* qkv, const float* cos,
                                           const float* sin, void* keys, void* values, int first,
                                           int head, int token, float factor) {
  constexpr int HALF = R / 2, REST = D - R, PAIRS = (HEADS + 1) * HALF;
  constexpr int KEPT = PAIRS + (HEADS + 1) * REST, ALL = KEPT + D;
  constexpr int EACH = (ALL + THREADS - 1) / THREADS;
  constexpr int ANGLES = HALF > 0 ? HALF : 1, OTHERS = REST > 0 ? REST : 1;  // divisors
  float a[EACH], b[EACH], c[EACH], s[EACH];
  // What the kernel before does not make comes while it runs.
#pragma unroll
  for (int e = 0; e < EACH; ++e) {
    const int at = threadIdx.x + e * THREADS;
    if (at < PAIRS) c[e] = fetch4(cos + at % ANGLES), s[e] = fetch4(sin + at % ANGLES);
  }
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
  asm volatile("griddepcontrol.wait;" ::: "memory");
#endif
  auto from = [&](int h) {  // the last block of a key head may have fewer query heads
    const int query = first + h < HQ ? first + h : HQ - 1;
    return qkv + (h < HEADS ? query : HQ + head) * D;
  };
#pragma unroll
  for (int e = 0; e < EACH; ++e) {
    const int at = threadIdx.x + e * THREADS;
    if (at < PAIRS) {
      const float* p = from(at / ANGLES) + at % ANGLES;
      a[e] = fetch4(p), b[e] = fetch4(p + HALF);
    } else if (at < KEPT) {
      a[e] = fetch4(from((at - PAIRS) / OTHERS) + R + (at - PAIRS) % OTHERS);
    } else if (at < ALL) {
      a[e] = fetch4(qkv + (HQ + HKV + head) * D + at - KEPT);
    }
  }
  auto put = [&](int h, int d, float value) {
    if (h < HEADS) {
      ((__half*)queries)[h * D + d] = __float2half_rn(value * factor);
    } else {
      const int lane = token % 8 * 4 + d % 16 / 4;
      ((__half*)keys)[(d / 16 * 32 + lane) * 8 + token / 8 * 4 + d % 4] = __float2half_rn(value);
    }
  };
#pragma unroll
  for (int e = 0; e < EACH; ++e) {
    const int at = threadIdx.x + e * THREADS;
    if (at < PAIRS) {
      const int h = at / ANGLES, d = at % ANGLES;
      rotate(c[e], s[e], a[e], b[e]);
      put(h, d, c[e]);
      put(h, HALF + d, s[e]);
    } else if (at < KEPT) {
      put((at - PAIRS) / OTHERS, R + (at - PAIRS) % OTHERS, a[e]);
    } else if (at < ALL) {
      const int d = at - KEPT, lane = d % 8 * 4 + token % 8 / 2;
      ((__half*)values)[(d / 16 * 32 + lane) * 8 + d % 16 / 8 * 4 + token / 8 * 2 + token % 2] =
          __float2half_rn(a[e]);
    }
  }
  __syncthreads();
}
