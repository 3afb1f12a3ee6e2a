/* Products of rows with weights of 4 bits by integers of 8: blocks of up to MOST_DOTS inputs become such integers with a
 * scale in float32 (as llama.cpp's Q8_0). They are added up exactly, so a row is the same whatever is computed with it, and
 * by whatever instructions. */
#pragma once
#include "integers.h"

enum { MOST_DOTS = 32 }; /* inputs of a block, the last of a group may have 16 */

INLINE int takes_int8(const Matrix *w) { return w->bits == 4 && w->activations == 8; }

INLINE index_t dots_of_group(const Matrix *w) { return parts_of(w->group, MOST_DOTS); }

/* Rows of inputs, padded with zeros to whole groups: integers [rows, groups, group] in the order of nibbles, scales
 * [rows, groups, blocks of a group], and what the inputs of each group add up to [rows, groups]. */
INLINE size_t int8_bytes(const Matrix *w, index_t rows) {
  return rows * groups_of(w) * (w->group + (dots_of_group(w) + 1) * sizeof(float));
}

/* The inputs from row `row` on. */
INLINE Inputs int8_from(const Matrix *w, Inputs x, index_t row) {
  index_t at = row * groups_of(w);
  return (Inputs){(int8_t *)x.numbers + at * w->group, x.scales + at * dots_of_group(w), x.sums + at, 0};
}

/* Inputs of a block [count] as integers [size], of which the largest magnitude is 127. Returns what these add up to. */
INLINE float dots_of(const element *x, index_t count, index_t size, int8_t *to, float *scale) {
  floats most = zeros(), total = zeros(), end = all(127.0f);
  for (index_t k = 0; k < size; k += 16) most = larger_bits(most, magnitude(load_elements(x + k, count - k)));
  *scale = largest_by_bits(most) / 127.0f;
  floats divisor = all(*scale == 0.0f ? 1.0f : *scale);
  for (index_t k = 0; k < size; k += 16) {
    floats values = nearest(divide(load_elements(x + k, count - k), divisor));
    values = maximum(minimum(values, end), subtract(zeros(), end)); /* few bits of scale */
    total = add(total, values);
    store_codes(to + k, values, 16);
    store_in_order_of_nibbles(to + k);
  }
  return sum_of(total);
}

/* One group of inputs, `place` counting those of all rows. */
static void round_group(const Rounding *rounding, index_t place) {
  const Matrix *w = rounding->matrix;
  Inputs to = rounding->to;
  index_t dots = dots_of_group(w), row = place / groups_of(w), first = place % groups_of(w) * w->group;
  index_t count = smaller(w->in - first, w->group);
  float sum = 0;
  for (index_t dot = 0, k = 0; dot < dots; dot++, k += MOST_DOTS) {
    int8_t *codes = (int8_t *)to.numbers + place * w->group + k;
    float *scale = to.scales + place * dots + dot;
    float total = dots_of(rounding->x + row * w->in + first + k, count - k, smaller(MOST_DOTS, w->group - k), codes, scale);
    sum = fmaf(*scale, total, sum);
  }
  to.sums[place] = sum;
}

static void round_to_dots(void *rounding, index_t first, index_t stop) {
  index_t groups = groups_of(((Rounding *)rounding)->matrix);
  for (index_t place = first * groups; place < stop * groups; place++) round_group(rounding, place);
}

static Inputs int8_of(const Matrix *w, const element *x, index_t rows, void *memory) {
  index_t groups = groups_of(w);
  float *scales = memory, *sums = scales + rows * groups * dots_of_group(w);
  Inputs to = {sums + rows * groups, scales, sums, 0};
  Rounding rounding = {w, x, to};
  share_out(round_to_dots, &rounding, rows, rows > MOST_REGISTER_ROWS);
  return to;
}

/* c [rows, 16] of up to BLOCK_ROWS rows with a block of 16 outputs and so many inputs of a group. */
INLINE void block_of_dots(const Matrix *w, index_t group, const uint8_t *from, Inputs x, float *c, int rows) {
  index_t groups = groups_of(w), width = groups * group, dots = parts_of(group, MOST_DOTS);
  floats totals[BLOCK_ROWS];
#pragma GCC unroll 12
  for (int r = 0; r < rows; r++) totals[r] = zeros();
  for (index_t g = 0; g < groups; g++, from += group * 8 + 64) {
    floats scales = load_half(from + group * 8), minima = load_half(from + group * 8 + 32);
    for (index_t dot = 0; dot < dots; dot++) {
      words sums[BLOCK_ROWS];
#pragma GCC unroll 12
      for (int r = 0; r < rows; r++) sums[r] = no_words();
      const uint8_t *codes = from + dot * MOST_DOTS * 8, *end = from + smaller(group, (dot + 1) * MOST_DOTS) * 8;
      Places places = places_of((const int8_t *)x.numbers + g * group + dot * MOST_DOTS, width);
#pragma GCC unroll 1
      for (; codes < end; codes += 64) {
        if (rows < 3) fetch_ahead(codes);
        add_eight(codes, places, width, sums, rows);
        places = behind_places(places, 8, rows);
      }
      settle_rows(sums, rows);
#pragma GCC unroll 12
      for (int r = 0; r < rows; r++) {
        floats scale = multiply(scales, all(x.scales[(r * groups + g) * dots + dot]));
        totals[r] = multiply_add(scale, to_floats(sum_of_dots(sums[r])), totals[r]);
      }
    }
#pragma GCC unroll 12
    for (int r = 0; r < rows; r++) totals[r] = multiply_add(minima, all(x.sums[r * groups + g]), totals[r]);
  }
#pragma GCC unroll 12
  for (int r = 0; r < rows; r++) store(c + r * PANEL, totals[r]);
}
