/* tile.h for NEON, in float32: as tile_float32.h, and to the bit, with tiles for 32 registers of 4 numbers. */
#pragma once
#include "numbers_float32.h"

/* A block of rows and the part of a panel that it meets stay in the second cache and in the first. */
enum { TILE_ROWS = MOST_REGISTER_ROWS, ROW_BLOCK = 8 * TILE_ROWS, PAIR_BLOCK = 128, HIGH_ROWS = 8 };

INLINE void begin_tiles(void) {}
INLINE void end_tiles(void) {}

/* Weights of a pair of inputs at `from`, of 4 outputs: those of the first input, and of the second. */
#if defined(FLOAT32_ELEMENTS)
INLINE float32x4_t firsts_at(const element *from) { return vld1q_f32(from); }
INLINE float32x4_t seconds_at(const element *from) { return vld1q_f32(from + PANEL); }
#elif defined(FLOAT16_ELEMENTS)
INLINE float32x4_t firsts_at(const element *from) { return from_half((const uint8_t *)from); }
INLINE float32x4_t seconds_at(const element *from) { return from_half((const uint8_t *)(from + PANEL)); }
#else
INLINE uint32x4_t pairs_at(const element *from) { return vreinterpretq_u32_u16(vld1q_u16(from)); }
INLINE float32x4_t firsts_at(const element *from) { return vreinterpretq_f32_u32(vshlq_n_u32(pairs_at(from), 16)); }
INLINE float32x4_t seconds_at(const element *from) {
  return vreinterpretq_f32_u32(vandq_u32(pairs_at(from), vdupq_n_u32(0xffff0000)));
}
#endif
/* Inputs stay two in a register: products take either of them from there. The compiler would make a register of each. */
#define KEEP(inputs) __asm__("" : "+w"(inputs))
#define KEEP_BEHIND(inputs, sum) __asm__("" : "+w"(inputs), "+w"(sum)) /* what comes next comes after this sum */

/* The compiler may not load the next weights before these are done with: it would keep sums in memory for want of registers. */
#define FORGET(pointer) __asm__ volatile("" : "+r"(pointer)::"memory")

/* Some rows with `quads` times 4 outputs of a panel; their sums fill up to 24 registers. */
INLINE void tile_of(int rows, int quads, const float *a, index_t stride, const element *b, index_t pairs, float *c,
                    index_t c_stride, int first) {
  float32x4_t sums[HIGH_ROWS][PANEL / 4];
#pragma GCC unroll 8
  for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
    for (int q = 0; q < quads; q++) sums[r][q] = first ? vdupq_n_f32(0) : vld1q_f32(c + r * c_stride + 4 * q);
#pragma GCC unroll 1
  for (const element *end = b + 2 * PANEL * pairs; b < end; b += 2 * PANEL, a += 2) {
    float32x2_t inputs[HIGH_ROWS];
#pragma GCC unroll 8
    for (int r = 0; r < rows; r++) {
      inputs[r] = vld1_f32(a + r * stride);
      KEEP(inputs[r]);
    }
    if (quads == PANEL / 4) fetch_pair(b);
#pragma GCC unroll 8
    for (int q = 0; q < quads; q++) {
      float32x4_t even = firsts_at(b + 4 * PAIR * q), odd = seconds_at(b + 4 * PAIR * q);
#pragma GCC unroll 8
      for (int r = 0; r < rows; r++) sums[r][q] = vfmaq_lane_f32(sums[r][q], even, inputs[r], 0);
#pragma GCC unroll 8
      for (int r = 0; r < rows; r++) sums[r][q] = vfmaq_lane_f32(sums[r][q], odd, inputs[r], 1);
#pragma GCC unroll 8
      for (int r = 0; r < rows; r++) KEEP_BEHIND(inputs[r], sums[r][q]);
      if (quads > 2) FORGET(b);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < rows; r++)
#pragma GCC unroll 8
    for (int q = 0; q < quads; q++) vst1q_f32(c + r * c_stride + 4 * q, sums[r][q]);
}

#define TILE(ROWS, QUADS)                                                                                             \
  static __attribute__((noinline)) void tile_##ROWS##x##QUADS(const float *a, index_t stride, const element *b,      \
                                                              index_t pairs, float *c, index_t c_stride, int first) { \
    tile_of(ROWS, QUADS, a, stride, b, pairs, c, c_stride, first);                                                    \
  }
TILE(1, 8)
TILE(2, 8)
TILE(3, 8)
TILE(4, 4)
TILE(5, 4)
TILE(6, 2)
TILE(7, 2)
TILE(8, 2)
#undef TILE

