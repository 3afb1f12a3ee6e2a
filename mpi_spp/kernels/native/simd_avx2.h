/* simd.h for AVX2 with FMA and F16C. */
#pragma once
#include <immintrin.h>

typedef struct {
  __m256 low, high;
} floats;
typedef struct {
  __m256i low, high;
} words;
typedef floats mask; /* all bits of a number, or none */

#define IN_BOTH(type, operation, a, ...) ((type){operation((a).low, ##__VA_ARGS__), operation((a).high, ##__VA_ARGS__)})
#define OF_BOTH(type, operation, a, b) ((type){operation((a).low, (b).low), operation((a).high, (b).high)})
#define OF_THREE(operation, a, b, c) \
  ((floats){operation((a).low, (b).low, (c).low), operation((a).high, (b).high, (c).high)})

/* Numbers [first, stop) of 16. */
INLINE mask within(index_t first, index_t stop) {
  __m256i below = _mm256_set1_epi32(stop > 16 ? 16 : stop < 0 ? 0 : (int)stop);
  __m256i from = _mm256_set1_epi32(first > 16 ? 15 : first < 0 ? -1 : (int)first - 1);
  __m256i left = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7), right = _mm256_setr_epi32(8, 9, 10, 11, 12, 13, 14, 15);
  left = _mm256_and_si256(_mm256_cmpgt_epi32(below, left), _mm256_cmpgt_epi32(left, from));
  right = _mm256_and_si256(_mm256_cmpgt_epi32(below, right), _mm256_cmpgt_epi32(right, from));
  return (mask){_mm256_castsi256_ps(left), _mm256_castsi256_ps(right)};
}

INLINE floats zeros(void) { return (floats){_mm256_setzero_ps(), _mm256_setzero_ps()}; }
INLINE floats all(float x) { return (floats){_mm256_set1_ps(x), _mm256_set1_ps(x)}; }
INLINE floats load(const float *from) { return (floats){_mm256_loadu_ps(from), _mm256_loadu_ps(from + 8)}; }
INLINE void store(float *to, floats x) {
  _mm256_storeu_ps(to, x.low);
  _mm256_storeu_ps(to + 8, x.high);
}
INLINE floats load_first(const float *from, index_t count) {
  if (count >= 16) return load(from);
  mask some = within(0, count);
  return (floats){_mm256_maskload_ps(from, _mm256_castps_si256(some.low)),
                  _mm256_maskload_ps(from + 8, _mm256_castps_si256(some.high))};
}
INLINE void store_first(float *to, floats x, index_t count) {
  if (count >= 16) {
    store(to, x);
    return;
  }
  mask some = within(0, count);
  _mm256_maskstore_ps(to, _mm256_castps_si256(some.low), x.low);
  _mm256_maskstore_ps(to + 8, _mm256_castps_si256(some.high), x.high);
}

INLINE floats add(floats a, floats b) { return OF_BOTH(floats, _mm256_add_ps, a, b); }
INLINE floats subtract(floats a, floats b) { return OF_BOTH(floats, _mm256_sub_ps, a, b); }
INLINE floats multiply(floats a, floats b) { return OF_BOTH(floats, _mm256_mul_ps, a, b); }
INLINE floats divide(floats a, floats b) { return OF_BOTH(floats, _mm256_div_ps, a, b); }
INLINE floats multiply_add(floats a, floats b, floats c) { return OF_THREE(_mm256_fmadd_ps, a, b, c); }
INLINE floats subtract_product(floats a, floats b, floats from) { return OF_THREE(_mm256_fnmadd_ps, a, b, from); }
INLINE floats minimum(floats a, floats b) { return OF_BOTH(floats, _mm256_min_ps, a, b); }
INLINE floats maximum(floats a, floats b) { return OF_BOTH(floats, _mm256_max_ps, a, b); }
INLINE floats magnitude(floats x) {
  __m256 sign = _mm256_set1_ps(-0.0f);
  return (floats){_mm256_andnot_ps(sign, x.low), _mm256_andnot_ps(sign, x.high)};
}
INLINE floats nearest(floats x) {
  return IN_BOTH(floats, _mm256_round_ps, x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
}

/* In two steps, of which the first is exact: what becomes a denormal number is rounded once. For n from -250 to 250. */
INLINE __m256 scaled(__m256 x, __m256 n) {
  __m256i whole = _mm256_cvtps_epi32(n), some = _mm256_srai_epi32(whole, 1), bias = _mm256_set1_epi32(127);
  __m256i first = _mm256_slli_epi32(_mm256_add_epi32(some, bias), 23);
  __m256i second = _mm256_slli_epi32(_mm256_add_epi32(_mm256_sub_epi32(whole, some), bias), 23);
  return _mm256_mul_ps(_mm256_mul_ps(x, _mm256_castsi256_ps(first)), _mm256_castsi256_ps(second));
}
INLINE floats times_power_of_2(floats x, floats n) { return OF_BOTH(floats, scaled, x, n); }

/* Halves are folded: 16 numbers to 8, 4, 2 and 1. */
INLINE float sum_of(floats x) {
  __m256 eight = _mm256_add_ps(x.low, x.high);
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  __m128 two = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(two, _mm_movehdup_ps(two)));
}
INLINE float largest_of(floats x) {
  __m256 eight = _mm256_max_ps(x.low, x.high);
  __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  __m128 two = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(two, _mm_movehdup_ps(two)));
}

