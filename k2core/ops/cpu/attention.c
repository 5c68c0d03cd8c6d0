/* Causal attention of multi-head latent attention over whole sequences (`latent_attention`). Each thread takes one
   head of one sequence at a time: queries and keys are put together and rotated, the logits of a few queries live only
   in the cache, and the backward pass computes them again (FlashAttention, arXiv 2205.14135, without blocks of
   keys). */
#include "product.h"
#include "rows.h"

#define QUERIES (4 * ROWS)
#define BRANCH (1 << 20) /* as in k2core/ops/reach.py */

/* T queries [B, T, H, nope + rope], not rotated yet; of S keys what is the heads' own, with the values,
   [B, S, H, nope + value], and the rotated key that the heads share, [B, S, rope] with rows `shared_row` apart.
   `blocks` are the `count` (start, end, first, last) of k2core/ops/reach.py. Segments of queries [T] and keys [S] are
   NULL where a row is one segment. Cosines and sines [T, rope / 2] and segments are `_batch` apart for each sequence, 0
   if all have the same. */
typedef struct {
  const float *queries, *keys_values, *shared;
  i64 shared_row;
  const float *cos, *sin;
  i64 rotation_batch;
  const i64* blocks;
  const int32_t *query_segments, *key_segments;
  i64 query_batch, key_batch;
  i64 count, B, T, S, H, nope, rope, value;
  float scale;
} Inputs;

INLINE i64 key_width(const Inputs* in) { return in->nope + in->rope; }

/* Rows of a head lie far apart: ask for a later one in time. */
INLINE void fetch(const float* row, i64 n) {
  for (i64 i = 0; i < n; i += 16) __builtin_prefetch(row + i);
}

/* `rows` scaled and rotated queries from `start` on, [rows, nope + rope]; pairs' first members, then second ones. */
static void load_queries(const Inputs* in, i64 b, i64 h, i64 start, i64 rows, float* out) {
  i64 d = key_width(in), half = in->rope / 2;
  for (i64 t = start; t < start + rows; t++, out += d) {
    const float *q = in->queries + ((b * in->T + t) * in->H + h) * d, *pairs = q + in->nope;
    fetch(q + 8 * in->H * d, d);
    const float *cos = in->cos + b * in->rotation_batch + t * half, *sin = in->sin + b * in->rotation_batch + t * half;
    for (i64 i = 0; i < in->nope; i++) out[i] = q[i] * in->scale;
    turn_row(pairs, cos, sin, half, in->scale, out + in->nope);
  }
}

/* The backward of `load_queries`. */
static void store_query_gradients(const Inputs* in, i64 b, i64 h, i64 start, i64 rows, const float* g, float* out) {
  i64 d = key_width(in), half = in->rope / 2;
  for (i64 t = start; t < start + rows; t++, g += d) {
    float *q = out + ((b * in->T + t) * in->H + h) * d, *pairs = q + in->nope;
    const float *cos = in->cos + b * in->rotation_batch + t * half, *sin = in->sin + b * in->rotation_batch + t * half;
    for (i64 i = 0; i < in->nope; i++) q[i] = g[i] * in->scale;
    turn_back_row(g + in->nope, cos, sin, half, in->scale, pairs);
  }
}

/* All keys [S, nope + rope] and values [S, value] of a head. */
static void load_keys_values(const Inputs* in, i64 b, i64 h, float* keys, float* values) {
  i64 d = key_width(in);
  for (i64 s = 0; s < in->S; s++) {
    const float* own = in->keys_values + ((b * in->S + s) * in->H + h) * (in->nope + in->value);
    fetch(own + 8 * in->H * (in->nope + in->value), in->nope + in->value);
    memcpy(keys + s * d, own, in->nope * sizeof(float));
    memcpy(keys + s * d + in->nope, in->shared + (b * in->S + s) * in->shared_row, in->rope * sizeof(float));
    memcpy(values + s * in->value, own + in->nope, in->value * sizeof(float));
  }
}

/* Logits of `rows` queries with the keys `first` to `last`, -inf for those that are not seen: of a segment
   that is neither the query's own nor the one it branches from, or after the query, the last of which sees the last key
   and each one before it one key less. */
static void masked_logits(const Inputs* in, i64 b, i64 start, i64 rows, i64 first, i64 last, const float* queries,
                          const float* packed_keys, float* logits) {
  i64 d = key_width(in), n = last - first;
  product(rows, n, d, queries, d, 1, packed_keys + first * d, d * PANEL, PLAIN, logits, n);
  for (i64 i = 0; i < rows; i++) {
    float* restrict row = logits + i * n;
    i64 seen = n - rows + 1 + i;
    if (in->key_segments) {
      int32_t own = in->query_segments[b * in->query_batch + start + i], trunk = own % BRANCH;
      const int32_t* segments = in->key_segments + b * in->key_batch + first;
      for (i64 s = 0; s < seen; s++) row[s] = (segments[s] == own) | (segments[s] == trunk) ? row[s] : -INFINITY;
    }
    for (i64 s = seen; s < n; s++) row[s] = -INFINITY;
  }
}

/* The rows of `block` in pieces of at most QUERIES: piece `start` with `rows` sees the keys `first` to `last`
   only. The last query of a block sees the block's last key, and each one before it one key less. */
#define FOR_PIECES(in)                                                                                        \
  for (const i64* block = (in)->blocks; block < (in)->blocks + 4 * (in)->count; block += 4)                   \
    for (i64 start = block[0], rows, first, last; rows = least(block[1] - start, QUERIES),                    \
             first = block[2] / PANEL * PANEL, last = block[3] - (block[1] - start - rows), start < block[1]; \
         start += rows)

