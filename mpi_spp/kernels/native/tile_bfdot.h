/* tile.h for ARM's CPUs that multiply pairs of bfloat16: a panel's pairs are what their instruction takes. */
#pragma once
#include "numbers_bfloat16.h"

/* A block of rows and the part of a panel that it meets stay in the second cache and in the first. */
enum { TILE_ROWS = MOST_REGISTER_ROWS, ROW_BLOCK = 16 * TILE_ROWS, PAIR_BLOCK = 256, HIGH_ROWS = 6 };

INLINE void begin_tiles(void) {}
INLINE void end_tiles(void) {}

INLINE bfloat16x8_t pairs_at(const bfloat16 *from) { return vreinterpretq_bf16_u16(vld1q_u16(from)); }

/* A pair of inputs, for each of 4 outputs. */
INLINE bfloat16x8_t pair_of_inputs(const bfloat16 *from) {
  return vreinterpretq_bf16_u32(vld1q_dup_u32((const uint32_t *)from));
}

/* Some rows with `quads` times 4 outputs of a panel; their sums fill up to 24 registers. */
INLINE void tile_of(int rows, int quads, const bfloat16 *a, index_t stride, const bfloat16 *b, index_t pairs, float *c,
                    index_t c_stride, int first) {
  float32x4_t sums[HIGH_ROWS][PANEL / 4];
#pragma GCC unroll 6
  for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
    for (int q = 0; q < quads; q++) sums[r][q] = first ? vdupq_n_f32(0) : vld1q_f32(c + r * c_stride + 4 * q);
#pragma GCC unroll 1
  for (const bfloat16 *end = b + 64 * pairs; b < end; b += 64, a += 2) {
    bfloat16x8_t weights[PANEL / 4];
    if (rows < 3) fetch_ahead(b);
    if (rows < 3) fetch_ahead(b + 32);
    if (quads == 4)
#pragma GCC unroll 4
      for (int q = 0; q < 4; q++) weights[q] = pairs_at(b + 8 * q);
#pragma GCC unroll 6
    for (int r = 0; r < rows; r++) {
      bfloat16x8_t inputs = pair_of_inputs(a + r * stride);
#pragma GCC unroll 8
      for (int q = 0; q < quads; q++)
        sums[r][q] = vbfdotq_f32(sums[r][q], quads == 4 ? weights[q] : pairs_at(b + 8 * q), inputs);
    }
  }
#pragma GCC unroll 6
  for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
    for (int q = 0; q < quads; q++) vst1q_f32(c + r * c_stride + 4 * q, sums[r][q]);
}

/* Each sum adds up the same in the same order, whatever the tile. */
/* Two rows r and r + 1 of sums of 4 outputs, as products of matrices have them, and back: two outputs of both. */
#define SWAP(sums, r, q)                                                                                    \
  do {                                                                                                      \
    float64x2_t upper = vreinterpretq_f64_f32(sums[r][q]), lower = vreinterpretq_f64_f32(sums[r + 1][q]);   \
    sums[r][q] = vreinterpretq_f32_f64(vtrn1q_f64(upper, lower));                                           \
    sums[r + 1][q] = vreinterpretq_f32_f64(vtrn2q_f64(upper, lower));                                       \
  } while (0)

/* Four inputs of two outputs, of their pairs. */
INLINE bfloat16x8_t fours_of(int which, bfloat16x8_t pairs, bfloat16x8_t next) {
  uint32x4_t one = vreinterpretq_u32_bf16(pairs), other = vreinterpretq_u32_bf16(next);
  return vreinterpretq_bf16_u32(which ? vzip2q_u32(one, other) : vzip1q_u32(one, other));
}

INLINE bfloat16x8_t inputs_of_two(const bfloat16 *a, index_t stride) {
  return vreinterpretq_bf16_u16(vcombine_u16(vld1_u16(a), vld1_u16(a + stride)));
}

/* The same for 2, 4 or 6 rows and an even number of pairs by products of two rows with two outputs: two dot products each,
 * one after the other, so the bits are theirs. */
