/* One token per row of logits, and its log-probability (`sample`). */
#include "rows.h"

/* At temperature 0 the most probable token; else the first one at which the cumulative distribution reaches `drawn`
   [B], numbers in (0, 1]. Log-probabilities are those at the temperature (at 1 for temperature 0).
   Returns how many rows have logits that are not numbers. */
EXPORT int sample(const float* logits, float temperature, const float* drawn, i64* tokens, float* log_probs, i64 B,
                  i64 V, i64 threads) {
  float scale = temperature > 0 ? 1 / temperature : 1;
  int wrong = 0;
#pragma omp parallel for num_threads(threads) reduction(+ : wrong)
  for (i64 b = 0; b < B; b++) {
    const float* row = logits + b * V;
    float *weights = scratch(V), most = largest_of(row, V), sum = 0;
    i64 token = 0;
    for (i64 v = 0; v < V; v++) sum += weights[v] = exp_((row[v] - most) * scale);
    if (temperature > 0) {
      float reached = weights[0], wanted = drawn[b] * sum;
      while (reached < wanted && token < V - 1) reached += weights[++token];
      while (token && weights[token] == 0) token--; /* the end, when rounding kept `reached` below the sum */
    } else {
      while (row[token] != most && token < V - 1) token++;
    }
    wrong += isnan(sum);
    tokens[b] = token;
    log_probs[b] = (row[token] - most) * scale - logf(sum);
  }
  return wrong;
}
