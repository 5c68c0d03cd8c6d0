/* silu(gate) · up of what a gate-and-up projection gives (`swiglu`). */
#include "rows.h"

/* gate_up [N, 2 F], out [N, F] */
EXPORT void swiglu(const float* gate_up, float* out, i64 N, i64 F, i64 threads) {
#pragma omp parallel for num_threads(threads)
  for (i64 n = 0; n < N; n++) swiglu_row(gate_up + n * 2 * F, gate_up + n * 2 * F + F, F, out + n * F);
}

EXPORT void swiglu_backward(const float* dout, const float* gate_up, float* dgate_up, i64 N, i64 F, i64 threads) {
#pragma omp parallel for num_threads(threads)
  for (i64 n = 0; n < N; n++) {
    const float *gate = gate_up + n * 2 * F, *up = gate + F, *d = dout + n * F;
    float *dgate = dgate_up + n * 2 * F, *dup = dgate + F;
    for (i64 f = 0; f < F; f++) {
      float s = sigmoid(gate[f]), silu = gate[f] * s;
      dup[f] = d[f] * silu;
      dgate[f] = d[f] * up[f] * (s + silu * (1 - s));
    }
  }
}
