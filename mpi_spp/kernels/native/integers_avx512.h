/* Products of integers for codes_int16.h and codes_int8.h by AVX-512, and by AVX512-VNNI where there is one. */
#pragma once
#include "native.h"

/* Integers of 32 bits. */
INLINE words no_words(void) { return _mm512_setzero_si512(); }
INLINE words all_words(int x) { return _mm512_set1_epi32(x); }
INLINE floats to_floats(words x) { return _mm512_cvtepi32_ps(x); }

/* The compiler may not add up in another order, for which it would want more registers than there are. */
#define KEEP_ORDER(sum) __asm__("" : "+v"(sum))

/* Integers of 16 bits: stores round to nearest, and keep within their range. */
INLINE void store_integers(int16_t *to, floats x) {
  _mm256_storeu_si256((__m256i *)to, _mm512_cvtsepi32_epi16(_mm512_cvtps_epi32(x)));
}
/* Bits [shift, shift + 4) of those at 64 bytes of memory. */
INLINE words nibbles_of_integers(const uint8_t *from, int shift) {
  return _mm512_and_si512(_mm512_srl_epi16(_mm512_loadu_si512(from), _mm_cvtsi32_si128(shift)), _mm512_set1_epi16(15));
}
/* Two lines of 16 codes of 8 bits as pairs. */
INLINE words pairs_of_codes(const uint8_t *from) {
  __m512i order = _mm512_set_epi16(31, 15, 30, 14, 29, 13, 28, 12, 27, 11, 26, 10, 25, 9, 24, 8, 23, 7, 22, 6, 21, 5, 20, 4,
                                   19, 3, 18, 2, 17, 1, 16, 0);
  return _mm512_permutexvar_epi16(order, _mm512_cvtepi8_epi16(_mm256_loadu_si256((const __m256i *)from)));
}
/* sum + the products of pairs. */
INLINE words add_pair_products(words sum, words a, words b) {
#ifdef __AVX512VNNI__
  return _mm512_dpwssd_epi32(sum, a, b);
#else
  return _mm512_add_epi32(sum, _mm512_madd_epi16(a, b));
#endif
}

/* Bits [0, 4) and [4, 8) of bytes. */
INLINE words low_nibbles(words x) { return _mm512_and_si512(x, _mm512_set1_epi8(15)); }
INLINE words high_nibbles(words x) { return _mm512_and_si512(_mm512_srli_epi16(x, 4), _mm512_set1_epi8(15)); }

/* sum + the products of four codes from 0 to 15 with four from -127 to 127 each, up to eight times: sum_of_dots() has it. */
INLINE words add_dots(words sum, words codes, words x) {
#ifdef __AVX512VNNI__
  return _mm512_dpbusd_epi32(sum, codes, x);
#else
  return _mm512_add_epi16(sum, _mm512_maddubs_epi16(codes, x));
#endif
}
INLINE words sum_of_dots(words sum) {
#ifdef __AVX512VNNI__
  return sum;
#else
  return _mm512_madd_epi16(sum, _mm512_set1_epi16(1));
#endif
}
