/* integers_neon.h by products of two rows with two outputs, eight integers of 8 bits each. Such sums lie two by two until
 * settle_rows() lays them out by rows; a row without another one goes by dot products, with the same sums. Inputs of 16
 * bits are 256 times a signed integer and an unsigned one. */
#pragma once

typedef struct {
  words upper, lower;
} PairSums;

INLINE PairSums no_pairs(void) { return (PairSums){no_words(), no_words()}; }

INLINE floats floats_of_pairs(int bits, PairSums sums) {
  (void)bits;
  floats total;
#define ADD(quad) total.quad = from_integers(vaddq_u32(vshlq_n_u32(sums.upper.quad, 8), sums.lower.quad));
  OF_ALL_FOUR(ADD)
#undef ADD
  return total;
}

/* Codes of eight inputs: four of each of 16 outputs, and the next four. */
typedef struct {
  words first, second;
} Codes;

INLINE Codes codes_of(int bits, const uint8_t *from) {
  if (bits == 8) return (Codes){fours_of_codes(from), fours_of_codes(from + 64)};
  words both = load_words(from);
  return (Codes){OF_EACH(words, low_nibbles_of_16, both), OF_EACH(words, high_nibbles_of_16, both)};
}

/* Codes of two outputs. */
#define LEFT(codes, quad) vreinterpretq_s8_u32(vzip1q_u32((codes).first.quad, (codes).second.quad))
#define RIGHT(codes, quad) vreinterpretq_s8_u32(vzip2q_u32((codes).first.quad, (codes).second.quad))

#define ADD_BY(operation, sum, ...) (sum) = vreinterpretq_u32_s32(operation(vreinterpretq_s32_u32(sum), __VA_ARGS__));

/* Two rows. */
#define ADD_TWO(operation, quad, sums, others, inputs)              \
  ADD_BY(operation, (sums).quad, inputs, LEFT(codes, quad))         \
  ADD_BY(operation, (others).quad, inputs, RIGHT(codes, quad))

/* One row. */
#define ADD_ONE(operation, quad, sums, inputs)                                           \
  ADD_BY(operation, (sums).quad, vreinterpretq_s8_u32(codes.first.quad), inputs, 0)      \
  ADD_BY(operation, (sums).quad, vreinterpretq_s8_u32(codes.second.quad), inputs, 1)

/* Inputs as the two parts, in the order of nibbles where the codes are such. */
INLINE int8x8_t upper_part(int bits, const char *x) {
  int8x8_t part = vshrn_n_s16(vld1q_s16((const int16_t *)x), 8);
  return bits == 8 ? part : vtbl1_s8(part, vreinterpret_s8_u8(vld1_u8(NIBBLES)));
}
INLINE uint8x8_t lower_part(int bits, const char *x) {
  uint8x8_t part = vmovn_u16(vreinterpretq_u16_s16(vld1q_s16((const int16_t *)x)));
  return bits == 8 ? part : vtbl1_u8(part, vld1_u8(NIBBLES));
}

/* sums += 8 codes of each of 16 outputs times the inputs of each row, `width` bytes apart. */
INLINE void add_pairs(int bits, const uint8_t *from, Places places, index_t width, PairSums *sums, int rows) {
  const char *x = places.first;
  Codes codes = codes_of(bits, from);
#pragma GCC unroll 2
  for (int r = 0; r + 1 < rows; r += 2, x += 2 * width) {
    int8x16_t upper = vcombine_s8(upper_part(bits, x), upper_part(bits, x + width));
    uint8x16_t lower = vcombine_u8(lower_part(bits, x), lower_part(bits, x + width));
#define ADD(quad)                                                               \
  ADD_TWO(vmmlaq_s32, quad, sums[r].upper, sums[r + 1].upper, upper)            \
  ADD_TWO(vusmmlaq_s32, quad, sums[r].lower, sums[r + 1].lower, lower)
    OF_ALL_FOUR(ADD)
#undef ADD
  }
  if (rows % 2) {
    int8x8_t upper = upper_part(bits, x);
    uint8x8_t lower = lower_part(bits, x);
#define ADD(quad)                                        \
  ADD_ONE(vdotq_lane_s32, quad, sums[rows - 1].upper, upper) \
  ADD_ONE(vsudotq_lane_s32, quad, sums[rows - 1].lower, lower)
    OF_ALL_FOUR(ADD)
#undef ADD
  }
}

/* The same with inputs of 8 bits, and codes of 4. */
INLINE void add_eight(const uint8_t *from, Places places, index_t width, words *sums, int rows) {
  const int8_t *x = (const int8_t *)places.first;
  Codes codes = codes_of(4, from);
#pragma GCC unroll 2
  for (int r = 0; r + 1 < rows; r += 2, x += 2 * width) {
    int8x16_t inputs = vcombine_s8(vld1_s8(x), vld1_s8(x + width));
#define ADD(quad) ADD_TWO(vmmlaq_s32, quad, sums[r], sums[r + 1], inputs)
    OF_ALL_FOUR(ADD)
#undef ADD
  }
  if (rows % 2) {
    int8x8_t inputs = vld1_s8(x);
#define ADD(quad) ADD_ONE(vdotq_lane_s32, quad, sums[rows - 1], inputs)
    OF_ALL_FOUR(ADD)
#undef ADD
  }
}

/* Two by two [of one row and another, of two outputs] becomes rows. */
INLINE void settle(words *one, words *other) {
#define SETTLE(quad)                                                                                       \
  {                                                                                                        \
    uint64x2_t left = vreinterpretq_u64_u32(one->quad), right = vreinterpretq_u64_u32(other->quad);        \
    one->quad = vreinterpretq_u32_u64(vtrn1q_u64(left, right));                                            \
    other->quad = vreinterpretq_u32_u64(vtrn2q_u64(left, right));                                          \
  }
  OF_ALL_FOUR(SETTLE)
#undef SETTLE
}
INLINE void settle_rows(words *sums, int rows) {
#pragma GCC unroll 2
  for (int r = 0; r + 1 < rows; r += 2) settle(&sums[r], &sums[r + 1]);
}
INLINE void settle_pairs(PairSums *sums, int rows) {
#pragma GCC unroll 2
  for (int r = 0; r + 1 < rows; r += 2) {
    settle(&sums[r].upper, &sums[r + 1].upper);
    settle(&sums[r].lower, &sums[r + 1].lower);
  }
}
