/* How attention reads the cache: lines of 32 numbers in bfloat16, two of them interleaved as the products want them. Codes
 * become numbers on the way, so that what follows does not know them. */
#pragma once
#include "native.h"

/* `count` positions of one group from one on. */
typedef struct {
  const char *keys, *values;              /* bfloat16, or codes where there are scales */
  const float *key_scales, *value_scales; /* [count], or NULL */
  index_t size, capacity, count;
} Segment;

static inline Segment segment_of(const Cache *cache, index_t size, index_t group, index_t from, index_t count) {
  index_t row = group * cache->capacity + from, bytes = cache->key_scales ? 1 : sizeof(bfloat16);
  const char *keys = (const char *)cache->keys + (group * size * cache->capacity + from) * bytes;
  const char *values = (const char *)cache->values + row * size * bytes;
  const float *key_scales = cache->key_scales ? cache->key_scales + row : NULL;
  const float *value_scales = cache->value_scales ? cache->value_scales + row : NULL;
  return (Segment){keys, values, key_scales, value_scales, size, cache->capacity, count};
}

/* A line of PANEL numbers in bfloat16, from number `at` of `from` on, zeros beyond `count`. */
INLINE __m512i line_of(const char *from, index_t at, index_t count) {
  __mmask32 mask = count >= PANEL ? 0xffffffffu : (1u << count) - 1;
  return _mm512_maskz_loadu_epi16(mask, (const bfloat16 *)from + at);
}

/* The same of codes times their scales, which are those of 16 and 16 numbers. */
INLINE __m512i line_of_codes(const char *from, index_t at, index_t count, __m512 left, __m512 right) {
  __mmask32 mask = count >= PANEL ? 0xffffffffu : (1u << count) - 1;
  __m256i codes = _mm256_maskz_loadu_epi8(mask, from + at);
  __m512 low = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm256_castsi256_si128(codes)));
  __m512 high = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm256_extracti128_si256(codes, 1)));
  return (__m512i)_mm512_cvtne2ps_pbh(_mm512_mul_ps(high, right), _mm512_mul_ps(low, left));
}

/* Number d of the keys from position `at` of the segment on. */
INLINE __m512i key_line(const Segment *segment, index_t d, index_t at) {
  index_t first = d * segment->capacity + at, count = segment->count - at;
  if (!segment->key_scales) return line_of(segment->keys, first, count);
  const float *scales = segment->key_scales + at;
  __m512 left = _mm512_maskz_loadu_ps(lanes(count), scales);
  return line_of_codes(segment->keys, first, count, left, _mm512_maskz_loadu_ps(lanes(count - 16), scales + 16));
}

INLINE void prefetch_key(const Segment *segment, index_t d, index_t at) {
  index_t bytes = segment->key_scales ? 1 : sizeof(bfloat16);
  _mm_prefetch(segment->keys + (d * segment->capacity + at) * bytes, _MM_HINT_T0);
}

/* The value at position `at` of the segment, from its number d on; zeros beyond the last position. */
INLINE __m512i value_line(const Segment *segment, index_t at, index_t d) {
  index_t size = segment->size;
  if (at >= segment->count) return _mm512_setzero_si512();
  if (!segment->value_scales) return line_of(segment->values, at * size + d, size - d);
  __m512 scale = _mm512_set1_ps(segment->value_scales[at]);
  return line_of_codes(segment->values, at * size + d, size - d, scale, scale);
}

/* Interleaves two lines: to [PANEL, 2]. */
INLINE void interleave(__m512i even, __m512i odd, __m512i to[2]) {
  __m512i low = _mm512_unpacklo_epi16(even, odd), high = _mm512_unpackhi_epi16(even, odd);
  __m512i order = _mm512_set_epi64(11, 10, 3, 2, 9, 8, 1, 0);
  to[0] = _mm512_permutex2var_epi64(low, order, high);
  order = _mm512_set_epi64(15, 14, 7, 6, 13, 12, 5, 4);
  to[1] = _mm512_permutex2var_epi64(low, order, high);
}

INLINE void pack(__m512i even, __m512i odd, bfloat16 *to) {
  __m512i pairs[2];
  interleave(even, odd, pairs);
  _mm512_storeu_si512(to, pairs[0]);
  _mm512_storeu_si512(to + PANEL, pairs[1]);
}

/* The keys as panels [SEGMENT / PANEL, size / 2, PANEL, 2]. */
static inline void pack_keys(const Segment *segment, bfloat16 *to) {
  index_t size = segment->size;
  for (index_t d = 0; d < size; d += 2)
    for (index_t at = 0; at < segment->count; at += PANEL)
      pack(key_line(segment, d, at), key_line(segment, d + 1, at), to + at * size + d * PANEL);
}

/* The values as panels [width / PANEL, pairs of positions, PANEL, 2]. */
static inline void pack_values(const Segment *segment, bfloat16 *to) {
  index_t pairs = parts_of(segment->count, 2);
  for (index_t at = 0; at < segment->count; at += 2)
    for (index_t d = 0; d < segment->size; d += PANEL)
      pack(value_line(segment, at, d), value_line(segment, at + 1, d), to + d * pairs * 2 + at * PANEL);
}