INLINE mask is_negative(floats x) { return IN_BOTH(mask, _mm256_cmp_ps, x, _mm256_setzero_ps(), _CMP_LT_OQ); }
INLINE floats choose(mask which, floats yes, floats no) { return OF_THREE(_mm256_blendv_ps, no, yes, which); }

/* The larger one, or a. */
INLINE floats maximum_where(mask which, floats a, floats b) { return choose(which, maximum(a, b), a); }

/* Magnitudes order as their bits do, and a NaN is above all. */
INLINE __m256 larger_bits_of_8(__m256 a, __m256 b) {
  return _mm256_castsi256_ps(_mm256_max_epi32(_mm256_castps_si256(a), _mm256_castps_si256(b)));
}
INLINE floats larger_bits(floats a, floats b) { return OF_BOTH(floats, larger_bits_of_8, a, b); }
INLINE float largest_by_bits(floats x) {
  __m256i eight = _mm256_castps_si256(larger_bits_of_8(x.low, x.high));
  __m128i four = _mm_max_epi32(_mm256_castsi256_si128(eight), _mm256_extracti128_si256(eight, 1));
  __m128i two = _mm_max_epi32(four, _mm_shuffle_epi32(four, 0x4e));
  return _mm_cvtss_f32(_mm_castsi128_ps(_mm_max_epi32(two, _mm_shuffle_epi32(two, 0xb1))));
}

/* Few rows wait for memory, and what the processor fetches ahead by itself is not enough for all of its speed. */
enum { AHEAD = 2048 };
INLINE void fetch_ahead(const void *from) { _mm_prefetch((const char *)from + AHEAD, _MM_HINT_T0); }

/* The first `bytes` of a vector, through memory. */
#define COPY_SOME(to, from, bytes) \
  if ((bytes) > 0) memcpy(to, from, bytes)

/* 8 numbers rounded to bfloat16, in the upper half of their bits, of which the lower is anything: to nearest, ties to even;
 * a NaN stays one. */
INLINE __m256i rounded(__m256 x) {
  __m256i bits = _mm256_castps_si256(x), tie = _mm256_and_si256(_mm256_srli_epi32(bits, 16), _mm256_set1_epi32(1));
  __m256i up = _mm256_add_epi32(bits, _mm256_add_epi32(tie, _mm256_set1_epi32(0x7fff)));
  __m256i quiet = _mm256_or_si256(bits, _mm256_set1_epi32(0x400000));
  return _mm256_castps_si256(
      _mm256_blendv_ps(_mm256_castsi256_ps(up), _mm256_castsi256_ps(quiet), _mm256_cmp_ps(x, x, _CMP_UNORD_Q)));
}

/* 16 numbers in bfloat16. */
INLINE __m256i narrow(floats x) {
  __m256i low = _mm256_srli_epi32(rounded(x.low), 16), high = _mm256_srli_epi32(rounded(x.high), 16);
  return _mm256_permute4x64_epi64(_mm256_packus_epi32(low, high), 0xd8);
}

INLINE __m256 widened(const void *from) {
  return _mm256_castsi256_ps(_mm256_slli_epi32(_mm256_cvtepu16_epi32(_mm_loadu_si128((const __m128i *)from)), 16));
}

