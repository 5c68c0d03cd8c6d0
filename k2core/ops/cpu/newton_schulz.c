/* Newton-Schulz (`newton_schulz`): each thread takes one matrix at a time and keeps all of it in its cache. Gram matrix
   and polynomial are symmetric, so that half of each is computed. */
#include "product.h"

/* C [M, M] = alpha · A B + beta · D for A [M, K], where it is symmetric: what lies above the diagonal is copied from
 * below it. */
static void symmetric_product(i64 M, i64 K, const float* A, const float* B, Sum sum, float* C) {
  for (i64 left = 0; left < M; left += PANEL, B += K * PANEL) {
    Sum below = sum;
    if (sum.D) below.D = sum.D + left * M + left;
    product(M - left, least(M - left, PANEL), K, A + left * K, K, 1, B, 0, below, C + left * M + left, M);
    for (i64 i = left + 1; i < M; i++)
      for (i64 j = left; j < least(i, left + PANEL); j++) C[j * M + i] = C[i * M + j];
  }
}

/* x [matrices, M, N], M <= N, in place; element (i, j) of a matrix lies at i · row + j · column. */
EXPORT void newton_schulz(float* x, i64 matrices, i64 M, i64 N, i64 row, i64 column, i64 steps, float a, float b,
                          float c, i64 threads) {
#pragma omp parallel for num_threads(threads) schedule(dynamic)
  for (i64 matrix = 0; matrix < matrices; matrix++) {
    float* outside = x + matrix * M * N;
    float* X = scratch(2 * M * N + 2 * M * M + packed_size(M, N) + packed_size(N, M));
    float *next = X + M * N, *gram = next + M * N, *polynomial = gram + M * M, *packed = polynomial + M * M;
    double squares = 0;
    for (i64 i = 0; i < M; i++)
      for (i64 j = 0; j < N; j++) {
        float value = outside[i * row + j * column];
        squares += (double)value * value;
        X[i * N + j] = value;
      }
    float norm = 1 / ((float)sqrt(squares) + 1e-7f);
    for (i64 i = 0; i < M * N; i++) X[i] *= norm;
    for (i64 step = 0; step < steps; step++) {
      pack_transposed(X, N, N, M, packed);
      symmetric_product(M, N, X, packed, PLAIN, gram);
      pack(gram, M, M, M, packed);
      symmetric_product(M, M, gram, packed, (Sum){c, b, gram}, polynomial);
      pack(X, N, M, N, packed);
      product(M, N, M, polynomial, M, 1, packed, M * PANEL, (Sum){1, a, X}, next, N);
      float* swap = X;
      X = next;
      next = swap;
    }
    for (i64 i = 0; i < M; i++)
      for (i64 j = 0; j < N; j++) outside[i * row + j * column] = X[i * N + j];
  }
}
