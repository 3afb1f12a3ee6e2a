/* Products of some rows with quantised weights by AMX's tiles of bytes. The integers that codes_int16.h and codes_int8.h
 * add up are added up by 16 rows and 16 outputs at once, those of 16 bits as 256 times a signed byte and an unsigned one; then
 * scales follow in the same order, so the bits are theirs. */
#pragma once
#include "codes_int16.h"
#include "codes_int8.h"

/* Rows of a tile, and of a product; bytes of a row of a tile; inputs whose codes find room on a stack. */
enum { TILED_ROWS = 16, FEWEST_TILED = 24, MOST_BYTES = 64, MOST_TILED = 1 << 16 };

/* Inputs whose products are added up before a scale comes, and those of one instruction; 0 where tiles cannot have them. */
INLINE index_t inputs_of_sum(const Matrix *w) { return takes_int8(w) ? smaller(w->group, MOST_DOTS) : w->group; }
INLINE index_t inputs_of_tile(const Matrix *w) {
  index_t all_of = inputs_of_sum(w), some = smaller(all_of, MOST_BYTES);
  return all_of % some || w->group % all_of || all_of > MOST_INPUTS ? 0 : some;
}

INLINE int takes_tiles(const Matrix *w, index_t rows) {
  return is_quantized(w) && rows >= FEWEST_TILED && w->in < MOST_TILED && inputs_of_tile(w) > 0;
}

INLINE index_t whole_tiles(index_t rows) { return parts_of(rows, TILED_ROWS) * TILED_ROWS; }
INLINE index_t parts_of_input(const Matrix *w) { return takes_int8(w) ? 1 : 2; }

/* Bytes [sums, tiles of a sum, parts, rows in whole tiles, inputs of a tile]; of each sum scales [rows], and of each group
 * what inputs add up to. */
INLINE size_t tiled_bytes(const Matrix *w, index_t rows) {
  index_t inputs = groups_of(w) * w->group, sums = inputs / inputs_of_sum(w);
  return whole_tiles(rows) * (inputs * parts_of_input(w) + (sums + groups_of(w)) * sizeof(float));
}

/* The inputs from row `row` on. */
INLINE Inputs tiled_from(const Matrix *w, Inputs x, index_t row) {
  return (Inputs){(char *)x.numbers + row * inputs_of_tile(w), x.scales + row, x.sums + row, x.tiled};
}

/* Some integers of a row of 16 bits in their two parts, or of 8 bits as they are, go to their places in tiles. */
static void spread(const Matrix *w, const int16_t *integers, const int8_t *codes, index_t row, index_t first, Inputs to) {
  index_t inputs = inputs_of_tile(w), parts = parts_of_input(w), plane = to.tiled * inputs;
  char *at = (char *)to.numbers + first * parts * to.tiled + row * inputs;
  for (index_t k = 0; k < inputs_of_sum(w); k += inputs, at += parts * plane) {
    if (codes) memcpy(at, codes + k, inputs);
    for (index_t i = 0; i < inputs && !codes; i += 16) {
      __m256i both = _mm256_loadu_si256((const __m256i *)(integers + k + i));
      _mm_storeu_si128((__m128i *)(at + i), _mm256_cvtepi16_epi8(_mm256_srli_epi16(both, 8)));
      _mm_storeu_si128((__m128i *)(at + plane + i), _mm256_cvtepi16_epi8(both));
      if (w->bits == 4) store_in_order_of_nibbles((int8_t *)at + i);
      if (w->bits == 4) store_in_order_of_nibbles((int8_t *)at + plane + i);
    }
  }
}

/* A group of inputs of a row. */
static void tile_group(const Rounding *rounding, index_t row, index_t g) {
  const Matrix *w = rounding->matrix;
  Inputs to = rounding->to;
  index_t first = g * w->group, step = inputs_of_sum(w);
  const element *x = rounding->x + row * w->in + first;
  float sum = 0;
  for (index_t k = 0; k < w->group; k += step) {
    index_t count = smaller(w->in - first - k, step);
    float *scale = to.scales + (first + k) / step * to.tiled + row;
    int16_t integers[MOST_INPUTS];
    int8_t codes[MOST_DOTS];
    if (takes_int8(w)) {
      float total = dots_of(x + k, count, step, codes, scale);
      sum = fmaf(*scale, total, sum);
    } else {
      integers_of(x + k, count, step, integers, scale, &sum);
    }
    spread(w, integers, takes_int8(w) ? codes : NULL, row, first + k, to);
  }
  to.sums[g * to.tiled + row] = sum;
}