/* Numbers in bfloat16 and in half precision. */
INLINE floats load_bfloat16(const bfloat16 *from, index_t count) {
  bfloat16 some[16] = {0};
  if (count < 16) {
    COPY_SOME(some, from, 2 * count);
    from = some;
  }
  return (floats){widened(from), widened(from + 8)};
}
INLINE void store_bfloat16(bfloat16 *to, floats x, index_t count) {
  if (count >= 16) {
    _mm256_storeu_si256((__m256i *)to, narrow(x));
    return;
  }
  bfloat16 some[16];
  _mm256_storeu_si256((__m256i *)some, narrow(x));
  COPY_SOME(to, some, 2 * count);
}
INLINE floats load_half(const uint8_t *from) {
  return (floats){_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)from)),
                  _mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)(from + 16)))};
}
INLINE floats load_float16(const uint16_t *from, index_t count) {
  if (count >= 16) return load_half((const uint8_t *)from);
  uint16_t some[16] = {0};
  COPY_SOME(some, from, 2 * count);
  return load_half((const uint8_t *)some);
}
INLINE void store_float16(uint16_t *to, floats x, index_t count) {
  enum { NEAREST = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC };
  uint16_t some[16], *halves = count >= 16 ? to : some;
  _mm_storeu_si128((__m128i *)halves, _mm256_cvtps_ph(x.low, NEAREST));
  _mm_storeu_si128((__m128i *)halves + 1, _mm256_cvtps_ph(x.high, NEAREST));
  if (count < 16) COPY_SOME(to, some, 2 * count);
}

/* Two times 16 numbers as 32 in bfloat16. */
INLINE words to_bfloat16(floats low, floats high) { return (words){narrow(low), narrow(high)}; }
/* Pairs in bfloat16. */
INLINE __m256i pairs_of_8(__m256 even, __m256 odd) {
  return _mm256_blend_epi16(_mm256_srli_epi32(rounded(even), 16), rounded(odd), 0xaa);
}
INLINE words pairs_of(floats even, floats odd) { return OF_BOTH(words, pairs_of_8, even, odd); }

/* Codes of 8 bits; stores round to nearest. */
INLINE __m256 from_codes(const int8_t *from) {
  return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(_mm_loadl_epi64((const __m128i *)from)));
}
INLINE floats load_codes(const void *from, index_t count) {
  int8_t some[16] = {0};
  if (count < 16) {
    COPY_SOME(some, from, count);
    from = some;
  }
  return (floats){from_codes(from), from_codes((const int8_t *)from + 8)};
}
INLINE void store_codes(int8_t *to, floats x, index_t count) {
  __m256i codes = _mm256_packs_epi32(_mm256_cvtps_epi32(x.low), _mm256_cvtps_epi32(x.high));
  codes = _mm256_permute4x64_epi64(codes, 0xd8);
  int8_t some[16];
  _mm_storeu_si128((__m128i *)some, _mm_packs_epi16(_mm256_castsi256_si128(codes), _mm256_extracti128_si256(codes, 1)));
  COPY_SOME(to, some, count < 16 ? count : 16);
}

/* Bits [shift, shift + 4) of 16 integers. */
INLINE __m256 nibbles_of_8(__m256i x, __m128i shift) {
  return _mm256_cvtepi32_ps(_mm256_and_si256(_mm256_srl_epi32(x, shift), _mm256_set1_epi32(15)));
}
INLINE floats nibbles_at(words x, int shift) { return IN_BOTH(floats, nibbles_of_8, x, _mm_cvtsi32_si128(shift)); }

