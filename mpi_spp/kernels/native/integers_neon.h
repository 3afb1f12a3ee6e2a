/* Products of integers for codes_int16.h and codes_int8.h by NEON, and by its dot products or products of matrices where
 * there are such. Sums are
 * exact, so they are those of other machines, to the bit. */
#pragma once
#include "native.h"

INLINE words no_words(void) {
  uint32x4_t none = vdupq_n_u32(0);
  return (words){none, none, none, none};
}
INLINE float32x4_t from_integers(uint32x4_t x) { return vcvtq_f32_s32(vreinterpretq_s32_u32(x)); }
INLINE floats to_floats(words x) { return OF_EACH(floats, from_integers, x); }
INLINE words sum_of_dots(words sum) { return sum; }

/* Integers of 16 bits: stores round to nearest, and keep within their range. */
INLINE void store_integers(int16_t *to, floats x) {
  vst1q_s16(to, to_integers(x.a, x.b));
  vst1q_s16(to + 8, to_integers(x.c, x.d));
}

/* The inputs of 16 columns in the order in which nibbles of 64 bytes of codes come: of 8 inputs 0 4 1 5, then 2 6 3 7. */
static const uint8_t NIBBLES[16] = {0, 4, 1, 5, 2, 6, 3, 7, 8, 12, 9, 13, 10, 14, 11, 15};
INLINE void store_in_order_of_nibbles(int8_t *codes) {
  vst1q_s8(codes, vqtbl1q_s8(vld1q_s8(codes), vld1q_u8(NIBBLES)));
}

/* Codes of 4 bits at 64 bytes of memory, of four inputs in that order each. */
INLINE uint32x4_t low_nibbles_of_16(uint32x4_t x) { return vandq_u32(x, vdupq_n_u32(0x0f0f0f0f)); }
INLINE uint32x4_t high_nibbles_of_16(uint32x4_t x) {
  return vreinterpretq_u32_u8(vshrq_n_u8(vreinterpretq_u8_u32(x), 4));
}

/* Lines of 16 codes of four inputs, as the four codes of each output. */
INLINE words fours_of_codes(const uint8_t *from) {
  uint8x16_t first = vld1q_u8(from), second = vld1q_u8(from + 16), third = vld1q_u8(from + 32), fourth = vld1q_u8(from + 48);
  uint16x8_t left = vreinterpretq_u16_u8(vzip1q_u8(first, second)), right = vreinterpretq_u16_u8(vzip1q_u8(third, fourth));
  uint16x8_t left_too = vreinterpretq_u16_u8(vzip2q_u8(first, second));
  uint16x8_t right_too = vreinterpretq_u16_u8(vzip2q_u8(third, fourth));
  return (words){vreinterpretq_u32_u16(vzip1q_u16(left, right)), vreinterpretq_u32_u16(vzip2q_u16(left, right)),
                 vreinterpretq_u32_u16(vzip1q_u16(left_too, right_too)),
                 vreinterpretq_u32_u16(vzip2q_u16(left_too, right_too))};
}

/* Where inputs of rows are. */
typedef struct {
  const char *first;
} Places;

INLINE Places places_of(const void *x, index_t width) { return (void)width, (Places){x}; }
INLINE Places behind_places(Places at, index_t bytes, int rows) { return (void)rows, (Places){at.first + bytes}; }

/* The compiler may not add up in another order, for which it would want more registers than there are. */
#define KEEP_ORDER(sum) __asm__("" : "+w"((sum).a), "+w"((sum).b), "+w"((sum).c), "+w"((sum).d))

#define OF_ALL_FOUR(DO) DO(a) DO(b) DO(c) DO(d)

#if defined(__ARM_FEATURE_MATMUL_INT8)
#include "integers_i8mm.h"
#elif defined(__ARM_FEATURE_DOTPROD)
#include "integers_dotprod.h"
#else

typedef words PairSums;

INLINE PairSums no_pairs(void) { return no_words(); }
INLINE floats floats_of_pairs(int bits, PairSums sums) {
  (void)bits;
  return to_floats(sums);
}

#define ADD_LONG(sum, add, codes, x, lane) \
  (sum) = vreinterpretq_u32_s32(add(vreinterpretq_s32_u32(sum), codes, x, lane));

