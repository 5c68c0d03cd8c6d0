/* What all kernels share: vectors, the exponential, scratch memory. */
#pragma once
#include <math.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int64_t i64;

#ifdef __AVX512F__
#define WIDTH 16 /* floats in a vector register, of which there are 32 */
#define ROWS 12  /* of the left side in registers at once */
#else
#define WIDTH 8
#define ROWS 4
#endif
#define PANEL (2 * WIDTH)
typedef float vec __attribute__((vector_size(WIDTH * 4), aligned(4)));

#define INLINE static inline __attribute__((always_inline))
#define EXPORT __attribute__((visibility("default")))

INLINE i64 least(i64 a, i64 b) { return a < b ? a : b; }
INLINE i64 round_up(i64 n, i64 step) { return (n + step - 1) / step * step; }

/* a · b + c, rounded once where the processor can: not to be reordered. */
INLINE float fused(float a, float b, float c) {
#if defined(__FMA__) || defined(__ARM_FEATURE_FMA)
  return __builtin_fmaf(a, b, c);
#else
  return a * b + c;
#endif
}

/* e^x to about 2 units in the last place (Cephes), for x up to 88; 0 below -87. In a loop vectors are made of it. */
INLINE float exp_(float x) {
  float inside = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
  float n = rintf(inside * 1.44269504f);
  float r = fused(n, 2.12194440e-4f, fused(n, -0.693359375f, inside));
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  union {
    int32_t bits;
    float value;
  } power = {((int32_t)n + 127) << 23};
  return x < -87.0f ? 0.0f : p * power.value;
}

static void give_up(size_t bytes) {
  fprintf(stderr, "a kernel needs %.2f GiB more memory than there is: a smaller batch needs less\n",
          bytes / 1073741824.0);
  abort();
}

/* Memory of the calling thread for `floats` numbers, the same at every call: nothing in it lasts. */
INLINE float* scratch(size_t floats) {
  static _Thread_local float* memory;
  static _Thread_local size_t size;
  if (floats > size) {
    free(memory);
    size = round_up(floats, 1024);
    memory = aligned_alloc(64, size * sizeof(float));
    if (!memory) give_up(size * sizeof(float));
  }
  return memory;
}
