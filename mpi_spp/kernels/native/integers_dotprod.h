/* integers_neon.h by dot products of four integers of 8 bits. */
#pragma once

/* Dot products take integers of 8 bits, so those of 16 are 256 times a signed one and an unsigned one. Codes of 8 bits are
 * made unsigned for the latter by 128 more, whose part is taken off again. */
typedef struct {
  words upper, lower;
  uint32x2_t inputs; /* what the unsigned ones add up to */
} PairSums;

INLINE PairSums no_pairs(void) { return (PairSums){no_words(), no_words(), vdup_n_u32(0)}; }

#define SIGNED(x) vreinterpretq_s8_u32(x)
#define UNSIGNED(x) vreinterpretq_u8_u32(x)
#define ADD_SIGNED(sum, codes, x, lane) \
  (sum) = vreinterpretq_u32_s32(vdotq_lane_s32(vreinterpretq_s32_u32(sum), SIGNED(codes), x, lane));

/* Inputs as the two parts, 8 of each. */
typedef struct {
  int8x8_t upper;
  uint8x8_t lower;
} Parts;

INLINE Parts parts_of_inputs(int bits, const int16_t *x) {
  int16x8_t inputs = vld1q_s16(x);
  Parts parts = {vshrn_n_s16(inputs, 8), vmovn_u16(vreinterpretq_u16_s16(inputs))};
  if (bits == 8) return parts;
  uint8x8_t order = vld1_u8(NIBBLES);
  return (Parts){vtbl1_s8(parts.upper, vreinterpret_s8_u8(order)), vtbl1_u8(parts.lower, order)};
}

/* sums += four codes of each of 16 outputs times the four inputs `at` of 8. */
#define ADD_FOUR(at)                                                                                           \
  _Pragma("GCC unroll 2") for (int r = 0; r < rows; r++) {                                                     \
    OF_ALL_FOUR(ADD_UPPER_##at) OF_ALL_FOUR(ADD_LOWER_##at)                                                    \
  }
#define ADD_UPPER(quad, at) ADD_SIGNED(sums[r].upper.quad, codes.quad, x[r].upper, at)
#define ADD_LOWER(quad, at)                                                                                    \
  sums[r].lower.quad = vdotq_lane_u32(sums[r].lower.quad, UNSIGNED(veorq_u32(codes.quad, more)), x[r].lower, at);
#define ADD_UPPER_0(quad) ADD_UPPER(quad, 0)
#define ADD_UPPER_1(quad) ADD_UPPER(quad, 1)
#define ADD_LOWER_0(quad) ADD_LOWER(quad, 0)
#define ADD_LOWER_1(quad) ADD_LOWER(quad, 1)

/* sums += 8 codes of each of 16 outputs times the inputs of each row, `width` bytes apart. */
INLINE void add_pairs(int bits, const uint8_t *from, Places places, index_t width, PairSums *sums, int rows) {
  const char *inputs = places.first;
  uint32x4_t more = vdupq_n_u32(bits == 4 ? 0 : 0x80808080);
  Parts x[2];
#pragma GCC unroll 2
  for (int r = 0; r < rows; r++) {
    x[r] = parts_of_inputs(bits, (const int16_t *)(inputs + r * width));
    if (bits == 8) sums[r].inputs = vdot_u32(sums[r].inputs, x[r].lower, vdup_n_u8(1));
  }
  words codes = bits == 4 ? load_words(from) : fours_of_codes(from), all_of = codes;
  if (bits == 4) codes = OF_EACH(words, low_nibbles_of_16, all_of);
  ADD_FOUR(0)
  __asm__ volatile("" : "+r"(from)::"memory"); /* the next codes come behind these */
  codes = bits == 4 ? OF_EACH(words, high_nibbles_of_16, all_of) : fours_of_codes(from + 64);
  ADD_FOUR(1)
}

INLINE floats floats_of_pairs(int bits, PairSums sums) {
  uint32x4_t more = vdupq_n_u32(bits == 4 ? 0 : 128 * vaddv_u32(sums.inputs));
  floats total;
#define ADD(quad) total.quad = from_integers(vsubq_u32(vaddq_u32(vshlq_n_u32(sums.upper.quad, 8), sums.lower.quad), more));
  OF_ALL_FOUR(ADD)
#undef ADD
  return total;
}

/* The same with inputs of 8 bits, and codes of 4. */
INLINE void add_eight(const uint8_t *from, Places places, index_t width, words *sums, int rows) {
  const int8_t *x = (const int8_t *)places.first;
  words codes = load_words(from);
  words left = OF_EACH(words, low_nibbles_of_16, codes), right = OF_EACH(words, high_nibbles_of_16, codes);
#pragma GCC unroll 4
  for (int r = 0; r < rows; r++) {
    int8x8_t inputs = vld1_s8(x + r * width);
#define ADD(quad)                              \
  ADD_SIGNED(sums[r].quad, left.quad, inputs, 0) \
  ADD_SIGNED(sums[r].quad, right.quad, inputs, 1)
    OF_ALL_FOUR(ADD)
#undef ADD
  }
}
