/* simd.h for ARM's NEON of 64-bit processors. What rounds does so as simd_avx2.h does, and sums are folded in its order:
 * both give the same bits. */
#pragma once
#include <arm_neon.h>

typedef struct {
  float32x4_t a, b, c, d;
} floats;
typedef struct {
  uint32x4_t a, b, c, d;
} words;
typedef words mask; /* all bits of a number, or none */

#define OF_EACH(type, operation, x, ...)                                                                            \
  ((type){operation((x).a, ##__VA_ARGS__), operation((x).b, ##__VA_ARGS__), operation((x).c, ##__VA_ARGS__),        \
          operation((x).d, ##__VA_ARGS__)})
#define OF_PAIRS(type, operation, x, y) \
  ((type){operation((x).a, (y).a), operation((x).b, (y).b), operation((x).c, (y).c), operation((x).d, (y).d)})
#define OF_THREE(type, operation, x, y, z)                                                            \
  ((type){operation((x).a, (y).a, (z).a), operation((x).b, (y).b, (z).b), operation((x).c, (y).c, (z).c), \
          operation((x).d, (y).d, (z).d)})

/* Numbers [first, stop) of 16. */
INLINE uint32x4_t within_4(int32_t at, int32_t first, int32_t stop) {
  const int32_t order[4] = {0, 1, 2, 3};
  int32x4_t place = vaddq_s32(vld1q_s32(order), vdupq_n_s32(at));
  return vandq_u32(vcgeq_s32(place, vdupq_n_s32(first)), vcltq_s32(place, vdupq_n_s32(stop)));
}
INLINE mask within(index_t first, index_t stop) {
  int32_t from = first > 16 ? 16 : first < 0 ? 0 : (int32_t)first, to = stop > 16 ? 16 : stop < 0 ? 0 : (int32_t)stop;
  return (mask){within_4(0, from, to), within_4(4, from, to), within_4(8, from, to), within_4(12, from, to)};
}

/* The first `bytes` of a vector, through memory. */
#define COPY_SOME(to, from, bytes) \
  if ((bytes) > 0) memcpy(to, from, bytes)

INLINE floats all(float x) { return (floats){vdupq_n_f32(x), vdupq_n_f32(x), vdupq_n_f32(x), vdupq_n_f32(x)}; }
INLINE floats zeros(void) { return all(0.0f); }
INLINE floats load(const float *from) {
  return (floats){vld1q_f32(from), vld1q_f32(from + 4), vld1q_f32(from + 8), vld1q_f32(from + 12)};
}
INLINE void store(float *to, floats x) {
  vst1q_f32(to, x.a);
  vst1q_f32(to + 4, x.b);
  vst1q_f32(to + 8, x.c);
  vst1q_f32(to + 12, x.d);
}
INLINE floats load_first(const float *from, index_t count) {
  if (count >= 16) return load(from);
  float some[16] = {0};
  COPY_SOME(some, from, 4 * count);
  return load(some);
}
INLINE void store_first(float *to, floats x, index_t count) {
  if (count >= 16) {
    store(to, x);
    return;
  }
  float some[16];
  store(some, x);
  COPY_SOME(to, some, 4 * count);
}

INLINE floats add(floats x, floats y) { return OF_PAIRS(floats, vaddq_f32, x, y); }
INLINE floats subtract(floats x, floats y) { return OF_PAIRS(floats, vsubq_f32, x, y); }
INLINE floats multiply(floats x, floats y) { return OF_PAIRS(floats, vmulq_f32, x, y); }
INLINE floats divide(floats x, floats y) { return OF_PAIRS(floats, vdivq_f32, x, y); }
INLINE floats multiply_add(floats x, floats y, floats z) { return OF_THREE(floats, vfmaq_f32, z, x, y); }
INLINE floats subtract_product(floats x, floats y, floats from) { return OF_THREE(floats, vfmsq_f32, from, x, y); }

/* The second number where one is a NaN, as on x86. */
INLINE float32x4_t minimum_4(float32x4_t x, float32x4_t y) { return vbslq_f32(vcltq_f32(x, y), x, y); }
INLINE float32x4_t maximum_4(float32x4_t x, float32x4_t y) { return vbslq_f32(vcgtq_f32(x, y), x, y); }
INLINE floats minimum(floats x, floats y) { return OF_PAIRS(floats, minimum_4, x, y); }
INLINE floats maximum(floats x, floats y) { return OF_PAIRS(floats, maximum_4, x, y); }
INLINE floats magnitude(floats x) { return OF_EACH(floats, vabsq_f32, x); }
INLINE floats nearest(floats x) { return OF_EACH(floats, vrndnq_f32, x); }

/* In two steps, of which the first is exact: what becomes a denormal number is rounded once. For n from -250 to 250. */
INLINE float32x4_t scaled(float32x4_t x, float32x4_t n) {
  int32x4_t whole = vcvtnq_s32_f32(n), some = vshrq_n_s32(whole, 1), bias = vdupq_n_s32(127);
  float32x4_t first = vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(some, bias), 23));
  float32x4_t second = vreinterpretq_f32_s32(vshlq_n_s32(vaddq_s32(vsubq_s32(whole, some), bias), 23));
  return vmulq_f32(vmulq_f32(x, first), second);
}
INLINE floats times_power_of_2(floats x, floats n) { return OF_PAIRS(floats, scaled, x, n); }

/* Halves are folded: 16 numbers to 8, 4, 2 and 1. */
INLINE float sum_of(floats x) {
  float32x4_t four = vaddq_f32(vaddq_f32(x.a, x.c), vaddq_f32(x.b, x.d));
  float32x2_t two = vadd_f32(vget_low_f32(four), vget_high_f32(four));
  return vget_lane_f32(two, 0) + vget_lane_f32(two, 1);
}
INLINE float largest_of(floats x) { return vmaxvq_f32(maximum_4(maximum_4(x.a, x.c), maximum_4(x.b, x.d))); }

INLINE mask is_negative(floats x) { return OF_EACH(mask, vcltzq_f32, x); }
INLINE floats choose(mask which, floats yes, floats no) { return OF_THREE(floats, vbslq_f32, which, yes, no); }

/* The larger one, or x. */
INLINE floats maximum_where(mask which, floats x, floats y) { return choose(which, maximum(x, y), x); }

/* Magnitudes order as their bits do, and a NaN is above all. */
INLINE float32x4_t larger_bits_of_4(float32x4_t x, float32x4_t y) {
  return vreinterpretq_f32_s32(vmaxq_s32(vreinterpretq_s32_f32(x), vreinterpretq_s32_f32(y)));
}
INLINE floats larger_bits(floats x, floats y) { return OF_PAIRS(floats, larger_bits_of_4, x, y); }
INLINE float largest_by_bits(floats x) {
  float32x4_t four = larger_bits_of_4(larger_bits_of_4(x.a, x.b), larger_bits_of_4(x.c, x.d));
  int32_t bits = vmaxvq_s32(vreinterpretq_s32_f32(four));
  float largest;
  memcpy(&largest, &bits, 4);
  return largest;
}

/* Few rows wait for memory. */
enum { AHEAD = 1024 };
INLINE void fetch_ahead(const void *from) { __builtin_prefetch((const char *)from + AHEAD, 0, 3); }

/* 4 numbers rounded to bfloat16, in the upper half of their bits, of which the lower is anything: to nearest, ties to even;
 * a NaN stays one. */
INLINE uint32x4_t rounded(float32x4_t x) {
  uint32x4_t bits = vreinterpretq_u32_f32(x), tie = vandq_u32(vshrq_n_u32(bits, 16), vdupq_n_u32(1));
  uint32x4_t up = vaddq_u32(bits, vaddq_u32(tie, vdupq_n_u32(0x7fff)));
  return vbslq_u32(vceqq_f32(x, x), up, vorrq_u32(bits, vdupq_n_u32(0x400000)));
}
INLINE uint32x4_t narrow_8(float32x4_t low, float32x4_t high) {
  uint16x8_t lower = vreinterpretq_u16_u32(rounded(low)), upper = vreinterpretq_u16_u32(rounded(high));
  return vreinterpretq_u32_u16(vuzp2q_u16(lower, upper));
}
INLINE float32x4_t widened(const bfloat16 *from) { return vreinterpretq_f32_u32(vshll_n_u16(vld1_u16(from), 16)); }

/* Numbers in bfloat16 and in half precision. */
INLINE floats load_bfloat16(const bfloat16 *from, index_t count) {
  bfloat16 some[16] = {0};
  if (count < 16) {
    COPY_SOME(some, from, 2 * count);
    from = some;
  }
  return (floats){widened(from), widened(from + 4), widened(from + 8), widened(from + 12)};
}
INLINE void store_16(bfloat16 *to, floats x) {
  vst1q_u16(to, vreinterpretq_u16_u32(narrow_8(x.a, x.b)));
  vst1q_u16(to + 8, vreinterpretq_u16_u32(narrow_8(x.c, x.d)));
}
INLINE void store_bfloat16(bfloat16 *to, floats x, index_t count) {
  if (count >= 16) {
    store_16(to, x);
    return;
  }
  bfloat16 some[16];
  store_16(some, x);
  COPY_SOME(to, some, 2 * count);
}
INLINE float32x4_t from_half(const uint8_t *from) {
  return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(from)));
}
INLINE floats load_half(const uint8_t *from) {
  return (floats){from_half(from), from_half(from + 8), from_half(from + 16), from_half(from + 24)};
}

