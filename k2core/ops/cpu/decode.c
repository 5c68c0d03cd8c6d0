/* One decoding step: a token of each of B sequences through the whole model (`decode` of k2core/model/transformer.py).

   Threads share the sequences; only the experts are shared out by expert, so that each weight is read once. All weights
   were packed beforehand (decoding.py). */
#include <omp.h>

#include "experts.h"
#include "product.h"
#include "rows.h"

typedef struct {
  i64 D, H, nope, rope, value, rank, q_rank, V, layers, E, K, F;
  float scale, eps, latent_eps, routed_scaling;
} Shape;

/* Packed matrices are named by what they make; those of all heads or experts lie one behind the other. */
typedef struct {
  const float *attention_norm, *latents; /* [D] → query latent, key latent, shared key */
  const float *query_norm, *queries, *key_norm;
  const float* absorb; /* of each head [nope] → [rank] */
  const float* values; /* of each head [rank] → [value] */
  const float* output;
  const float *feed_forward_norm, *gate_up, *down; /* of a dense layer, or of the shared experts */
  i64 width;
  const float *router, *bias, *expert_gate_up, *expert_down; /* NULL in a dense layer */
  float* cache;                                              /* [B, slots, rank + rope] */
} Layer;

static void norm(const float* x, i64 x_row, i64 rows, i64 D, const float* weight, float eps, float* out) {
  for (i64 n = 0; n < rows; n++) norm_row(x + n * x_row, weight, D, eps, out + n * D);
}

/* out [rows, D] = base (if any) + down(silu(gate) · up); `inner` has room for 3 · width per row. */
static void feed_forward(const float* x, i64 rows, i64 D, i64 width, const float* gate_up, const float* down,
                         const float* base, float* inner, float* out) {
  float* active = inner + rows * 2 * width;
  product(rows, 2 * width, D, x, D, 1, gate_up, D * PANEL, PLAIN, inner, 2 * width);
  for (i64 n = 0; n < rows; n++)
    swiglu_row(inner + n * 2 * width, inner + n * 2 * width + width, width, active + n * width);
  product(rows, D, width, active, width, 1, down, width * PANEL, (Sum){1, 1, base}, out, D);
}

/* The new tokens' latents and shared keys into the cache, and attention over it added to x [rows, D]. */
static void attend(const Shape* m, const Layer* layer, const i64* lengths, i64 slots, const float* cos,
                   const float* sin, i64 rows, i64 longest, float* x, float* memory) {
  i64 d = m->nope + m->rope, C = m->rank + m->rope, H = m->H, half = m->rope / 2, wide = m->q_rank + C;
  float *normed = memory, *latents = normed + rows * m->D, *query_latent = latents + rows * wide;
  float *queries = query_latent + rows * m->q_rank, *absorbed = queries + rows * H * d,
        *context = absorbed + rows * H * C;
  float *out = context + rows * H * m->rank, *logits = out + rows * H * m->value;
  float *packed = logits + H * longest, *packed_rows = packed + packed_size(C, longest);
  norm(x, m->D, rows, m->D, layer->attention_norm, m->eps, normed);
  product(rows, wide, m->D, normed, m->D, 1, layer->latents, m->D * PANEL, PLAIN, latents, wide);
  norm(latents, wide, rows, m->q_rank, layer->query_norm, m->latent_eps, query_latent);
  product(rows, H * d, m->q_rank, query_latent, m->q_rank, 1, layer->queries, m->q_rank * PANEL, (Sum){m->scale, 0, 0},
          queries, H * d);
  for (i64 h = 0; h < H; h++)
    product(rows, m->rank, m->nope, queries + h * d, H * d, 1, layer->absorb + h * packed_size(m->nope, m->rank),
            m->nope * PANEL, PLAIN, absorbed + h * C, H * C);
  for (i64 b = 0; b < rows; b++) {
    float *cache = layer->cache + b * slots * C, *own = cache + lengths[b] * C;
    const float* made = latents + b * wide + m->q_rank;
    i64 S = lengths[b] + 1;
    norm_row(made, layer->key_norm, m->rank, m->latent_eps, own);
    turn_row(made + m->rank, cos + b * half, sin + b * half, half, 1, own + m->rank);
    for (i64 h = 0; h < H; h++)
      turn_row(queries + (b * H + h) * d + m->nope, cos + b * half, sin + b * half, half, 1,
               absorbed + (b * H + h) * C + m->rank);
    pack(cache, C, S, m->rank, packed_rows);  // first, and in order: it brings the cache's rows near
    pack_transposed(cache, C, C, S, packed);
    product(H, S, C, absorbed + b * H * C, C, 1, packed, C * PANEL, PLAIN, logits, S);
    for (i64 h = 0; h < H; h++) softmax_row(logits + h * S, S, largest_of(logits + h * S, S));
    product(H, m->rank, S, logits, S, 1, packed_rows, S * PANEL, PLAIN, context + b * H * m->rank, m->rank);
  }
  for (i64 h = 0; h < H; h++)
    product(rows, m->value, m->rank, context + h * m->rank, H * m->rank, 1,
            layer->values + h * packed_size(m->rank, m->value), m->rank * PANEL, PLAIN, out + h * m->value,
            H * m->value);
  product(rows, m->D, H * m->value, out, H * m->value, 1, layer->output, H * m->value * PANEL, (Sum){1, 1, x}, x, m->D);
}