#define TILES(ROWS, QUADS)                                                                  \
  for (int q = 0; q < PANEL / 4; q += QUADS)                                                \
    tile_##ROWS##x##QUADS(a, stride, b + 4 * PAIR * q, pairs, c + 4 * q, c_stride, first)

static void tile(index_t rows, const float *a, index_t stride, const element *b, index_t pairs, float *c,
                 index_t c_stride, int first) {
  for (; rows > 0; rows -= HIGH_ROWS, a += HIGH_ROWS * stride, c += HIGH_ROWS * c_stride) switch (rows) {
      case 1: TILES(1, 8); break;
      case 2: TILES(2, 8); break;
      case 3: TILES(3, 8); break;
      case 4: TILES(4, 4); break;
      case 5: TILES(5, 4); break;
      case 6: TILES(6, 2); break;
      case 7: TILES(7, 2); break;
      default: TILES(8, 2);
    }
}
#undef TILES

/* HIGH_ROWS rows with 8 outputs of a panel in float32, of `count` inputs `step` apart. */
static __attribute__((noinline)) void tile_of_singles(const float *a, index_t stride, const float *b, index_t step,
                                                      index_t count, float *c, int first) {
  float32x4_t sums[HIGH_ROWS][2];
#pragma GCC unroll 8
  for (int r = 0; r < HIGH_ROWS; r++)
#pragma GCC unroll 2
    for (int q = 0; q < 2; q++) sums[r][q] = first ? vdupq_n_f32(0) : vld1q_f32(c + r * PANEL + 4 * q);
#pragma GCC unroll 1
  for (index_t k = 0; k < count; k += 2, b += 2 * step, a += 2) {
    float32x2_t inputs[HIGH_ROWS];
#pragma GCC unroll 8
    for (int r = 0; r < HIGH_ROWS; r++) {
      inputs[r] = vld1_f32(a + r * stride);
      KEEP(inputs[r]);
    }
    float32x4_t left = vld1q_f32(b), right = vld1q_f32(b + 4);
#pragma GCC unroll 8
    for (int r = 0; r < HIGH_ROWS; r++) {
      sums[r][0] = vfmaq_lane_f32(sums[r][0], left, inputs[r], 0);
      sums[r][1] = vfmaq_lane_f32(sums[r][1], right, inputs[r], 0);
      KEEP_BEHIND(inputs[r], sums[r][1]);
    }
    left = vld1q_f32(b + step), right = vld1q_f32(b + step + 4);
#pragma GCC unroll 8
    for (int r = 0; r < HIGH_ROWS; r++) {
      sums[r][0] = vfmaq_lane_f32(sums[r][0], left, inputs[r], 1);
      sums[r][1] = vfmaq_lane_f32(sums[r][1], right, inputs[r], 1);
    }
  }
#pragma GCC unroll 8
  for (int r = 0; r < HIGH_ROWS; r++)
#pragma GCC unroll 2
    for (int q = 0; q < 2; q++) vst1q_f32(c + r * PANEL + 4 * q, sums[r][q]);
}

/* So many rows that half a panel is worth widening once for all of them, if it is not in float32; returns how many it has
 * done. */
static index_t widened_tiles(index_t rows, const float *a, index_t stride, const element *b, index_t pairs, float *c,
                             int first) {
  float singles[2 * PAIR_BLOCK * 16] __attribute__((aligned(64)));
  index_t done = 0, step = IS_FLOAT32 ? PANEL : 16;
  for (int half = 0; half < 2; half++) {
    const float *weights = IS_FLOAT32 ? (const float *)b + 16 * half : singles;
    for (index_t k = 0; k < pairs && !IS_FLOAT32; k++)
      for (int q = 0; q < 4; q++) {
        const element *from = b + 2 * PANEL * k + 4 * PAIR * (4 * half + q);
        vst1q_f32(singles + 32 * k + 4 * q, firsts_at(from));
        vst1q_f32(singles + 32 * k + 16 + 4 * q, seconds_at(from));
      }
    for (done = 0; done + HIGH_ROWS <= rows; done += HIGH_ROWS)
      for (int at = 0; at < 16; at += 8)
        tile_of_singles(a + done * stride, stride, weights + at, step, 2 * pairs, c + done * PANEL + 16 * half + at, first);
  }
  return done;
}

INLINE void tiles(index_t rows, const float *a, index_t stride, const element *b, index_t pairs, float *c, int first,
                  int from_memory) {
  (void)from_memory;
  index_t done = rows >= 4 * HIGH_ROWS ? widened_tiles(rows, a, stride, b, pairs, c, first) : 0;
  tile(rows - done, a + done * stride, stride, b, pairs, c + done * PANEL, PANEL, first);
}
