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

/* PANEL codes, of which the first `count` count, times their scales, which are those of 16 and 16 of them. */
INLINE words numbers_of(const char *codes, index_t count, floats left, floats right) {
  floats numbers[2];
  load_32_codes(codes, count, numbers);
  return to_bfloat16(multiply(numbers[0], left), multiply(numbers[1], right));
}

/* Scales of PANEL keys, each twice: for pairs of their numbers. Those beyond the last position are 0. */
INLINE void paired_scales(const Segment *segment, index_t at, floats to[4]) {
  for (int half = 0; half < 2; half++, at += 16)
    twice(load_first(segment->key_scales + at, segment->count - at), to + 2 * half);
}

/* The keys from position `at` of the segment on, [size / 2, PANEL, 2]: where they lie, or numbers of codes in `room`.
 * What is beyond the last position is anything. */
INLINE const bfloat16 *key_panel(const Segment *segment, index_t at, bfloat16 *room) {
  index_t size = segment->size;
  if (!segment->key_scales) return (const bfloat16 *)segment->keys + at * size;
  floats scales[4];
  paired_scales(segment, at, scales);
  for (index_t i = 0; i < PANEL * size; i += 2 * PANEL) {
    const char *codes = segment->keys + at * size + i;
    store_words(room + i, numbers_of(codes, PANEL, scales[0], scales[1]));
    store_words(room + i + PANEL, numbers_of(codes + PANEL, PANEL, scales[2], scales[3]));
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
INLINE words value_line(const Segment *segment, index_t at, index_t d) {
  index_t size = segment->size, place = at * size + d;
  if (at >= segment->count) return (words){0};
  if (!segment->value_scales) return load_halves((const bfloat16 *)segment->values + place, size - d);
  floats scale = all(segment->value_scales[at]);
  return numbers_of(segment->values + place, size - d, scale, scale);
}

/* Two lines as [PANEL, 2]. */
INLINE void pack(words even, words odd, bfloat16 *to) {
  words pairs[2];
  interleave(even, odd, pairs);
  store_words(to, pairs[0]);
  store_words(to + PANEL, pairs[1]);
}

/* The values as panels [width / PANEL, pairs of positions, PANEL, 2]. */
static inline void pack_values(const Segment *segment, bfloat16 *to) {
  index_t pairs = parts_of(segment->count, 2);
  for (index_t at = 0; at < segment->count; at += 2)
    for (index_t d = 0; d < segment->size; d += PANEL)
      pack(value_line(segment, at, d), value_line(segment, at + 1, d), to + d * pairs * 2 + at * PANEL);
}
