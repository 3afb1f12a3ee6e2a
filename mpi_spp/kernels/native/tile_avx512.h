/* tile.h for CPUs with AVX-512 that multiply in float32 alone. A sum is that of its products in order, whatever the number
 * of rows: to the bit what tile_float32.h has. */
#pragma once
#include "numbers_float32.h"

/* A block of rows and the part of a panel that it meets stay in the second cache and in the first. */
enum { TILE_ROWS = MOST_REGISTER_ROWS, ROW_BLOCK = 8 * TILE_ROWS, PAIR_BLOCK = 128 };

INLINE void begin_tiles(void) {}
INLINE void end_tiles(void) {}

/* Weights of a pair of inputs at `from`, of half a panel: those of the first input, and of the second. */
#if defined(FLOAT32_ELEMENTS) || defined(FLOAT16_ELEMENTS)
INLINE floats firsts_at(const element *from, int half) { return load_16(from + 16 * half); }
INLINE floats seconds_at(const element *from, int half) { return load_16(from + PANEL + 16 * half); }
#else
INLINE floats firsts_at(const element *from, int half) { return evens_at(from + PANEL * half); }
INLINE floats seconds_at(const element *from, int half) { return odds_at(from + PANEL * half); }
#endif

/* The compiler forgets what it knows of places. Else it would keep one for each of 12 rows, half of them in memory, where
 * four and a stride lead to all. */
#define FORGET(one, other) __asm__("" : "+r"(one), "+r"(other))

#define ROW(r) ((r) < 6 ? ((r) < 3 ? x0 + (r) * stride : x3 + ((r) - 3) * stride) \
                        : ((r) < 9 ? x6 + ((r) - 6) * stride : x9 + ((r) - 9) * stride))

/* sums += input `number` of each row times the weights of a panel for it. */
#define ADD_INPUT(number, left_weights, right_weights)      \
  do {                                                      \
    floats left = left_weights, right = right_weights;      \
    _Pragma("GCC unroll 12") for (int r = 0; r < rows; r++) { \
      floats input = all(ROW(r)[number]);                   \
      sums[r][0] = multiply_add(input, left, sums[r][0]);   \
      sums[r][1] = multiply_add(input, right, sums[r][1]);  \
    }                                                       \
  } while (0)

/* Weights are elements, or where there are `singles` those, [2 * pairs, PANEL]. */
INLINE void tile_of(int rows, const float *a, index_t stride, const element *b, const float *singles, index_t pairs,
                    float *c, index_t c_stride, int first) {
  floats sums[MOST_REGISTER_ROWS][2];
  const float *x0 = a, *x3 = a + 3 * stride, *x6 = a + 6 * stride, *x9 = a + 9 * stride;
#pragma GCC unroll 12
  for (int r = 0; r < rows; r++)
    for (int half = 0; half < 2; half++) sums[r][half] = first ? zeros() : load(c + r * c_stride + 16 * half);
  for (index_t k = 0; k < pairs; k++, x0 += 2, x3 += 2, x6 += 2, x9 += 2) {
    FORGET(x0, x3);
    FORGET(x6, x9);
    if (singles) {
      const float *from = singles + 2 * k * PANEL;
      ADD_INPUT(0, load(from), load(from + 16));
      ADD_INPUT(1, load(from + PANEL), load(from + PANEL + 16));
    } else {
      const element *from = b + 2 * PANEL * k;
      if (rows < 4) fetch_pair(from);
      ADD_INPUT(0, firsts_at(from, 0), firsts_at(from, 1));
      ADD_INPUT(1, seconds_at(from, 0), seconds_at(from, 1));
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < rows; r++)
    for (int half = 0; half < 2; half++) store(c + r * c_stride + 16 * half, sums[r][half]);
}

/* Not inlined: a caller's constants would take registers that the sums need. */
static __attribute__((noinline)) void tile(index_t rows, const float *a, index_t stride, const element *b,
                                           index_t pairs, float *c, index_t c_stride, int first) {
#define CALL(R) tile_of(R, a, stride, b, NULL, pairs, c, c_stride, first)
  WITH_ROWS(rows, CALL)
#undef CALL
}

static __attribute__((noinline)) void tile_of_singles(const float *a, index_t stride, const float *b, index_t pairs,
                                                      float *c, int first) {
  tile_of(TILE_ROWS, a, stride, NULL, b, pairs, c, PANEL, first);
}

/* So many rows that a panel is worth widening once for all of them; returns how many it has done. The units that shift
 * are those that multiply. */
static index_t widened_tiles(index_t rows, const float *a, index_t stride, const element *b, index_t pairs, float *c,
                             int first) {
  float singles[2 * PAIR_BLOCK * PANEL] __attribute__((aligned(64)));
  for (index_t k = 0; k < pairs; k++)
    for (int half = 0; half < 2; half++) {
      const element *from = b + 2 * PANEL * k;
      store(singles + 2 * k * PANEL + 16 * half, firsts_at(from, half));
      store(singles + (2 * k + 1) * PANEL + 16 * half, seconds_at(from, half));
    }
  index_t done = 0;
  for (; done + TILE_ROWS <= rows; done += TILE_ROWS)
    tile_of_singles(a + done * stride, stride, singles, pairs, c + done * PANEL, first);
  return done;
}

INLINE void tiles(index_t rows, const float *a, index_t stride, const element *b, index_t pairs, float *c, int first,
                  int from_memory) {
  (void)from_memory;
  index_t row = !IS_FLOAT32 && rows >= 3 * TILE_ROWS ? widened_tiles(rows, a, stride, b, pairs, c, first) : 0;
  for (; row < rows; row += TILE_ROWS)
    tile(smaller(TILE_ROWS, rows - row), a + row * stride, stride, b, pairs, c + row * PANEL, PANEL, first);
}
