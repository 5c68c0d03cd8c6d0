/* Linear layers, y = x Wᵀ, one or a stack of them: rows `ends[e - 1]` to `ends[e]` of x go through layer e. */
#include "product.h"

#define DEPTH 512 /* of a product's inner dimension, where that is the long one */

/* Rows of the left side that a thread takes at once, of so many in all. */
static i64 chunk_of(i64 rows, i64 threads, i64 most) {
  i64 share = rows / (2 * threads) + 1;
  return least(round_up(share, ROWS), most * ROWS);
}

/* y [N, out] of x [N, in] and W [E, out, in]; or, `across`, dx [N, in] of dy [N, out]. */
EXPORT void linear(const float* x, const int32_t* ends, i64 E, const float* W, float* y, i64 in, i64 out, i64 across,
                   i64 threads) {
  i64 K = across ? out : in, N = across ? in : out, size = packed_size(K, N);
  i64 chunk = chunk_of(ends[E - 1], threads, 8), chunks = (ends[E - 1] + chunk - 1) / chunk;
  float* packed = scratch(E * size);
#pragma omp parallel num_threads(threads)
  {
    pack_stack(W, E, K, N, across, packed);
#pragma omp for schedule(dynamic) collapse(2)
    for (i64 e = 0; e < E; e++)
      for (i64 c = 0; c < chunks; c++) {
        i64 start = (e ? ends[e - 1] : 0) + c * chunk, rows = least(ends[e] - start, chunk);
        if (rows > 0) product(rows, N, K, x + start * K, K, 1, packed + e * size, K * PANEL, PLAIN, y + start * N, N);
      }
  }
}

/* dW [E, out, in] of dy [N, out] and x [N, in]. */
EXPORT void linear_weights(const float* dy, const float* x, const int32_t* ends, i64 E, float* dW, i64 in, i64 out,
                           i64 threads) {
  i64 N = ends[E - 1], panels = (in + PANEL - 1) / PANEL;
  i64 chunk = chunk_of(out, threads, 4), chunks = (out + chunk - 1) / chunk;
  float* packed = scratch(round_up(in, PANEL) * N);
#pragma omp parallel num_threads(threads)
  {
#pragma omp for schedule(static)
    for (i64 p = 0; p < panels; p++) pack(x + p * PANEL, in, N, least(in - p * PANEL, PANEL), packed + p * PANEL * N);
#pragma omp for schedule(dynamic) collapse(2)
    for (i64 e = 0; e < E; e++)
      for (i64 c = 0; c < chunks; c++) {
        i64 left = c * chunk, rows = least(out - left, chunk), first = e ? ends[e - 1] : 0, last = ends[e];
        float* to = dW + (e * out + left) * in;
        if (first == last) memset(to, 0, rows * in * sizeof(float));
        for (i64 k = first; k < last; k += DEPTH) {
          Sum sum = k == first ? PLAIN : (Sum){1, 1, to};
          product(rows, in, least(last - k, DEPTH), dy + k * out + left, 1, out, packed + k * PANEL, N * PANEL, sum, to,
                  in);
        }
      }
  }
}
