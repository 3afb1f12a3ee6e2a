/* tile.h for CPUs that multiply in float32 alone: numbers of a are made once, those of b on their way to the product. A sum
 * is that of its products in order, whatever the number of rows. */
#pragma once
#include "numbers_float32.h"

/* A block of rows and the part of a panel that it meets stay in the second cache and in the first. */
enum { TILE_ROWS = MOST_REGISTER_ROWS, ROW_BLOCK = 8 * TILE_ROWS, PAIR_BLOCK = 128, HALF_ROWS = 6 };

INLINE void begin_tiles(void) {}
INLINE void end_tiles(void) {}

static const uint32_t UPPER[8] __attribute__((aligned(32))) = {0xffff0000, 0xffff0000, 0xffff0000, 0xffff0000,
                                                               0xffff0000, 0xffff0000, 0xffff0000, 0xffff0000};

/* Weights of a pair of inputs at `from`, of half a panel: those of the first input, and of the second. */
#if defined(FLOAT32_ELEMENTS) || defined(FLOAT16_ELEMENTS)
INLINE floats firsts_at(const element *from, int half) { return load_16(from + 16 * half); }
INLINE floats seconds_at(const element *from, int half, const uint32_t *upper) {
  (void)upper;
  return load_16(from + PANEL + 16 * half);
}
#else
INLINE floats firsts_at(const element *from, int half) { return evens_at(from + PANEL * half); }
INLINE floats seconds_at(const element *from, int half, const uint32_t *upper) {
  return odds_at(from + PANEL * half, upper);
}
#endif

/* The compiler forgets what it knows of two pointers. Else it would keep a mask and what is loaded for the even inputs in
 * registers until the odd ones, and sums in memory for want of registers: five times slower. */
#define FORGET(one, other) __asm__ volatile("" : "+r"(one), "+r"(other)::"memory")

#define ROW(r) ((r) < 3 ? above + (r) * stride : below + ((r) - 3) * stride)

/* Some rows with `halves` halves of a panel: 6 rows with one or 3 with both fill 12 registers with their sums. */
INLINE void tile_of(int rows, int halves, const float *a, index_t stride, const element *b, index_t pairs, float *c,
                    index_t c_stride, int first) {
  floats sums[HALF_ROWS][2];
  const uint32_t *upper = UPPER;
  const float *above = a, *below = a + 3 * stride; /* two places and a stride lead to 6 rows */
#pragma GCC unroll 6
  for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
    for (int half = 0; half < halves; half++)
      sums[r][half] = first ? zeros() : load(c + r * c_stride + 16 * half);
  for (const element *end = b + 2 * PANEL * pairs; b < end; b += 2 * PANEL, above += 2, below += 2) {
    if (halves == 2) fetch_pair(b);
#pragma GCC unroll 2
    for (int half = 0; half < halves; half++) {
      floats even = firsts_at(b, half);
#pragma GCC unroll 6
      for (int r = 0; r < rows; r++) sums[r][half] = multiply_add(all(*ROW(r)), even, sums[r][half]);
      FORGET(b, upper);
      FORGET(above, below);
      floats odd = seconds_at(b, half, upper);
#pragma GCC unroll 6
      for (int r = 0; r < rows; r++) sums[r][half] = multiply_add(all(ROW(r)[1]), odd, sums[r][half]);
      FORGET(b, upper);
      FORGET(above, below);
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
    for (int half = 0; half < halves; half++) store(c + r * c_stride + 16 * half, sums[r][half]);
}

#define TILE(ROWS, HALVES)                                                                                             \
  static __attribute__((noinline)) void tile_##ROWS##x##HALVES(const float *a, index_t stride, const element *b,       \
                                                               index_t pairs, float *c, index_t c_stride, int first) { \
    tile_of(ROWS, HALVES, a, stride, b, pairs, c, c_stride, first);                                                    \
  }
TILE(1, 2)
TILE(2, 2)
TILE(3, 2)
TILE(4, 1)
TILE(5, 1)
TILE(6, 1)
#undef TILE

static void tile_of_half(index_t rows, const float *a, index_t stride, const element *b, index_t pairs, float *c,
                         index_t c_stride, int first) {
  if (rows == 4)
    tile_4x1(a, stride, b, pairs, c, c_stride, first);
  else if (rows == 5)
    tile_5x1(a, stride, b, pairs, c, c_stride, first);
  else
    tile_6x1(a, stride, b, pairs, c, c_stride, first);
}

static void tile(index_t rows, const float *a, index_t stride, const element *b, index_t pairs, float *c,
                 index_t c_stride, int first) {
  for (; rows > 0; rows -= HALF_ROWS, a += HALF_ROWS * stride, c += HALF_ROWS * c_stride) {
    if (rows == 1) {
      tile_1x2(a, stride, b, pairs, c, c_stride, first);
    } else if (rows == 2) {
      tile_2x2(a, stride, b, pairs, c, c_stride, first);
    } else if (rows == 3) {
      tile_3x2(a, stride, b, pairs, c, c_stride, first);
    } else {
      tile_of_half(rows, a, stride, b, pairs, c, c_stride, first);
      tile_of_half(rows, a, stride, b + 16 * PAIR, pairs, c + 16, c_stride, first);
    }
  }
}

/* HALF_ROWS rows with half a panel in float32, of `count` inputs `step` apart. */
static __attribute__((noinline)) void tile_of_singles(const float *a, index_t stride, const float *b, index_t step,
                                                      index_t count, float *c, int first) {
  floats sums[HALF_ROWS];
#pragma GCC unroll 6
  for (int r = 0; r < HALF_ROWS; r++) sums[r] = first ? zeros() : load(c + r * PANEL);
  for (index_t k = 0; k < count; k++, b += step) {
    floats weights = load(b);
#pragma GCC unroll 6
    for (int r = 0; r < HALF_ROWS; r++) sums[r] = multiply_add(all(a[r * stride + k]), weights, sums[r]);
  }
#pragma GCC unroll 6
  for (int r = 0; r < HALF_ROWS; r++) store(c + r * PANEL, sums[r]);
}

/* So many rows that half a panel is worth widening once for all of them, if it is not in float32; returns how many it has
 * done. Intel's processors shift in the units that multiply: 10% faster. */
static index_t widened_tiles(index_t rows, const float *a, index_t stride, const element *b, index_t pairs, float *c,
                             int first) {
  float singles[2 * PAIR_BLOCK * 16] __attribute__((aligned(64)));
  index_t done = 0, step = IS_FLOAT32 ? PANEL : 16;
  for (int half = 0; half < 2; half++) {
    const float *weights = IS_FLOAT32 ? (const float *)b + 16 * half : singles;
    for (index_t k = 0; k < pairs && !IS_FLOAT32; k++) {
      store(singles + 32 * k, firsts_at(b + 2 * PANEL * k, half));
      store(singles + 32 * k + 16, seconds_at(b + 2 * PANEL * k, half, UPPER));
    }
    for (done = 0; done + HALF_ROWS <= rows; done += HALF_ROWS)
      tile_of_singles(a + done * stride, stride, weights, step, 2 * pairs, c + done * PANEL + 16 * half, first);
  }
  return done;
}

INLINE void tiles(index_t rows, const float *a, index_t stride, const element *b, index_t pairs, float *c, int first,
                  int from_memory) {
  (void)from_memory;
  index_t done = rows >= 4 * HALF_ROWS ? widened_tiles(rows, a, stride, b, pairs, c, first) : 0;
  tile(rows - done, a + done * stride, stride, b, pairs, c + done * PANEL, PANEL, first);
}