/* Each row's K experts and their weights (k2core/model/router.py). */
static void route(const Shape* m, const Layer* layer, const float* x, i64 rows, i64* chosen, float* weights,
                  float* scores) {
  product(rows, m->E, m->D, x, m->D, 1, layer->router, m->D * PANEL, PLAIN, scores, m->E);
  for (i64 n = 0; n < rows; n++, scores += m->E, chosen += m->K, weights += m->K) {
    float sum = 0;
    for (i64 e = 0; e < m->E; e++) scores[e] = sigmoid(scores[e]);
    for (i64 k = 0; k < m->K; k++) {
      i64 best = -1;
      for (i64 e = 0; e < m->E; e++) {
        int taken = 0;
        for (i64 j = 0; j < k; j++) taken |= chosen[j] == e;
        if (!taken && (best < 0 || scores[e] + layer->bias[e] > scores[best] + layer->bias[best])) best = e;
      }
      chosen[k] = best;
      sum += weights[k] = scores[best];
    }
    for (i64 k = 0; k < m->K; k++) weights[k] *= m->routed_scaling / (sum + 1e-20f);
  }
}

/* logits [B, V] after `tokens` [B], which enter the caches at `lengths` [B]; cosines and sines [B, rope / 2]. */
EXPORT void decode(const Shape* m, const Layer* layers, const float* embedding, const float* final_norm,
                   const float* head, const i64* tokens, const i64* lengths, i64 slots, const float* cos,
                   const float* sin, i64 B, float* logits, i64 threads) {
  i64 D = m->D, visits = B * m->K, longest = 0, widest = m->F;
  for (i64 b = 0; b < B; b++) longest = lengths[b] >= longest ? lengths[b] + 1 : longest;
  for (i64 l = 0; l < m->layers; l++) widest = layers[l].width > widest ? layers[l].width : widest;
  float *x = malloc((2 * B * D + visits * (D + 1)) * sizeof(float)), *normed = x + B * D, *made = normed + B * D;
  float* weights = made + visits * D;
  i64 *chosen = malloc((3 * visits + m->E) * sizeof(i64)), *place = chosen + visits, *token = place + visits;
  int32_t* ends = (int32_t*)(token + visits);
  if (!x || !chosen) give_up((2 * B * D + visits * D) * sizeof(float));
#pragma omp parallel num_threads(threads)
  {
    i64 share = (B + omp_get_num_threads() - 1) / omp_get_num_threads(), first = least(omp_get_thread_num() * share, B);
    i64 rows = least(B - first, share), C = m->rank + m->rope, d = m->nope + m->rope;
    i64 attention = share * (D + 2 * m->q_rank + C + m->H * (d + C + m->rank + m->value)) + m->H * longest +
                    packed_size(longest, m->rank) + packed_size(C, longest);
    i64 inner = visits * (3 * widest + D) + B * (3 * widest + m->E);
    float* memory = scratch(attention > inner ? attention : inner);
    for (i64 b = first; b < first + rows; b++) memcpy(x + b * D, embedding + tokens[b] * D, D * sizeof(float));
    for (i64 l = 0; l < m->layers; l++) {
      Layer layer = layers[l];
      float *mine = x + first * D, *mine_normed = normed + first * D;
      layer.cache += first * slots * C;
      attend(m, &layer, lengths + first, slots, cos + first * m->rope / 2, sin + first * m->rope / 2, rows, longest,
             mine, memory);
      norm(mine, D, rows, D, layer.feed_forward_norm, m->eps, mine_normed);
      feed_forward(mine_normed, rows, D, layer.width, layer.gate_up, layer.down, mine, memory, mine);
      if (!layer.router) continue;
      route(m, &layer, mine_normed, rows, chosen + first * m->K, weights + first * m->K, memory);
#pragma omp barrier
#pragma omp single
      sort_visits(chosen, B, m->K, m->E, place, token, ends, 1);
#pragma omp for schedule(dynamic)
      for (i64 e = 0; e < m->E; e++) {
        i64 start = e ? ends[e - 1] : 0, count = ends[e] - start;
        float *gathered = memory + count * 3 * m->F, *to = made + start * D;
        for (i64 i = 0; i < count; i++) memcpy(gathered + i * D, normed + token[start + i] * D, D * sizeof(float));
        feed_forward(gathered, count, D, m->F, layer.expert_gate_up + e * packed_size(D, 2 * m->F),
                     layer.expert_down + e * packed_size(m->F, D), NULL, memory, to);
      }
      for (i64 b = first; b < first + rows; b++)
        for (i64 k = 0; k < m->K; k++) {
          const float* row = made + place[b * m->K + k] * D;
          float weight = weights[b * m->K + k];
          for (i64 i = 0; i < D; i++) x[b * D + i] += weight * row[i];
        }
    }
    norm(x + first * D, D, rows, D, final_norm, m->eps, normed + first * D);
    product(rows, m->V, D, normed + first * D, D, 1, head, D * PANEL, PLAIN, logits + first * m->V, m->V);
  }
  free(x);
  free(chosen);
}

/* `pack_stack` for weights that are used again and again. */
EXPORT void pack_weights(const float* W, i64 count, i64 K, i64 N, i64 across, float* packed, i64 threads) {
#pragma omp parallel num_threads(threads)
  pack_stack(W, count, K, N, across, packed);
}

/* Floats that one packed matrix takes. */
EXPORT i64 packed_floats(i64 K, i64 N) { return packed_size(K, N); }
