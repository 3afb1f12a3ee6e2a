/* Products of rows with quantised weights by integers of 16 bits: inputs of a group become such integers with a scale,
 * which err by 2e-5 of a product; they are multiplied in pairs and added up exactly, so a row is the same whatever is
 * computed with it, and by whatever instructions. */
#pragma once
#include "integers.h"

enum { MOST_INPUTS = 512 }; /* more products of 127 and 32767 would not fit into 31 bits */

/* AMX multiplies more rows 1.7 times faster by codes that become bfloat16, which rounds otherwise. */
#ifdef __AMX_BF16__
enum { MOST_EXACT_ROWS = 48 };
#else
#define MOST_EXACT_ROWS INT64_MAX
#endif

INLINE int takes_exact(const Matrix *w, index_t rows) {
  return is_quantized(w) && w->group <= MOST_INPUTS && rows <= MOST_EXACT_ROWS;
}

/* Rows of inputs, padded with zeros to whole groups: integers [rows, groups, group], and of each group their scale, and
 * that times their sum. */
INLINE size_t exact_bytes(const Matrix *w, index_t rows) {
  return rows * groups_of(w) * (w->group * sizeof(int16_t) + 2 * sizeof(float));
}

/* The inputs from row `row` on. */
INLINE Inputs exact_from(const Matrix *w, Inputs x, index_t row) {
  index_t groups = groups_of(w);
  return (Inputs){(int16_t *)x.numbers + row * groups * w->group, x.scales + row * groups, x.sums + row * groups, 0};
}

/* x [count] of a group as integers [group], of which the largest magnitude is 32767. */
INLINE void integers_of(const element *x, index_t count, index_t group, int16_t *to, float *scale, float *sum) {
  floats most = zeros(), total = zeros();
  for (index_t k = 0; k < group; k += 16) most = larger_bits(most, magnitude(load_elements(x + k, count - k)));
  *scale = largest_by_bits(most) / 32767.0f;
  floats divisor = all(*scale == 0.0f ? 1.0f : *scale);
  for (index_t k = 0; k < group; k += 16) {
    floats values = nearest(divide(load_elements(x + k, count - k), divisor));
    total = add(total, values);
    store_integers(to + k, values);
  }
  *sum = *scale * sum_of(total);
}

static void round_exactly(void *of, index_t first, index_t stop) {
  const Rounding *rounding = of;
  const Matrix *w = rounding->matrix;
  Inputs to = rounding->to;
  index_t groups = groups_of(w);
  for (index_t place = first * groups; place < stop * groups; place++) {
    index_t row = place / groups, at = place % groups * w->group;
    integers_of(rounding->x + row * w->in + at, smaller(w->in - at, w->group), w->group,
                (int16_t *)to.numbers + place * w->group, to.scales + place, to.sums + place);
  }
}

static Inputs exact_of(const Matrix *w, const element *x, index_t rows, void *memory) {
  index_t groups = groups_of(w);
  float *scales = memory;
  Inputs to = {scales + 2 * rows * groups, scales, scales + rows * groups, 0};
  Rounding rounding = {w, x, to};
  share_out(round_exactly, &rounding, rows, rows > MOST_REGISTER_ROWS);
  return to;
}

/* c [rows, 16] of up to EXACT_ROWS rows with a block of 16 outputs. */
INLINE void exact_rows(const Matrix *w, int bits, const uint8_t *from, Inputs x, float *c, int rows) {
  index_t groups = groups_of(w), width = groups * w->group, bytes = w->group * 2 * bits;
  floats totals[EXACT_ROWS];
#pragma GCC unroll 12
  for (int r = 0; r < rows; r++) totals[r] = zeros();
  for (index_t g = 0; g < groups; g++, from += block_bytes(w)) {
    PairSums sums[EXACT_ROWS];
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++) sums[r] = no_pairs();
    Places places = places_of((const int16_t *)x.numbers + g * w->group, 2 * width);
#pragma GCC unroll 1
    for (const uint8_t *codes = from, *end = from + bytes; codes < end; codes += 16 * bits) {
      if (rows < 3) fetch_ahead(codes);
      if (rows < 3 && bits == 8) fetch_ahead(codes + 64);
      add_pairs(bits, codes, places, 2 * width, sums, rows);
      places = behind_places(places, 8 * sizeof(int16_t), rows);
    }
    settle_pairs(sums, rows);
    floats scales = load_half(from + bytes);
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++) {
      totals[r] = multiply_add(multiply(scales, all(x.scales[r * groups + g])), floats_of_pairs(bits, sums[r]), totals[r]);
      if (bits == 4) totals[r] = multiply_add(load_half(from + bytes + 32), all(x.sums[r * groups + g]), totals[r]);
    }
  }
#pragma GCC unroll 12
  for (int r = 0; r < rows; r++) store(c + r * PANEL, totals[r]);
}

/* The same of up to BLOCK_ROWS rows, which are at most twice as many. */
INLINE void exact_block(const Matrix *w, int bits, const uint8_t *from, Inputs x, float *c, int rows) {
  exact_rows(w, bits, from, x, c, rows < EXACT_ROWS ? rows : EXACT_ROWS);
  if (rows > EXACT_ROWS)
    exact_rows(w, bits, from, exact_from(w, x, EXACT_ROWS), c + EXACT_ROWS * PANEL, rows - EXACT_ROWS);
}