INLINE void tile_of_twos(int rows, int quads, const bfloat16 *a, index_t stride, const bfloat16 *b, index_t pairs, float *c,
                         index_t c_stride, int first) {
  float32x4_t sums[HIGH_ROWS][PANEL / 4];
#pragma GCC unroll 6
  for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
    for (int q = 0; q < quads; q++) sums[r][q] = first ? vdupq_n_f32(0) : vld1q_f32(c + r * c_stride + 4 * q);
#pragma GCC unroll 3
  for (int r = 0; r < rows; r += 2)
#pragma GCC unroll 8
    for (int q = 0; q < quads; q++) SWAP(sums, r, q);
#pragma GCC unroll 1
  for (const bfloat16 *end = b + 64 * pairs; b < end; b += 128, a += 4) {
    bfloat16x8_t inputs[HIGH_ROWS / 2];
#pragma GCC unroll 3
    for (int r = 0; r < rows; r += 2) inputs[r / 2] = inputs_of_two(a + r * stride, stride);
#pragma GCC unroll 8
    for (int q = 0; q < quads; q++) {
      bfloat16x8_t pairs_here = pairs_at(b + 8 * q), next = pairs_at(b + 64 + 8 * q);
#pragma GCC unroll 2
      for (int which = 0; which < 2; which++) {
        bfloat16x8_t weights = fours_of(which, pairs_here, next);
#pragma GCC unroll 3
        for (int r = 0; r < rows; r += 2)
          sums[r + which][q] = vbfmmlaq_f32(sums[r + which][q], inputs[r / 2], weights);
      }
    }
  }
#pragma GCC unroll 3
  for (int r = 0; r < rows; r += 2)
#pragma GCC unroll 8
    for (int q = 0; q < quads; q++) SWAP(sums, r, q);
#pragma GCC unroll 6
  for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
    for (int q = 0; q < quads; q++) vst1q_f32(c + r * c_stride + 4 * q, sums[r][q]);
}

#define TILE(ROWS, QUADS)                                                                                                \
  static __attribute__((noinline)) void tile_##ROWS##x##QUADS(const bfloat16 *a, index_t stride, const bfloat16 *b,      \
                                                              index_t pairs, float *c, index_t c_stride, int first) {    \
    index_t twos = ROWS % 2 ? 0 : pairs / 2 * 2;                                                                         \
    for (int q = 0; q < PANEL / 4; q += QUADS) {                                                                         \
      if (twos) tile_of_twos(ROWS, QUADS, a, stride, b + 8 * q, twos, c + 4 * q, c_stride, first);                       \
      if (twos < pairs)                                                                                                  \
        tile_of(ROWS, QUADS, a + 2 * twos, stride, b + 64 * twos + 8 * q, pairs - twos, c + 4 * q, c_stride,             \
                first && !twos);                                                                                         \
    }                                                                                                                    \
  }
TILE(1, 8)
TILE(2, 8)
TILE(3, 4)
TILE(4, 4)
TILE(5, 4)
TILE(6, 4)
#undef TILE

static void tile(index_t rows, const bfloat16 *a, index_t stride, const bfloat16 *b, index_t pairs, float *c,
                 index_t c_stride, int first) {
  for (; rows > 0; rows -= HIGH_ROWS, a += HIGH_ROWS * stride, c += HIGH_ROWS * c_stride) switch (rows) {
      case 1: tile_1x8(a, stride, b, pairs, c, c_stride, first); break;
      case 2: tile_2x8(a, stride, b, pairs, c, c_stride, first); break;
      case 3: tile_3x4(a, stride, b, pairs, c, c_stride, first); break;
      case 4: tile_4x4(a, stride, b, pairs, c, c_stride, first); break;
      case 5: tile_5x4(a, stride, b, pairs, c, c_stride, first); break;
      default: tile_6x4(a, stride, b, pairs, c, c_stride, first);
    }
}

INLINE void tiles(index_t rows, const bfloat16 *a, index_t stride, const bfloat16 *b, index_t pairs, float *c, int first,
                  int from_memory) {
  (void)from_memory;
  tile(rows, a, stride, b, pairs, c, PANEL, first);
}
