/* RMS norm (`rms_norm`): y = x · scale · weight with scale = 1 / rms(x). */
#include <omp.h>

#include "rows.h"

/* x [N, D] with rows `x_row` apart; y [N, D]; scale [N] is kept for the backward pass. */
EXPORT void rms_norm(const float* x, i64 x_row, const float* weight, float eps, float* y, float* scale, i64 N, i64 D,
                     i64 threads) {
#pragma omp parallel for num_threads(threads)
  for (i64 n = 0; n < N; n++) scale[n] = norm_row(x + n * x_row, weight, D, eps, y + n * D);
}

/* dx [N, D]; dweight [threads, D], zeros to which each thread adds its share. */
EXPORT void rms_norm_backward(const float* dy, const float* x, i64 x_row, const float* weight, const float* scale,
                              float* dx, float* dweight, i64 N, i64 D, i64 threads) {
#pragma omp parallel num_threads(threads)
  {
    float* share = dweight + omp_get_thread_num() * D;
#pragma omp for schedule(static)
    for (i64 n = 0; n < N; n++) {
      const float *row = x + n * x_row, *g = dy + n * D;
      float s = scale[n], along = 0;
      for (i64 d = 0; d < D; d++) along += g[d] * weight[d] * row[d];
      float pull = along * s * s * s / D;
      for (i64 d = 0; d < D; d++) {
        share[d] += g[d] * row[d] * s;
        dx[n * D + d] = g[d] * weight[d] * s - row[d] * pull;
      }
    }
  }
}
