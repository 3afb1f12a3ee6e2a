/* How attention reads the cache. Keys lie in panels, which the products take as they are; values in lines of 32 numbers in
 * bfloat16, two of them interleaved as the products want them. Codes become numbers on the way, so that what follows does
 * not know them. */
#pragma once
#include "native.h"

/* `count` positions of one group, from a multiple of PANEL on. */
typedef struct {
  const char *keys, *values;              /* bfloat16, or codes where there are scales */
  const float *key_scales, *value_scales; /* [count], or NULL */
  index_t size, count;
} Segment;

/* The numbers in the key panels of one group. */
INLINE index_t keys_size(const Cache *cache, index_t size) { return parts_of(cache->capacity, PANEL) * PANEL * size; }

static inline Segment segment_of(const Cache *cache, index_t size, index_t group, index_t from, index_t count) {
  index_t row = group * cache->capacity + from, bytes = cache->key_scales ? 1 : sizeof(bfloat16);
  const char *keys = (const char *)cache->keys + (group * keys_size(cache, size) + from * size) * bytes;
  const char *values = (const char *)cache->values + row * size * bytes;
  const float *key_scales = cache->key_scales ? cache->key_scales + row : NULL;
  const float *value_scales = cache->value_scales ? cache->value_scales + row : NULL;
  return (Segment){keys, values, key_scales, value_scales, size, count};
}

/* PANEL codes times their scales, which are those of 16 and 16 of them. */
INLINE __m512i numbers_of(__m256i codes, __m512 left, __m512 right) {
  __m512 low = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm256_castsi256_si128(codes)));
  __m512 high = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm256_extracti128_si256(codes, 1)));
  return (__m512i)_mm512_cvtne2ps_pbh(_mm512_mul_ps(high, right), _mm512_mul_ps(low, left));
}

/* Scales of PANEL keys, each twice: for pairs of their numbers. Those beyond the last position are 0. */
INLINE void paired_scales(const Segment *segment, index_t at, __m512 to[4]) {
  for (int half = 0; half < 2; half++) {
    __m512 scales = _mm512_maskz_loadu_ps(lanes(segment->count - at - 16 * half), segment->key_scales + at + 16 * half);
    __m512i order = _mm512_set_epi32(7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
    to[2 * half] = _mm512_permutexvar_ps(order, scales);
    to[2 * half + 1] = _mm512_permutexvar_ps(_mm512_add_epi32(order, _mm512_set1_epi32(8)), scales);
  }
}

/* The keys from position `at` of the segment on, [size / 2, PANEL, 2]: where they lie, or numbers of codes in `room`.
 * What is beyond the last position is anything. */
INLINE const bfloat16 *key_panel(const Segment *segment, index_t at, bfloat16 *room) {
  index_t size = segment->size;
  if (!segment->key_scales) return (const bfloat16 *)segment->keys + at * size;
  __m512 scales[4];
  paired_scales(segment, at, scales);
  for (index_t i = 0; i < PANEL * size; i += 2 * PANEL) {
    __m512i codes = _mm512_loadu_si512(segment->keys + at * size + i);
    _mm512_storeu_si512(room + i, numbers_of(_mm512_castsi512_si256(codes), scales[0], scales[1]));
    _mm512_storeu_si512(room + i + PANEL, numbers_of(_mm512_extracti64x4_epi64(codes, 1), scales[2], scales[3]));
  }
  return room;
}

/* The same of all keys: one panel behind the other. */
static inline const bfloat16 *key_panels(const Segment *segment, bfloat16 *room) {
  if (!segment->key_scales) return (const bfloat16 *)segment->keys;
  for (index_t at = 0; at < segment->count; at += PANEL) key_panel(segment, at, room + at * segment->size);
  return room;
}

/* The value at position `at` of the segment, from its number d on; zeros beyond the last position. */
INLINE __m512i value_line(const Segment *segment, index_t at, index_t d) {
  index_t size = segment->size;
  if (at >= segment->count) return _mm512_setzero_si512();
  __mmask32 mask = size - d >= PANEL ? 0xffffffffu : (1u << (size - d)) - 1;
  if (!segment->value_scales) return _mm512_maskz_loadu_epi16(mask, (const bfloat16 *)segment->values + at * size + d);
  __m512 scale = _mm512_set1_ps(segment->value_scales[at]);
  return numbers_of(_mm256_maskz_loadu_epi8(mask, segment->values + at * size + d), scale, scale);
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

/* The values as panels [width / PANEL, pairs of positions, PANEL, 2]. */
static inline void pack_values(const Segment *segment, bfloat16 *to) {
  index_t pairs = parts_of(segment->count, 2);
  for (index_t at = 0; at < segment->count; at += 2)
    for (index_t d = 0; d < segment->size; d += PANEL)
      pack(value_line(segment, at, d), value_line(segment, at + 1, d), to + d * pairs * 2 + at * PANEL);
}
