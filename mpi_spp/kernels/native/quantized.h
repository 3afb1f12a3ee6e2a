/* Products of rows with quantised weights as codes, or as the numbers they stand for, which tile() takes.
 *
 * A panel is two blocks of 16 outputs, each [groups] of codes followed by 16 scales and, with 4 bits, 16 minima in half
 * precision: w = scale * code + minimum. Codes of 8 bits are signed, [group, 16]; of 4 bits they are nibbles of 16-bit
 * words, [group / 8, 16, 2], and input 8j + 2p + h of an output is nibble p of its word h. */
#pragma once
#include "tile.h"

INLINE index_t groups_of(const Matrix *w) { return parts_of(w->in, w->group); }

INLINE index_t block_bytes(const Matrix *w) { return w->bits == 4 ? w->group * 8 + 64 : w->group * 16 + 32; }

/* Rows of inputs as those products want them: numbers, scales and sums of groups. */
typedef struct {
  void *numbers;
  float *scales, *sums;
  index_t tiled; /* rows, where they lie in tiles; or 0 */
} Inputs;

/* Inputs that are being made of rows. */
typedef struct {
  const Matrix *matrix;
  const element *x;
  Inputs to;
} Rounding;

#include "codes_int16.h"
#include "codes_int8.h"
#ifdef __AMX_INT8__
#include "codes_amx.h"
#else
INLINE int takes_tiles(const Matrix *w, index_t rows) { return (void)w, (void)rows, 0; }
INLINE size_t tiled_bytes(const Matrix *w, index_t rows) { return (void)w, (void)rows, 0; }
INLINE Inputs tiled_of(const Matrix *w, const element *x, index_t rows, void *memory) {
  return (void)w, (void)x, (void)rows, (void)memory, (Inputs){0};
}
INLINE Inputs tiled_from(const Matrix *w, Inputs x, index_t row) { return (void)w, (void)row, x; }
INLINE void rows_by_tiles(const Matrix *w, const uint8_t *panel, Inputs x, float *c, index_t rows) {
  (void)w, (void)panel, (void)x, (void)c, (void)rows;
}
#endif

/* What a matrix wants: inputs that lose nothing to speak of, or those of 8 bits; each of many rows in tiles. */
INLINE int takes_codes(const Matrix *w, index_t rows) { return takes_int8(w) || takes_exact(w, rows); }
INLINE size_t inputs_bytes(const Matrix *w, index_t rows) {
  if (takes_tiles(w, rows)) return tiled_bytes(w, rows);
  return takes_int8(w) ? int8_bytes(w, rows) : exact_bytes(w, rows);
}
INLINE Inputs inputs_of(const Matrix *w, const element *x, index_t rows, void *memory) {
  if (takes_tiles(w, rows)) return tiled_of(w, x, rows, memory);
  return takes_int8(w) ? int8_of(w, x, rows, memory) : exact_of(w, x, rows, memory);
}
INLINE Inputs inputs_from(const Matrix *w, Inputs x, index_t row) {
  if (x.tiled) return tiled_from(w, x, row);
  return takes_int8(w) ? int8_from(w, x, row) : exact_from(w, x, row);
}

static void some_rows(const Matrix *w, const uint8_t *from, Inputs x, float *c, index_t rows) {
  if (takes_int8(w) && w->group == MOST_DOTS) {
#define CALL(R) block_of_dots(w, MOST_DOTS, from, x, c, R)
    WITH_BLOCK_ROWS(rows, CALL)
#undef CALL
  } else if (takes_int8(w)) {
#define CALL(R) block_of_dots(w, w->group, from, x, c, R)
    WITH_BLOCK_ROWS(rows, CALL)
#undef CALL
  } else if (w->bits == 4) {
#define CALL(R) exact_block(w, 4, from, x, c, R)
    WITH_BLOCK_ROWS(rows, CALL)
#undef CALL
  } else {
#define CALL(R) exact_block(w, 8, from, x, c, R)
    WITH_BLOCK_ROWS(rows, CALL)
#undef CALL
  }
}

/* c [rows, PANEL] of one quantised panel. */
static void rows_of_codes(const Matrix *w, const uint8_t *panel, Inputs x, float *c, index_t rows) {
  if (x.tiled) {
    rows_by_tiles(w, panel, x, c, rows);
    return;
  }
  for (int half = 0; half < 2; half++)
    for (index_t row = 0; row < rows; row += BLOCK_ROWS)
      some_rows(w, panel + half * groups_of(w) * block_bytes(w), inputs_from(w, x, row), c + row * PANEL + 16 * half,
                smaller(BLOCK_ROWS, rows - row));
}

/* Pairs [first, first + count) of inputs of a quantised panel as those of elements, rounded. */
static void dequantize(const Matrix *w, const uint8_t *panel, index_t first, index_t count, element *to) {
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
      store_half_lines(to + (pair - first) * 2 * PANEL, half, multiply_add(even, scales, minima),
                       multiply_add(odd, scales, minima));
    }
}