INLINE floats load_float16(const uint16_t *from, index_t count) {
  if (count >= 16) return load_half((const uint8_t *)from);
  uint16_t some[16] = {0};
  COPY_SOME(some, from, 2 * count);
  return load_half((const uint8_t *)some);
}
INLINE void store_float16(uint16_t *to, floats x, index_t count) {
  uint16_t some[16], *halves = count >= 16 ? to : some;
  float16x8_t low = vcvt_high_f16_f32(vcvt_f16_f32(x.a), x.b), high = vcvt_high_f16_f32(vcvt_f16_f32(x.c), x.d);
  vst1q_u16(halves, vreinterpretq_u16_f16(low));
  vst1q_u16(halves + 8, vreinterpretq_u16_f16(high));
  if (count < 16) COPY_SOME(to, some, 2 * count);
}

/* Two times 16 numbers as 32 in bfloat16. */
INLINE words to_bfloat16(floats low, floats high) {
  return (words){narrow_8(low.a, low.b), narrow_8(low.c, low.d), narrow_8(high.a, high.b), narrow_8(high.c, high.d)};
}
/* Pairs in bfloat16. */
INLINE uint32x4_t pairs_of_4(float32x4_t even, float32x4_t odd) { return vsriq_n_u32(rounded(odd), rounded(even), 16); }
INLINE words pairs_of(floats even, floats odd) { return OF_PAIRS(words, pairs_of_4, even, odd); }