/* sums += codes of each of 16 outputs times input `lane` of 8 of each row. */
#define ADD_INPUT(lane, low, high)                                                  \
  _Pragma("GCC unroll 4") for (int r = 0; r < rows; r++) {                          \
    ADD_LONG(sums[r].a, vmlal_laneq_s16, vget_low_s16(low), inputs[r], lane)        \
    ADD_LONG(sums[r].b, vmlal_high_laneq_s16, low, inputs[r], lane)                 \
    ADD_LONG(sums[r].c, vmlal_laneq_s16, vget_low_s16(high), inputs[r], lane)       \
    ADD_LONG(sums[r].d, vmlal_high_laneq_s16, high, inputs[r], lane)                \
    KEEP_ORDER(sums[r]);                                                            \
  }

/* sums += 8 codes of each of 16 outputs times the inputs of each row, `width` bytes apart. */
INLINE void add_pairs(int bits, const uint8_t *from, Places places, index_t width, PairSums *sums, int rows) {
  const char *x = places.first;
  int16x8_t inputs[4];
#pragma GCC unroll 4
  for (int r = 0; r < rows; r++) inputs[r] = vld1q_s16((const int16_t *)(x + r * width));
  if (bits == 4) {
    uint16x8x2_t left = vld2q_u16((const uint16_t *)from), right = vld2q_u16((const uint16_t *)from + 16);
    uint16x8_t low = vdupq_n_u16(15);
#define CODES(from, shift) vreinterpretq_s16_u16(vandq_u16(vshlq_u16(from, vdupq_n_s16(-(shift))), low))
#define ADD(nibble)                                                                                         \
  ADD_INPUT(2 * nibble, CODES(left.val[0], 4 * nibble), CODES(right.val[0], 4 * nibble))                    \
  ADD_INPUT(2 * nibble + 1, CODES(left.val[1], 4 * nibble), CODES(right.val[1], 4 * nibble))
    ADD(0) ADD(1) ADD(2) ADD(3)
#undef ADD
#undef CODES
  } else {
#define ADD(lane)                                                               \
  {                                                                             \
    int8x16_t codes = vreinterpretq_s8_u8(vld1q_u8(from + 16 * lane));          \
    int16x8_t low = vmovl_s8(vget_low_s8(codes)), high = vmovl_high_s8(codes);  \
    ADD_INPUT(lane, low, high)                                                  \
  }
    ADD(0) ADD(1) ADD(2) ADD(3) ADD(4) ADD(5) ADD(6) ADD(7)
#undef ADD
  }
}

/* sum + two times four codes times inputs, which fit into 16 bits. */
INLINE uint32x4_t add_products(uint32x4_t sum, uint32x4_t left, uint32x4_t right, int8x8_t first, int8x8_t second) {
  int8x16_t a = vreinterpretq_s8_u32(left), b = vreinterpretq_s8_u32(right);
  int16x8_t low = vmlal_s8(vmull_s8(vget_low_s8(a), first), vget_low_s8(b), second);
  int16x8_t high = vmlal_s8(vmull_s8(vget_high_s8(a), first), vget_high_s8(b), second);
  return vreinterpretq_u32_s32(vpadalq_s16(vreinterpretq_s32_u32(sum), vpaddq_s16(low, high)));
}

/* The same with inputs of 8 bits, and codes of 4. */
INLINE void add_eight(const uint8_t *from, Places places, index_t width, words *sums, int rows) {
  const int8_t *x = (const int8_t *)places.first;
  int8x8_t first[4], second[4];
#pragma GCC unroll 4
  for (int r = 0; r < rows; r++) {
    int32x2_t inputs = vreinterpret_s32_s8(vld1_s8(x + r * width));
    first[r] = vreinterpret_s8_s32(vdup_lane_s32(inputs, 0));
    second[r] = vreinterpret_s8_s32(vdup_lane_s32(inputs, 1));
  }
  words codes = load_words(from);
#define ADD(quad)                                                                                                  \
  _Pragma("GCC unroll 4") for (int r = 0; r < rows; r++) sums[r].quad = add_products(                              \
      sums[r].quad, low_nibbles_of_16(codes.quad), high_nibbles_of_16(codes.quad), first[r], second[r]);
  OF_ALL_FOUR(ADD)
#undef ADD
}

#endif
