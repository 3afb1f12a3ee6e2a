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

/* The compiler forgets what it knows of two pointers. Else it would keep a mask and what is loaded for the even inputs in
 * registers until the odd ones, and sums in memory for want of registers: five times slower. */
#define FORGET(one, other) __asm__ volatile("" : "+r"(one), "+r"(other)::"memory")

#define ROW(r) ((r) < 3 ? above + (r) * stride : below + ((r) - 3) * stride)

/* Some rows with `halves` halves of a panel: 6 rows with one or 3 with both fill 12 registers with their sums. */
INLINE void tile_of(int rows, int halves, const float *a, index_t stride, const bfloat16 *b, index_t pairs, float *c,
                    index_t c_stride, int first) {
  floats sums[HALF_ROWS][2];
  const uint32_t *upper = UPPER;
  const float *above = a, *below = a + 3 * stride; /* two places and a stride lead to 6 rows */
#pragma GCC unroll 6
  for (int r = 0; r < rows; r++)
#pragma GCC unroll 2
    for (int half = 0; half < halves; half++)
      sums[r][half] = first ? zeros() : load(c + r * c_stride + 16 * half);
  for (const bfloat16 *end = b + 64 * pairs; b < end; b += 64, above += 2, below += 2) {
#pragma GCC unroll 2
    for (int half = 0; half < halves; half++) {
      if (halves == 2) fetch_ahead(b + 32 * half);
      floats even = evens_at(b + 32 * half);
#pragma GCC unroll 6
      for (int r = 0; r < rows; r++) sums[r][half] = multiply_add(all(*ROW(r)), even, sums[r][half]);
      FORGET(b, upper);
      FORGET(above, below);
      floats odd = odds_at(b + 32 * half, upper);
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
  static __attribute__((noinline)) void tile_##ROWS##x##HALVES(const float *a, index_t stride, const bfloat16 *b,      \
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

static void tile_of_half(index_t rows, const float *a, index_t stride, const bfloat16 *b, index_t pairs, float *c,
                         index_t c_stride, int first) {
  if (rows == 4)
    tile_4x1(a, stride, b, pairs, c, c_stride, first);
  else if (rows == 5)
    tile_5x1(a, stride, b, pairs, c, c_stride, first);
  else
    tile_6x1(a, stride, b, pairs, c, c_stride, first);
}

static void tile(index_t rows, const float *a, index_t stride, const bfloat16 *b, index_t pairs, float *c,
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
      tile_of_half(rows, a, stride, b + 32, pairs, c + 16, c_stride, first);
    }
  }
}

/* HALF_ROWS rows with half a panel in float32, [count, 16]. */
static __attribute__((noinline)) void tile_of_singles(const float *a, index_t stride, const float *b, index_t count,
                                                      float *c, int first) {
  floats sums[HALF_ROWS];
#pragma GCC unroll 6
  for (int r = 0; r < HALF_ROWS; r++) sums[r] = first ? zeros() : load(c + r * PANEL);
  for (index_t k = 0; k < count; k++, b += 16) {
    floats weights = load(b);
#pragma GCC unroll 6
    for (int r = 0; r < HALF_ROWS; r++) sums[r] = multiply_add(all(a[r * stride + k]), weights, sums[r]);
  }
#pragma GCC unroll 6
  for (int r = 0; r < HALF_ROWS; r++) store(c + r * PANEL, sums[r]);
}

/* So many rows that half a panel is worth widening once for all of them; returns how many it has done. Intel's processors
 * shift in the units that multiply: 10% faster. */
static index_t widened_tiles(index_t rows, const float *a, index_t stride, const bfloat16 *b, index_t pairs, float *c,
                             int first) {
  float singles[2 * PAIR_BLOCK * 16] __attribute__((aligned(64)));
  index_t done = 0;
  for (int half = 0; half < 2; half++) {
    for (index_t k = 0; k < pairs; k++) {
      const bfloat16 *from = b + 64 * k + 32 * half;
      store(singles + 32 * k, evens_at(from));
      store(singles + 32 * k + 16, odds_at(from, UPPER));
    }
    for (done = 0; done + HALF_ROWS <= rows; done += HALF_ROWS)
      tile_of_singles(a + done * stride, stride, singles, 2 * pairs, c + done * PANEL + 16 * half, first);
  }
  return done;
}

INLINE void tiles(index_t rows, const float *a, index_t stride, const bfloat16 *b, index_t pairs, float *c, int first,
                  int from_memory) {
  (void)from_memory;
  index_t done = rows >= 4 * HALF_ROWS ? widened_tiles(rows, a, stride, b, pairs, c, first) : 0;
  tile(rows - done, a + done * stride, stride, b, pairs, c + done * PANEL, PANEL, first);
}
