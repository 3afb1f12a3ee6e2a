/* Products of a few rows with quantised weights, and weights of many rows' products as tile() takes them.
 *
 * A panel is two blocks of 16 outputs, each [groups] of codes followed by 16 scales and, with 4 bits, 16 minima in half
 * precision: w = scale * code + minimum. Codes of 8 bits are signed, [group, 16]; of 4 bits they are nibbles of 16-bit
 * words, [group / 8, 16, 2], and input 8j + 2p + h of an output is nibble p of its word h. */
#pragma once
#include "tile.h"

/* A few rows of inputs, padded with zeros to whole groups, as the kernels want them: in bfloat16, in float32, and the sums of
 * each group. */
typedef struct {
  bfloat16 *halves;
  float *singles, *sums;
} Inputs;

INLINE index_t groups_of(const Matrix *w) { return parts_of(w->in, w->group); }

INLINE index_t block_bytes(const Matrix *w) { return w->bits == 4 ? w->group * 8 + 64 : w->group * 16 + 32; }

INLINE size_t inputs_bytes(const Matrix *w, index_t rows) {
  return rows * groups_of(w) * (w->group * (sizeof(float) + sizeof(bfloat16)) + sizeof(float));
}

static Inputs inputs_of(const Matrix *w, const bfloat16 *x, index_t rows, void *memory) {
  index_t groups = groups_of(w), width = groups * w->group;
  float *singles = memory, *sums = singles + rows * width;
  Inputs to = {(bfloat16 *)(sums + rows * groups), singles, sums};
  for (index_t r = 0; r < rows; r++) {
    bfloat16 *halves = to.halves + r * width;
    memcpy(halves, x + r * w->in, w->in * 2);
    memset(halves + w->in, 0, (width - w->in) * 2);
    for (index_t g = 0; g < groups; g++) {
      floats sum = zeros();
      for (index_t k = g * w->group; k < (g + 1) * w->group; k += 16) {
        floats values = load_bfloat16(halves + k, 16);
        sum = add(sum, values);
        store(to.singles + r * width + k, values);
      }
      if (w->bits == 4) to.sums[r * groups + g] = sum_of(sum);
    }
  }
  return to;
}

/* The inputs from row `row` on. */
INLINE Inputs inputs_from(const Matrix *w, Inputs x, index_t row) {
  index_t groups = groups_of(w), width = groups * w->group;
  return (Inputs){x.halves + row * width, x.singles + row * width, x.sums + row * groups};
}

#ifdef __AVX512BF16__

enum { BLOCK_ROWS = MOST_REGISTER_ROWS };
#define WITH_BLOCK_ROWS WITH_ROWS

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
      memcpy(&pair, x.halves + r * width + at + 2 * p, 4);
      sums[r] = _mm512_dpbf16_ps(sums[r], weights, (__m512bh)_mm512_set1_epi32(pair));
    }
  }
}

#else

enum { BLOCK_ROWS = 4 }; /* with what they are multiplied by, their sums fill 12 of 16 registers */
#define WITH_BLOCK_ROWS(rows, CALL) \
  switch (rows) {                   \
    case 1: CALL(1); break;         \
    case 2: CALL(2); break;         \
    case 3: CALL(3); break;         \
    default: CALL(4);               \
  }

INLINE void add_nibbles(const uint8_t *from, Inputs x, index_t at, index_t width, floats *sums, int rows) {
  words codes = load_words(from);
#pragma GCC unroll 8
  for (int i = 0; i < 8; i++) {
    floats weights = nibbles_at(codes, i / 2 * 4 + i % 2 * 16);
#pragma GCC unroll 4
    for (int r = 0; r < rows; r++) sums[r] = multiply_add(weights, all(x.singles[r * width + at + i]), sums[r]);
  }
}

#endif

/* Up to BLOCK_ROWS rows with one block of 16 outputs. */
INLINE void int4_block(const Matrix *w, const uint8_t *from, Inputs x, float *c, int rows) {
  index_t groups = groups_of(w), width = groups * w->group;
  floats totals[BLOCK_ROWS];
  for (int r = 0; r < rows; r++) totals[r] = zeros();
  for (index_t g = 0; g < groups; g++, from += w->group * 8 + 64) {
    floats sums[BLOCK_ROWS];
    for (int r = 0; r < rows; r++) sums[r] = zeros();
    for (index_t k = 0; k < w->group; k += 8) add_nibbles(from + k * 8, x, g * w->group + k, width, sums, rows);
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
      floats weights = load_codes(from + k * 16, 16);
      for (int r = 0; r < rows; r++)
        sums[r] = multiply_add(weights, all(x.singles[r * width + g * w->group + k]), sums[r]);
    }
    floats scales = load_half(from + w->group * 16);
    for (int r = 0; r < rows; r++) totals[r] = multiply_add(scales, sums[r], totals[r]);
  }
  for (int r = 0; r < rows; r++) store(c + r * PANEL, totals[r]);
}

static void some_rows(const Matrix *w, const uint8_t *from, Inputs x, float *c, index_t rows) {
  if (w->bits == 4) {
#define CALL(R) int4_block(w, from, x, c, R)
    WITH_BLOCK_ROWS(rows, CALL)
#undef CALL
  } else {
#define CALL(R) int8_block(w, from, x, c, R)
    WITH_BLOCK_ROWS(rows, CALL)
#undef CALL
  }
}

/* c [rows, PANEL] of one quantised panel, for up to MOST_REGISTER_ROWS rows. */
static void few_rows(const Matrix *w, const uint8_t *panel, Inputs x, float *c, index_t rows) {
  for (index_t row = 0; row < rows; row += BLOCK_ROWS)
    for (int half = 0; half < 2; half++)
      some_rows(w, panel + half * groups_of(w) * block_bytes(w), inputs_from(w, x, row), c + row * PANEL + 16 * half,
                smaller(BLOCK_ROWS, rows - row));
}

/* Pairs [first, first + count) of a quantised panel as bfloat16 [count, PANEL, 2], rounded. */
static void dequantize(const Matrix *w, const uint8_t *panel, index_t first, index_t count, bfloat16 *to) {
  for (int half = 0; half < 2; half++)
    for (index_t pair = first; pair < first + count; pair++) {
      index_t g = 2 * pair / w->group, k = 2 * pair % w->group;
      const uint8_t *from = panel + (half * groups_of(w) + g) * block_bytes(w);
      floats even, odd, scales, minima = zeros();
      if (w->bits == 4) {
        words codes = load_words(from + k / 8 * 64);
        even = nibbles_at(codes, k % 8 / 2 * 4);
        odd = nibbles_at(codes, k % 8 / 2 * 4 + 16);
        scales = load_half(from + w->group * 8);
        minima = load_half(from + w->group * 8 + 32);
      } else {
        even = load_codes(from + k * 16, 16);
        odd = load_codes(from + k * 16 + 16, 16);
        scales = load_half(from + w->group * 16);
      }
      words pairs = pairs_of(multiply_add(even, scales, minima), multiply_add(odd, scales, minima));
      store_words(to + (pair - first) * 64 + half * 32, pairs);
    }
}
