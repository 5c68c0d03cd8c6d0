/* See product.h. */
#include "product.h"

void pack(const float* B, i64 ld, i64 K, i64 N, float* packed) {
  for (i64 left = 0; left < N; left += PANEL, packed += K * PANEL) {
    i64 n = least(N - left, PANEL);
    for (i64 k = 0; k < K; k++) {
      memcpy(packed + k * PANEL, B + k * ld + left, n * sizeof(float));
      if (n < PANEL) memset(packed + k * PANEL + n, 0, (PANEL - n) * sizeof(float));
    }
  }
}

/* to[k] = from[·][k], WIDTH each way: ever larger blocks off the diagonal change places. */
static void transpose(const float* from, i64 from_row, float* to, i64 to_row) {
  typedef int32_t index __attribute__((vector_size(WIDTH * 4)));
  vec x[WIDTH];
#pragma GCC unroll 16
  for (int j = 0; j < WIDTH; j++) x[j] = *(const vec*)(from + j * from_row);
#pragma GCC unroll 4
  for (int size = 1; size < WIDTH; size *= 2) {
    index upper, lower;
#pragma GCC unroll 16
    for (int j = 0; j < WIDTH; j++) {
      upper[j] = j & size ? WIDTH + j - size : j;
      lower[j] = j & size ? WIDTH + j : j + size;
    }
#pragma GCC unroll 16
    for (int i = 0; i < WIDTH; i++)
      if (!(i & size)) {
        vec first = x[i], second = x[i + size];
        x[i] = __builtin_shuffle(first, second, upper);
        x[i + size] = __builtin_shuffle(first, second, lower);
      }
  }
#pragma GCC unroll 16
  for (int j = 0; j < WIDTH; j++) *(vec*)(to + j * to_row) = x[j];
}

void pack_transposed(const float* B, i64 ld, i64 K, i64 N, float* packed) {
  for (i64 left = 0; left < round_up(N, PANEL); left += WIDTH) {
    float* to = packed + left / PANEL * PANEL * K + left % PANEL;
    i64 rows = least(N - left, WIDTH), k = 0;
    if (rows == WIDTH)
      for (; k + WIDTH <= K; k += WIDTH) transpose(B + left * ld + k, ld, to + k * PANEL, PANEL);
    for (; k < K; k++)
      for (i64 j = 0; j < WIDTH; j++) to[k * PANEL + j] = j < rows ? B[(left + j) * ld + k] : 0;
  }
}

void pack_stack(const float* W, i64 count, i64 K, i64 N, i64 across, float* packed) {
#pragma omp for collapse(2) schedule(static)
  for (i64 i = 0; i < count; i++)
    for (i64 left = 0; left < N; left += PANEL) {
      float* to = packed + i * packed_size(K, N) + left * K;
      if (across)
        pack(W + i * N * K + left, N, K, least(N - left, PANEL), to);
      else
        pack_transposed(W + i * N * K + left * K, K, K, least(N - left, PANEL), to);
    }
}

/* `rows` rows and up to `vectors` · WIDTH columns of the product. */
INLINE void tile(const int rows, const int vectors, i64 columns, i64 K, const float* A, i64 row, i64 column,
                 const float* panel, Sum sum, float* C, i64 ld, const float* D) {
  vec total[ROWS][2];
#pragma GCC unroll 16
  for (int i = 0; i < rows; i++)
    for (int j = 0; j < vectors; j++) total[i][j] = (vec){0};
  for (i64 k = 0; k < K; k++) {
    vec right[2];
    for (int j = 0; j < vectors; j++) right[j] = *(const vec*)(panel + k * PANEL + j * WIDTH);
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
        if (D) result += sum.beta * *(const vec*)(D + i * ld + j * WIDTH);
        *(vec*)(C + i * ld + j * WIDTH) = result;
      }
    else {
      float values[PANEL] = {0};
      for (int j = 0; j < vectors; j++) *(vec*)(values + j * WIDTH) = sum.alpha * total[i][j];
      for (i64 j = 0; j < columns; j++) C[i * ld + j] = values[j] + (D ? sum.beta * D[i * ld + j] : 0);
    }
}

#define TILE(rows, vectors) \
  tile(rows, vectors, columns, K, A + i * row, row, column, panel, sum, C + i * ld, ld, D ? D + i * ld : 0)
#define TILES(name, vectors)                                                                                    \
  static void name(i64 M, i64 columns, i64 K, const float* A, i64 row, i64 column, const float* panel, Sum sum, \
                   float* C, i64 ld, const float* D) {                                                          \
    i64 i = 0;                                                                                                  \
    for (; i + ROWS <= M; i += ROWS) TILE(ROWS, vectors);                                                       \
    for (; i + 4 <= M; i += 4) TILE(4, vectors);                                                                \
    if (M - i == 3) TILE(3, vectors);                                                                           \
    if (M - i == 2) TILE(2, vectors);                                                                           \
    if (M - i == 1) TILE(1, vectors);                                                                           \
  }
TILES(narrow_tiles, 1)
TILES(wide_tiles, 2)

void product(i64 M, i64 N, i64 K, const float* A, i64 row, i64 column, const float* B, i64 panel, Sum sum, float* C,
             i64 ld) {
  for (i64 left = 0; left < N; left += PANEL, B += panel) {
    i64 columns = least(N - left, PANEL);
    const float* D = sum.D ? sum.D + left : 0;
    if (columns <= WIDTH)
      narrow_tiles(M, columns, K, A, row, column, B, sum, C + left, ld, D);
    else
      wide_tiles(M, columns, K, A, row, column, B, sum, C + left, ld, D);
  }
}
