/* A whole layer in one call: for one row the calls would take as long as the work. */
#include "native.h"

typedef struct {
  Matrix qkv, output, gate_up, down;
  const float *input_norm, *mlp_norm, *query_norm, *key_norm;
  index_t groups, heads, size; /* query heads of a group, numbers in a head */
  float norm_eps, head_eps, scale;
} Layer;

/* hidden [tokens, hidden_size] in place; the rest as rotate_and_store() and attend() have it. Returns 0, or 1 when there
 * is no memory. */
int run_layer(const Layer *layer, float *hidden, const float *cosines, const float *sines, const Cache *cache,
              index_t tokens, index_t start, index_t window) {
  index_t groups = layer->groups, heads = layer->heads, size = layer->size, width = groups * heads * size;
  index_t hidden_size = layer->qkv.in, wide = larger(layer->qkv.out, layer->down.in);
  bfloat16 *x = malloc(tokens * (hidden_size + wide + 2 * width) * sizeof(bfloat16));
  if (!x) return 1;
  bfloat16 *inner = x + tokens * hidden_size, *queries = inner + tokens * wide, *attended = queries + tokens * width;
  rms_norm(hidden, layer->input_norm, x, tokens, hidden_size, layer->norm_eps);
  int failed = linear(&layer->qkv, x, inner, tokens, STORE_BFLOAT16);
  rotate_and_store(inner, cosines, sines, layer->query_norm, layer->key_norm, layer->head_eps, layer->scale, queries,
                   cache, tokens, groups, heads, size, start);
  failed |= attend(queries, cache, attended, tokens, groups, heads, size, start, window);
  failed |= linear(&layer->output, attended, hidden, tokens, ADD_FLOAT32);
  rms_norm(hidden, layer->mlp_norm, x, tokens, hidden_size, layer->norm_eps);
  failed |= linear(&layer->gate_up, x, inner, tokens, SILU_MUL);
  failed |= linear(&layer->down, inner, hidden, tokens, ADD_FLOAT32);
  free(x);
  return failed;
}
