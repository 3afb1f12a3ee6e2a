/* tile.h for CPUs with AMX, which has registers for 16 rows of 64 bytes: a panel's pairs fill them as they lie. */
#pragma once
#include "numbers_bfloat16.h"

/* A block of rows and the part of a panel that it meets stay in the second cache and in the first. */
enum { TILE_ROWS = 32, ROW_BLOCK = 8 * TILE_ROWS, PAIR_BLOCK = 128, STEP = 16 }; /* STEP: pairs of one instruction */

/* Registers 0 and 1 hold the sums of the upper 16 rows, 2 and 3 those of the lower ones; 4 and 5 inputs of each; 6 and 7
 * the left and the right half of a panel. */
typedef struct {
  uint8_t palette, first_row, unused[14];
  uint16_t bytes[16];
  uint8_t rows[16];
} TileShapes;

static _Thread_local index_t shaped_for; /* rows; 0: nobody knows, since torch uses the registers too */

/* The compiler does not know that loads and stores of tiles touch memory. */
#define MEMORY_IS_USED __asm__ volatile("" ::: "memory")

INLINE void begin_tiles(void) { shaped_for = 0; }
INLINE void end_tiles(void) { _tile_release(); }

static inline void shape_for(index_t rows) {
  if (shaped_for == rows) return;
  uint8_t upper = smaller(rows, 16), lower = rows - upper;
  TileShapes shapes = {.palette = 1, .rows = {upper, upper, lower, lower, upper, lower, 16, 16}};
  for (int i = 0; i < 8; i++) shapes.bytes[i] = shapes.rows[i] ? 64 : 0;
  MEMORY_IS_USED;
  _tile_loadconfig(&shapes);
  shaped_for = rows;
}

INLINE void add_step(int lower, const bfloat16 *a, index_t stride, const bfloat16 *b) {
  _tile_loadd(6, b, 128);
  _tile_loadd(7, b + 32, 128);
  _tile_loadd(4, a, stride * 2);
  _tile_dpbf16ps(0, 4, 6);
  _tile_dpbf16ps(1, 4, 7);
  if (lower) {
    _tile_loadd(5, a + 16 * stride, stride * 2);
    _tile_dpbf16ps(2, 5, 6);
    _tile_dpbf16ps(3, 5, 7);
  }
}

/* The last pairs, fewer than STEP, with zeros behind them. */
INLINE void add_rest(int lower, index_t rows, const bfloat16 *a, index_t stride, const bfloat16 *b, index_t pairs) {
  bfloat16 inputs[TILE_ROWS][2 * STEP], panel[STEP][64];
  memset(inputs, 0, sizeof inputs);
  memset(panel, 0, sizeof panel);
  for (index_t r = 0; r < rows; r++) memcpy(inputs[r], a + r * stride, pairs * 4);
  memcpy(panel, b, pairs * 128);
  MEMORY_IS_USED;
  add_step(lower, inputs[0], 2 * STEP, panel[0]);
}

/* next: where `lines` of 64 bytes a step are fetched into the second cache, for the product after this one. */
INLINE void tile_of(int lower, index_t rows, const bfloat16 *a, index_t stride, const bfloat16 *b, index_t pairs,
                    float *c, index_t c_stride, int first, const char *next, index_t lines) {
  float *below = c + 16 * c_stride;
  if (first) {
    _tile_zero(0);
    _tile_zero(1);
    if (lower) {
      _tile_zero(2);
      _tile_zero(3);
    }
  } else {
    _tile_loadd(0, c, c_stride * 4);
    _tile_loadd(1, c + 16, c_stride * 4);
    if (lower) {
      _tile_loadd(2, below, c_stride * 4);
      _tile_loadd(3, below + 16, c_stride * 4);
    }
  }
  index_t k = 0;
  for (; k + STEP <= pairs; k += STEP) {
    for (index_t line = 0; line < lines; line++, next += 64) _mm_prefetch(next, _MM_HINT_T1);
    add_step(lower, a + 2 * k, stride, b + 64 * k);
  }
  if (k < pairs) add_rest(lower, rows, a + 2 * k, stride, b + 64 * k, pairs - k);
  _tile_stored(0, c, c_stride * 4);
  _tile_stored(1, c + 16, c_stride * 4);
  if (lower) {
    _tile_stored(2, below, c_stride * 4);
    _tile_stored(3, below + 16, c_stride * 4);
  }
}

static __attribute__((noinline)) void tile_ahead(index_t rows, const bfloat16 *a, index_t stride, const bfloat16 *b,
                                                 index_t pairs, float *c, index_t c_stride, int first,
                                                 const char *next, index_t lines) {
  shape_for(rows);
  MEMORY_IS_USED;
  if (rows > 16)
    tile_of(1, rows, a, stride, b, pairs, c, c_stride, first, next, lines);
  else
    tile_of(0, rows, a, stride, b, pairs, c, c_stride, first, next, lines);
  MEMORY_IS_USED;
}

INLINE void tile(index_t rows, const bfloat16 *a, index_t stride, const bfloat16 *b, index_t pairs, float *c,
                 index_t c_stride, int first) {
  tile_ahead(rows, a, stride, b, pairs, c, c_stride, first, NULL, 0);
}

/* Each tile fetches its part of what lies behind b: a product of few rows waits for memory, and one of many for nothing. */
INLINE void tiles(index_t rows, const bfloat16 *a, index_t stride, const bfloat16 *b, index_t pairs, float *c, int first,
                  int from_memory) {
  index_t lines = from_memory ? parts_of(2 * STEP, parts_of(rows, TILE_ROWS)) : 0;
  const char *next = (const char *)(b + 64 * pairs);
  for (index_t row = 0; row < rows; row += TILE_ROWS, next += lines * 64 * (pairs / STEP))
    tile_ahead(smaller(TILE_ROWS, rows - row), a + row * stride, stride, b, pairs, c + row * PANEL, PANEL, first, next,
               lines);
}