/* Codes of 8 bits; stores round to nearest. */
INLINE floats load_codes(const void *from, index_t count) {
  int8_t some[16] = {0};
  if (count < 16) {
    COPY_SOME(some, from, count);
    from = some;
  }
  int8x16_t codes = vld1q_s8(from);
  int16x8_t low = vmovl_s8(vget_low_s8(codes)), high = vmovl_high_s8(codes);
  return (floats){vcvtq_f32_s32(vmovl_s16(vget_low_s16(low))), vcvtq_f32_s32(vmovl_high_s16(low)),
                  vcvtq_f32_s32(vmovl_s16(vget_low_s16(high))), vcvtq_f32_s32(vmovl_high_s16(high))};
}
INLINE int16x8_t to_integers(float32x4_t low, float32x4_t high) {
  return vqmovn_high_s32(vqmovn_s32(vcvtnq_s32_f32(low)), vcvtnq_s32_f32(high));
}
INLINE void store_codes(int8_t *to, floats x, index_t count) {
  int8x16_t codes = vqmovn_high_s16(vqmovn_s16(to_integers(x.a, x.b)), to_integers(x.c, x.d));
  if (count >= 16) {
    vst1q_s8(to, codes);
    return;
  }
  int8_t some[16];
  vst1q_s8(some, codes);
  COPY_SOME(to, some, count);
}

/* Bits [shift, shift + 4) of 16 integers. */
INLINE float32x4_t nibbles_of_4(uint32x4_t x, int32x4_t shift) {
  return vcvtq_f32_u32(vandq_u32(vshlq_u32(x, shift), vdupq_n_u32(15)));
}
INLINE floats nibbles_at(words x, int shift) { return OF_EACH(floats, nibbles_of_4, x, vdupq_n_s32(-shift)); }