/* out [B, T, H, value]; log_sum [B, H, T] of each query's exponentials and the largest logit of each head, [B, H]. */
EXPORT void attention(const Inputs* in, float* out, float* log_sum, float* largest, i64 threads) {
  i64 d = key_width(in), S = in->S, width = in->value;
#pragma omp parallel for num_threads(threads) collapse(2)
  for (i64 b = 0; b < in->B; b++)
    for (i64 h = 0; h < in->H; h++) {
      float* keys = scratch(S * (d + width) + packed_size(d, S) + packed_size(S, width) + QUERIES * (d + S));
      float *values = keys + S * d, *packed_keys = values + S * width, *packed_values = packed_keys + packed_size(d, S);
      float *queries = packed_values + packed_size(S, width), *logits = queries + QUERIES * d;
      load_keys_values(in, b, h, keys, values);
      pack_transposed(keys, d, d, S, packed_keys);
      pack(values, width, S, width, packed_values);
      float top = -INFINITY;
      FOR_PIECES(in) {
        i64 n = last - first;
        load_queries(in, b, h, start, rows, queries);
        masked_logits(in, b, start, rows, first, last, queries, packed_keys, logits);
        for (i64 i = 0; i < rows; i++) {
          float *row = logits + i * n, most = largest_of(row, n);
          top = most > top ? most : top;
          log_sum[(b * in->H + h) * in->T + start + i] = softmax_row(row, n, most);
        }
        product(rows, width, n, logits, n, 1, packed_values + first * PANEL, S * PANEL, PLAIN,
                out + ((b * in->T + start) * in->H + h) * width, in->H * width);
      }
      largest[b * in->H + h] = top;
    }
}

/* Gradients laid out like the inputs; that of the shared key for each head, [B, H, S, rope]. */
EXPORT void attention_backward(const Inputs* in, const float* dout, const float* out, const float* log_sum,
                               float* dqueries, float* dkeys_values, float* dshared, i64 threads) {
  i64 d = key_width(in), S = in->S, width = in->value;
#pragma omp parallel for num_threads(threads) collapse(2)
  for (i64 b = 0; b < in->B; b++)
    for (i64 h = 0; h < in->H; h++) {
      float* keys = scratch(2 * S * (d + width) + packed_size(d, S) + packed_size(S, d) + packed_size(width, S) +
                            QUERIES * (2 * d + width + 2 * S) + packed_size(QUERIES, d) + packed_size(QUERIES, width));
      float *values = keys + S * d, *dkeys = values + S * width, *dvalues = dkeys + S * d;
      float *keys_across = dvalues + S * width, *keys_down = keys_across + packed_size(d, S);
      float *values_across = keys_down + packed_size(S, d), *queries = values_across + packed_size(width, S);
      float *dquery = queries + QUERIES * d, *g = dquery + QUERIES * d, *weights = g + QUERIES * width;
      float *dlogits = weights + QUERIES * S, *packed_queries = dlogits + QUERIES * S;
      float* packed_g = packed_queries + packed_size(QUERIES, d);
      load_keys_values(in, b, h, keys, values);
      pack_transposed(keys, d, d, S, keys_across);
      pack(keys, d, S, d, keys_down);
      pack_transposed(values, width, width, S, values_across);
      memset(dkeys, 0, S * (d + width) * sizeof(float));
      FOR_PIECES(in) {
        i64 n = last - first;
        load_queries(in, b, h, start, rows, queries);
        masked_logits(in, b, start, rows, first, last, queries, keys_across, weights);
        for (i64 i = 0; i < rows; i++)
          memcpy(g + i * width, dout + ((b * in->T + start + i) * in->H + h) * width, width * sizeof(float));
        product(rows, n, width, g, width, 1, values_across + first * width, width * PANEL, PLAIN, dlogits, n);
        for (i64 i = 0; i < rows; i++) {
          const float* o = out + ((b * in->T + start + i) * in->H + h) * width;
          float along = 0, sum = log_sum[(b * in->H + h) * in->T + start + i];
          for (i64 v = 0; v < width; v++) along += g[i * width + v] * o[v];
          float* restrict weight = weights + i * n, * restrict dlogit = dlogits + i * n;
          for (i64 s = 0; s < n; s++) {
            weight[s] = exp_(weight[s] - sum);
            dlogit[s] = weight[s] * (dlogit[s] - along);
          }
        }
        pack(g, width, rows, width, packed_g);
        product(n, width, rows, weights, 1, n, packed_g, rows * PANEL, (Sum){1, 1, dvalues + first * width},
                dvalues + first * width, width);
        pack(queries, d, rows, d, packed_queries);
        product(n, d, rows, dlogits, 1, n, packed_queries, rows * PANEL, (Sum){1, 1, dkeys + first * d},
                dkeys + first * d, d);
        product(rows, d, n, dlogits, n, 1, keys_down + first * PANEL, S * PANEL, PLAIN, dquery, d);
        store_query_gradients(in, b, h, start, rows, dquery, dqueries);
      }
      for (i64 s = 0; s < S; s++) {
        float* own = dkeys_values + ((b * S + s) * in->H + h) * (in->nope + width);
        memcpy(own, dkeys + s * d, in->nope * sizeof(float));
        memcpy(own + in->nope, dvalues + s * width, width * sizeof(float));
        memcpy(dshared + ((b * in->H + h) * S + s) * in->rope, dkeys + s * d + in->nope, in->rope * sizeof(float));
      }
    }
}
