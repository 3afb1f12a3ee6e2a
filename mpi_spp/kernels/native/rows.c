/* What happens to each row between the products: normalisation and rotation, one pass over memory each. */
#include "cache.h"

enum { FEW_ROWS = MOST_REGISTER_ROWS }; /* so few are done sooner than other threads wake up */

typedef struct {
  const float *x, *weight;
  element *y;
  index_t size;
  float eps;
} Norm;

static void norm_rows(void *of, index_t first, index_t stop) {
  const Norm *norm = of;
  const float *weight = norm->weight;
  element *y = norm->y;
  index_t size = norm->size;
  for (index_t row = first; row < stop; row++) {
    const float *from = norm->x + row * size;
    floats squares = zeros();
    for (index_t i = 0; i < size; i += 16) {
      floats values = load_first(from + i, size - i);
      squares = multiply_add(values, values, squares);
    }
    floats factor = all(1.0f / sqrtf(sum_of(squares) / (float)size + norm->eps));
    for (index_t i = 0; i < size; i += 16) {
      floats values = multiply(load_first(from + i, size - i), factor);
      store_elements(y + row * size + i, multiply(values, load_first(weight + i, size - i)), size - i);
    }
  }
}

/* y = weight * x / sqrt(mean(x^2) + eps): x [rows, size] in float32, y in elements. */
void rms_norm(const float *x, const float *weight, element *y, index_t rows, index_t size, float eps) {
  Norm norm = {x, weight, y, size, eps};
  share_out(norm_rows, &norm, rows, rows > FEW_ROWS);
}

/* The angles of a token, and what is done with one kind of head. */
typedef struct {
  const float *cosines, *sines; /* [size]; the sines signed */
  const float *norm;            /* [size], or NULL */
  float eps, scale;
} Rotation;

INLINE float inverse_rms(const element *x, index_t size, float eps) {
  floats squares = zeros();
  for (index_t i = 0; i < size; i += 16) {
    floats part = load_elements(x + i, size - i);
    squares = multiply_add(part, part, squares);
  }
  return 1.0f / sqrtf(sum_of(squares) / (float)size + eps);
}

/* One head [size]: normalised if it has a norm, rotated, scaled, in float32. */
static void rotate(const element *x, Rotation by, float *y, index_t size) {
  index_t half = size / 2;
  floats factor = all(by.norm ? inverse_rms(x, size, by.eps) : 1.0f), scale = all(by.scale);
  for (index_t i = 0; i < half; i += 16) {
    floats parts[2], rotated[2];
    for (int h = 0; h < 2; h++) {
      parts[h] = load_elements(x + i + h * half, half - i);
      if (by.norm) parts[h] = multiply(parts[h], multiply(factor, load_first(by.norm + i + h * half, half - i)));
    }
    for (int h = 0; h < 2; h++) {
      floats cosine = load_first(by.cosines + i + h * half, half - i);
      floats sine = load_first(by.sines + i + h * half, half - i);
      rotated[h] = multiply_add(parts[h], cosine, multiply(parts[1 - h], sine));
      store_first(y + i + h * half, multiply(rotated[h], scale), half - i);
    }
  }
}

/* Codes of x [size], of which the largest magnitude is 127; returns their scale, 0 for zeros. */
static float quantize(const float *x, int8_t *codes, index_t size) {
  floats most = zeros(); /* by their bits, where a NaN is above all: it shows */
  for (index_t i = 0; i < size; i += 16) most = larger_bits(most, magnitude(load_first(x + i, size - i)));
  float scale = largest_by_bits(most) / 127.0f;
  floats divisor = all(scale == 0.0f ? 1.0f : scale), end = all(127.0f);
  for (index_t i = 0; i < size; i += 16) {
    floats values = divide(load_first(x + i, size - i), divisor);
    values = maximum(minimum(values, end), subtract(zeros(), end)); /* few bits of scale */
    store_codes(codes + i, values, size - i);
  }
  return scale;
}

