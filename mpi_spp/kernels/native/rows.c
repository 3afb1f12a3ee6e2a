/* What happens to each row between the products: normalisation and rotation, one pass over memory each. */
#include "cache.h"

enum { FEW_ROWS = 12 }; /* so few are done sooner than other threads wake up */

/* y = weight * x / sqrt(mean(x^2) + eps): x [rows, size] in float32, y in bfloat16. */
void rms_norm(const float *x, const float *weight, bfloat16 *y, index_t rows, index_t size, float eps) {
#pragma omp parallel for schedule(static) if (rows > FEW_ROWS)
  for (index_t row = 0; row < rows; row++) {
    const float *from = x + row * size;
    __m512 squares = _mm512_setzero_ps();
    for (index_t i = 0; i < size; i += 16) {
      __m512 values = _mm512_maskz_loadu_ps(lanes(size - i), from + i);
      squares = _mm512_fmadd_ps(values, values, squares);
    }
    __m512 factor = _mm512_set1_ps(1.0f / sqrtf(_mm512_reduce_add_ps(squares) / (float)size + eps));
    for (index_t i = 0; i < size; i += 16) {
      __mmask16 mask = lanes(size - i);
      __m512 values = _mm512_mul_ps(_mm512_maskz_loadu_ps(mask, from + i), factor);
      store_bfloat16(y + row * size + i, mask, _mm512_mul_ps(values, _mm512_maskz_loadu_ps(mask, weight + i)));
    }
  }
}

/* The angles of a token, and what is done with one kind of head. */
typedef struct {
  const float *cosines, *sines; /* [size]; the sines signed */
  const float *norm;            /* [size], or NULL */
  float eps, scale;
} Rotation;

INLINE float inverse_rms(const bfloat16 *x, index_t size, float eps) {
  __m512 squares = _mm512_setzero_ps();
  for (index_t i = 0; i < size; i += 16) {
    __m512 part = load_bfloat16(x + i, lanes(size - i));
    squares = _mm512_fmadd_ps(part, part, squares);
  }
  return 1.0f / sqrtf(_mm512_reduce_add_ps(squares) / (float)size + eps);
}

/* One head [size] in bfloat16: normalised if it has a norm, rotated, scaled, in float32. */
static void rotate(const bfloat16 *x, Rotation by, float *y, index_t size) {
  index_t half = size / 2;
  __m512 factor = _mm512_set1_ps(by.norm ? inverse_rms(x, size, by.eps) : 1.0f), scale = _mm512_set1_ps(by.scale);
  for (index_t i = 0; i < half; i += 16) {
    __mmask16 mask = lanes(half - i);
    __m512 parts[2], rotated[2];
    for (int h = 0; h < 2; h++) {
      parts[h] = load_bfloat16(x + i + h * half, mask);
      if (by.norm)
        parts[h] = _mm512_mul_ps(parts[h], _mm512_mul_ps(factor, _mm512_maskz_loadu_ps(mask, by.norm + i + h * half)));
    }
    for (int h = 0; h < 2; h++) {
      __m512 cosine = _mm512_maskz_loadu_ps(mask, by.cosines + i + h * half);
      __m512 sine = _mm512_maskz_loadu_ps(mask, by.sines + i + h * half);
      rotated[h] = _mm512_fmadd_ps(parts[h], cosine, _mm512_mul_ps(parts[1 - h], sine));
      _mm512_mask_storeu_ps(y + i + h * half, mask, _mm512_mul_ps(rotated[h], scale));
    }
  }
}

