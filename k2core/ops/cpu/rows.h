/* Operations on one row of numbers. */
#pragma once
#include "common.h"

INLINE float sigmoid(float x) { return 1.0f / (1.0f + exp_(-x)); }

/* The largest of n numbers: the compiler makes no vectors of a maximum of its own accord. */
INLINE float largest_of(const float* x, i64 n) {
  float most[PANEL], top = -INFINITY;
  i64 i = 0;
  for (int j = 0; j < PANEL; j++) most[j] = -INFINITY;
  for (; i + PANEL <= n; i += PANEL)
    for (int j = 0; j < PANEL; j++) most[j] = x[i + j] > most[j] ? x[i + j] : most[j];
  for (int j = 0; j < PANEL; j++) top = most[j] > top ? most[j] : top;
  for (; i < n; i++) top = x[i] > top ? x[i] : top;
  return top;
}

/* row = softmax(row), whose largest number is `most`; returns log Σ exp. */
INLINE float softmax_row(float* row, i64 n, float most) {
  float sum = 0;
  for (i64 i = 0; i < n; i++) sum += row[i] = exp_(row[i] - most);
  for (i64 i = 0; i < n; i++) row[i] *= 1 / sum;
  return most + logf(sum);
}

/* out = x / rms(x) · weight; returns 1 / rms(x). */
INLINE float norm_row(const float* x, const float* weight, i64 n, float eps, float* out) {
  float squares = 0;
  for (i64 i = 0; i < n; i++) squares += x[i] * x[i];
  float scale = 1 / sqrtf(squares / n + eps);
  for (i64 i = 0; i < n; i++) out[i] = x[i] * scale * weight[i];
  return scale;
}

/* out = silu(gate) · up */
INLINE void swiglu_row(const float* gate, const float* up, i64 n, float* out) {
  for (i64 i = 0; i < n; i++) out[i] = gate[i] * sigmoid(gate[i]) * up[i];
}

/* The `half` pairs (x0, x1), (x2, x3), … scaled and turned, first members before second ones. */
INLINE void turn_row(const float* pairs, const float* cos, const float* sin, i64 half, float scale, float* out) {
  for (i64 i = 0; i < half; i++) {
    float first = pairs[2 * i] * scale, second = pairs[2 * i + 1] * scale;
    out[i] = first * cos[i] - second * sin[i];
    out[half + i] = second * cos[i] + first * sin[i];
  }
}

/* The gradient of the pairs, of that of `turn_row`'s result. */
INLINE void turn_back_row(const float* g, const float* cos, const float* sin, i64 half, float scale, float* pairs) {
  for (i64 i = 0; i < half; i++) {
    float first = g[i] * scale, second = g[half + i] * scale;
    pairs[2 * i] = first * cos[i] + second * sin[i];
    pairs[2 * i + 1] = second * cos[i] - first * sin[i];
  }
}
