/* Products of integers for codes_int16.h and codes_int8.h by AVX2, and by AVX-VNNI where there is one. */
#pragma once
#include "native.h"

/* Integers of 32 bits. */
INLINE words no_words(void) { return (words){_mm256_setzero_si256(), _mm256_setzero_si256()}; }
INLINE words all_words(int x) { return (words){_mm256_set1_epi32(x), _mm256_set1_epi32(x)}; }
INLINE floats to_floats(words x) { return IN_BOTH(floats, _mm256_cvtepi32_ps, x); }

/* The compiler may not add up in another order, for which it would want more registers than there are. */
#define KEEP_ORDER(sum) __asm__("" : "+x"((sum).low), "+x"((sum).high))

/* Integers of 16 bits: stores round to nearest, and keep within their range. */
INLINE void store_integers(int16_t *to, floats x) {
  __m256i packed = _mm256_packs_epi32(_mm256_cvtps_epi32(x.low), _mm256_cvtps_epi32(x.high));
  _mm256_storeu_si256((__m256i *)to, _mm256_permute4x64_epi64(packed, 0xd8));
}
/* Bits [shift, shift + 4) of those at 64 bytes of memory. */
INLINE __m256i nibbles_of_16(__m256i x, __m128i shift) {
  return _mm256_and_si256(_mm256_srl_epi16(x, shift), _mm256_set1_epi16(15));
}
INLINE words nibbles_of_integers(const uint8_t *from, int shift) {
  return IN_BOTH(words, nibbles_of_16, load_words(from), _mm_cvtsi32_si128(shift));
}
/* Two lines of 16 codes of 8 bits as pairs. */
INLINE words pairs_of_codes(const uint8_t *from) {
  __m128i even = _mm_loadu_si128((const __m128i *)from), odd = _mm_loadu_si128((const __m128i *)from + 1);
  return (words){_mm256_cvtepi8_epi16(_mm_unpacklo_epi8(even, odd)), _mm256_cvtepi8_epi16(_mm_unpackhi_epi8(even, odd))};
}
/* sum + the products of pairs. */
INLINE __m256i add_pair_products_of_8(__m256i sum, __m256i a, __m256i b) {
#ifdef __AVXVNNI__
  return _mm256_dpwssd_avx_epi32(sum, a, b);
#else
  return _mm256_add_epi32(sum, _mm256_madd_epi16(a, b));
#endif
}
INLINE words add_pair_products(words sum, words a, words b) {
  return (words){add_pair_products_of_8(sum.low, a.low, b.low), add_pair_products_of_8(sum.high, a.high, b.high)};
}

/* Bits [0, 4) and [4, 8) of bytes. */
INLINE __m256i low_nibbles_of_32(__m256i x) { return _mm256_and_si256(x, _mm256_set1_epi8(15)); }
INLINE words low_nibbles(words x) { return IN_BOTH(words, low_nibbles_of_32, x); }
INLINE words high_nibbles(words x) {
  return low_nibbles((words){_mm256_srli_epi16(x.low, 4), _mm256_srli_epi16(x.high, 4)});
}

/* sum + the products of four codes from 0 to 15 with four from -127 to 127 each, up to eight times: sum_of_dots() has it. */
INLINE __m256i add_dots_of_8(__m256i sum, __m256i codes, __m256i x) {
#ifdef __AVXVNNI__
  return _mm256_dpbusd_avx_epi32(sum, codes, x);
#else
  return _mm256_add_epi16(sum, _mm256_maddubs_epi16(codes, x));
#endif
}
INLINE words add_dots(words sum, words codes, words x) {
  return (words){add_dots_of_8(sum.low, codes.low, x.low), add_dots_of_8(sum.high, codes.high, x.high)};
}
INLINE words sum_of_dots(words sum) {
#ifdef __AVXVNNI__
  return sum;
#else
  __m256i ones = _mm256_set1_epi16(1);
  return (words){_mm256_madd_epi16(sum.low, ones), _mm256_madd_epi16(sum.high, ones)};
#endif
}