/* A key [size] becomes a lane of its panel. */
static void store_key(const Cache *cache, index_t group, index_t position, const float *key, index_t size) {
  index_t lane = group * keys_size(cache, size) + position / PANEL * PANEL * size + position % PANEL * PAIR;
  if (cache->key_scales) {
    int8_t codes[size], *pairs = (int8_t *)cache->keys + lane;
    cache->key_scales[group * cache->capacity + position] = quantize(key, codes, size);
    for (index_t i = 0; i < size; i += PAIR) memcpy(pairs + i * PANEL, codes + i, PAIR);
  } else {
    element numbers[size], *pairs = (element *)cache->keys + lane;
    for (index_t i = 0; i < size; i += 16)
      store_elements(numbers + i, load_first(key + i, size - i), size - i);
    for (index_t i = 0; i < size; i += PAIR) memcpy(pairs + i * PANEL, numbers + i, PAIR * sizeof(element));
  }
}

/* A value [size] becomes a row. */
static void store_value(const Cache *cache, index_t group, index_t position, const element *value, index_t size) {
  index_t row = group * cache->capacity + position;
  if (cache->value_scales) {
    float values[size];
    for (index_t i = 0; i < size; i += 16) store_first(values + i, load_elements(value + i, size - i), size - i);
    cache->value_scales[row] = quantize(values, (int8_t *)cache->values + row * size, size);
  } else {
    memcpy((element *)cache->values + row * size, value, size * sizeof(element));
  }
}

/* What rotate_and_store() was given. */
typedef struct {
  const Heads *heads;
  const element *qkv;
  const Batch *batch;
  index_t layer;
  element *queries;
} Rows;

/* What one token gives one group; `row`: that of the batch in which its span begins. */
static void rotate_token(const Rows *rows, const Span *span, index_t row, index_t token, index_t group) {
  const Heads *shape = rows->heads;
  const Cache *cache = span->caches + rows->layer;
  index_t groups = shape->groups, heads = shape->heads, size = shape->size, position = span->start + token;
  const element *from = rows->qkv + (row + token) * groups * (heads + 2) * size;
  const float *cosines = rows->batch->cosines + (row + token) * size, *sines = rows->batch->sines + (row + token) * size;
  Rotation query = {cosines, sines, shape->query_norm, shape->eps, shape->scale};
  Rotation key = {cosines, sines, shape->key_norm, shape->eps, 1.0f};
  float rotated[size];
  for (index_t head = 0; head < heads; head++) {
    rotate(from + (group * heads + head) * size, query, rotated, size);
    element *to = rows->queries + (row * groups * heads + (group * span->tokens + token) * heads + head) * size;
    for (index_t i = 0; i < size; i += 16) store_elements(to + i, load_first(rotated + i, size - i), size - i);
  }
  rotate(from + groups * heads * size + group * size, key, rotated, size);
  store_key(cache, group, position, rotated, size);
  store_value(cache, group, position, from + (groups * (heads + 1) + group) * size, size);
}

/* Items [first, stop) of those of all spans: a group of a block of PANEL tokens, whose keys lie in one panel or two. */
static void rotate_blocks(void *of, index_t first, index_t stop) {
  const Rows *rows = of;
  index_t item = 0, row = 0;
  for (const Span *span = rows->batch->spans; item < stop; row += span++->tokens)
    for (index_t at = 0; at < span->tokens; at += PANEL)
      for (index_t group = 0; group < rows->heads->groups; group++, item++) {
        if (item < first || item >= stop) continue;
        for (index_t token = at; token < smaller(at + PANEL, span->tokens); token++)
          rotate_token(rows, span, row, token, group);
      }
}

/* Takes rows of queries, keys and values apart: qkv [tokens, groups * heads + 2 * groups, size]. Rotated and scaled
 * queries go to [groups, tokens, heads, size] of each span; rotated keys and values to its cache of this layer. */
void rotate_and_store(const Heads *heads, const element *qkv, const Batch *batch, index_t layer, element *queries) {
  Rows rows = {heads, qkv, batch, layer, queries};
  index_t blocks = 0;
  for (index_t i = 0; i < batch->count; i++) blocks += parts_of(batch->spans[i].tokens, PANEL);
  share_out(rotate_blocks, &rows, blocks * heads->groups, is_in_team() || batch->tokens > FEW_ROWS);
}
