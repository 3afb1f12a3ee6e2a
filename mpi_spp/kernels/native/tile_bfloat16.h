/* tile.h for CPUs that multiply pairs of bfloat16 in vector registers. */
#pragma once
#include "numbers_bfloat16.h"

enum { TILE_ROWS = MOST_REGISTER_ROWS, ROW_BLOCK = 20 * TILE_ROWS, PAIR_BLOCK = 512 }; /* both in the second cache */

INLINE void begin_tiles(void) {}
INLINE void end_tiles(void) {}

INLINE void tile_of(int rows, const bfloat16 *a, index_t stride, const bfloat16 *b, index_t pairs, float *c,
                    index_t c_stride, int first) {
  __m512 sums[MOST_REGISTER_ROWS][2];
  for (int r = 0; r < rows; r++)
    for (int half = 0; half < 2; half++)
      sums[r][half] = first ? _mm512_setzero_ps() : _mm512_loadu_ps(c + r * c_stride + 16 * half);
  for (index_t k = 0; k < pairs; k++) {
    __m512bh left = (__m512bh)_mm512_loadu_si512(b + 64 * k), right = (__m512bh)_mm512_loadu_si512(b + 64 * k + 32);
    for (int r = 0; r < rows; r++) {
      int pair;
      memcpy(&pair, a + r * stride + 2 * k, 4);
      __m512bh inputs = (__m512bh)_mm512_set1_epi32(pair);
      sums[r][0] = _mm512_dpbf16_ps(sums[r][0], inputs, left);
      sums[r][1] = _mm512_dpbf16_ps(sums[r][1], inputs, right);
    }
  }
  for (int r = 0; r < rows; r++)
    for (int half = 0; half < 2; half++) _mm512_storeu_ps(c + r * c_stride + 16 * half, sums[r][half]);
}

/* Not inlined: a caller's constants would take registers that the sums need (5% of a product). */
static __attribute__((noinline)) void tile(index_t rows, const bfloat16 *a, index_t stride, const bfloat16 *b,
                                           index_t pairs, float *c, index_t c_stride, int first) {
#define CALL(R) tile_of(R, a, stride, b, pairs, c, c_stride, first)
  WITH_ROWS(rows, CALL)
#undef CALL
}

INLINE void tiles(index_t rows, const bfloat16 *a, index_t stride, const bfloat16 *b, index_t pairs, float *c, int first,
                  int from_memory) {
  (void)from_memory; /* fetching ahead gained nothing here */
  for (index_t row = 0; row < rows; row += TILE_ROWS)
    tile(smaller(TILE_ROWS, rows - row), a + row * stride, stride, b, pairs, c + row * PANEL, PANEL, first);
}
