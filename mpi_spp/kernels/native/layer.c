/* A layer, or a share of one, in one call or two: for one row the calls would take as long as the work. */
#include "native.h"

typedef struct {
  Matrix qkv, output, gate_up, down;
  const float *input_norm, *mlp_norm, *query_norm, *key_norm;
  index_t groups, heads, size; /* query heads of a group, numbers in a head */
  float norm_eps, head_eps, scale;
} Layer;

/* The two halves of a layer: hidden [tokens, hidden_size] in place, and the rest as rotate_and_store() and attend() have it.
 * keep: the half's outputs are added to hidden; else they take its place, since another rank adds them to it. Each
 * returns 0, or 1 when there is no memory. */

static void make_room(float *hidden, index_t count, int keep) {
  if (!keep) memset(hidden, 0, count * sizeof(float));
}

int run_attention(const Layer *layer, float *hidden, const float *cosines, const float *sines, const Cache *cache,
                  index_t tokens, index_t start, index_t window, int keep) {
  index_t groups = layer->groups, heads = layer->heads, size = layer->size, width = groups * heads * size;
  index_t hidden_size = layer->qkv.in, wide = layer->qkv.out;
  element *x = malloc(tokens * (hidden_size + wide + 2 * width) * sizeof(element));
  if (!x) return 1;
  element *inner = x + tokens * hidden_size, *queries = inner + tokens * wide, *attended = queries + tokens * width;
  rms_norm(hidden, layer->input_norm, x, tokens, hidden_size, layer->norm_eps);
  int failed = linear(&layer->qkv, x, inner, tokens, STORE_ELEMENTS);
  rotate_and_store(inner, cosines, sines, layer->query_norm, layer->key_norm, layer->head_eps, layer->scale, queries,
                   cache, tokens, groups, heads, size, start);
  failed |= attend(queries, cache, attended, tokens, groups, heads, size, start, window);
  make_room(hidden, tokens * hidden_size, keep);
  failed |= linear(&layer->output, attended, hidden, tokens, ADD_FLOAT32);
  free(x);
  return failed;
}

int run_mlp(const Layer *layer, float *hidden, index_t tokens, int keep) {
  index_t hidden_size = layer->gate_up.in;
  element *x = malloc(tokens * (hidden_size + layer->down.in) * sizeof(element));
  if (!x) return 1;
  element *inner = x + tokens * hidden_size;
  rms_norm(hidden, layer->mlp_norm, x, tokens, hidden_size, layer->norm_eps);
  int failed = linear(&layer->gate_up, x, inner, tokens, SILU_MUL);
  make_room(hidden, tokens * hidden_size, keep);
  failed |= linear(&layer->down, inner, hidden, tokens, ADD_FLOAT32);
  free(x);
  return failed;
}

/* Both halves. */
int run_layer(const Layer *layer, float *hidden, const float *cosines, const float *sines, const Cache *cache,
              index_t tokens, index_t start, index_t window) {
  return run_attention(layer, hidden, cosines, sines, cache, tokens, start, window, 1) ||
         run_mlp(layer, hidden, tokens, 1);
}
