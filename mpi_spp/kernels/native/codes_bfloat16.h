/* Products of a few rows with quantised weights: numbers of 4 bits are bfloat16, those of 8 float32. Of many rows it is
 * faster to make numbers of the codes for all of them. */
#pragma once
#include "integers.h"

INLINE int takes_exact(const Matrix *w, index_t rows) { return is_quantized(w) && rows <= BLOCK_ROWS; }

/* A few rows of inputs, padded with zeros to whole groups, in bfloat16; in float32, which stand where others have scales;
 * and the sums of each group. */
INLINE size_t exact_bytes(const Matrix *w, index_t rows) {
  return rows * groups_of(w) * (w->group * (sizeof(float) + sizeof(bfloat16)) + sizeof(float));
}

static Inputs exact_of(const Matrix *w, const bfloat16 *x, index_t rows, void *memory) {
  index_t groups = groups_of(w), width = groups * w->group;
  float *singles = memory, *sums = singles + rows * width;
  Inputs to = {sums + rows * groups, singles, sums};
  for (index_t r = 0; r < rows; r++) {
    bfloat16 *halves = (bfloat16 *)to.numbers + r * width;
    memcpy(halves, x + r * w->in, w->in * 2);
    memset(halves + w->in, 0, (width - w->in) * 2);
    for (index_t g = 0; g < groups; g++) {
      floats sum = zeros();
      for (index_t k = g * w->group; k < (g + 1) * w->group; k += 16) {
        floats values = load_bfloat16(halves + k, 16);
        sum = add(sum, values);
        store(singles + r * width + k, values);
      }
      if (w->bits == 4) sums[r * groups + g] = sum_of(sum);
    }
  }
  return to;
}

/* The inputs from row `row` on. */
INLINE Inputs exact_from(const Matrix *w, Inputs x, index_t row) {
  index_t groups = groups_of(w), width = groups * w->group;
  return (Inputs){(bfloat16 *)x.numbers + row * width, x.scales + row * width, x.sums + row * groups};
}

/* The bfloat16 values 0 to 15, twice. */
INLINE __m512i nibble_table(void) {
  __m512 values = _mm512_set_ps(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  __m256i once = (__m256i)_mm512_cvtneps_pbh(values);
  return _mm512_inserti64x4(_mm512_castsi256_si512(once), once, 1);
}

/* The pairs p of inputs in 64 bytes of 4-bit codes, for 16 outputs. The table looks at 5 bits, of which 4 count. */
INLINE __m512i nibbles(__m512i codes, int p, __m512i table) {
  return _mm512_permutexvar_epi16(_mm512_srli_epi16(codes, 4 * p), table);
}

/* sums += 8 inputs of each row, `width` apart, with their codes. */
INLINE void add_nibbles(const uint8_t *from, Inputs x, index_t at, index_t width, floats *sums, int rows) {
  __m512i table = nibble_table(), codes = _mm512_loadu_si512(from);
#pragma GCC unroll 4
  for (int p = 0; p < 4; p++) {
    __m512bh weights = (__m512bh)nibbles(codes, p, table);
    for (int r = 0; r < rows; r++) {
      int pair;
      memcpy(&pair, (const bfloat16 *)x.numbers + r * width + at + 2 * p, 4);
      sums[r] = _mm512_dpbf16_ps(sums[r], weights, (__m512bh)_mm512_set1_epi32(pair));
    }
  }
}

/* Up to BLOCK_ROWS rows with one block of 16 outputs. */
INLINE void int4_block(const Matrix *w, const uint8_t *from, Inputs x, float *c, int rows) {
  index_t groups = groups_of(w), width = groups * w->group;
  floats totals[BLOCK_ROWS];
  for (int r = 0; r < rows; r++) totals[r] = zeros();
  for (index_t g = 0; g < groups; g++, from += w->group * 8 + 64) {
    floats sums[BLOCK_ROWS];
    for (int r = 0; r < rows; r++) sums[r] = zeros();
    for (index_t k = 0; k < w->group; k += 8) {
      if (rows < 3) fetch_ahead(from + k * 8);
      add_nibbles(from + k * 8, x, g * w->group + k, width, sums, rows);
    }
    floats scales = load_half(from + w->group * 8), minima = load_half(from + w->group * 8 + 32);
    for (int r = 0; r < rows; r++) {
      totals[r] = multiply_add(scales, sums[r], totals[r]);
      totals[r] = multiply_add(minima, all(x.sums[r * groups + g]), totals[r]);
    }
  }
  for (int r = 0; r < rows; r++) store(c + r * PANEL, totals[r]);
}

/* The same for 8 bits. */
INLINE void int8_block(const Matrix *w, const uint8_t *from, Inputs x, float *c, int rows) {
  index_t groups = groups_of(w), width = groups * w->group;
  floats totals[BLOCK_ROWS];
  for (int r = 0; r < rows; r++) totals[r] = zeros();
  for (index_t g = 0; g < groups; g++, from += w->group * 16 + 32) {
    floats sums[BLOCK_ROWS];
    for (int r = 0; r < rows; r++) sums[r] = zeros();
    for (index_t k = 0; k < w->group; k++) {
      if (rows < 3 && k % 4 == 0) fetch_ahead(from + k * 16);
      floats weights = load_codes(from + k * 16, 16);
      for (int r = 0; r < rows; r++)
        sums[r] = multiply_add(weights, all(x.scales[r * width + g * w->group + k]), sums[r]);
    }
    floats scales = load_half(from + w->group * 16);
    for (int r = 0; r < rows; r++) totals[r] = multiply_add(scales, sums[r], totals[r]);
  }
  for (int r = 0; r < rows; r++) store(c + r * PANEL, totals[r]);
}

INLINE void exact_block(const Matrix *w, int bits, const uint8_t *from, Inputs x, float *c, int rows) {
  if (bits == 4)
    int4_block(w, from, x, c, rows);
  else
    int8_block(w, from, x, c, rows);
}