INLINE words load_words(const void *from) {
  return (words){_mm256_loadu_si256((const __m256i *)from), _mm256_loadu_si256((const __m256i *)from + 1)};
}
INLINE void store_words(void *to, words x) {
  _mm256_storeu_si256((__m256i *)to, x.low);
  _mm256_storeu_si256((__m256i *)to + 1, x.high);
}
INLINE words load_between(const void *from, index_t first, index_t stop) {
  if (first <= 0 && stop >= 64) return load_words(from);
  char some[64] = {0};
  first = first > 0 ? first : 0;
  stop = stop < 64 ? stop : 64;
  COPY_SOME(some + first, (const char *)from + first, stop - first);
  return load_words(some);
}
/* The first `count` of 32 numbers of 16 bits, 1 at least, and of 32 codes as numbers. */
INLINE words load_halves(const uint16_t *from, index_t count) { return load_between(from, 0, 2 * count); }
INLINE void load_32_codes(const void *from, index_t count, floats to[2]) {
  to[0] = load_codes(from, count);
  to[1] = load_codes((const char *)from + 16, count - 16);
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

/* Pairs of bfloat16 at 64 bytes of memory: the first of each, and the second. */
INLINE floats evens_at(const bfloat16 *from) {
  words pairs = load_words(from);
  return (floats){_mm256_castsi256_ps(_mm256_slli_epi32(pairs.low, 16)),
                  _mm256_castsi256_ps(_mm256_slli_epi32(pairs.high, 16))};
}
INLINE floats odds_at(const bfloat16 *from, const uint32_t *upper) {
  words pairs = load_words(from);
  __m256i bits = _mm256_load_si256((const __m256i *)upper);
  return (floats){_mm256_castsi256_ps(_mm256_and_si256(pairs.low, bits)),
                  _mm256_castsi256_ps(_mm256_and_si256(pairs.high, bits))};
}

/* Halves that lie [a0 a1], [b0 b1] in two registers, as [a0 b0] and [a1 b1]. */
INLINE words cross(__m256i a, __m256i b) {
  return (words){_mm256_permute2x128_si256(a, b, 0x20), _mm256_permute2x128_si256(a, b, 0x31)};
}

/* Each of 16 numbers twice. */
INLINE floats twice_8(__m256 x) {
  __m256 low = _mm256_unpacklo_ps(x, x), high = _mm256_unpackhi_ps(x, x);
  return (floats){_mm256_permute2f128_ps(low, high, 0x20), _mm256_permute2f128_ps(low, high, 0x31)};
}
INLINE void twice(floats x, floats to[2]) {
  to[0] = twice_8(x.low);
  to[1] = twice_8(x.high);
}

/* Two lines of 32 integers of 16 bits as 32 pairs, and back. */
INLINE void interleave(words even, words odd, words to[2]) {
  to[0] = cross(_mm256_unpacklo_epi16(even.low, odd.low), _mm256_unpackhi_epi16(even.low, odd.low));
  to[1] = cross(_mm256_unpacklo_epi16(even.high, odd.high), _mm256_unpackhi_epi16(even.high, odd.high));
}
INLINE __m256i first_of_pairs(__m256i left, __m256i right) {
  __m256i low = _mm256_set1_epi32(0xffff);
  __m256i packed = _mm256_packus_epi32(_mm256_and_si256(left, low), _mm256_and_si256(right, low));
  return _mm256_permute4x64_epi64(packed, 0xd8);
}
INLINE __m256i second_of_pairs(__m256i left, __m256i right) {
  return _mm256_permute4x64_epi64(_mm256_packus_epi32(_mm256_srli_epi32(left, 16), _mm256_srli_epi32(right, 16)), 0xd8);
}
INLINE void separate(words left, words right, words *even, words *odd) {
  *even = (words){first_of_pairs(left.low, left.high), first_of_pairs(right.low, right.high)};
  *odd = (words){second_of_pairs(left.low, left.high), second_of_pairs(right.low, right.high)};
}

/* The same with integers of 8 bits, 32 of which are half a vector. */
INLINE words interleave_bytes(words even, words odd) {
  return cross(_mm256_unpacklo_epi8(even.low, odd.low), _mm256_unpackhi_epi8(even.low, odd.low));
}
INLINE void separate_bytes(words pairs, words *even, words *odd) {
  __m256i low = _mm256_set1_epi16(0xff), zero = _mm256_setzero_si256();
  __m256i evens = _mm256_packus_epi16(_mm256_and_si256(pairs.low, low), _mm256_and_si256(pairs.high, low));
  __m256i odds = _mm256_packus_epi16(_mm256_srli_epi16(pairs.low, 8), _mm256_srli_epi16(pairs.high, 8));
  *even = (words){_mm256_permute4x64_epi64(evens, 0xd8), zero};
  *odd = (words){_mm256_permute4x64_epi64(odds, 0xd8), zero};
}