INLINE words load_words(const void *from) {
  const uint8_t *at = from;
  return (words){vreinterpretq_u32_u8(vld1q_u8(at)), vreinterpretq_u32_u8(vld1q_u8(at + 16)),
                 vreinterpretq_u32_u8(vld1q_u8(at + 32)), vreinterpretq_u32_u8(vld1q_u8(at + 48))};
}
INLINE void store_words(void *to, words x) {
  uint8_t *at = to;
  vst1q_u8(at, vreinterpretq_u8_u32(x.a));
  vst1q_u8(at + 16, vreinterpretq_u8_u32(x.b));
  vst1q_u8(at + 32, vreinterpretq_u8_u32(x.c));
  vst1q_u8(at + 48, vreinterpretq_u8_u32(x.d));
}
INLINE words load_between(const void *from, index_t first, index_t stop) {
  if (first <= 0 && stop >= 64) return load_words(from);
  char some[64] = {0};
  first = first > 0 ? first : 0;
  stop = stop < 64 ? stop : 64;
  COPY_SOME(some + first, (const char *)from + first, stop - first);
  return load_words(some);
}
INLINE void store_between(void *to, words x, index_t first, index_t stop) {
  if (first <= 0 && stop >= 64) {
    store_words(to, x);
    return;
  }
  char some[64];
  store_words(some, x);
  first = first > 0 ? first : 0;
  stop = stop < 64 ? stop : 64;
  COPY_SOME((char *)to + first, some + first, stop - first);
}
/* The first `count` of 32 numbers of 16 bits, 1 at least, and of 32 codes as numbers. */
INLINE words load_halves(const uint16_t *from, index_t count) { return load_between(from, 0, 2 * count); }
INLINE void load_32_codes(const void *from, index_t count, floats to[2]) {
  to[0] = load_codes(from, count);
  to[1] = load_codes((const char *)from + 16, count - 16);
}

/* Each of 16 numbers twice. */
INLINE void twice(floats x, floats to[2]) {
  to[0] = (floats){vzip1q_f32(x.a, x.a), vzip2q_f32(x.a, x.a), vzip1q_f32(x.b, x.b), vzip2q_f32(x.b, x.b)};
  to[1] = (floats){vzip1q_f32(x.c, x.c), vzip2q_f32(x.c, x.c), vzip1q_f32(x.d, x.d), vzip2q_f32(x.d, x.d)};
}

/* Two lines of 32 integers of 16 bits as 32 pairs, and back. */
#define AS_16(operation, x, y) \
  vreinterpretq_u32_u16(operation(vreinterpretq_u16_u32(x), vreinterpretq_u16_u32(y)))
INLINE void interleave(words even, words odd, words to[2]) {
  to[0] = (words){AS_16(vzip1q_u16, even.a, odd.a), AS_16(vzip2q_u16, even.a, odd.a), AS_16(vzip1q_u16, even.b, odd.b),
                  AS_16(vzip2q_u16, even.b, odd.b)};
  to[1] = (words){AS_16(vzip1q_u16, even.c, odd.c), AS_16(vzip2q_u16, even.c, odd.c), AS_16(vzip1q_u16, even.d, odd.d),
                  AS_16(vzip2q_u16, even.d, odd.d)};
}
INLINE void separate(words left, words right, words *even, words *odd) {
  *even = (words){AS_16(vuzp1q_u16, left.a, left.b), AS_16(vuzp1q_u16, left.c, left.d), AS_16(vuzp1q_u16, right.a, right.b),
                  AS_16(vuzp1q_u16, right.c, right.d)};
  *odd = (words){AS_16(vuzp2q_u16, left.a, left.b), AS_16(vuzp2q_u16, left.c, left.d), AS_16(vuzp2q_u16, right.a, right.b),
                 AS_16(vuzp2q_u16, right.c, right.d)};
}

/* The same with integers of 8 bits, 32 of which are half a vector. */
#define AS_8(operation, x, y) vreinterpretq_u32_u8(operation(vreinterpretq_u8_u32(x), vreinterpretq_u8_u32(y)))
INLINE words interleave_bytes(words even, words odd) {
  return (words){AS_8(vzip1q_u8, even.a, odd.a), AS_8(vzip2q_u8, even.a, odd.a), AS_8(vzip1q_u8, even.b, odd.b),
                 AS_8(vzip2q_u8, even.b, odd.b)};
}
INLINE void separate_bytes(words pairs, words *even, words *odd) {
  uint32x4_t zero = vdupq_n_u32(0);
  *even = (words){AS_8(vuzp1q_u8, pairs.a, pairs.b), AS_8(vuzp1q_u8, pairs.c, pairs.d), zero, zero};
  *odd = (words){AS_8(vuzp2q_u8, pairs.a, pairs.b), AS_8(vuzp2q_u8, pairs.c, pairs.d), zero, zero};
}
