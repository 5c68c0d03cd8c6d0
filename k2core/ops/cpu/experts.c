/* Tokens to their experts and back (`routed_experts`). N tokens visit K experts each; the M = N · K visits are
   sorted by expert. */
#include "experts.h"

/* 1 if an expert is wrong, else 0. Counting sort of `chosen` [N, K]: `place` [N, K] is each visit's row among the
   sorted ones, `token` [M] the token of each sorted row, `ends` [E] where each expert's rows end. */
EXPORT int sort_visits(const i64* chosen, i64 N, i64 K, i64 E, i64* place, i64* token, int32_t* ends, i64 threads) {
  (void)threads;
  for (i64 m = 0; m < N * K; m++)
    if (chosen[m] < 0 || chosen[m] >= E) return 1;
  i64* next = calloc(E, sizeof(i64));
  if (!next) give_up(E * sizeof(i64));
  for (i64 m = 0; m < N * K; m++) next[chosen[m]]++;
  for (i64 e = 0, total = 0; e < E; e++) {
    i64 count = next[e];
    next[e] = total;
    ends[e] = total += count;
  }
  for (i64 m = 0; m < N * K; m++) {
    place[m] = next[chosen[m]]++;
    token[place[m]] = m / K;
  }
  free(next);
  return 0;
}

/* out [M, D] = x [N, D] at `token` */
EXPORT void gather(const float* x, const i64* token, float* out, i64 M, i64 D, i64 threads) {
#pragma omp parallel for num_threads(threads)
  for (i64 m = 0; m < M; m++) memcpy(out + m * D, x + token[m] * D, D * sizeof(float));
}

/* out [N, D] = Σ_k weights [N, K] · y [M, D] at `place`; all weights are 1 where there are none. */
EXPORT void combine(const float* y, const i64* place, const float* weights, float* out, i64 N, i64 K, i64 D,
                    i64 threads) {
#pragma omp parallel for num_threads(threads)
  for (i64 n = 0; n < N; n++) {
    float* sum = out + n * D;
    memset(sum, 0, D * sizeof(float));
    for (i64 k = 0; k < K; k++) {
      const float* row = y + place[n * K + k] * D;
      float weight = weights ? weights[n * K + k] : 1;
      for (i64 d = 0; d < D; d++) sum[d] += weight * row[d];
    }
  }
}

/* dy [M, D] and dweights [N, K] of `combine` */
EXPORT void combine_backward(const float* dout, const float* y, const i64* place, const float* weights, float* dy,
                             float* dweights, i64 N, i64 K, i64 D, i64 threads) {
#pragma omp parallel for num_threads(threads)
  for (i64 n = 0; n < N; n++)
    for (i64 k = 0; k < K; k++) {
      const float *row = y + place[n * K + k] * D, *g = dout + n * D;
      float *to = dy + place[n * K + k] * D, weight = weights[n * K + k], along = 0;
      for (i64 d = 0; d < D; d++) {
        along += g[d] * row[d];
        to[d] = weight * g[d];
      }
      dweights[n * K + k] = along;
    }
}
