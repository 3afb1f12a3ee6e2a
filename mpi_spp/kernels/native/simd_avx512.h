/* simd.h for AVX-512 with its byte, word and vector-length extensions, and that for bfloat16 where there is one. */
#pragma once
#include <immintrin.h>

typedef __m512 floats;
typedef __m512i words;
typedef __mmask16 mask; /* a bit for each of 16 numbers */

#define IS_WHOLE(count) (__builtin_constant_p((count) >= 16) && (count) >= 16) /* then there is no need of a mask */

/* The first `count` of 16. */
INLINE mask lanes(index_t count) { return count >= 16 ? 0xffff : count <= 0 ? 0 : (mask)((1u << count) - 1); }

/* Numbers [first, stop) of 16. */
INLINE mask within(index_t first, index_t stop) { return lanes(stop) & ~lanes(first); }

INLINE floats zeros(void) { return _mm512_setzero_ps(); }
INLINE floats all(float x) { return _mm512_set1_ps(x); }
INLINE floats load(const float *from) { return _mm512_loadu_ps(from); }
INLINE floats load_first(const float *from, index_t count) { return _mm512_maskz_loadu_ps(lanes(count), from); }
INLINE void store(float *to, floats x) { _mm512_storeu_ps(to, x); }
INLINE void store_first(float *to, floats x, index_t count) { _mm512_mask_storeu_ps(to, lanes(count), x); }

INLINE floats add(floats a, floats b) { return _mm512_add_ps(a, b); }
INLINE floats subtract(floats a, floats b) { return _mm512_sub_ps(a, b); }
INLINE floats multiply(floats a, floats b) { return _mm512_mul_ps(a, b); }
INLINE floats divide(floats a, floats b) { return _mm512_div_ps(a, b); }
INLINE floats multiply_add(floats a, floats b, floats c) { return _mm512_fmadd_ps(a, b, c); }
INLINE floats subtract_product(floats a, floats b, floats from) { return _mm512_fnmadd_ps(a, b, from); }
INLINE floats minimum(floats a, floats b) { return _mm512_min_ps(a, b); }
INLINE floats maximum(floats a, floats b) { return _mm512_max_ps(a, b); }
INLINE floats magnitude(floats x) { return _mm512_abs_ps(x); }
INLINE floats nearest(floats x) { return _mm512_roundscale_ps(x, _MM_FROUND_TO_NEAREST_INT); }
INLINE floats times_power_of_2(floats x, floats n) { return _mm512_scalef_ps(x, n); }
INLINE float sum_of(floats x) { return _mm512_reduce_add_ps(x); }
INLINE float largest_of(floats x) { return _mm512_reduce_max_ps(x); }

INLINE mask is_negative(floats x) { return _mm512_cmp_ps_mask(x, _mm512_setzero_ps(), _CMP_LT_OQ); }
INLINE floats maximum_where(mask which, floats a, floats b) { return _mm512_mask_max_ps(a, which, a, b); }
INLINE floats choose(mask which, floats yes, floats no) { return _mm512_mask_mov_ps(no, which, yes); }

/* Magnitudes order as their bits do, and a NaN is above all. */
INLINE floats larger_bits(floats a, floats b) {
  return _mm512_castsi512_ps(_mm512_max_epi32(_mm512_castps_si512(a), _mm512_castps_si512(b)));
}
INLINE float largest_by_bits(floats x) {
  int bits = _mm512_reduce_max_epi32(_mm512_castps_si512(x));
  float largest;
  memcpy(&largest, &bits, 4);
  return largest;
}

