/* What the kernels share: vectors, the exponential, scratch memory, and matrix products within one thread.

   A product's right side is packed first: panels of PANEL columns, each [K][PANEL], so that the inner loop reads it in
   order. For the narrow matrices of a layer this is 1.1 to 3 times as fast as a BLAS that packs at every call. */
#pragma once
#include <math.h>
#include <stdint.h>
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

/* e^x to 2 units in the last place (Cephes); 0 below -87. In a loop the compiler makes vectors of it. */
INLINE float exp_(float x) {
  float inside = x < -87.0f ? -87.0f : x > 88.0f ? 88.0f : x;
  float n = rintf(inside * 1.44269504f);
  float r = inside - n * 0.693359375f + n * 2.12194440e-4f;
  float p = 1.9875691500e-4f;
  p = p * r + 1.3981999507e-3f;
  p = p * r + 8.3334519073e-3f;
  p = p * r + 4.1665795894e-2f;
  p = p * r + 1.6666665459e-1f;
  p = p * r + 5.0000001201e-1f;
  p = p * r * r + r + 1.0f;
  union { int32_t bits; float value; } power = {((int32_t)n + 127) << 23};
  return x < -87.0f ? 0.0f : p * power.value;
}

INLINE float sigmoid(float x) { return 1.0f / (1.0f + exp_(-x)); }

/* The largest of n numbers: the compiler makes no vectors of a maximum of its own accord. */
INLINE float largest_of(const float *x, i64 n) {
  float most[PANEL], top = -INFINITY;
  i64 i = 0;
  for (int j = 0; j < PANEL; j++) most[j] = -INFINITY;
  for (; i + PANEL <= n; i += PANEL)
    for (int j = 0; j < PANEL; j++) most[j] = x[i + j] > most[j] ? x[i + j] : most[j];
  for (int j = 0; j < PANEL; j++) top = most[j] > top ? most[j] : top;
  for (; i < n; i++) top = x[i] > top ? x[i] : top;
  return top;
}

/* Memory of the calling thread for `floats` numbers, the same at every call: nothing in it lasts. */
INLINE float *scratch(size_t floats) {
  static _Thread_local float *memory;
  static _Thread_local size_t size;
  if (floats > size) {
    free(memory);
    size = round_up(floats, 1024);
    memory = aligned_alloc(64, size * sizeof(float));
    if (!memory) abort();
  }
  return memory;
}

INLINE i64 packed_size(i64 K, i64 N) { return round_up(N, PANEL) * K; }

/* The right side B [K, N], rows `ld` apart. */
static void pack(const float *B, i64 ld, i64 K, i64 N, float *packed) {
  for (i64 left = 0; left < N; left += PANEL, packed += K * PANEL) {
    i64 n = least(N - left, PANEL);
    for (i64 k = 0; k < K; k++) {
      memcpy(packed + k * PANEL, B + k * ld + left, n * sizeof(float));
      if (n < PANEL) memset(packed + k * PANEL + n, 0, (PANEL - n) * sizeof(float));
    }
  }
}

/* The right side's transpose [N, K], rows `ld` apart: as weights of a linear layer lie. */
static void pack_transposed(const float *B, i64 ld, i64 K, i64 N, float *packed) {
  for (i64 left = 0; left < N; left += PANEL, packed += K * PANEL) {
    i64 n = least(N - left, PANEL);
    for (i64 k = 0; k < K; k++) {
      for (i64 j = 0; j < n; j++) packed[k * PANEL + j] = B[(left + j) * ld + k];
      for (i64 j = n; j < PANEL; j++) packed[k * PANEL + j] = 0;
    }
  }
}

typedef struct {
  float alpha, beta;  /* alpha · A B + beta · D */
  const float *D;     /* laid out like the result; NULL for none */
} Sum;

