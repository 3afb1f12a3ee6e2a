/* How attention reads the cache. Keys lie in panels, which the products take as they are; values in lines of 32 elements,
 * which are laid out as the products want them. Codes become numbers on the way, so that what follows does
 * not know them. */
#pragma once
#include "native.h"

/* `count` positions of one group, from a multiple of PANEL on. */
typedef struct {
  const char *keys, *values;              /* elements, or codes where there are scales */
  const float *key_scales, *value_scales; /* [count], or NULL */
  index_t size, count;
} Segment;

/* The numbers in the key panels of one group. */
INLINE index_t keys_size(const Cache *cache, index_t size) { return parts_of(cache->capacity, PANEL) * PANEL * size; }

static inline Segment segment_of(const Cache *cache, index_t size, index_t group, index_t from, index_t count) {
  index_t row = group * cache->capacity + from, bytes = cache->key_scales ? 1 : sizeof(element);
  const char *keys = (const char *)cache->keys + (group * keys_size(cache, size) + from * size) * bytes;
  const char *values = (const char *)cache->values + row * size * bytes;
  const float *key_scales = cache->key_scales ? cache->key_scales + row : NULL;
  const float *value_scales = cache->value_scales ? cache->value_scales + row : NULL;
  return (Segment){keys, values, key_scales, value_scales, size, count};
}

/* PANEL codes, of which the first `count` count, times their scales, which are those of 16 and 16 of them. */
INLINE line numbers_of(const char *codes, index_t count, floats left, floats right) {
  floats numbers[2];
  load_32_codes(codes, count, numbers);
  return line_of(multiply(numbers[0], left), multiply(numbers[1], right));
}

/* Scales of the codes in the lines of two of PANEL keys' inputs. Those beyond the last position are 0. */
INLINE void scales_of_lines(const Segment *segment, index_t at, floats to[4]) {
  for (int half = 0; half < 2; half++, at += 16) {
    floats scales = load_first(segment->key_scales + at, segment->count - at);
    if (PAIR == 2)
      twice(scales, to + 2 * half);
    else
      to[half] = to[half + 2] = scales;
  }
}

/* The keys from position `at` of the segment on, a panel: where they lie, or numbers of codes in `room`.
 * What is beyond the last position is anything. */
INLINE const element *key_panel(const Segment *segment, index_t at, element *room) {
  index_t size = segment->size;
  if (!segment->key_scales) return (const element *)segment->keys + at * size;
  floats scales[4];
  scales_of_lines(segment, at, scales);
  for (index_t i = 0; i < PANEL * size; i += 2 * PANEL) {
    const char *codes = segment->keys + at * size + i;
    store_line(room + i, numbers_of(codes, PANEL, scales[0], scales[1]));
    store_line(room + i + PANEL, numbers_of(codes + PANEL, PANEL, scales[2], scales[3]));
  }
  return room;
}

/* The same of all keys: one panel behind the other. */
static inline const element *key_panels(const Segment *segment, element *room) {
  if (!segment->key_scales) return (const element *)segment->keys;
  for (index_t at = 0; at < segment->count; at += PANEL) key_panel(segment, at, room + at * segment->size);
  return room;
}

/* The value at position `at` of the segment, from its number d on; zeros beyond the last position. */
INLINE line value_line(const Segment *segment, index_t at, index_t d) {
  index_t size = segment->size, place = at * size + d;
  if (at >= segment->count) return no_line();
  if (!segment->value_scales) return load_line((const element *)segment->values + place, size - d);
  floats scale = all(segment->value_scales[at]);
  return numbers_of(segment->values + place, size - d, scale, scale);
}

/* The values as panels [width / PANEL], of positions two by two. */
static inline void pack_values(const Segment *segment, element *to) {
  index_t pairs = parts_of(segment->count, 2);
  for (index_t at = 0; at < segment->count; at += 2)
    for (index_t d = 0; d < segment->size; d += PANEL)
      store_lines(to + d * pairs * 2 + at * PANEL, value_line(segment, at, d), value_line(segment, at + 1, d));
}
