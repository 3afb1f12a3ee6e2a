/* Products of rows with quantised weights by AVX2: inputs of a group become 16-bit integers with a scale, which err by 2e-5
 * of a product; integers are multiplied in pairs and added up exactly, so a row is the same whatever is computed with it. */
#pragma once
#include "native.h"

enum { BLOCK_ROWS = 4, MOST_INPUTS = 512 }; /* more products of 127 and 32767 would not fit into 31 bits */
#define WITH_BLOCK_ROWS(rows, CALL) \
  switch (rows) {                   \
    case 1: CALL(1); break;         \
    case 2: CALL(2); break;         \
    case 3: CALL(3); break;         \
    default: CALL(4);               \
  }

INLINE int takes_codes(const Matrix *w, index_t rows) {
  (void)rows;
  return w->bits != 16 && w->group <= MOST_INPUTS;
}

/* Rows of inputs, padded with zeros to whole groups: integers, and of each group their scale, and that times their sum. */
typedef struct {
  int16_t *integers; /* [rows, groups, group] */
  float *scales, *sums;
} Inputs;

INLINE size_t inputs_bytes(const Matrix *w, index_t rows) {
  return rows * groups_of(w) * (w->group * sizeof(int16_t) + 2 * sizeof(float));
}

/* The inputs from row `row` on. */
INLINE Inputs inputs_from(const Matrix *w, Inputs x, index_t row) {
  index_t groups = groups_of(w);
  return (Inputs){x.integers + row * groups * w->group, x.scales + row * groups, x.sums + row * groups};
}

/* x [count] of a group as integers [group], of which the largest magnitude is 32767. */
INLINE void integers_of(const bfloat16 *x, index_t count, index_t group, int16_t *to, float *scale, float *sum) {
  floats most = zeros(), total = zeros();
  for (index_t k = 0; k < group; k += 16) most = larger_bits(most, magnitude(load_bfloat16(x + k, count - k)));
  *scale = largest_by_bits(most) / 32767.0f;
  floats divisor = all(*scale == 0.0f ? 1.0f : *scale);
  for (index_t k = 0; k < group; k += 16) {
    floats values = nearest(divide(load_bfloat16(x + k, count - k), divisor));
    total = add(total, values);
    __m256i packed = _mm256_packs_epi32(_mm256_cvtps_epi32(values.low), _mm256_cvtps_epi32(values.high));
    _mm256_storeu_si256((__m256i *)(to + k), _mm256_permute4x64_epi64(packed, 0xd8));
  }
  *sum = *scale * sum_of(total);
}

typedef struct {
  const Matrix *matrix;
  const bfloat16 *x;
  Inputs to;
} Rounding;

static void round_rows(void *of, index_t first, index_t stop) {
  const Rounding *rounding = of;
  const Matrix *w = rounding->matrix;
  const Inputs *to = &rounding->to;
  index_t groups = groups_of(w);
  for (index_t place = first * groups; place < stop * groups; place++) {
    index_t row = place / groups, at = place % groups * w->group;
    integers_of(rounding->x + row * w->in + at, smaller(w->in - at, w->group), w->group, to->integers + place * w->group,
                to->scales + place, to->sums + place);
  }
}

static Inputs inputs_of(const Matrix *w, const bfloat16 *x, index_t rows, void *memory) {
  index_t groups = groups_of(w);
  float *scales = memory;
  Inputs to = {(int16_t *)(scales + 2 * rows * groups), scales, scales + rows * groups};
  Rounding rounding = {w, x, to};
  share_out(round_rows, &rounding, rows, rows > MOST_REGISTER_ROWS);
  return to;
}

/* A pair of codes, as 16-bit integers, of each of 16 outputs: pair `pair` of those at `from`. */
INLINE words pair_of_codes(int bits, const uint8_t *from, index_t pair) {
  if (bits == 4) {
    words codes = load_words(from + pair / 4 * 64);
    __m256i low = _mm256_set1_epi16(15);
    __m128i shift = _mm_cvtsi32_si128((int)(pair % 4 * 4));
    return (words){_mm256_and_si256(_mm256_srl_epi16(codes.low, shift), low),
                   _mm256_and_si256(_mm256_srl_epi16(codes.high, shift), low)};
  }
  __m128i even = _mm_loadu_si128((const __m128i *)from + 2 * pair), odd = _mm_loadu_si128((const __m128i *)from + 2 * pair + 1);
  return (words){_mm256_cvtepi8_epi16(_mm_unpacklo_epi8(even, odd)), _mm256_cvtepi8_epi16(_mm_unpackhi_epi8(even, odd))};
}

/* The compiler may not add up in another order, for which it would want more registers than there are. */
#define KEEP_ORDER(sum) __asm__("" : "+x"((sum).low), "+x"((sum).high))

/* sums += four pairs of codes times the inputs of each row, `width` apart. */
INLINE void add_pairs(int bits, const uint8_t *from, const int16_t *x, index_t width, words *sums, int rows) {
#pragma GCC unroll 4
  for (int pair = 0; pair < 4; pair++) {
    words codes = pair_of_codes(bits, from, pair);
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) {
      int inputs;
      memcpy(&inputs, x + r * width + 2 * pair, 4);
      __m256i both = _mm256_set1_epi32(inputs);
      sums[r].low = _mm256_add_epi32(sums[r].low, _mm256_madd_epi16(codes.low, both));
      sums[r].high = _mm256_add_epi32(sums[r].high, _mm256_madd_epi16(codes.high, both));
      KEEP_ORDER(sums[r]);
    }
  }
}

/* c [rows, 16] of up to BLOCK_ROWS rows with a block of 16 outputs. */
INLINE void block_of_codes(const Matrix *w, int bits, const uint8_t *from, Inputs x, float *c, int rows) {
  index_t groups = groups_of(w), width = groups * w->group, bytes = w->group * 2 * bits;
  floats totals[BLOCK_ROWS];
#pragma GCC unroll 4
  for (int r = 0; r < rows; r++) totals[r] = zeros();
  for (index_t g = 0; g < groups; g++, from += block_bytes(w)) {
    words sums[BLOCK_ROWS];
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) sums[r].low = sums[r].high = _mm256_setzero_si256();
#pragma GCC unroll 1
    for (index_t k = 0; k < w->group; k += 8) {
      const uint8_t *codes = from + k * 2 * bits;
      if (rows < 3) fetch_ahead(codes);
      if (rows < 3 && bits == 8) fetch_ahead(codes + 64);
      add_pairs(bits, codes, x.integers + g * w->group + k, width, sums, rows);
    }
    floats scales = load_half(from + bytes);
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) {
      floats sum = {_mm256_cvtepi32_ps(sums[r].low), _mm256_cvtepi32_ps(sums[r].high)};
      totals[r] = multiply_add(multiply(scales, all(x.scales[r * groups + g])), sum, totals[r]);
      if (bits == 4) totals[r] = multiply_add(load_half(from + bytes + 32), all(x.sums[r * groups + g]), totals[r]);
    }
  }
#pragma GCC unroll 4
  for (int r = 0; r < rows; r++) store(c + r * PANEL, totals[r]);
}