static void round_to_tiles(void *of, index_t first, index_t stop) {
  const Rounding *rounding = of;
  for (index_t row = first; row < stop; row++)
    for (index_t g = 0; g < groups_of(rounding->matrix); g++) tile_group(rounding, row, g);
}

static Inputs tiled_of(const Matrix *w, const element *x, index_t rows, void *memory) {
  index_t tiled = whole_tiles(rows), sums = groups_of(w) * w->group / inputs_of_sum(w);
  float *scales = memory, *totals = scales + sums * tiled;
  Inputs to = {totals + groups_of(w) * tiled, scales, totals, tiled};
  Rounding rounding = {w, x, to};
  share_out(round_to_tiles, &rounding, rows, 1);
  return to;
}

/* Codes of some inputs of 16 outputs as rows of four inputs each. */
INLINE void tile_of_codes(int bits, const uint8_t *from, index_t inputs, uint8_t *to) {
  for (index_t k = 0; k < inputs && bits == 4; k += 8, to += 128) {
    words codes = load_words(from + k * 8);
    store_words(to, low_nibbles(codes));
    store_words(to + 64, high_nibbles(codes));
  }
  for (index_t k = 0; k < inputs && bits == 8; k += 4, to += 64) {
    const __m128i *lines = (const __m128i *)(from + k * 16);
    __m128i one = _mm_loadu_si128(lines), two = _mm_loadu_si128(lines + 1);
    __m128i three = _mm_loadu_si128(lines + 2), four = _mm_loadu_si128(lines + 3);
    __m128i left = _mm_unpacklo_epi8(one, two), right = _mm_unpacklo_epi8(three, four);
    _mm_storeu_si128((__m128i *)to, _mm_unpacklo_epi16(left, right));
    _mm_storeu_si128((__m128i *)to + 1, _mm_unpackhi_epi16(left, right));
    left = _mm_unpackhi_epi8(one, two), right = _mm_unpackhi_epi8(three, four);
    _mm_storeu_si128((__m128i *)to + 2, _mm_unpacklo_epi16(left, right));
    _mm_storeu_si128((__m128i *)to + 3, _mm_unpackhi_epi16(left, right));
  }
}

/* Registers 0 and 1 hold sums of the two parts of inputs with 16 outputs; 4 and 5 these inputs, and 6 codes. */
static void shape_for_bytes(index_t inputs) {
  TileShapes shapes = {.palette = 1};
  for (int i = 0; i < 8; i++) {
    shapes.rows[i] = i == 6 ? inputs / 4 : TILED_ROWS;
    shapes.bytes[i] = i == 4 || i == 5 ? inputs : 64;
  }
  MEMORY_IS_USED;
  _tile_loadconfig(&shapes);
  shaped_for = 0;
}

typedef int32_t Sums[2][TILED_ROWS][16];

/* Sums of 16 rows with codes of 16 outputs, as tile_of_codes() has them. */
INLINE void add_bytes(int parts, const char *x, index_t plane, index_t inputs, index_t count, const uint8_t *codes,
                      Sums sums) {
  _tile_zero(0);
  if (parts == 2) _tile_zero(1);
  for (index_t k = 0; k < count; k++, x += parts * plane, codes += inputs * 16) {
    _tile_loadd(6, codes, 64);
    _tile_loadd(4, x, inputs);
    _tile_dpbssd(0, 4, 6);
    if (parts == 1) continue;
    _tile_loadd(5, x + plane, inputs);
    _tile_dpbusd(1, 5, 6);
  }
  _tile_stored(0, sums[0], 64);
  if (parts == 2) _tile_stored(1, sums[1], 64);
}

