/* Cross-entropy of logits (`token_losses`), one pass over them each way. */
#include "rows.h"

/* Returns how many targets are neither a token nor `ignored`; the loss is then not to be used.
   loss [N] = log Σ exp(logits [N, V]) - logits[target]; 0 where the target is `ignored`. `log_sum` [N] is kept. */
EXPORT int cross_entropy(const float* logits, const i64* targets, i64 ignored, float* loss, float* log_sum, i64 N,
                         i64 V, i64 threads) {
  int wrong = 0;
#pragma omp parallel for num_threads(threads) reduction(+ : wrong)
  for (i64 n = 0; n < N; n++) {
    const float* row = logits + n * V;
    int counts = targets[n] != ignored, token = targets[n] >= 0 && targets[n] < V;
    wrong += counts && !token;
    float most = largest_of(row, V), sum = 0;
    for (i64 v = 0; v < V; v++) sum += exp_(row[v] - most);
    log_sum[n] = most + logf(sum);
    loss[n] = counts && token ? log_sum[n] - row[targets[n]] : 0;
  }
  return wrong;
}

/* dlogits [N, V] = (softmax - one at the target) · dloss [N] */
EXPORT void cross_entropy_backward(const float* dloss, const float* logits, const i64* targets, i64 ignored,
                                   const float* log_sum, float* dlogits, i64 N, i64 V, i64 threads) {
#pragma omp parallel for num_threads(threads)
  for (i64 n = 0; n < N; n++) {
    const float* row = logits + n * V;
    float* out = dlogits + n * V;
    if (targets[n] == ignored) {
      memset(out, 0, V * sizeof(float));
      continue;
    }
    for (i64 v = 0; v < V; v++) out[v] = exp_(row[v] - log_sum[n]) * dloss[n];
    out[targets[n]] -= dloss[n];
  }
}