/* Numbers in bfloat16 and in half precision; stores round to nearest, ties to even. */
INLINE floats load_bfloat16(const bfloat16 *from, index_t count) {
  __m256i bits = _mm256_maskz_loadu_epi16(lanes(count), from);
  return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_cvtepu16_epi32(bits), 16));
}
INLINE floats load_float16(const uint16_t *from, index_t count) {
  return _mm512_cvtph_ps(_mm256_maskz_loadu_epi16(lanes(count), from));
}
INLINE void store_float16(uint16_t *to, floats x, index_t count) {
  _mm256_mask_storeu_epi16(to, lanes(count), _mm512_cvtps_ph(x, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
}
INLINE floats load_half(const uint8_t *from) { return _mm512_cvtph_ps(_mm256_loadu_si256((const __m256i *)from)); }

#ifdef __AVX512BF16__

INLINE __m256i narrow(floats x) { return (__m256i)_mm512_cvtneps_pbh(x); }
/* Two times 16 numbers as 32 in bfloat16. */
INLINE words to_bfloat16(floats low, floats high) { return (words)_mm512_cvtne2ps_pbh(high, low); }

#else

/* 16 numbers in bfloat16: to nearest, ties to even; a NaN stays one. */
INLINE __m256i narrow(floats x) {
  __m512i bits = _mm512_castps_si512(x), tie = _mm512_and_si512(_mm512_srli_epi32(bits, 16), _mm512_set1_epi32(1));
  __m512i up = _mm512_add_epi32(bits, _mm512_add_epi32(tie, _mm512_set1_epi32(0x7fff)));
  up = _mm512_mask_or_epi32(up, _mm512_cmp_ps_mask(x, x, _CMP_UNORD_Q), bits, _mm512_set1_epi32(0x400000));
  return _mm512_cvtepi32_epi16(_mm512_srli_epi32(up, 16));
}
INLINE words to_bfloat16(floats low, floats high) {
  return _mm512_inserti64x4(_mm512_castsi256_si512(narrow(low)), narrow(high), 1);
}

/* Pairs of bfloat16 at 64 bytes of memory: the first of each, and the second. */
INLINE floats evens_at(const bfloat16 *from) { return _mm512_castsi512_ps(_mm512_slli_epi32(_mm512_loadu_si512(from), 16)); }
INLINE floats odds_at(const bfloat16 *from) {
  return _mm512_castsi512_ps(_mm512_and_si512(_mm512_loadu_si512(from), _mm512_set1_epi32((int)0xffff0000)));
}

#endif

/* Few rows wait for memory, and what the processor fetches ahead by itself is not enough for all of its speed. */
enum { AHEAD = 2048 };
INLINE void fetch_ahead(const void *from) { _mm_prefetch((const char *)from + AHEAD, _MM_HINT_T0); }

INLINE void store_bfloat16(bfloat16 *to, floats x, index_t count) {
  _mm256_mask_storeu_epi16(to, lanes(count), narrow(x));
}
/* Pairs in bfloat16. */
INLINE words pairs_of(floats even, floats odd) {
  __m512i evens = _mm512_cvtepu16_epi32(narrow(even)), odds = _mm512_cvtepu16_epi32(narrow(odd));
  return _mm512_or_si512(evens, _mm512_slli_epi32(odds, 16));
}

/* Codes of 8 bits; stores round to nearest. */
INLINE floats load_codes(const void *from, index_t count) {
  __m128i codes = IS_WHOLE(count) ? _mm_loadu_si128(from) : _mm_maskz_loadu_epi8(lanes(count), from);
  return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(codes));
}
INLINE void store_codes(int8_t *to, floats x, index_t count) {
  _mm_mask_storeu_epi8(to, lanes(count), _mm512_cvtepi32_epi8(_mm512_cvtps_epi32(x)));
}

/* Bits [shift, shift + 4) of 16 integers. */
INLINE floats nibbles_at(words x, int shift) {
  __m512i moved = _mm512_srl_epi32(x, _mm_cvtsi32_si128(shift));
  return _mm512_cvtepi32_ps(_mm512_and_si512(moved, _mm512_set1_epi32(15)));
}

INLINE __mmask64 bytes_between(index_t first, index_t stop) {
  __mmask64 until = stop >= 64 ? ~0ull : stop <= 0 ? 0 : (1ull << stop) - 1;
  return until & ~(first >= 64 ? ~0ull : first <= 0 ? 0 : (1ull << first) - 1);
}
INLINE words load_words(const void *from) { return _mm512_loadu_si512(from); }
INLINE words load_between(const void *from, index_t first, index_t stop) {
  return _mm512_maskz_loadu_epi8(bytes_between(first, stop), from);
}
/* The first `count` of 32 numbers of 16 bits, 1 at least, and of 32 codes as numbers. */
INLINE __mmask32 lanes_of_32(index_t count) { return count >= 32 ? 0xffffffffu : (1u << count) - 1; }
INLINE words load_halves(const uint16_t *from, index_t count) {
  return _mm512_maskz_loadu_epi16(lanes_of_32(count), from);
}
INLINE void load_32_codes(const void *from, index_t count, floats to[2]) {
  __m256i codes = _mm256_maskz_loadu_epi8(lanes_of_32(count), from);
  to[0] = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm256_castsi256_si128(codes)));
  to[1] = _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(_mm256_extracti128_si256(codes, 1)));
}
INLINE void store_words(void *to, words x) { _mm512_storeu_si512(to, x); }
INLINE void store_between(void *to, words x, index_t first, index_t stop) {
  _mm512_mask_storeu_epi8(to, bytes_between(first, stop), x);
}

/* Each of 16 numbers twice. */
INLINE void twice(floats x, floats to[2]) {
  __m512i order = _mm512_set_epi32(7, 7, 6, 6, 5, 5, 4, 4, 3, 3, 2, 2, 1, 1, 0, 0);
  to[0] = _mm512_permutexvar_ps(order, x);
  to[1] = _mm512_permutexvar_ps(_mm512_add_epi32(order, _mm512_set1_epi32(8)), x);
}

/* Two lines of 32 integers of 16 bits as 32 pairs, and back. */
INLINE void interleave(words even, words odd, words to[2]) {
  __m512i low = _mm512_unpacklo_epi16(even, odd), high = _mm512_unpackhi_epi16(even, odd);
  __m512i order = _mm512_set_epi64(11, 10, 3, 2, 9, 8, 1, 0);
  to[0] = _mm512_permutex2var_epi64(low, order, high);
  order = _mm512_set_epi64(15, 14, 7, 6, 13, 12, 5, 4);
  to[1] = _mm512_permutex2var_epi64(low, order, high);
}
INLINE words join16(__m512i left, __m512i right) {
  return _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi32_epi16(left)), _mm512_cvtepi32_epi16(right), 1);
}
INLINE void separate(words left, words right, words *even, words *odd) {
  *even = join16(left, right);
  *odd = join16(_mm512_srli_epi32(left, 16), _mm512_srli_epi32(right, 16));
}

/* The same with integers of 8 bits, 32 of which are half a vector. */
INLINE words interleave_bytes(words even, words odd) {
  __m512i evens = _mm512_cvtepu8_epi16(_mm512_castsi512_si256(even));
  return _mm512_or_si512(evens, _mm512_slli_epi16(_mm512_cvtepu8_epi16(_mm512_castsi512_si256(odd)), 8));
}
INLINE void separate_bytes(words pairs, words *even, words *odd) {
  *even = _mm512_castsi256_si512(_mm512_cvtepi16_epi8(pairs));
  *odd = _mm512_castsi256_si512(_mm512_cvtepi16_epi8(_mm512_srli_epi16(pairs, 8)));
}