/* totals += sums of 16 rows times the scales of 16 outputs and of the rows; and minima times what inputs add up to. */
INLINE void add_scaled(int parts, const Sums sums, floats scales, const float *x_scales, floats totals[TILED_ROWS]) {
#pragma GCC unroll 16
  for (int r = 0; r < TILED_ROWS; r++) {
    words sum = load_words(sums[0][r]);
    if (parts == 2) sum = _mm512_add_epi32(_mm512_slli_epi32(sum, 8), load_words(sums[1][r]));
    totals[r] = multiply_add(multiply(scales, all(x_scales[r])), to_floats(sum), totals[r]);
  }
}
INLINE void add_minima(floats minima, const float *x_sums, floats totals[TILED_ROWS]) {
#pragma GCC unroll 16
  for (int r = 0; r < TILED_ROWS; r++) totals[r] = multiply_add(minima, all(x_sums[r]), totals[r]);
}

/* c [rows, 16] of up to 16 rows with a block of 16 outputs, whose codes lie in `codes`. While sums are on their way, those
 * before them are scaled. */
INLINE void block_by_tiles(int parts, const Matrix *w, const uint8_t *from, const uint8_t *codes, Inputs x, float *c,
                           index_t rows) {
  Sums sums[2] __attribute__((aligned(64)));
  floats totals[TILED_ROWS];
#pragma GCC unroll 16
  for (int r = 0; r < TILED_ROWS; r++) totals[r] = zeros();
  index_t inputs = inputs_of_tile(w), step = inputs_of_sum(w), plane = x.tiled * inputs, each = w->group / step;
  index_t count = groups_of(w) * each, bytes = w->group * 2 * w->bits;
  const char *numbers = x.numbers;
  for (index_t s = 0, part = 0; s <= count; s++, codes += step * 16, numbers += step * parts * x.tiled) {
    if (s < count) add_bytes(parts, numbers, plane, inputs, step / inputs, codes, sums[s % 2]);
    MEMORY_IS_USED;
    if (s == 0) continue;
    add_scaled(parts, sums[(s - 1) % 2], load_half(from + bytes), x.scales, totals);
    x.scales += x.tiled;
    if (++part < each) continue;
    if (w->bits == 4) add_minima(load_half(from + bytes + 32), x.sums, totals);
    part = 0, x.sums += x.tiled, from += block_bytes(w);
  }
#pragma GCC unroll 16
  for (int r = 0; r < TILED_ROWS; r++)
    if (r < rows) store(c + r * PANEL, totals[r]);
}

/* Not inlined: the sums need all registers. */
static __attribute__((noinline)) void block_of_bytes(const Matrix *w, const uint8_t *from, const uint8_t *codes, Inputs x,
                                                     float *c, index_t rows) {
  block_by_tiles(1, w, from, codes, x, c, rows);
}
static __attribute__((noinline)) void block_of_halves(const Matrix *w, const uint8_t *from, const uint8_t *codes, Inputs x,
                                                      float *c, index_t rows) {
  block_by_tiles(2, w, from, codes, x, c, rows);
}

/* c [rows, PANEL] of one quantised panel. */
static void rows_by_tiles(const Matrix *w, const uint8_t *panel, Inputs x, float *c, index_t rows) {
  index_t inputs = inputs_of_tile(w), groups = groups_of(w);
  uint8_t codes[groups * w->group * 16] __attribute__((aligned(64)));
  shape_for_bytes(inputs);
  for (int half = 0; half < 2; half++) {
    const uint8_t *from = panel + half * groups * block_bytes(w);
    for (index_t k = 0; k < groups * w->group; k += inputs)
      tile_of_codes(w->bits, from + k / w->group * block_bytes(w) + k % w->group * 2 * w->bits, inputs, codes + k * 16);
    for (index_t row = 0; row < rows; row += TILED_ROWS) {
      Inputs some = tiled_from(w, x, row);
      index_t count = smaller(TILED_ROWS, rows - row);
      if (takes_int8(w))
        block_of_bytes(w, from, codes, some, c + row * PANEL + 16 * half, count);
      else
        block_of_halves(w, from, codes, some, c + row * PANEL + 16 * half, count);
    }
  }
}