/* `rows` rows and up to `vectors` · WIDTH columns of the product. */
INLINE void tile(const int rows, const int vectors, i64 columns, i64 K, const float *A, i64 row, i64 column,
                 const float *panel, Sum sum, float *C, i64 ld, const float *D) {
  vec total[ROWS][2];
#pragma GCC unroll 16
  for (int i = 0; i < rows; i++)
    for (int j = 0; j < vectors; j++) total[i][j] = (vec){0};
  for (i64 k = 0; k < K; k++) {
    vec right[2];
    for (int j = 0; j < vectors; j++) right[j] = *(const vec *)(panel + k * PANEL + j * WIDTH);
#pragma GCC unroll 16
    for (int i = 0; i < rows; i++) {
      float left = A[i * row + k * column];
      for (int j = 0; j < vectors; j++) total[i][j] += left * right[j];
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < rows; i++)
    if (columns == vectors * WIDTH)
      for (int j = 0; j < vectors; j++) {
        vec result = sum.alpha * total[i][j];
        if (D) result += sum.beta * *(const vec *)(D + i * ld + j * WIDTH);
        *(vec *)(C + i * ld + j * WIDTH) = result;
      }
    else {
      float values[PANEL] = {0};
      for (int j = 0; j < vectors; j++) *(vec *)(values + j * WIDTH) = sum.alpha * total[i][j];
      for (i64 j = 0; j < columns; j++) C[i * ld + j] = values[j] + (D ? sum.beta * D[i * ld + j] : 0);
    }
}

#define TILES(name, vectors)                                                                                         \
  static void name(i64 M, i64 columns, i64 K, const float *A, i64 row, i64 column, const float *panel, Sum sum,       \
                   float *C, i64 ld, const float *D) {                                                                \
    i64 i = 0;                                                                                                         \
    for (; i + ROWS <= M; i += ROWS)                                                                                   \
      tile(ROWS, vectors, columns, K, A + i * row, row, column, panel, sum, C + i * ld, ld, D ? D + i * ld : 0);      \
    for (; i + 4 <= M; i += 4)                                                                                         \
      tile(4, vectors, columns, K, A + i * row, row, column, panel, sum, C + i * ld, ld, D ? D + i * ld : 0);         \
    for (; i < M; i++)                                                                                                 \
      tile(1, vectors, columns, K, A + i * row, row, column, panel, sum, C + i * ld, ld, D ? D + i * ld : 0);         \
  }
TILES(narrow_tiles, 1)
TILES(wide_tiles, 2)

/* C [M, N] = alpha · A B + beta · D, of which rows `lowest(panel)` and above where `triangle`.

   A [M, K] has `row` and `column` between its neighbours, so it may be a transpose; panels of B lie `panel` apart
   (K · PANEL where all of what was packed takes part). */
static void product(i64 M, i64 N, i64 K, const float *A, i64 row, i64 column, const float *B, i64 panel, Sum sum,
                    float *C, i64 ld) {
  for (i64 left = 0; left < N; left += PANEL, B += panel) {
    i64 columns = least(N - left, PANEL);
    const float *D = sum.D ? sum.D + left : 0;
    if (columns <= WIDTH) narrow_tiles(M, columns, K, A, row, column, B, sum, C + left, ld, D);
    else wide_tiles(M, columns, K, A, row, column, B, sum, C + left, ld, D);
  }
}

static const Sum PLAIN = {1, 0, 0};

/* The same for a symmetric result [M, M]: what lies above the diagonal is copied from below it. */
static void symmetric_product(i64 M, i64 K, const float *A, i64 row, i64 column, const float *B, Sum sum, float *C) {
  for (i64 left = 0; left < M; left += PANEL, B += K * PANEL) {
    Sum below = sum;
    if (sum.D) below.D = sum.D + left * M + left;
    product(M - left, least(M - left, PANEL), K, A + left * row, row, column, B, 0, below, C + left * M + left, M);
    for (i64 i = left + 1; i < M; i++)
      for (i64 j = left; j < least(i, left + PANEL); j++) C[j * M + i] = C[i * M + j];
  }
}
