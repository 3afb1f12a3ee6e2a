/* The numbers in which weights, what goes from one product to the next, and caches are kept: bfloat16, or what a build is
 * told to take, -DFLOAT32_ELEMENTS or -DFLOAT16_ELEMENTS. All sums are float32.
 *
 * Panels hold lines of PANEL elements, one for each input: those of bfloat16 two by two, [PANEL, 2], as instructions for
 * pairs take them; others one behind the other. */
#pragma once
#include "simd.h"

enum { PANEL = 32, LINE_BYTES = 64 }; /* bytes that a cache fetches together */

#if defined(FLOAT32_ELEMENTS)

typedef float element;

INLINE floats load_elements(const element *from, index_t count) { return load_first(from, count); }
INLINE void store_elements(element *to, floats x, index_t count) { store_first(to, x, count); }
INLINE floats load_16(const element *from) { return load(from); }

#elif defined(FLOAT16_ELEMENTS)

typedef uint16_t element;

INLINE floats load_elements(const element *from, index_t count) { return load_float16(from, count); }
INLINE void store_elements(element *to, floats x, index_t count) { store_float16(to, x, count); }
INLINE floats load_16(const element *from) { return load_half((const uint8_t *)from); }

#else

typedef bfloat16 element;

INLINE floats load_elements(const element *from, index_t count) { return load_bfloat16(from, count); }
INLINE void store_elements(element *to, floats x, index_t count) { store_bfloat16(to, x, count); }

#endif

#if defined(FLOAT32_ELEMENTS) || defined(FLOAT16_ELEMENTS)

enum { PAIR = 1 }; /* elements of a lane that lie side by side */

/* 32 elements. */
typedef struct {
  floats left, right;
} line;

INLINE line line_of(floats left, floats right) { return (line){left, right}; }
/* The first `count` of them, 1 at least; what is not loaded is 0. */
INLINE line load_line(const element *from, index_t count) {
  return (line){load_elements(from, count), count > 16 ? load_elements(from + 16, count - 16) : zeros()};
}
INLINE line no_line(void) { return (line){zeros(), zeros()}; }
INLINE void store_line(element *to, line x) {
  store_elements(to, x.left, 16);
  store_elements(to + 16, x.right, 16);
}
/* The lines of two inputs as panels have them, and a half of them. */
INLINE void store_lines(element *to, line first, line second) {
  store_line(to, first);
  store_line(to + PANEL, second);
}
INLINE void store_half_lines(element *to, int half, floats first, floats second) {
  store_elements(to + 16 * half, first, 16);
  store_elements(to + PANEL + 16 * half, second, 16);
}

#else

enum { PAIR = 2 };

typedef words line;

INLINE line line_of(floats left, floats right) { return to_bfloat16(left, right); }
INLINE line load_line(const element *from, index_t count) { return load_halves(from, count); }
INLINE line no_line(void) { return (line){0}; }
INLINE void store_line(element *to, line x) { store_words(to, x); }
INLINE void store_lines(element *to, line first, line second) {
  words pairs[2];
  interleave(first, second, pairs);
  store_words(to, pairs[0]);
  store_words(to + PANEL, pairs[1]);
}
INLINE void store_half_lines(element *to, int half, floats first, floats second) {
  store_words(to + PANEL * half, pairs_of(first, second));
}

#endif

/* The weights of a pair of inputs are fetched, long before they are needed. */
INLINE void fetch_pair(const element *from) {
#pragma GCC unroll 4
  for (size_t at = 0; at < 2 * PANEL * sizeof(element); at += LINE_BYTES) fetch_ahead((const char *)from + at);
}