/* Codes of x [size], of which the largest magnitude is 127; returns their scale, 0 for zeros. */
static float quantize(const float *x, int8_t *codes, index_t size) {
  __m512i most = _mm512_setzero_si512(); /* magnitudes order as their bits do, and a NaN is above all: it shows */
  for (index_t i = 0; i < size; i += 16)
    most = _mm512_max_epi32(most, _mm512_castps_si512(_mm512_abs_ps(_mm512_maskz_loadu_ps(lanes(size - i), x + i))));
  int bits = _mm512_reduce_max_epi32(most);
  float largest;
  memcpy(&largest, &bits, 4);
  float scale = largest / 127.0f;
  __m512 divisor = _mm512_set1_ps(scale == 0.0f ? 1.0f : scale), end = _mm512_set1_ps(127.0f);
  for (index_t i = 0; i < size; i += 16) {
    __m512 values = _mm512_div_ps(_mm512_maskz_loadu_ps(lanes(size - i), x + i), divisor);
    values = _mm512_max_ps(_mm512_min_ps(values, end), _mm512_sub_ps(_mm512_setzero_ps(), end)); /* few bits of scale */
    _mm_mask_storeu_epi8(codes + i, lanes(size - i), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(values)));
  }
  return scale;
}

/* A key [size] becomes a lane of its panel, [size / 2, 2]. */
static void store_key(const Cache *cache, index_t group, index_t position, const float *key, index_t size) {
  index_t lane = group * keys_size(cache, size) + position / PANEL * PANEL * size + position % PANEL * 2;
  if (cache->key_scales) {
    int8_t codes[size], *pairs = (int8_t *)cache->keys + lane;
    cache->key_scales[group * cache->capacity + position] = quantize(key, codes, size);
    for (index_t i = 0; i < size; i += 2) memcpy(pairs + i * PANEL, codes + i, 2);
  } else {
    bfloat16 numbers[size], *pairs = (bfloat16 *)cache->keys + lane;
    for (index_t i = 0; i < size; i += 16)
      store_bfloat16(numbers + i, lanes(size - i), _mm512_maskz_loadu_ps(lanes(size - i), key + i));
    for (index_t i = 0; i < size; i += 2) memcpy(pairs + i * PANEL, numbers + i, 4);
  }
}

/* A value [size] becomes a row. */
static void store_value(const Cache *cache, index_t group, index_t position, const bfloat16 *value, index_t size) {
  index_t row = group * cache->capacity + position;
  if (cache->value_scales) {
    float values[size];
    for (index_t i = 0; i < size; i++) values[i] = from_bfloat16(value[i]);
    cache->value_scales[row] = quantize(values, (int8_t *)cache->values + row * size, size);
  } else {
    memcpy((bfloat16 *)cache->values + row * size, value, size * sizeof(bfloat16));
  }
}

/* Takes rows of queries, keys and values apart: qkv [tokens, groups * heads + 2 * groups, size]. Rotated and scaled
 * queries go to [groups, tokens, heads, size]; rotated keys and values to the cache, from position `start` on. cosines
 * and signed sines are [tokens, size]. */
void rotate_and_store(const bfloat16 *qkv, const float *cosines, const float *sines, const float *query_norm,
                      const float *key_norm, float eps, float scale, bfloat16 *queries, const Cache *cache,
                      index_t tokens, index_t groups, index_t heads, index_t size, index_t start) {
#pragma omp parallel for schedule(static) if (tokens > FEW_ROWS)
  for (index_t first = 0; first < tokens; first += PANEL)
    for (index_t group = 0; group < groups; group++) /* the keys of some tokens lie in one panel or two */
      for (index_t token = first; token < smaller(first + PANEL, tokens); token++) {
        const bfloat16 *from = qkv + token * groups * (heads + 2) * size;
        Rotation query = {cosines + token * size, sines + token * size, query_norm, eps, scale};
        Rotation key = {query.cosines, query.sines, key_norm, eps, 1.0f};
        float rotated[size];
        for (index_t head = 0; head < heads; head++) {
          rotate(from + (group * heads + head) * size, query, rotated, size);
          bfloat16 *to = queries + ((group * tokens + token) * heads + head) * size;
          for (index_t i = 0; i < size; i += 16)
            store_bfloat16(to + i, lanes(size - i), _mm512_maskz_loadu_ps(lanes(size - i), rotated + i));
        }
        rotate(from + groups * heads * size + group * size, key, rotated, size);
        store_key(cache, group, start + token, rotated, size);
        store_value(cache, group, start + token, from + (groups * (heads + 1) + group) * size, size);
      }
}
